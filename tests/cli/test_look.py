"""``laid look``: a picture and a page of where models look."""

import json
import re
from html.parser import HTMLParser

import matplotlib.image
import pytest
from PIL import Image

from laid.common.json_codec import from_json
from laid.look.look_report import LookReport


class Links(HTMLParser):
    """What a page would load."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset")]


def read(folder):
    report = from_json(LookReport, json.loads((folder / "look.json").read_text()))
    page = (folder / "look.html").read_text()
    for name in ("look", "layers"):
        assert matplotlib.image.imread(folder / f"{name}.png").std() > 0
    return report, page


def test_a_run_beside_its_base_and_its_teacher(laid, fitted, drawn, work):
    out = work / "look"
    options = "--sizes", 3, "--per_size", 4, "--entry", 2, "--device", "cpu", "--out", out
    done = laid("look", "--ckpt_path", fitted, *options)
    report, page = read(out)
    assert [model.name for model in report.models] == ["base", "student", "teacher"]
    assert len(report.images) == 3
    assert len(report.needles) == 1
    for model in report.models:
        assert len(model.sharp) == len(model.mean) == 3
        assert len(model.sharp_heads) == 8
        assert all(sum(layer) <= 1 for layer in model.layers)
    assert report.models[0].layers != report.models[1].layers
    links = Links(page)
    assert links.found
    assert all(link.startswith("data:") for link in links.found)
    assert "script" not in links.tags
    assert "expected answer" in done.out


def test_own_images_and_a_question_that_has_html_in_it(run, pair, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("laid.minicoco.drawing.ensure_minicoco", lambda: drawn)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").touch()
    for name, colour in (("2.jpg", "red"), ("10.jpg", "blue")):
        Image.new("RGB", (64, 48), colour).save(folder / name)
    question = "is 1 < 2 & <b>bold</b> $x$?"
    code, error = run(
        *(
            "look",
            "--models",
            f"a={pair[0]}",
            f"b={pair[0]}",
            "--images",
            folder,
            "--question",
            question,
        ),
        *("--device", "cpu", "--out", tmp_path / "look"),
    )
    assert code == 0, error
    assert error.count("passed over notes.txt") == 1  # and not once a model
    report, page = read(tmp_path / "look")
    assert report.images == ["2.jpg", "10.jpg"]
    assert report.needles == []
    assert report.expected == ""
    assert "<b>bold" not in page
    assert re.search("1 &lt; 2 &amp; &lt;b&gt;bold", page)


MODEL, BUILT = ("--models", "a=PAIR"), ("--sizes", 3, "--per_size", 4, "--coco_root", "DRAWN")
OWN = ("--images", "DRAWN", "--question", "is there a dog?")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--entry", 0], "--ckpt_path RUN or --models"),
        (["--ckpt_path", "x", *MODEL, "--entry", 0], "--ckpt_path RUN or --models"),
        ([*MODEL, *BUILT], "--entry N, or --images"),
        ([*MODEL, *OWN, "--entry", 0], "--entry N, or --images"),
        ([*MODEL, "--question", "is there a dog?"], "--images FOLDER and --question TEXT belong"),
        ([*MODEL, *OWN[:2]], "--images FOLDER and --question TEXT belong"),
        ([*MODEL, *OWN, "--sizes", 3], "--sizes is of"),
        ([*MODEL, *OWN, "--seed", 0], "--seed is of"),
        ([*MODEL, *BUILT, "--entry", 400], "--entry 400: expected a number from 0 to 3"),
        ([*MODEL, *BUILT, "--entry", -1], "--entry -1: expected a number from 0 to 3"),
        ([*MODEL, *BUILT, "--entry", 0, "--heads", 0], "--heads 0"),
        ([*MODEL, *BUILT, "--entry", 0, "--device", "tpu"], "--device tpu"),
    ],
)
def test_options_that_do_not_fit_are_refused_and_nothing_is_written(
    run, pair, drawn, tmp_path, options, words
):
    stands = {"DRAWN": drawn, "a=PAIR": f"a={pair[0]}"}
    given = [stands.get(option, option) for option in options]
    code, error = run("look", *given, "--out", tmp_path / "look")
    assert code == 2
    assert words in error
    assert not (tmp_path / "look").exists()
