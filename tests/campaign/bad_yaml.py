"""Configuration files that are no settings: one sentence that names the file, soon."""

from collections.abc import Callable

from campaign.case import Case, refusal
from campaign.world import Place

KIND = "bad configuration files"


def _bomb(levels: int, head: str = "", indent: int = 0) -> bytes:
    """Few lines that unfold to 9 to the power of ``levels`` words."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([head, *(" " * indent + line for line in lines)]).encode()


_MERGES = b"a: &a0 {x: 1}\n" + b"".join(
    b"b%d: &a%d {<<: [*a%d, *a%d, *a%d, *a%d]}\n" % (n, n, n - 1, n - 1, n - 1, n - 1)
    for n in range(1, 14)
)
FILES: tuple[tuple[str, bytes, str], ...] = (
    ("an alias bomb", _bomb(12), "bad.yaml|too many|too deep"),
    ("an alias bomb in a setting", _bomb(10, "data:\n  train:", 4), "bad.yaml|too many|too deep"),
    ("an alias that holds itself", b"data: &a [*a]", "bad.yaml|data"),
    ("a merge bomb", _MERGES, "bad.yaml|b0|not expected"),
    ("100,000 brackets", b"data: " + b"[" * 100_000, "bad.yaml"),
    ("100,000 braces", b"{a: " * 100_000, "bad.yaml"),
    ("a call of os.system", b"name: !!python/object/apply:os.system ['touch MARKER']", "bad.yaml"),
    ("a class of python", b"name: !!python/name:os.system", "bad.yaml"),
    ("a list", b"- name: x", "bad.yaml|config"),
    ("a word", b"hello", "bad.yaml|config"),
    ("a tab", b"data:\n\tworkers: 1", "bad.yaml"),
    ("an open quote", b'name: "x', "bad.yaml"),
    ("bytes that are no text", b"\xff\xfe\x00\x01\x80", "bad.yaml"),
    ("a NUL", b"name: a\x00b", "bad.yaml"),
    ("two documents", b"name: x\n---\nname: y\n", "bad.yaml"),
    ("a number of 10,000 digits", b"data: {workers: " + b"9" * 10_000 + b"}", "workers|bad.yaml"),
    ("a key twice", b"name: x\nname: y\n", "bad.yaml|name"),
    ("an unknown key", b"data: {wokers: 1}", "wokers"),
    ("an unknown section", b"dta: {workers: 1}", "dta"),
    ("a setting without its section", b"workers: 1", "workers"),
    ("a null section", b"trainer: 3", "trainer"),
    ("infinity as YAML writes it", b"model: {optimizer: {student_lr: .inf}}", "student_lr inf"),
    ("NaN as YAML writes it", b"trainer: {gradient_clip_val: .nan}", "gradient_clip_val nan"),
    ("a foreign class", b"trainer: {callbacks: [{class_path: os.system}]}", "os.system"),
)  # fmt: skip
"""Contents of a ``--config`` file."""


def _file(content: bytes) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        bad = place.folder / "bad.yaml"
        bad.write_bytes(content.replace(b"MARKER", str(place.marker).encode()))
        return ["fit", "--config", place.config(), "--config", bad, "--name=never"]

    return prepare


CASES: list[Case] = [
    refusal(KIND, f"a file of {what}", _file(content), word, sample=n == 0)
    for n, (what, content, word) in enumerate(FILES)
]
