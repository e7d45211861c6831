"""Results are honest counts: every share comes with its n and its interval."""

import json
import random
import re
from dataclasses import replace

import pytest
import torch
from torchmetrics.classification import BinaryAccuracy

from laid.common.json_codec import to_json
from laid.evaluation.records import Record
from laid.evaluation.results import Training, read_results, write_results
from laid.evaluation.scoring import needle_depth
from laid.evaluation.summary import summarise
from laid.evaluation.wilson import wilson_interval


def record(entry, size=5, correct=True, compliant=True, depth=0.5, cut=False, **more):
    answer = ("Yes." if correct else "No.") if compliant else "?"
    more = {"tokens": 100, "mode": "single"} | more
    depth = None if size == 1 else depth
    return Record(entry, size, "yes", answer, correct, compliant, depth, truncated=cut, **more)


def some(size, correct, n, **changes):
    return [record(f"{size}-{i}", size, i < correct, **changes) for i in range(n)]


def summary(records, name="student", **changes):
    given = {"identity": {"checkpoint": {"id": "a"}}, "command": "laid test", "seed": 1} | changes
    return summarise(records, name=name, **given)


# Intervals.


# Summaries.


def test_counts_by_size_add_up_and_sizes_ascend():
    results = summary([*some(100, 5, 10), *some(2, 9, 9), *some(20, 3, 4)])
    assert list(results.by_size) == [2, 20, 100]
    counts = {size: (cell.correct, cell.n) for size, cell in results.by_size.items()}
    assert counts == {2: (9, 9), 20: (3, 4), 100: (5, 10)}
    assert (results.overall.correct, results.overall.n) == (17, 23)
    for cell in [*results.by_size.values(), results.overall]:
        assert cell.accuracy == pytest.approx(cell.correct / cell.n, abs=1e-6)
        expected = wilson_interval(cell.correct, cell.n)
        assert cell.interval == pytest.approx(expected, abs=1e-6)


def test_accuracy_has_the_six_digits_of_torchmetrics():
    # At the first five a division in float64 would round to another sixth digit.
    for correct, n in [(27, 29), (16, 51), (33, 58), (23, 59), (37, 82), (97, 100), (2, 3), (1, 7)]:
        right = torch.arange(n) < correct
        expected = round(BinaryAccuracy()(right.long(), torch.ones(n).long()).item(), 6)
        assert summary(some(5, correct, n)).by_size[5].accuracy == expected


def test_the_order_of_records_does_not_matter():
    records = [*some(1, 3, 7), *some(5, 4, 7), *some(150, 2, 7)]
    shuffled = random.Random(0).sample(records, len(records))
    first, second = summary(records), summary(shuffled)
    assert replace(first, created="") == replace(second, created="")


def test_short_and_long_are_means_over_sizes_as_in_table_1():
    results = summary([*some(1, 10, 10), *some(20, 1, 2), *some(30, 0, 9), *some(50, 3, 4)])
    assert results.short == pytest.approx((1 + 0.5) / 2)  # not (10 + 1) / 12
    assert results.long == pytest.approx(0.75)
    assert summary(some(5, 1, 2)).long is None
    assert summary(some(50, 1, 2)).short is None


def test_a_wrong_answer_without_yes_or_no_lowers_compliance_and_accuracy():
    records = [record("a"), record("b", correct=False), record("c", correct=False, compliant=False)]
    cell = summary([*records, record("d")]).by_size[5]
    assert (cell.accuracy, cell.compliance) == (0.5, 0.75)


def test_mean_tokens_is_a_mean():
    records = [record("a", tokens=100), record("b", tokens=201)]
    assert summary(records).by_size[5].mean_tokens == 150.5


def test_depth_bins_part_the_haystack_evenly_and_lose_no_entry():
    size = 101
    records = [
        record(f"{p}", size, correct=p < 20, depth=needle_depth([p], size)) for p in range(size)
    ]
    bins = summary(records).by_size[size].needle_depth
    assert [b.from_ for b in bins] == [0, 0.2, 0.4, 0.6, 0.8]
    assert [b.to for b in bins] == [0.2, 0.4, 0.6, 0.8, 1]
    # A border belongs to the bin it begins, and the last image to the last bin.
    assert [b.n for b in bins] == [20, 20, 20, 20, 21]
    assert [b.accuracy for b in bins] == [1, 0, 0, 0, 0]


def test_empty_bins_have_no_accuracy_and_a_single_image_no_depth():
    results = summary([record("a", 1, depth=None), record("b", 2, depth=1.0)])
    for size, full in ((1, []), (2, [4])):
        for i, cell in enumerate(results.by_size[size].needle_depth):
            found = (cell.n, cell.correct, cell.accuracy, cell.interval)
            assert cell.n == 1 if i in full else found == (0, 0, None, None)


def test_counts_by_mode_are_given_only_where_there_are_several():
    mixed = [*some(5, 3, 4), record("x", 5, False, mode="multi_all"), record("y", 2)]
    results = summary(mixed)
    by_mode = results.by_size[5].by_mode
    assert {m: (c.correct, c.n) for m, c in by_mode.items()} == {
        "multi_all": (0, 1),
        "single": (3, 4),
    }
    assert set(results.overall.by_mode) == {"multi_all", "single"}
    assert "by_mode" not in to_json(results.by_size[2])
    assert "by_mode" not in to_json(summary(some(5, 1, 2)).overall)


def test_results_of_a_part_of_the_entries_are_marked():
    results = summary([*some(5, 1, 2), *some(10, 1, 1)], available={5: 2, 10: 4, 20: 4})
    assert to_json(results)["entries"] == {"asked": 3, "available": 10}
    assert {size: cell.available for size, cell in results.by_size.items()} == {5: 2, 10: 4}
    assert results.summary.name == "student (3 of 10 entries)"
    assert summary(some(5, 1, 2)).summary.name == "student"


def test_truncated_answers_are_counted():
    results = summary([record("a", cut=True), record("b"), record("c"), record("d")])
    assert results.overall.truncated == results.by_size[5].truncated == 0.25


def test_results_say_what_was_tested_how_and_where_the_records_are():
    results = summary(some(5, 1, 2), name="base", seed=None, command="laid test --x")
    expected = {
        "name": "base",
        "identity": {"checkpoint": {"id": "a"}},
        "command": "laid test --x",
        "seed": None,
        "records_file": "records.jsonl",
    }
    assert expected.items() <= to_json(results).items()
    assert results.laid_version
    assert results.created.endswith("+00:00")


@pytest.mark.parametrize(
    ("records", "changes", "message"),
    [
        ([], {}, "no records"),
        ([record("a"), record("a")], {}, "'a' for one"),
        ([record("a"), record("b")], {"available": {5: 1}}, "available is 1, expected 2"),
        ([record("a")], {"identity": {"x": object()}}, "must be JSON"),
        ([record("a")], {"training": Training("a", 0, ".", {"x": object()})}, "must be JSON"),
    ],
)
def test_what_cannot_be_summarised_is_refused(records, changes, message):
    with pytest.raises(ValueError, match=message):
        summary(records, **changes)


# Files.


def test_results_are_read_as_they_were_written(tmp_path):
    records = [*some(1, 3, 7, depth=None), *some(150, 2, 7), *some(150, 1, 3, mode="any")]
    records = [replace(record, id=f"{index}") for index, record in enumerate(records)]
    training = Training("laid", 3, "../laid", {"betas": (0.9, 0.999)})
    results = summary(records, identity={"sizes": (1, 150)}, training=training)
    path = tmp_path / "new" / "results.json"
    write_results(path, results)
    assert read_results(path) == results
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_whoever_is_reading_results_while_they_are_replaced_sees_the_old_ones_whole(tmp_path):
    path = tmp_path / "results.json"
    old, new = summary(some(5, 1, 2), name="old"), summary(some(5, 1, 2), name="new")
    write_results(path, old)
    with path.open() as reader:
        write_results(path, new)
        assert json.load(reader) == to_json(old)
    assert read_results(path) == new


def test_a_write_that_fails_leaves_the_old_results(tmp_path):
    path = tmp_path / "results.json"
    results = summary(some(5, 1, 2))
    write_results(path, results)
    with pytest.raises(TypeError):
        write_results(path, replace(results, seed=object()))
    assert read_results(path) == results
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("name",), None),
        (("records_file",), None),
        (("identity",), None),
        (("identity", "checkpoint"), "x"),
        (("training",), "x"),
        (("training", "seed"), "first"),
        (("training", "epochs"), 3),
        (("seeds",), [1]),
        (("by_size",), {}),
        (("by_size",), []),
        (("by_size", "five"), {}),
        (("by_size", "5", "accuracy"), "1"),
        (("by_size", "5", "accuracy"), float("nan")),
        (("by_size", "5", "interval"), None),
        (("by_size", "5", "needle_depth"), None),
        (("by_size", "5", "correct"), 3),
        (("by_size", "5", "correct"), 2**64),
        (("by_size", "5", "accuracy"), 0.9),
        (("by_size", "5", "interval"), [0.1, 0.9]),
        (("by_size", "5", "compliance"), 1.5),
        (("by_size", "5", "truncated"), -0.5),
        (("by_size", "5", "available"), 1),
        (("by_size", "5", "mean_tokens"), float("inf")),
        (("by_size", "5", "needle_depth"), []),
        (("overall", "accuracy"), 0.9),
        (("entries", "asked"), 3),
        (("entries", "available"), 1),
        (("short",), 0.9),
        (("long",), 0.9),
        (("records_file",), "/etc/passwd"),
        (("identity", "deep"), json.loads("[" * 200 + "]" * 200)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_results_in_which_something_has_another_form_are_refused(tmp_path, place, value):
    path = tmp_path / "results.json"
    results = to_json(summary(some(5, 1, 2), training=Training("laid", 0, ".", {})))
    *parents, last = place
    inside = results
    for key in parents:
        inside = inside[key]
    inside[last] = value
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=re.escape(".".join(place))) as refusal:
        read_results(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "isn't a results file"),
        ('{"accuracy": 1}', "isn't a results file"),
        ('{"laid_results": 1}', "laid_results is 1, expected 2"),
        ('{"laid_results": 2, "name": "x"}', "missing: identity, .*by_size"),
    ],
)
def test_a_file_that_is_not_results_is_refused(tmp_path, content, message):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_results(path)
    assert str(path) in str(refusal.value)
