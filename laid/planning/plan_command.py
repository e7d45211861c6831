"""``laid plan``: memory, FLOPs and hours of a run, from its settings alone.

Takes the files and settings of ``laid fit``, and needs no weights, no tokenizer, no images and no
GPU: of the models, only their ``config.json``.
"""

import copy
from dataclasses import dataclass
from typing import Any

import lightning as L
from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from laid.callbacks.global_batch import split_global_batch
from laid.cli.lightning_app import OPTIONS, LaidCLI
from laid.cli.typed_settings import configs_first
from laid.common.errors import UserError
from laid.common.library_noise import quiet
from laid.data.entry_args import SIZES
from laid.planning.memory_tracker import MemoryTracker as Ledger
from laid.planning.plan_tables import (
    Limit,
    bytes_of,
    flops_table,
    highest,
    memory_table,
    verdict,
)
from laid.planning.planned_inputs import ANSWER, image_grid, tokens_of
from laid.planning.rehearsal import PlannedModule, Setting, rehearse_test, rehearse_training
from laid.planning.workload import Cost, epochs_of, run_flops, sizes_of
from laid.training.sharded_strategy import NAME
from laid.vlm.model_loading import load_config

GPUS = {"a800": (312.0, 79.3), "h100": (989.0, 79.2), "h200": (989.0, 139.8)}
"""bfloat16 TFLOP/s without sparsity by the data sheets (SXM), and GiB that a program finds."""


def run(argv: list[str]) -> None:
    """The command line of ``plan``.

    Raises:
        UserError: a setting that ``laid fit`` would refuse, or one that a plan can't follow.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    quiet()
    print(PlanCLI(configs_first(argv)).plan())


@dataclass(frozen=True)
class Devices:
    """How many there are, and whether they share the models out."""

    number: int
    sharded: bool


class PlanCLI(LaidCLI):
    """The settings of ``laid fit`` and those of the plan itself; no Trainer is made."""

    def __init__(self, typed: list[str]):
        self.command = "plan"
        self.typed = typed
        self.found = None
        LightningCLI.__init__(
            self,
            model_class=PlannedModule,
            **OPTIONS,
            run=False,
            parser_kwargs={"prog": "laid plan", "description": (__doc__ or "").splitlines()[0]},
            args=typed,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        add = parser.add_argument
        add("--devices", type=int | None, default=None, help="Default: trainer's, of all nodes.")
        add("--images", type=int | None, default=None, help="Default: data.train.max_size.")
        add(
            "--test_images",
            type=int | None,
            default=None,
            help="Images of a test haystack; 0: no test. Default: the largest of data.test.sizes.",
        )
        add("--image_width", type=int, default=640, help="Width of every image in pixels.")
        add("--image_height", type=int, default=480, help="Height of every image in pixels.")
        add(
            "--memory",
            type=str | None,
            default=None,
            help="Of a device, such as 80GiB or 80GB. Default: the GPU's, or 80GiB.",
        )
        add(
            "--spare",
            type=str,
            default="6GiB",
            help="Memory kept free for what a plan does not see: CUDA, NCCL, fragmentation.",
        )
        add("--gpu", type=str | None, default=None, help=f"For its speed: {', '.join(GPUS)}.")
        add(
            "--mfu",
            type=float | None,
            default=None,
            help="Share of the GPU's peak FLOP/s, with --gpu; recomputation does not count. "
            "Default: 0.4, a guess.",
        )
        add(
            "--tflops",
            type=float | None,
            default=None,
            help="Measured TFLOP/s of a device, in place of --gpu and --mfu.",
        )

    def _parse_ckpt_path(self) -> None:
        """A plan takes no checkpoint; a run's settings are in its config.yaml."""

    def before_instantiate_classes(self) -> None:
        self._refuse(self.config)

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        return None

    def plan(self) -> str:
        """Rehearses training and test, and says what they come to.

        Raises:
            UserError: a setting does not fit.
        """
        config, data, module = self.config, self.datamodule, self.model
        self._check()
        limit = self._limit()
        devices = self._devices()
        each, rounds = split_global_batch(data.global_batch_size, data.batch_size, devices.number)
        shape = load_config(module.student_args)
        grid = image_grid(
            shape,
            config.image_width,
            config.image_height,
            data.processor_args.min_pixels,
            data.processor_args.max_pixels,
        )
        images = data.train_args.max_size if config.images is None else config.images
        setting = Setting(
            devices=devices.number if devices.sharded else None,
            precision=_precision(config.trainer.precision),
            images=images,
            grid=grid,
            batch=each,
            accumulates=rounds > 1,
            clip=config.trainer.gradient_clip_val,
        )
        length = tokens_of(shape, images, grid) + ANSWER
        if data.max_length is not None and length > data.max_length:
            raise UserError(
                f"{images} images are {length:,} tokens, more than data.max_length "
                f"{data.max_length}: laid fit would refuse them"
            )
        tester = copy.deepcopy(module)
        ledger = rehearse_training(module, setting)
        of = f"{images} images of {config.image_width} x {config.image_height}, {length:,} tokens"
        lines = [
            f"laid plan: {config.name}",
            f"student {module.student_args.path}, "
            f"teacher {module.teacher_args.path if module.teacher is not None else 'none'}; "
            + (f"{NAME} on {devices.number} devices" if devices.sharded else "one device")
            + f", {setting.precision}",
            f"training on {of}; {each} at a time on a device, {rounds} times a step",
            "",
            memory_table(ledger),
            "",
            flops_table(ledger.flops),
            "",
            self._hours(ledger, images, grid, devices, each),
            "",
            verdict("training", highest(ledger)[1], limit, self._remedies(devices, each, images)),
        ]
        if data.cache_features:
            lines.append(
                "data.cache_features is planned as false: vision towers at work in every step; "
                f"true keeps up to {data.feature_gib:g} GiB of features for each model"
            )
        tested = max(data.test_args.sizes or SIZES)
        tested = tested if config.test_images is None else config.test_images
        if tested:
            lines.append(self._tested(tester, setting, tested, limit))
        return "\n".join(lines)

    def _tested(self, module: Any, setting: Setting, images: int, limit: Limit) -> str:
        batch = self.datamodule.eval_batch_size
        test = Setting(None, setting.precision, images, setting.grid, batch)
        ledger = rehearse_test(module, test)
        tokens = tokens_of(load_config(module.student_args), images, setting.grid)
        title = f"test of {images} images, {tokens:,} tokens, {batch} at a time on one device"
        remedies = [] if batch == 1 else ["--data.eval_batch_size 1"]
        if module.student_args.dtype == "float32":
            remedies.append("--model.student.dtype bfloat16 for the test: weights of half the size")
        fits = verdict("the test", highest(ledger)[1], limit, remedies)
        return "\n".join(["", title, "", memory_table(ledger), "", fits])

    def _check(self) -> None:
        config = self.config
        for name in ("images", "test_images", "devices", "image_width", "image_height"):
            least = 0 if name == "test_images" else 1
            if (value := config[name]) is not None and value < least:
                raise UserError(f"--{name} {value}: expected {least} or more")
        if config.gpu is not None and config.gpu not in GPUS:
            raise UserError(f"--gpu {config.gpu}: expected {', '.join(GPUS)}, or use --tflops")
        if config.tflops is not None and config.mfu is not None:
            raise UserError("--tflops is what a device does; leave --mfu out, or use --gpu")
        if config.mfu is not None and config.gpu is None:
            raise UserError("--mfu is a share of a GPU's peak: name it with --gpu")
        for name in ("tflops", "mfu"):
            if (value := config[name]) is not None and not value > 0:
                raise UserError(f"--{name} {value}: expected more than 0")
        if config.mfu is not None and config.mfu > 1:
            raise UserError(f"--mfu {config.mfu}: expected a share of the peak, at most 1")
        entries, step = self.datamodule.train_args.count, self.datamodule.global_batch_size
        if entries < step:
            raise UserError(
                f"data.train.entries {entries}: not one step of {step} (data.global_batch_size)"
            )
        for name in ("student_args", "teacher_args"):
            args = getattr(self.model, name)
            if args is not None and args.attn_implementation == "flash_attention_2":
                raise UserError(
                    "attn_implementation flash_attention_2: a plan runs without a GPU; plan with "
                    "sdpa, whose flash kernel takes the same memory"
                )

    def _limit(self) -> Limit:
        memory = self.config.memory
        if memory is None:
            memory = f"{GPUS[self.config.gpu][1]}GiB" if self.config.gpu else "80GiB"
        return Limit(bytes_of("memory", memory), bytes_of("spare", self.config.spare))

    def _devices(self) -> Devices:
        trainer = self.config.trainer
        number = self.config.devices
        if number is None:
            number = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
            if number == "auto" and trainer.accelerator == "cpu":
                number = 1  # as Lightning takes it
            if not str(number).isdigit() or int(number) < 1:
                raise UserError(f"trainer.devices {number!r}: say how many with --devices")
            number = int(number) * trainer.num_nodes
        if trainer.strategy == NAME:
            return Devices(number, True)
        if number > 1:
            raise UserError(
                f"trainer.strategy {trainer.strategy!r} on {number} devices: a plan follows {NAME} "
                f"on any number of devices and everything on one; give --trainer.strategy {NAME} "
                "or --devices 1"
            )
        return Devices(1, False)

    def _hours(
        self, ledger: Ledger, images: int, grid: tuple[int, int, int], devices: Devices, each: int
    ) -> str:
        config, data = self.config, self.datamodule
        shape = load_config(self.model.student_args)
        cost = Cost.of(
            ledger.flops, images, each, lambda count: tokens_of(shape, count, grid) + ANSWER
        )
        sizes = sizes_of(data.train_args, images)
        epochs = epochs_of(config.trainer, len(sizes) // data.global_batch_size)
        total = run_flops(cost, sizes, data, devices.number, each, epochs)
        spread = f"of {min(sizes)} to {max(sizes)} images"
        text = (
            f"a run of {epochs:g} epochs over {len(sizes):,} haystacks {spread}: "
            f"{total / 1e18:.3g} EFLOP a device, recomputation left out"
        )
        if config.tflops is not None:
            speed, how = config.tflops, "given"
        elif config.gpu is not None:
            share = 0.4 if config.mfu is None else config.mfu
            speed = GPUS[config.gpu][0] * share
            how = f"{share:g} of {config.gpu}'s peak" + (", a guess" if config.mfu is None else "")
        else:
            return text + "; for hours, give --gpu or --tflops"
        hours = total / speed / 1e12 / 3600
        return f"{text}\n{hours:.1f} hours at {speed:g} TFLOP/s a device ({how}); training alone"

    def _remedies(self, devices: Devices, each: int, images: int) -> list[str]:
        """What to turn, the cheapest first."""
        student, trainer = self.model.student_args, self.config.trainer
        turns = [
            (not student.activation_checkpointing, "--model.student.activation_checkpointing true"),
            (each > 1, "--data.batch_size 1"),
            (_precision(trainer.precision) == "32-true", "--trainer.precision bf16-mixed"),
            (not student.freeze_vision, "--model.student.freeze_vision true"),
            (
                not devices.sharded and self.model.lora_args is None,
                "--config configs/method/laid_lora.yaml: adapters alone are trained",
            ),
            (not devices.sharded, f"--trainer.strategy {NAME} and several devices"),
            (devices.sharded, f"more devices than {devices.number}, which share the models out"),
            (images > 2, f"haystacks of fewer images than {images}: --data.train.max_size"),
            (images > 0, "smaller images: --data.max_pixels"),
        ]
        return [words for applies, words in turns if applies]


def _precision(given: Any) -> str:
    return {"None": "32-true", "32": "32-true", "16": "16-mixed"}.get(str(given), str(given))
