"""What the cases share: a drawn COCO, models, runs, an export, results; made when first used."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from command_line.commands import Done, Running, Server

QUICK = {
    "seed_everything": 0,
    "model": {
        "optimizer": {"student_lr": 1e-3, "mixing_lr": 1e-2},
        "max_new_tokens": 3,
    },
    "data": {
        "train": {"entries": 12, "min_size": 2, "max_size": 3},
        "validate": {"sizes": [2], "per_size": 2},
        "test": {"split": "test2017", "sizes": [1, 2], "per_size": 4},
        "batch_size": 1,
        "global_batch_size": 2,
        "eval_batch_size": 3,
        "workers": 0,
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "gradient_clip_val": 1.0,
    },
    "checkpoint": {"every_n_train_steps": 1, "save_top_k": -1},
    "head_flow": {"enabled": False},
}
"""Two epochs of six steps, of two haystacks each."""


LIMITS = {"cpu_s": 60, "memory_bytes": 6 << 30, "longest_s": 240}
"""No command comes near them; what never ends, or grows without end, does not take the machine with
it."""


@dataclass
class World:
    """Inputs that no case changes; ``Place.copy`` gives a case its own."""

    folder: Path
    server: Server
    coco: Path
    student: Path
    teacher: Path
    logs: int = field(default=0)

    @cached_property
    def config(self) -> Path:
        """The settings ``QUICK``, of these models and images."""
        return write_yaml(self.folder / "quick.yaml", self.settings())

    def settings(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(json.dumps(QUICK))
        content["name"] = "run"
        content["data"]["coco_root"] = str(self.coco)
        content["model"]["student"] = {"path": str(self.student)}
        content["model"]["teacher"] = {"path": str(self.teacher)}
        return content

    @cached_property
    def run(self) -> Path:
        """A finished run of four steps, with a checkpoint of each."""
        self.laid("fit", "--config", self.config, "--trainer.max_steps", 4)
        return self.folder / "runs" / "run"

    @cached_property
    def sharded(self) -> Path:
        """The same, sharded, of two steps."""
        self.laid(
            "fit", "--config", self.config, "--trainer.max_steps", 2, "--name", "sharded",
            "--trainer.strategy", "laid_fsdp", "--trainer.devices", 1,
        )  # fmt: skip
        return self.folder / "runs" / "sharded"

    @cached_property
    def tested(self) -> Path:
        """The results of ``run``."""
        self.laid("test", "--ckpt_path", self.run, "--results", "tested")
        return self.folder / "tested"

    @cached_property
    def export(self) -> Path:
        """``run`` as a Hugging Face folder."""
        self.laid("export", "--ckpt_path", self.run, "--out", "export")
        return self.folder / "export"

    @cached_property
    def questions(self) -> Path:
        """A Visual Haystacks file, of four entries of two images."""
        self.laid(
            "data", "build", "--coco_root", self.coco, "--out", "built", "--train_entries", 0,
            "--sizes", "[2]", "--test_per_size", 4, "--test_split", "test2017",
        )  # fmt: skip
        return self.folder / "built" / "test_2.json"

    def laid(self, *words: object) -> Done:
        done = self.start(words, self.folder / "logs", folder=self.folder).wait()
        assert done.code == 0, str(done)
        return done

    def start(
        self, words: Sequence[object], logs: Path, environment: Mapping[str, str] = {}, **more: Any
    ) -> Running:
        """Starts a command with the campaign's cache and limits, unless others are given."""
        variables = {"LAID_CACHE": str(self.folder / "cache"), **environment}
        return Running(self.server, words, logs, variables=variables, **{**LIMITS, **more})


@dataclass
class Place:
    """The folder of one case, in which its commands run."""

    folder: Path
    """Inputs and outputs of the case; nothing else is written here."""
    outside: Path
    """For what belongs to the case and not to its commands: logs, markers, a cache."""
    world: World

    @property
    def marker(self) -> Path:
        """A file that hostile content would make."""
        return self.outside / "code-was-run"

    def laid(self, *words: object, **start: Any) -> Done:
        """Runs a command to its end; ``start`` as ``World.start`` and ``fork_server`` take it."""
        return self.start(*words, **start).wait()

    def start(self, *words: object, **start: Any) -> Running:
        return self.world.start(words, self.outside / "logs", **{"folder": self.folder, **start})

    def copy(self, source: Path, name: str | None = None) -> Path:
        """A copy of a file or folder, for the case to change."""
        target = self.folder / (name or source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
        return target

    def config(self, changes: dict[str, Any] | None = None, name: str = "case.yaml") -> Path:
        """``QUICK`` with keys, in dots, set otherwise."""
        content = self.world.settings()
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            inner = content
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = value
        return write_yaml(self.folder / name, content)


def write_yaml(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its content, and every empty folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = sha256(path.read_bytes()).hexdigest()
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found
