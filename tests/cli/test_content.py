"""Answers belong to the content of the files behind them, and to no names, sizes or times."""

import shutil

import pytest
from PIL import Image

from laid.cli.main import main
from laid.data.build_command import build

CHANGES = (
    ("student/chat_template.jinja", b">assistant", b">Assistant", "files.chat_template.jinja: "),
    ("student/preprocessor_config.json", b"0.48145466", b"0.48145467", "files.preprocessor_con"),
    ("student/tokenizer_config.json", b"Qwen2Tokenizer", b"Qwen2tokenizer", "files.tokenizer_con"),
    ("student/generation_config.json", b'token_id": 2', b'token_id": 3', "files.generation_con"),
    ("student/config.json", b"1e-05", b"2e-05", "files.config.json: "),
    ("student/model.safetensors", None, None, "weights: "),
    ("coco/test2017", None, None, "entries: "),
)


@pytest.fixture
def test(tmp_path, config, pair, drawn, monkeypatch, capfd):
    """Runs ``laid test`` in this process on files of its own; gives what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(drawn, "coco")
    for path in (tmp_path / "coco" / "test2017").iterdir():
        with Image.open(path) as image:
            image.save(path, compress_level=0)  # the size does not tell of the pixels
    shutil.copytree(pair[0], "student")
    few = {"train_entries": 0, "test_per_size": 2, "test_split": "test2017"}
    build("coco", "vhs", sizes=[2], **few)
    shutil.move("vhs/test_2.json", ".")
    words = (
        "--data.test.source [test_2.json] --data.test.sizes null --data.test.per_size null "
        "--data.workers 0 --data.coco_root coco --model.student.path student "
        "--trainer.logger false --results results"
    )

    def run():
        main(["test", "--config", str(config), *words.split()])
        return capfd.readouterr().err

    return run


def change(path, old, new):
    """One byte, in the middle of the weights or in a text; or a pixel of every image of a folder.
    No size changes."""
    if path.is_dir():
        for file in path.iterdir():
            with Image.open(file) as image:
                image.putpixel((5, 5), (1, 2, 3))
                image.save(file, compress_level=0)
        return
    content = path.read_bytes()
    if old is None:
        at = len(content) // 2
        old, new = content[at - 20 : at + 1], content[at - 20 : at] + bytes([content[at] ^ 1])
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_a_changed_byte_of_any_file_that_is_read_asks_everything_again(test, tmp_path):
    assert "answered already" not in test()
    assert "2 of 2 entries are answered already" in test()
    for name, old, new, _ in CHANGES:
        change(tmp_path / name, old, new)
    done = test()
    assert "answered already" not in done
    assert [said for *_, said in CHANGES if said not in done] == []
