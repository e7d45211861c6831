"""Asks lmms-eval and ``laid test`` the same haystacks of the same model, and compares the answers.

    laid export --ckpt_path runs/tiny --out runs/tiny-export --dtype bfloat16
    python benchmarks/harness.py runs/tiny-export --lmms-eval /path/to/env/bin/python

lmms-eval needs torchvision, decord and much else: give the Python of an environment that has it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SIZES = (1, 10, 50)
PER_SIZE = 50
SMALLEST = 56 * 56  # pixels of the drawn images; lmms-eval's own limit would enlarge them


def run(*words: object) -> None:
    print("+", *words, flush=True)
    subprocess.run(list(map(str, words)), check=True)


def build(out: Path, format: str, *more: object) -> None:
    sizes = json.dumps(SIZES)
    run(
        sys.executable, "-m", "laid", "data", "build", "--coco_root", "minicoco", "--out", out,
        "--sizes", sizes, "--test_per_size", PER_SIZE, "--test_split", "test2017",
        "--format", format, "--overwrite", "true", *more,
    )  # fmt: skip


def by_laid(model: Path, out: Path) -> dict[str, str]:
    """Answers by entry id."""
    build(out / "vhs", "vhs", "--train_entries", 0)
    sources = json.dumps([str(out / "vhs" / f"test_{size}.json") for size in SIZES])
    run(
        sys.executable, "-m", "laid", "test", "--config", "configs/tiny.yaml",
        "--model.student.path", model, "--model.student.dtype", "bfloat16",
        "--model.max_new_tokens", 16, "--data.test.source", sources, "--data.test.sizes", "null",
        "--data.test.per_size", "null", "--results", out / "laid",
    )  # fmt: skip
    lines = (out / "laid" / "records.jsonl").read_text().splitlines()[1:]
    # Of several sources, ids begin with the source.
    return {row["id"].rpartition(":")[2]: row["answer"] for row in map(json.loads, lines)}


def by_lmms_eval(model: Path, out: Path, python: str) -> dict[str, str]:
    """Answers by entry id."""
    build(out / "tasks", "lmms-eval", "--prefix", "")
    run(
        python, "-m", "lmms_eval", "--model", "qwen2_5_vl", "--model_args",
        f"pretrained={model},device=cpu,device_map=cpu,attn_implementation=sdpa,"
        f"min_pixels={SMALLEST}",
        "--tasks", "haystacks", "--include_path", out / "tasks", "--batch_size", 1,
        "--log_samples", "--output_path", out / "lmms-eval",
    )  # fmt: skip
    found = {}
    for size in SIZES:
        files = (out / "lmms-eval").glob(f"*/*_samples_haystacks_{size}.jsonl")
        newest = max(files, key=lambda path: path.stat().st_mtime_ns)
        for row in map(json.loads, newest.read_text().splitlines()):
            answer = row["filtered_resps"]
            answer = answer if isinstance(answer, str) else answer[0]
            found[row["haystack_accuracy"]["id"]] = answer
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="an exported folder")
    parser.add_argument("--lmms-eval", required=True, help="Python that has lmms-eval")
    parser.add_argument("--out", type=Path, default=Path("runs/harness"))
    given = parser.parse_args(words)
    ours = by_laid(given.model, given.out)
    theirs = by_lmms_eval(given.model, given.out, given.lmms_eval)
    assert ours.keys() == theirs.keys(), "they were asked different entries"
    differ = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    print(f"{len(ours) - len(differ)} of {len(ours)} answers are the same")
    for name, (one, other) in differ.items():
        print(f"{name}: laid {one!r}, lmms-eval {other!r}")


if __name__ == "__main__":
    main()
