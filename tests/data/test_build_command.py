"""``laid data build``: one file a size, all at once or none."""

import pytest
from command_line.commands import Running

from laid.common.logging_setup import set_up_logging
from laid.data.build_command import build
from laid.data.coco_index import CocoIndex
from laid.data.haystack_builder import build_entries
from laid.data.vhs_files import read_vhs


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_build_writes_one_file_a_size_and_tells(drawn, tmp_path, capsys):
    set_up_logging()
    settings = {"train_entries": 20, "max_size": 6, "test_per_size": 4, "sizes": [1, 2, 10]}
    build(str(drawn), str(tmp_path / "out"), **settings)
    names = ["test_1.json", "test_10.json", "test_2.json", "train.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    said = capsys.readouterr().err
    assert all(name in said for name in names)
    test = read_vhs(tmp_path / "out" / "test_10.json", drawn)
    assert test[:] == build_entries(CocoIndex.load(drawn, "val2017"), "test", [10], 4)[:]
    train = read_vhs(tmp_path / "out" / "train.json", drawn)
    assert len(train) == 20
    assert {name.split("/")[0] for names in train["images"] for name in names} == {"train2017"}


def test_build_does_not_overwrite_unasked(drawn, tmp_path):
    settings = {"train_entries": 0, "test_per_size": 2, "sizes": [2]}
    out = tmp_path / "out"
    build(str(drawn), str(out), **settings)
    before = content(out)
    with pytest.raises(ValueError, match=r"already holds test_2\.json"):
        build(str(drawn), str(out), seed=1, **settings)
    assert content(out) == before
    build(str(drawn), str(out), seed=1, overwrite=True, **settings)
    assert content(out) != before


def test_other_files_of_the_folder_stay(drawn, tmp_path):
    settings = {"train_entries": 0, "test_per_size": 2}
    build(str(drawn), str(tmp_path / "out"), sizes=[2], **settings)
    (tmp_path / "out" / "notes.md").write_text("mine")
    before = content(tmp_path / "out")
    build(str(drawn), str(tmp_path / "out"), sizes=[3], **settings)
    after = content(tmp_path / "out")
    assert after.keys() == {"test_2.json", "test_3.json", "notes.md"}
    assert {name: after[name] for name in before} == before


def test_a_folder_that_can_not_change_at_once_is_refused(drawn, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "coco").mkdir(parents=True)
    settings = {"train_entries": 0, "test_per_size": 2, "sizes": [2]}
    with pytest.raises(ValueError, match=r"out has coco in it, .* such as .*out/haystacks"):
        build(str(drawn), str(out), **settings)
    monkeypatch.chdir(out / "coco")
    with pytest.raises(ValueError, match="is the current folder"):
        build(str(drawn), ".", **settings)
    assert [path.name for path in out.rglob("*")] == ["coco"]


def test_killed_at_any_point_all_files_are_of_the_old_set_or_of_the_new(
    server, drawn, tmp_path, tmp_path_factory
):
    def die(at):
        fault = {"below": str(tmp_path), "count": str(logs / "count"), "at": at}
        return Running(server, words, logs, tmp_path, fault=fault).wait().code

    logs, out = tmp_path_factory.mktemp("logs"), tmp_path / "out"
    settings = {"train_entries": 2, "max_size": 3, "test_per_size": 2, "overwrite": True}
    words = ["data", "build", "--coco_root", drawn, "--out", out, "--sizes", [2, 3, 4]]
    words += [
        "--seed",
        1,
        *(word for name, value in settings.items() for word in (f"--{name}", value)),
    ]
    build(str(drawn), str(out), sizes=[2, 3, 4], seed=1, **settings)
    new = content(out)
    build(str(drawn), str(out), sizes=[2, 3, 4], **settings)
    old = content(out)
    seen = []
    for at in (3, 9, 14, 99):
        code = die(at)
        seen.append((code, content(out) == old, content(out) == new))
    assert seen[0] == (77, True, False)
    assert all(is_old or is_new for _, is_old, is_new in seen)
    assert seen[-1] == (0, False, True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_build_with_an_impossible_size_writes_nothing(drawn, tmp_path):
    with pytest.raises(ValueError, match="at most"):
        build(str(drawn), str(tmp_path / "out"), max_size=4, sizes=[2, 5000])
    assert not (tmp_path / "out").exists()


def test_build_wants_all_images_of_a_split(drawn, tmp_path, write_coco, instances):
    with pytest.raises(ValueError, match="4 of the 4 images"):
        build(str(write_coco(instances)), str(tmp_path / "out"), train_entries=0, sizes=[2])
