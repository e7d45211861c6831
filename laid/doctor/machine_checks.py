"""What the machine has, whatever the run."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants, get_token

from laid import __version__
from laid.common.cached_files import cache_root
from laid.common.disk_space import existing_folder, free_bytes
from laid.common.errors import first_line
from laid.doctor.findings import GIB, Finding, gib
from laid.settings.run_settings import RUNS
from laid.vlm.model_loading import flash_attention_installed

_PACKAGES = ("torch", "lightning", "transformers", "torchmetrics", "datasets", "peft")
_SECONDS = 10
"""How long the hub may take to answer."""


def machine_findings() -> Iterator[Finding]:
    """Versions, devices, memory, disks, the hub."""
    yield Finding("laid", "ok", f"{__version__}, Python {platform.python_version()}")
    yield Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    yield from _devices()
    yield _memory()
    yield from _disks()
    yield _hub()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU", "ok", f"{cores} cores, {platform.machine()}, {sys.platform}")
    count = torch.cuda.device_count()
    if not count:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        yield Finding(
            "GPU",
            "note",
            "none" + (f"; {built}" if built else "; torch is a CPU build"),
            "the miniature trains on the CPU (make demo); models of billions of parameters need "
            "GPUs, and laid plan says how large",
        )
        return
    for index in range(count):
        of = torch.cuda.get_device_properties(index)
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as reason:
            found = f"{of.name}: {first_line(reason)}"
            yield Finding(f"GPU {index}", "problem", found, "see nvidia-smi")
            continue
        bf16 = of.major >= 8
        yield Finding(
            f"GPU {index}",
            "ok" if free > 0.9 * total else "note",
            f"{of.name}, {gib(free)} free of {gib(total)}, bfloat16: {'yes' if bf16 else 'no'}",
            "" if free > 0.9 * total else "another process uses it (nvidia-smi)",
        )
    there = flash_attention_installed()
    yield Finding(
        "flash attention",
        "ok" if there else "note",
        "installed" if there else "not installed",
        "" if there else "attn_implementation sdpa is used, the default",
    )


def _memory() -> Finding:
    info = Path("/proc/meminfo")
    if not info.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Finding("memory", "ok", gib(total))
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    total, free = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    return Finding("memory", "ok", f"{gib(free)} free of {gib(total)}")


def _disks() -> Iterator[Finding]:
    places = (
        ("runs", Path(RUNS)),
        ("hub cache", Path(constants.HF_HUB_CACHE)),
        ("laid cache", cache_root()),
    )
    for name, place in places:
        there, free = existing_folder(place), free_bytes(place)
        writable = os.access(there, os.W_OK)
        yield Finding(
            f"disk of {name}",
            "problem" if not writable else "ok" if free > GIB else "note",
            f"{gib(free)} free in {place}" + ("" if writable else ", which can't be written"),
            "" if writable else f"make {there} writable, or use another folder",
        )


def _hub() -> Finding:
    whose = "with a token" if get_token() else "without a token"
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "note", "HF_HUB_OFFLINE is set: only what is downloaded is used")
    try:
        HfApi().model_info("Qwen/Qwen2.5-VL-7B-Instruct", timeout=_SECONDS)
    except Exception as reason:  # whatever the network raises, it is no reason to stop
        return Finding(
            "hub",
            "note",
            f"{constants.ENDPOINT} does not answer: {first_line(reason)}",
            "models must be in the hub cache or in folders",
        )
    return Finding("hub", "ok", f"{constants.ENDPOINT} answers, {whose}")
