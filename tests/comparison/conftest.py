"""Results made by hand, as ``laid test`` leaves them: records and their summary."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from laid.evaluation.records import Record, RecordFile
from laid.evaluation.results import Training, write_results
from laid.evaluation.scoring import needle_depth
from laid.evaluation.summary import summarise


@dataclass
class Made:
    """Writes results folders under a root; all of them are asked the same entries."""

    root: Path
    entries: str = "f00d"

    def __call__(self, folder: str, correct: dict[int, list[bool]], **other: Any) -> str:
        """A folder whose model answered these entries so; by size, one value an entry."""
        training = other.get("training")
        identity = {
            "checkpoint": {"id": folder, "step": 9} if training else None,
            "student": {"path": "tiny/student", "dtype": "float32"},
            "weights": None if training else folder,
            "entries": other.get("entries", self.entries),
            **other.get("identity", {}),
        }
        home = self.root / folder
        records = [
            Record(
                id=f"test-{size}-{index:06d}",
                size=size,
                answer_gold="yes",
                answer="Yes" if right else "No",
                correct=bool(right),
                compliant=True,
                depth=needle_depth([7 * index % size], size) if size else None,
                tokens=other.get("tokens", 49 + 358 * size),
                mode="single",
                truncated=False,
            )
            for size, rights in correct.items()
            for index, right in enumerate(rights)
        ]
        RecordFile(home / "records.jsonl", identity).append(records)
        results = summarise(
            records,
            name=other.get("name", folder),
            identity=identity,
            command=f"laid test --results {folder}",
            seed=0,
            available=other.get("available"),
            training=training,
        )
        write_results(home / "results.json", results)
        return str(home)

    @staticmethod
    def training(name: str, seed: int, **settings: Any) -> Training:
        """What results say of a run."""
        return Training(name, seed, ".", settings)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "runs")
