"""Commands that write, what of their output has to be whole, and what they have to end with."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from campaign.stored_signals import shards_are_whole, signals, signals_over
from campaign.world import Place, tree
from command_line.commands import Done

from laid.checkpoints.runs import find_checkpoint
from laid.checkpoints.sharded_checkpoints import read_whole
from laid.common.errors import UserError
from laid.evaluation.records import read_records
from laid.evaluation.results import read_results
from laid.vlm.export_marker import check_export


@dataclass(frozen=True)
class Scenario:
    """One command.

    Attributes:
        name: as the table of cases names it.
        prepare: makes the inputs, and what was there before; returns the command's words.
        whole: fails unless what is there is whole: the old, the new, or (where there was none)
            nothing.
        again: the words that go on after an interruption; None where nothing is left to do.
        result: what the command has made, to compare with an uninterrupted run's.
        begin: part of a path; file operations before the first on it are not of interest.
        cache: whether the operations are those in a cache of the case's own.
    """

    name: str
    prepare: Callable[[Place], list[object]]
    whole: Callable[[Place], None]
    result: Callable[[Place], Any]
    again: Callable[[Place, list[object]], list[object] | None] = lambda place, words: words
    begin: str = ""
    cache: bool = False

    def environment(self, place: Place) -> dict[str, str]:
        return {"LAID_CACHE": str(place.outside / "cache")} if self.cache else {}

    def finish(self, place: Place, words: list[object]) -> Done | None:
        """Goes on after an interruption until the command has succeeded."""
        more = self.again(place, words)
        if more is None:
            return None
        done = place.laid(*more, environment=self.environment(place))
        assert done.code == 0, str(done)
        return done


# --- fit ---


def checkpoints(place: Place, run: str = "run") -> list[Path]:
    """The checkpoints of a run, oldest first; none is hidden."""
    found = (place.folder / "runs" / run / "checkpoints").glob("[!.]*.ckpt")
    return sorted(found, key=lambda path: int(path.stem.split("=")[1].split("-")[0]))


def same_state(one: Any, two: Any) -> bool:
    """Whether two states are bit-identical."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two) and one.dtype == two.dtype
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same_state(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same_state, one, two))
    return bool(one == two)


def trained(place: Place, run: str = "run") -> Any:
    """What a run has learned: weights, optimizer and schedule of its last checkpoint."""
    content = read_whole(checkpoints(place, run)[-1])
    return {key: content[key] for key in ("state_dict", "optimizer_states", "global_step")}


def _fit(*more: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        config = place.config({"checkpoint.save_top_k": 1})
        return ["fit", "--config", config, "--trainer.max_steps", 4, *more]

    return prepare


def _checkpoints_are_whole(place: Place) -> None:
    for path in checkpoints(place):
        read_whole(path)


def go_on(place: Place, words: list[object]) -> list[object] | None:
    """Resumes a run where it has a checkpoint, else begins it again."""
    runs = place.folder / "runs"
    try:
        found = find_checkpoint(str(runs / "run"), runs)
    except UserError:
        shutil.rmtree(runs / "run", ignore_errors=True)
        return words
    done = found.identity["step"] == 4
    return None if done else ["fit", "--ckpt_path", found.path, "--trainer.max_steps", 4]


def _resumed(place: Place) -> list[object]:
    """From a run of two steps, whose checkpoint is replaced."""
    words = _fit()(place)
    words[words.index("--trainer.max_steps") + 1] = 2
    done = place.laid(*words)
    assert done.code == 0, str(done)
    return ["fit", "--ckpt_path", "runs/run", "--trainer.max_steps", 4]


def _some_checkpoint(place: Place) -> None:
    assert checkpoints(place), "no checkpoint is left"
    _checkpoints_are_whole(place)


# --- test, predict ---


def _test(place: Place) -> list[object]:
    return ["test", "--ckpt_path", place.world.run, "--results", "out"]


def _test_over_another(place: Place) -> list[object]:
    done = place.laid(*_test(place), "--model.max_new_tokens", 1, "--data.test.sizes", "[1]")
    assert done.code == 0, str(done)
    return _test(place)


def _records_are_whole(place: Place) -> None:
    for path in (place.folder / "out").glob("records*.jsonl"):
        read_records(path)
    if (place.folder / "out" / "results.json").exists():
        read_results(place.folder / "out" / "results.json")


def _both_tests(place: Place) -> None:
    """The records of the first test are there under one name or the other."""
    _records_are_whole(place)
    found = (place.folder / "out").glob("records*.jsonl")
    limits = [read_records(path).identity["max_new_tokens"] for path in found]
    assert 1 in limits, limits


def answers(place: Place, folder: str = "out") -> Any:
    """Records, and the results less what names the moment and the command."""
    records = read_records(place.folder / folder / "records.jsonl").records
    content = json.loads((place.folder / folder / "results.json").read_text())
    return records, {"by_size": content["by_size"], "identity": content["identity"]}


def _predict(place: Place) -> list[object]:
    questions = ("--data.predict.source", place.world.questions, "--data.eval_batch_size", 1)
    return ["predict", "--ckpt_path", place.world.run, *questions, "--results", "out"]


OLD_ANSWER = '{"id": "old", "question": "?", "answer": "old", "images": []}\n'


def _predict_over(place: Place) -> list[object]:
    (place.folder / "out").mkdir()
    (place.folder / "out" / "predictions.jsonl").write_text(OLD_ANSWER)
    return _predict(place)


def predictions(place: Place) -> list[Any]:
    text = (place.folder / "out" / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def _old_or_new_predictions(place: Place) -> None:
    found = [line["id"] for line in predictions(place)]
    assert found == ["old"] or len(found) == 4, found


def _predictions_are_whole(place: Place) -> None:
    if (place.folder / "out" / "predictions.jsonl").exists():
        predictions(place)


# --- export, data build, compare ---


def _export(place: Place) -> list[object]:
    return ["export", "--ckpt_path", place.world.run, "--out", "out"]


def _export_over(place: Place) -> list[object]:
    first = checkpoints_of(place.world.run)[0]
    done = place.laid("export", "--ckpt_path", first, "--out", "out")
    assert done.code == 0, str(done)
    return [*_export(place), "--overwrite", "true"]


def checkpoints_of(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("*.ckpt"))


def _export_is_whole(place: Place) -> None:
    if (place.folder / "out").exists():
        check_export(place.folder / "out")


def _export_is_there(place: Place) -> None:
    assert (place.folder / "out").exists(), "neither the old nor the new"
    check_export(place.folder / "out")


def _exported(place: Place) -> Any:
    made = tree(place.folder / "out")
    made.pop("laid_export.json")  # it names the case's folders
    return made


def _unless_there(name: str) -> Callable[[Place, list[object]], list[object] | None]:
    def again(place: Place, words: list[object]) -> list[object] | None:
        return None if (place.folder / name).exists() else words

    return again


def _build(place: Place) -> list[object]:
    return [
        "data", "build", "--coco_root", place.world.coco, "--out", "out", "--train_entries", 4,
        "--max_size", 3, "--sizes", "[1, 2]", "--test_per_size", 4, "--overwrite", "true",
    ]  # fmt: skip


def _build_over(place: Place) -> list[object]:
    done = place.laid(*_build(place), "--seed", 5)
    assert done.code == 0, str(done)
    return _build(place)


def _files_are_whole(place: Place) -> None:
    for path in (place.folder / "out").glob("[!.]*.json"):
        assert len(json.loads(path.read_text())) == 4


def _all_files(place: Place) -> None:
    _files_are_whole(place)
    assert len(list((place.folder / "out").glob("[!.]*.json"))) == 3


def _made(place: Place) -> Any:
    return tree(place.folder / "out")


def _compare(place: Place) -> list[object]:
    return ["compare", place.world.tested, "--out", "out"]


def _compare_over(place: Place) -> list[object]:
    done = place.laid(*_compare(place), "--threshold", 0.6)
    assert done.code == 0, str(done)
    return _compare(place)


def _report_is_whole(place: Place) -> None:
    for path in (place.folder / "out").glob("[!.]*"):
        assert path.stat().st_size, path.name
        if path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), path.name


def _test_uncached(place: Place) -> list[object]:
    return ["test", "--config", place.config(), "--results", "out"]


SCENARIOS = (
    Scenario("fit", _fit(), _checkpoints_are_whole, trained, go_on, begin="checkpoints"),
    Scenario(
        "fit, sharded",
        _fit("--trainer.strategy", "laid_fsdp", "--trainer.devices", 1),
        _checkpoints_are_whole,
        trained,
        go_on,
        begin="checkpoints",
    ),
    Scenario("fit, resumed", _resumed, _some_checkpoint, trained, go_on, begin="checkpoints"),
    Scenario("test", _test, _records_are_whole, answers),
    Scenario("test over another", _test_over_another, _both_tests, answers),
    Scenario("predict", _predict, _predictions_are_whole, predictions),
    Scenario("predict over", _predict_over, _old_or_new_predictions, predictions),
    Scenario("export", _export, _export_is_whole, _exported, _unless_there("out")),
    Scenario("export over", _export_over, _export_is_there, _exported),
    Scenario("data build", _build, _files_are_whole, _made),
    Scenario("data build over", _build_over, _all_files, _made),
    Scenario("signals", signals, shards_are_whole, _made, begin="out"),
    Scenario("signals over", signals_over, shards_are_whole, _made, begin="shards"),
    Scenario("compare over", _compare_over, _report_is_whole, _made),
    Scenario("caches", _test_uncached, lambda place: None, answers, cache=True),
)
