"""What the documentation names exists: links, paths, commands, options, imports, results."""

import csv
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from laid.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))
OTHERS = ("CHANGELOG.md", "extending.md")
"""They name what is no longer there, and what a reader adds."""
SOURCES = [*(p for p in PAGES if p.name not in OTHERS), *CONFIGS, ROOT / "Makefile"]
COMMANDS = [command.name for command in main.COMMANDS]
REQUIRED = {
    "compare": ["runs/one", "--out=here"],
    "spectrum": ["--models=base=here", "--out=there"],
    "export": ["--ckpt_path=last", "--out=here"],
    "data build": ["--coco_root=here", "--out=there"],
    "data push": ["--folder=here", "--push_to=me/there"],
    "pretrain tiny": ["--out=here"],
}


def named(path):
    return str(path.relative_to(ROOT))


def pages(contain):
    """The parameters of a test: pages that have something to check."""
    return pytest.mark.parametrize("page", [p for p in SOURCES if contain(p)], ids=named)


def links(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if page.suffix == ".md" else []
    return [target for target in targets if not target.startswith(("http", "#"))]


@pages(links)
def test_a_link_leads_to_a_file(page):
    broken = [link for link in links(page) if not (page.parent / link.partition("#")[0]).exists()]
    assert not broken


def paths(page):
    """Paths of the repository in the text; a ``…`` or ``*`` in one stands for several."""
    found = re.findall(
        r"(?<![\w/.$-])((?:laid|configs|benchmarks|tests)/[\w/.…*-]*)", page.read_text()
    )
    return {path.rstrip(".") for path in found if not re.search("[…*]", path)}


@pages(paths)
def test_a_path_exists(page):
    assert not [path for path in paths(page) if not (ROOT / path).exists()]


def command_lines(page):
    """The words of every ``laid COMMAND …`` in code, without ``laid``."""
    text = page.read_text().replace("\\\n", " ")
    if page.suffix == ".md":
        fenced = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
        lines = [*re.findall(r"`([^`]+)`", text), *re.findall(r"^ {4}(.*)", text, re.M)]
        lines += fenced.split("\n")
    else:
        lines = [re.split(" {3,}", line.lstrip("#\t "))[0] for line in text.split("\n")]
    start = r"(?:[A-Z_]+=\S+ )*(?:torchrun .* -m |\$\(BIN\)/)?laid (?=[a-z]+(?: |$))"
    for line in lines:
        if begun := re.match(start, line):
            yield shlex.split(line[begun.end() :], comments=True)


def command_of(words):
    return next((c for c in COMMANDS if words[: len(c.split())] == c.split()), None)


@pages(lambda page: list(command_lines(page)))
def test_a_command_exists(page):
    assert not [words for words in command_lines(page) if command_of(words) is None]


def options_of(words):
    """The options of a command line that have a value; of ``--config``, files that exist."""
    for option, following in zip(words, [*words[1:], "--"], strict=True):
        if option.startswith("--") and "=" in option:
            yield option.split("=", 1)
        elif option == "--config" and not (ROOT / following).is_file():
            continue
        elif option.startswith("--") and not following.startswith("--"):
            yield option, following


class Built(BaseException):
    """Carries a parser out of the command that has made it."""


@pytest.fixture
def parser_of(monkeypatch):
    """The real parser of a command, and the words before its options, as it begins to parse."""

    def stop(parser, args=None, *more, **options):
        raise Built(parser, list(args or ()))

    def taken(command):
        with monkeypatch.context() as patch:
            patch.setattr(ArgumentParser, "parse_args", stop)
            with pytest.raises(Built) as built:
                main.main(command.split())
        return built.value.args

    return taken


@pytest.mark.parametrize("command", COMMANDS)
def test_its_options_are_understood(command, parser_of, monkeypatch):
    """All options that any page gives to a command, at once: one parse takes most of a second."""
    monkeypatch.chdir(ROOT)
    given = {}
    for words in (words for page in SOURCES for words in command_lines(page)):
        if command_of(words) == command:
            given |= {option: value for option, value in options_of(words) if value != "…"}
    parser, words = parser_of(command)
    words = [*words, *REQUIRED.get(command, []), *(f"{key}={given[key]}" for key in given)]
    parser.parse_args(words)


def settings(page):
    """Settings in the text: ``model.lora.rank``, ``--data.workers 2``, ``trainer.precision: …``."""
    groups = "model|data|trainer|checkpoint|head_flow|spectrum"
    key = rf"(?:{groups})\.(?!png|json|csv)[a-z_.]+"
    return set(re.findall(rf"`(?:--)?({key})(?=[`:= ])", page.read_text()))


def exists(key, content):
    """Whether parsed settings have a key; below None, such as model.lora, anything may come."""
    for part in key.split("."):
        if content is None:
            return True
        if part not in vars(content):
            return False
        content = vars(content)[part]
    return True


def test_a_setting_exists(parser_of):
    parser, words = parser_of("plan")
    content = parser.parse_args(words)
    assert not {k: named(p) for p in SOURCES for k in settings(p) if not exists(k, content)}


def imports(page):
    return re.findall(r"^(?:from laid\S* import .+|import laid.*)$", page.read_text(), re.M)


@pages(imports)
def test_an_import_works(page):
    exec("\n".join(imports(page)), {})


METHODS = {
    "base student": "base",
    "SelfExtend (no training)": "self_extend",
    "YaRN (no training)": "yarn",
    "SFT": "sft (5 seeds)",
    "KD (LAid without alignment)": "kd (5 seeds)",
    "LAid, Eq. 8, final layer": "laid_final (5 seeds)",
    "LAid, Eq. 8, all layers": "laid_all (5 seeds)",
    "retrieval alignment, KL, SFT": "retrieval (5 seeds)",
    "LAid (final layer) and retrieval": "laid_retrieval (5 seeds)",
    "teacher": "teacher",
}


def rows_of(folder, name):
    with (ROOT / "docs" / folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def by_method(rows):
    return {row["method"]: row for row in rows}


def test_the_readmes_results_are_those_of_the_report():
    accuracy, intervals = (by_method(rows_of("results", n)) for n in ("accuracy", "intervals"))
    for name, method in METHODS.items():
        cells = [
            f"{float(accuracy[method][n]):.1f} [{intervals[method][n].replace('–', ', ')}]"
            for n in ("1", "20", "50", "100", "150")
        ]
        assert f"| {name} | {' | '.join(cells)} |" in (ROOT / "README.md").read_text()
    assert accuracy.keys() == set(METHODS.values())


SHARED_METHODS = {
    "base": "base",
    "YaRN (no training)": "yarn",
    "KD": "shared_kd (3 seeds)",
    "LAid, Eq. 8, all layers": "shared_laid (3 seeds)",
    "retrieval, KL, SFT": "shared_retrieval (3 seeds)",
    "LAid (all layers) and retrieval": "shared_laid_retrieval (3 seeds)",
    "teacher": "shared_teacher",
}


def test_the_results_of_a_shared_ancestor_are_those_of_their_report():
    accuracy = by_method(rows_of("results-shared", "accuracy"))
    tests = {(row["method"], row["images"]): row for row in rows_of("results-shared", "tests")}
    page = (ROOT / "docs" / "results-shared" / "README.md").read_text().replace("**", "")
    for name, method in SHARED_METHODS.items():
        cells = [f"{float(accuracy[method][n]):.1f}" for n in ("1", "20", "50", "100", "150")]
        for sizes in ("short", "long"):
            if of := tests.get((method, sizes)):
                point, low, high = (
                    f"{float(of[key]):+.1f}".replace("-", "−")
                    for key in ("difference", "difference_low", "difference_high")
                )
                p = float(of["p Holm"])
                shown = "< 0.001" if p < 5e-4 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"
                cells.append(f"{point} [{low}, {high}], p {shown}")
            else:
                cells.append("")
        assert re.sub(" +", " ", f"| {name} | {' | '.join(cells)} |") in page, name
    assert accuracy.keys() == set(SHARED_METHODS.values())


def test_files_are_as_small_and_names_as_unique_as_contributing_says():
    files = [p for room in ("laid", "tests", "benchmarks") for p in (ROOT / room).rglob("*.py")]
    long = {named(p): n for p in files if (n := len(p.read_text().splitlines())) > 300}
    assert not long
    names = Counter(p.name for p in files if p.is_relative_to(ROOT / "laid"))
    assert [name for name, n in names.items() if n > 1] == ["__init__.py"]
