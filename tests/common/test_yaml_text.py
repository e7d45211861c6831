"""YAML of anybody: small, or refused with file and line."""

import pytest

from laid.common.errors import UserError
from laid.common.yaml_text import check_settings_file, check_typed, load_yaml


def bomb(levels: int = 12) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), r"my\.yaml, line \d: more than 100000 values"),
        ("data: &a [*a]", r"my\.yaml, line 1: more than"),
        ("data: " + "[" * 10_000, "levels deep"),
        ("b: 2\na: [1, 2\nc: 3", r"my\.yaml, line 3, column \d: not YAML: "),
        ("a: *b", r"line 1, column 4: not YAML: found undefined alias"),
        ("a: !!python/object/apply:os.system [ls]", r"line 1, column 4: not YAML: could not"),
        ("a: 2020-13-45", r"my\.yaml: month must be in"),
        ("a: \x07", r"my\.yaml: not YAML: "),
        ("? [a]\n: b", "my.yaml"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_small_yaml_is_refused_with_its_place(text, message):
    with pytest.raises(UserError, match=message):
        load_yaml(text, "my.yaml")


def test_aliases_that_stand_for_little_are_read():
    assert load_yaml("a: &x [1, 2]\nb: *x", "my.yaml") == {"a": [1, 2], "b": [1, 2]}
    assert load_yaml("", "my.yaml") is None
    assert load_yaml(bomb(3), "my.yaml")["a2"][8][8] == ["x"] * 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1", r"expected settings by name, found a list"),
        (b"name: \xff", r"expected text in UTF-8"),
        (bomb().encode(), r"more than"),
    ],
)
def test_a_file_of_settings_is_named(tmp_path, content, message):
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"my\.yaml.*{message}"):
        check_settings_file(path)


def test_a_file_that_another_names_is_checked_too(tmp_path):
    (tmp_path / "model.yaml").write_text(bomb())
    (tmp_path / "run.yaml").write_text("model: {student: model.yaml}")
    (tmp_path / "round.yaml").write_text("model: round.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    for name in ("run", "round"):
        with pytest.raises(UserError):
            check_settings_file(tmp_path / f"{name}.yaml")
    with pytest.raises(UserError, match="more than"):
        check_typed(str(tmp_path / "model.yaml"))
    check_typed(str(tmp_path / "list.yaml"))  # not settings, and small
    check_typed(str(tmp_path / "none.yaml"))  # its reader says that there is none


def test_typed_words_are_checked_too():
    with pytest.raises(UserError, match="more than"):
        check_typed(bomb())
    for text in ("val/accuracy", "a & b: *", "[1, 2]", "{", "*", "a: b: c"):
        check_typed(text)
