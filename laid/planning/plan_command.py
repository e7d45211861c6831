"""``laid plan``: memory, FLOPs and hours of a run, from its settings alone.

Takes the files and settings of ``laid fit``, and needs no weights, no tokenizer, no images and no
GPU: of the models, only their ``config.json``.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from jsonargparse import Namespace

from laid.callbacks.global_batch import split_global_batch
from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import SIZES
from laid.planning.memory_tracker import MemoryTracker
from laid.planning.plan_options import PlanOptions
from laid.planning.plan_tables import Limit, flops_table, highest, memory_table, verdict
from laid.planning.planned_inputs import ANSWER, image_grid, tokens_of
from laid.planning.rehearsal import PlannedModule, Setting, rehearse_test, rehearse_training
from laid.planning.workload import Cost, epochs_of, run_flops, sizes_of
from laid.settings.run_settings import read_settings, settings_parser
from laid.training.sharded_strategy import NAME
from laid.vlm.model_loading import load_config


def run(words: list[str]) -> None:
    """The command line of ``plan``."""
    print(plan(words))


def plan(words: Sequence[str]) -> str:
    """The plan's text.

    Args:
        words: the command line after ``plan``.

    Raises:
        UserError: a setting that ``laid fit`` would refuse, or one that a plan can't follow.
    """
    parser = settings_parser("laid plan", (__doc__ or "").splitlines()[0], PlannedModule)
    parser.add_class_arguments(PlanOptions)
    config = read_settings(parser, words).config
    options = PlanOptions(**{field.name: config[field.name] for field in fields(PlanOptions)})
    made = parser.instantiate(config)
    return Plan(config, options, made.data, made.model).text()


@dataclass(frozen=True)
class Devices:
    """How many there are, and whether the models are sharded across them."""

    number: int
    sharded: bool


@dataclass(frozen=True)
class Plan:
    """A plan of one run."""

    config: Namespace
    options: PlanOptions
    data: HaystackDataModule
    module: PlannedModule

    def text(self) -> str:
        """Memory, FLOPs and hours by a rehearsal of training and test.

        Raises:
            UserError: a setting does not fit.
        """
        config, options, data, module = self.config, self.options, self.data, self.module
        self._check()
        limit = options.limit
        devices = self._devices()
        each, rounds = split_global_batch(data.global_batch_size, data.batch_size, devices.number)
        shape = load_config(module.student_args)
        grid = image_grid(
            shape,
            options.image_width,
            options.image_height,
            data.processor_args.min_pixels,
            data.processor_args.max_pixels,
        )
        images = data.train_args.max_size if options.images is None else options.images
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
        tracker = rehearse_training(module, setting)
        of = f"{images} images of {options.image_width} x {options.image_height}, {length:,} tokens"
        teacher = module.teacher_args
        lines = [
            f"laid plan: {config.name}",
            f"student {module.student_args.path}, "
            f"teacher {teacher.path if teacher and module.teacher is not None else 'none'}; "
            + (f"{NAME} on {devices.number} devices" if devices.sharded else "one device")
            + f", {setting.precision}",
            f"training on {of}; {each} at a time on a device, {rounds} times a step",
            "",
            memory_table(tracker),
            "",
            flops_table(tracker.flops),
            "",
            self._hours(tracker, images, grid, devices, each),
            "",
            verdict("training", highest(tracker)[1], limit, self._remedies(devices, each, images)),
        ]
        if data.cache_features:
            lines.append(
                "data.cache_features is planned as false: vision towers at work in every step; "
                f"true keeps up to {data.feature_gib:g} GiB of features for each model"
            )
        tested = max(data.test_args.sizes or SIZES)
        tested = tested if options.test_images is None else options.test_images
        if tested:
            lines.append(self._tested(tester, setting, tested, limit))
        return "\n".join(lines)

    def _tested(self, module: Any, setting: Setting, images: int, limit: Limit) -> str:
        batch = self.data.eval_batch_size
        test = Setting(None, setting.precision, images, setting.grid, batch)
        tracker = rehearse_test(module, test)
        tokens = tokens_of(load_config(module.student_args), images, setting.grid)
        title = f"test of {images} images, {tokens:,} tokens, {batch} at a time on one device"
        remedies = [] if batch == 1 else ["--data.eval_batch_size 1"]
        if module.student_args.dtype == "float32":
            remedies.append("--model.student.dtype bfloat16 for the test: weights of half the size")
        fits = verdict("the test", highest(tracker)[1], limit, remedies)
        return "\n".join(["", title, "", memory_table(tracker), "", fits])

    def _check(self) -> None:
        entries, step = self.data.train_args.count, self.data.global_batch_size
        if entries < step:
            raise UserError(
                f"data.train.entries {entries}: not one step of {step} (data.global_batch_size)"
            )
        for name in ("student_args", "teacher_args"):
            args = getattr(self.module, name)
            if args is not None and args.attn_implementation == "flash_attention_2":
                raise UserError(
                    "attn_implementation flash_attention_2: a plan runs without a GPU; plan with "
                    "sdpa, whose flash kernel takes the same memory"
                )

    def _devices(self) -> Devices:
        trainer = self.config.trainer
        number = self.options.devices
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
        self,
        tracker: MemoryTracker,
        images: int,
        grid: tuple[int, int, int],
        devices: Devices,
        each: int,
    ) -> str:
        data = self.data
        shape = load_config(self.module.student_args)
        cost = Cost.of(
            tracker.flops, images, each, lambda count: tokens_of(shape, count, grid) + ANSWER
        )
        sizes = sizes_of(data.train_args, images)
        epochs = epochs_of(self.config.trainer, len(sizes) // data.global_batch_size)
        total = run_flops(cost, sizes, data, devices.number, each, epochs)
        spread = f"of {min(sizes)} to {max(sizes)} images"
        text = (
            f"a run of {epochs:g} epochs over {len(sizes):,} haystacks {spread}: "
            f"{total / 1e18:.3g} EFLOP a device, recomputation left out"
        )
        if self.options.speed is None:
            return text + "; for hours, give --gpu or --tflops"
        speed, how = self.options.speed
        hours = total / speed / 1e12 / 3600
        return f"{text}\n{hours:.1f} hours at {speed:g} TFLOP/s a device ({how}); training alone"

    def _remedies(self, devices: Devices, each: int, images: int) -> list[str]:
        """What to change, the cheapest first."""
        student, trainer = self.module.student_args, self.config.trainer
        turns = [
            (not student.activation_checkpointing, "--model.student.activation_checkpointing true"),
            (each > 1, "--data.batch_size 1"),
            (_precision(trainer.precision) == "32-true", "--trainer.precision bf16-mixed"),
            (not student.freeze_vision, "--model.student.freeze_vision true"),
            (
                not devices.sharded and self.module.lora_args is None,
                "--config configs/method/laid_lora.yaml: adapters alone are trained",
            ),
            (not devices.sharded, f"--trainer.strategy {NAME} and several devices"),
            (devices.sharded, f"more devices than {devices.number} to shard the models across"),
            (images > 2, f"haystacks of fewer images than {images}: --data.train.max_size"),
            (images > 0, "smaller images: --data.max_pixels"),
        ]
        return [words for applies, words in turns if applies]


def _precision(given: Any) -> str:
    return {"None": "32-true", "32": "32-true", "16": "16-mixed"}.get(str(given), str(given))
