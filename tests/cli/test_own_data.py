"""Own data on the command line: free answers on real JPEGs, each source reported by itself."""

import csv
import json

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def own(work):
    """Photographs of one colour in JPEG files, and conversations about two or three of them, and
    some about none."""
    folder = work / "own"
    folder.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (64, 48), colour).save(folder / f"{colour}.jpg")
    rows = []
    for at in range(12):
        names = [COLOURS[(at + k) % 4] for k in range(2 + at % 2)]
        text = " and ".join(["<image>"] * len(names)) + "\nWhich colours are these?"
        messages = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": f"They are {' and '.join(names)}."},
        ]
        rows.append({"messages": messages, "images": [f"{name}.jpg" for name in names]})
    rows[3] = {"messages": [{"role": "user", "content": "Why?"}, rows[3]["messages"][1]]}
    lines = [json.dumps(row) for row in rows]
    (folder / "my.jsonl").write_text("\n".join(lines))
    (folder / "held.jsonl").write_text("\n".join(lines[:6]))
    return folder


def test_a_run_on_own_data_is_trained_tested_and_compared(laid, config, own, work):
    fit = ("--data.train.source", own / "my.jsonl", "--data.train.turns", "all")
    common = ("--model.max_new_tokens", 8, "--data.eval_batch_size", 2)
    validated = ("--data.validate.source", f"[built, {own / 'held.jsonl'}]")
    off = ("--head_flow.enabled", "false", "--trainer.max_epochs", 1)
    laid("fit", "--config", config, "--name", "own", *fit, *validated, *off)
    run = work / "runs" / "own"
    tags = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {"val/accuracy", "val/haystacks/accuracy", "val/held/accuracy"} <= set(tags)
    source = f"[{own / 'held.jsonl'}, {own / 'my.jsonl'}]"
    rules = f"{{{own / 'held.jsonl'}: contains, {own / 'my.jsonl'}: exact}}"
    tested = ("--data.test.source", source, "--data.test.scoring", rules, *common)
    done = laid("test", "--ckpt_path", run, *tested)
    assert "own, held (contains)" in done.out
    assert "own, my (exact)" in done.out
    assert not (run / "results.json").exists()
    for name, rule, n in (("held", "contains", 6), ("my", "exact", 12)):
        results = json.loads((run / "sources" / name / "results.json").read_text())
        assert (results["scoring"], results["overall"]["n"]) == (rule, n)
        assert list(results["by_size"]) == ["0", "2", "3"]
        assert all(b["n"] == 0 for b in results["by_size"]["3"]["needle_depth"])
        assert (run / "sources" / name / results["training"]["run"]).resolve() == run
        header, *lines = (run / "sources" / name / "records.jsonl").read_text().splitlines()
        assert json.loads(header)["identity"]["scoring"] == rule
        assert {json.loads(line)["scoring"] for line in lines} == {rule}
        assert {json.loads(line)["depth"] for line in lines} == {None}
    # One at a time, with another batch size: the same answers are there already.
    again = laid("test", "--ckpt_path", run, *tested[:-1], 1)
    assert "18 of 18 entries are answered already" in again.err
    laid("test", "--config", config, "--results", "runs/untrained", *tested)
    sources = [f"runs/{name}/sources/my" for name in ("own", "untrained")]
    laid("compare", *sources, "--base", "untrained", "--out", "report-own")
    with (work / "report-own" / "tests.csv").open() as file:
        tests = list(csv.DictReader(file))
    assert {row["method"] for row in tests} == {"own"}
    assert {row["images"] for row in tests} >= {"0", "2", "3"}
