"""What ``laid plan`` asks beyond the settings of ``laid fit``."""

import re
from dataclasses import dataclass

from laid.common.errors import UserError
from laid.planning.plan_tables import GIB, Limit

GPUS = {
    "a800": (312.0, 79.3),
    "h100": (989.0, 79.2),
    "h200": (989.0, 139.8),
    "rtx4090": (165.2, 23.6),
}
"""bfloat16 TFLOP/s without sparsity by the data sheets (SXM where there is one), and GiB that a
program finds."""
GUESSED_MFU = 0.4


@dataclass(frozen=True)
class PlanOptions:
    """Options of the plan itself.

    Raises:
        UserError: a value is out of range, or two contradict each other.
    """

    devices: int | None = None
    """Number of devices. Default: the trainer's, of all nodes."""
    images: int | None = None
    """Images of a training haystack. Default: data.train.max_size."""
    test_images: int | None = None
    """Images of a test haystack; 0: no test. Default: the largest of data.test.sizes."""
    image_width: int = 640
    """Width of every image in pixels."""
    image_height: int = 480
    """Height of every image in pixels."""
    memory: str | None = None
    """Of a device, such as 80GiB or 80GB. Default: the GPU's, or 80GiB."""
    spare: str = "6GiB"
    """Memory kept free for what a plan does not see: CUDA, NCCL, fragmentation."""
    gpu: str | None = None
    """For its speed: a800, h100, h200 or rtx4090."""
    mfu: float | None = None
    """Model FLOPs utilization: share of the GPU's peak FLOP/s, with --gpu; recomputation does not
    count. Default: 0.4, a guess."""
    tflops: float | None = None
    """Measured TFLOP/s of a device, in place of --gpu and --mfu."""

    def __post_init__(self) -> None:
        for name in ("images", "test_images", "devices", "image_width", "image_height"):
            least = 0 if name == "test_images" else 1
            if (value := getattr(self, name)) is not None and value < least:
                raise UserError(f"--{name} {value}: expected {least} or more")
        if self.tflops is not None and not self.tflops > 0:
            raise UserError(f"--tflops {self.tflops}: expected more than 0")
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise UserError(f"--mfu {self.mfu}: expected more than 0, at most 1")
        if self.gpu not in (None, *GPUS):
            raise UserError(f"--gpu {self.gpu}: expected {', '.join(GPUS)}, or use --tflops")
        if self.tflops is not None and self.mfu is not None:
            raise UserError("--tflops is what a device does; leave --mfu out, or use --gpu")
        if self.mfu is not None and self.gpu is None:
            raise UserError("--mfu is a share of a GPU's peak: name it with --gpu")

    @property
    def limit(self) -> Limit:
        """Memory of a device, and what of it is kept free."""
        default = f"{GPUS[self.gpu][1]}GiB" if self.gpu else "80GiB"
        memory = default if self.memory is None else self.memory
        return Limit(_bytes("memory", memory), _bytes("spare", self.spare))

    @property
    def speed(self) -> tuple[float, str] | None:
        """TFLOP/s of a device, and where the number is from; None if none was given."""
        if self.tflops is not None:
            return self.tflops, "given"
        if self.gpu is None:
            return None
        share = GUESSED_MFU if self.mfu is None else self.mfu
        guess = ", a guess" if self.mfu is None else ""
        return GPUS[self.gpu][0] * share, f"{share:g} of {self.gpu}'s peak{guess}"


def _bytes(name: str, given: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|GB)", given.strip(), re.IGNORECASE)
    if found is None:
        raise UserError(f"--{name} {given}: expected such as 80GiB or 80GB")
    return float(found[1]) * (GIB if found[2].upper() == "GIB" else 10**9)
