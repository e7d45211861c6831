"""Results and records that contradict themselves: refused, with the file and the key."""

import json
from collections.abc import Callable
from typing import Any

from campaign.broken_json import NO_JSON, changed
from campaign.case import Case, assert_clean, refusal
from campaign.world import Place

KIND = "bad results and records"

RESULTS: tuple[tuple[str, object], ...] = (
    ("name", None),
    ("name", 3),
    ("laid_results", 99),
    ("overall", None),
    ("overall", []),
    ("overall.n", 0),
    ("overall.n", -4),
    ("overall.n", 10**30),
    ("overall.n", 7),
    ("overall.n", "8"),
    ("overall.n", True),
    ("overall.correct", 99),
    ("overall.correct", -1),
    ("overall.accuracy", 2.0),
    ("overall.accuracy", float("nan")),
    ("overall.accuracy", float("inf")),
    ("overall.accuracy", 0.123456),
    ("overall.accuracy", None),
    ("overall.interval", [0.9, 0.1]),
    ("overall.interval", [0.5]),
    ("overall.interval", "wide"),
    ("overall.compliance", -0.5),
    ("overall.mean_tokens", float("nan")),
    ("by_size", {}),
    ("by_size", []),
    ("by_size.1", None),
    ("by_size.1.n", 3),
    ("by_size.1.accuracy", 0.987654),
    ("by_size.1.correct", 5),
    ("by_size.2.needle_depth", None),
    ("by_size.2.needle_depth", [{}]),
    ("short", 7),
    ("short", float("nan")),
    ("training", 5),
    ("training.settings", "x"),
    ("records_file", "/etc/passwd"),
    ("identity", None),
)
"""A place in results.json and what stands there."""

RECORDS: tuple[tuple[str, object], ...] = (
    ("id", None),
    ("id", 5),
    ("size", -1),
    ("size", 1.5),
    ("size", 10**40),
    ("size", True),
    ("answer_gold", "maybe"),
    ("answer_gold", None),
    ("answer", 3),
    ("correct", "yes"),
    ("correct", None),
    ("correct", "OTHER"),
    ("compliant", 1),
    ("compliant", "OTHER"),
    ("depth", 2.0),
    ("depth", float("nan")),
    ("depth", "deep"),
    ("tokens", -5),
    ("tokens", float("inf")),
    ("mode", 7),
    ("unheard_of", 1),
)
"""A key of a record and its value; OTHER is the opposite of what is there."""


def _compare(content: bytes) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        folder = place.copy(place.world.tested)
        (folder / "results.json").write_bytes(content)
        return ["compare", folder, "--out", "out"]

    return prepare


def _compare_changed(where: str, value: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        folder = place.copy(place.world.tested)
        content = changed(json.loads((folder / "results.json").read_text()), where, value)
        (folder / "results.json").write_text(json.dumps(content))
        return ["compare", folder, "--out", "out"]

    return prepare


def _again(change: Callable[[list[dict[str, Any]]], list[Any]]) -> Callable[[Place], list[object]]:
    """A test that goes on from records that were changed."""

    def prepare(place: Place) -> list[object]:
        folder = place.copy(place.world.tested, "out")
        path = folder / "records.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))
        return ["test", "--ckpt_path", place.world.run, "--results", "out"]

    return prepare


def _with(key: str, value: object) -> Callable[[list[dict[str, Any]]], list[Any]]:
    def change(lines: list[dict[str, Any]]) -> list[Any]:
        record = lines[2]
        record[key] = not record[key] if value == "OTHER" else value
        return lines

    return change


def _of_another_entry(lines: list[dict[str, Any]]) -> list[Any]:
    lines[2]["id"] = "test-9-000000"
    return lines


def _of_another_size(lines: list[dict[str, Any]]) -> list[Any]:
    lines[2]["size"] = 2
    return lines


def _limited(place: Place) -> None:
    """A test of some of the entries says so: in the results, and in words."""
    done = place.laid(
        "test",
        "--ckpt_path",
        place.world.run,
        "--results",
        "out",
        "--trainer.limit_test_batches",
        1,
    )
    assert_clean(place, done)
    if done.code == 2:
        assert "limit_test_batches" in done.err
        return
    assert done.code == 0, str(done)
    assert "3 of 8" in done.said, str(done)
    results = json.loads((place.folder / "out" / "results.json").read_text())
    assert results["overall"]["n"] == 3
    assert "8" in json.dumps(
        {k: v for k, v in results.items() if k not in ("identity", "training")}
    )


def _cut_answers(place: Place) -> None:
    """An answer that ``max_new_tokens`` has cut says so in its record."""
    done = place.laid(
        "test", "--ckpt_path", place.world.run, "--results", "out", "--model.max_new_tokens", 1
    )
    assert done.code == 0, str(done)
    lines = (place.folder / "out" / "records.jsonl").read_text().splitlines()[1:]
    assert any(json.loads(line)["truncated"] for line in lines)


CASES: list[Case] = [
    *(
        refusal(KIND, f"results that are {what}", _compare(content), "results.json")
        for what, content, _ in NO_JSON
    ),
    *(
        refusal(
            KIND, f"{where} {value!r}"[:60], _compare_changed(where, value), "results.json",
            sample=(where, value) == ("overall.n", 7),
        )
        for where, value in RESULTS
    ),
    *(
        refusal(
            KIND, f"a record's {key} {value!r}"[:60], _again(_with(key, value)),
            "records.jsonl", "line 3",
        )
        for key, value in RECORDS
    ),
    refusal(KIND, "a record of no entry that is asked", _again(_of_another_entry), "records.jsonl"),
    refusal(KIND, "a record of another size", _again(_of_another_size), "records.jsonl"),
    refusal(KIND, "a record of no image", _again(_with("size", 0)), "records.jsonl"),
    refusal(KIND, "records of a list", _again(lambda lines: [[], *lines[1:]]), "line 1"),
    refusal(KIND, "records without a header", _again(lambda lines: lines[1:]), "line 1"),
    Case(KIND, "a test of some batches", _limited),
    Case(KIND, "answers that are cut", _cut_answers),
]  # fmt: skip
