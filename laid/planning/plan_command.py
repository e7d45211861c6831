"""``laid plan``: memory, FLOPs and hours of a run, from its settings alone.

Takes the files and settings of ``laid fit``, and needs no weights, no tokenizer, no images and no
GPU: of the models, only their ``config.json``.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

from jsonargparse import Namespace

from laid.callbacks.global_batch import split_global_batch
from laid.common.errors import UserError
from laid.common.printable import printable
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import SIZES
from laid.data.loader import PackedSteps
from laid.planning.memory_tracker import MemoryTracker
from laid.planning.plan_options import PlanOptions
from laid.planning.plan_tables import flops_table, memory_table, verdict
from laid.planning.planned_inputs import ANSWER, question_of, tokens_of
from laid.planning.simulated_step import PlannedModule, Setting, simulate_test, simulate_training
from laid.planning.workload import (
    Cost,
    epochs_of,
    packed_flops,
    packed_steps,
    run_flops,
    sizes_of,
)
from laid.settings.run_settings import read_settings, settings_parser
from laid.teacher_cache.cache_size import bytes_of, described
from laid.training.sharded_strategy import NAME
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config

_PRECISIONS = {"None": "32-true", "32": "32-true", "16": "16-mixed"}


def run(words: list[str]) -> None:
    print(printable(plan(words)))


def plan(words: Sequence[str]) -> str:
    """The plan's text, for the command line after ``plan``.

    Raises:
        UserError: a setting that ``laid fit`` would refuse, or one that a plan can't follow.
    """
    parser = settings_parser("laid plan", (__doc__ or "").splitlines()[0], PlannedModule)
    parser.add_class_arguments(PlanOptions)
    config = read_settings(parser, words).config
    options = PlanOptions(**{field.name: config[field.name] for field in fields(PlanOptions)})
    made = parser.instantiate(config)
    return _Plan(config, options, made.data, made.model).text()


@dataclass(frozen=True)
class _Plan:
    config: Namespace
    options: PlanOptions
    data: HaystackDataModule
    module: PlannedModule

    def text(self) -> str:
        """Memory, FLOPs and hours, by a simulated training step and test."""
        options, data, module = self.options, self.data, self.module
        limit = options.limit
        self._check()
        setting, rounds = self._setting()
        tokens = partial(tokens_of, load_config(module.student_args), grid=setting.grid)
        images, length = setting.images, tokens(setting.images)
        if data.max_length is not None and length > data.max_length:
            raise UserError(
                f"{images} images are {length:,} tokens, more than data.max_length "
                f"{data.max_length}: laid fit would refuse them"
            )
        tester = copy.deepcopy(module)
        tracker = simulate_training(module, setting)
        teacher = module.teacher_args if module.teacher is not None else None
        whose = teacher.path if teacher else "none"
        if module.chosen_teacher.from_cache:
            whose += ", from a cache"
        where = f"{NAME} on {setting.devices} devices" if setting.devices else "one device"
        lines = [
            f"laid plan: {self.config.name}",
            f"student {module.student_args.path}, teacher {whose}; {where}, {setting.precision}",
            self._trained(setting, rounds, tokens),
            *("", memory_table(tracker)),
            *("", flops_table(tracker.flops)),
            *("", self._hours(tracker, setting, tokens)),
            *("", verdict("training", tracker, limit, self._remedies(setting))),
        ]
        if teacher is not None:
            lines.append(self._cache(teacher, setting, tokens))
        lines += self._not_followed(setting)
        tested = options.test_images
        if tested is None:
            tested = max(data.test_args.sizes or SIZES)
        if tested:
            batch = data.eval_batch_size
            test = replace(setting, devices=None, images=tested, batch=batch)
            tracker = simulate_test(tester, test)
            remedies = ["--data.eval_batch_size 1"] if batch > 1 else []
            if module.student_args.dtype == "float32":
                half = "--model.student.dtype bfloat16 for the test: weights of half the size"
                remedies.append(half)
            lines += [
                "",
                f"test of {tested} images, {tokens(tested) - ANSWER:,} tokens, {batch} at a time "
                "on one device",
                *("", memory_table(tracker)),
                *("", verdict("the test", tracker, limit, remedies)),
            ]
        return "\n".join(lines)

    def _not_followed(self, setting: Setting) -> list[str]:
        """What of the settings is planned otherwise."""
        data, trainer, lines = self.data, self.config.trainer, []
        if data.cache_features:
            lines.append(
                "data.cache_features is planned as false: vision towers at work in every step; "
                f"else up to {data.feature_gib:g} GiB of features are kept for each model"
            )
        for name in ("source", "mixture"):
            if getattr(data.train_args, name) is not None:
                lines.append(
                    f"data.train.{name} is not read: planned as {data.train_args.count:,} "
                    f"haystacks of {setting.images} images; for others, leave it out and give "
                    "data.train.entries, min_size and max_size"
                )
        for name in ("limit_train_batches", "overfit_batches", "fast_dev_run", "max_time"):
            if trainer[name] and repr(trainer[name]) != "1.0":  # 1.0 is all batches, 1 is one
                lines.append(f"trainer.{name} {trainer[name]} is not followed: epochs are whole")
        return lines

    def _trained(self, setting: Setting, rounds: int, tokens: Callable[[int], int]) -> str:
        """What a device's micro-batch is."""
        total = sum(map(tokens, setting.packed or (setting.images,)))
        sides = f"{self.options.image_width} x {self.options.image_height}, {total:,} tokens"
        if not setting.packed:
            what = f"{setting.images} images of {sides}; {setting.batch} at a time"
        else:
            what = f"{' + '.join(map(str, setting.packed))} images of {sides}, in one row"
        return f"training on {what} on a device, {rounds} times a step"

    def _setting(self) -> tuple[Setting, int]:
        """What is simulated, and the number of micro-batches of an optimizer step."""
        trainer, options, data = self.config.trainer, self.options, self.data
        devices = self._devices()
        limits = data.processor_args.min_pixels, data.processor_args.max_pixels
        family = family_of(load_config(self.module.student_args))
        precision = str(trainer.precision)
        setting = Setting(
            devices=devices,
            precision=_PRECISIONS.get(precision, precision),
            images=data.train_args.max_size if options.images is None else options.images,
            grid=family.planned_grid(options.image_width, options.image_height, *limits),
            clip=trainer.gradient_clip_val,
        )
        if data.pack_tokens is None:
            batch, rounds = split_global_batch(
                data.global_batch_size, data.batch_size, devices or 1
            )
            return replace(setting, batch=batch, accumulates=rounds > 1), rounds
        sizes, steps = self._packed(setting)
        packed = tuple(sizes[at] for at in steps.largest())
        if options.images is not None:
            length = tokens_of(family.config, options.images, setting.grid)
            packed = (options.images,) * max(1, data.pack_tokens // length)
        rounds = steps.packing.rounds
        return replace(setting, packed=packed, accumulates=rounds > 1), rounds

    def _packed(self, setting: Setting) -> tuple[list[int], PackedSteps]:
        """Images of each haystack of an epoch, and its packed micro-batches."""
        config = load_config(self.module.student_args)
        sizes = sizes_of(self.data.train_args, setting.images)
        tokens = partial(tokens_of, config, grid=setting.grid)
        ranks = setting.devices or 1
        return sizes, packed_steps(sizes, self.data, family_of(config), ranks, tokens)

    def _check(self) -> None:
        entries, step = self.data.train_args.count, self.data.global_batch_size
        if entries < step:
            raise UserError(
                f"data.train.entries {entries}: not one step of {step} (data.global_batch_size)"
            )
        for args in (self.module.student_args, self.module.teacher_args):
            if args is not None and args.attn_implementation == "flash_attention_2":
                raise UserError(
                    "attn_implementation flash_attention_2: a plan runs without a GPU; plan with "
                    "sdpa, whose flash kernel takes the same memory"
                )
            if args is not None and args.liger:
                raise UserError("liger true: a plan runs without a GPU; plan without it")

    def _devices(self) -> int | None:
        """Ranks that the models are sharded across; None: one device, no sharding."""
        trainer, number = self.config.trainer, self.options.devices
        if number is None:
            number = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
            if number == "auto" and trainer.accelerator == "cpu":
                number = 1  # as Lightning takes it
            if not str(number).isdigit() or int(number) < 1:
                raise UserError(f"trainer.devices {number!r}: say how many with --devices")
            number = int(number) * trainer.num_nodes
        if trainer.strategy == NAME:
            return number
        if number > 1:
            raise UserError(
                f"trainer.strategy {trainer.strategy!r} on {number} devices: a plan follows {NAME} "
                f"on any number of devices and everything on one; give --trainer.strategy {NAME} "
                "or --devices 1"
            )
        return None

    def _hours(self, tracker: MemoryTracker, setting: Setting, tokens: Callable[[int], int]) -> str:
        data = self.data
        cost = Cost.of(tracker.flops, setting.haystacks, tokens)
        sizes = sizes_of(data.train_args, setting.images)
        epochs = epochs_of(self.config.trainer, len(sizes) // data.global_batch_size)
        if setting.packed:
            total = packed_flops(cost, *self._packed(setting), epochs)
        else:
            total = run_flops(cost, sizes, data, setting.devices or 1, setting.batch, epochs)
        text = (
            f"a run of {epochs:g} epochs over {len(sizes):,} haystacks of {min(sizes)} to "
            f"{max(sizes)} images: {total / 1e18:.3g} EFLOP a device, recomputation left out"
        )
        if self.options.speed is None:
            return text + "; for hours, give --gpu or --tflops"
        speed, how = self.options.speed
        hours = total / speed / 1e12 / 3600
        return f"{text}\n{hours:.1f} hours at {speed:g} TFLOP/s a device ({how}); training alone"

    def _cache(self, teacher: ModelArgs, setting: Setting, tokens: Callable[[int], int]) -> str:
        """What a cache of the teacher's signals takes."""
        sizes = sizes_of(self.data.train_args, setting.images)
        wanted = self.module.objective.ever_of_teacher
        question = question_of(load_config(teacher))
        queries, keys = (
            sum(n * of.count(tokens(size), question) for size, n in Counter(sizes).items())
            for of in (wanted.queries, wanted.keys)
        )
        autocast = setting.devices is None and setting.precision != "32-true"
        answers, stored_as = ANSWER * len(sizes), self.module.chosen_teacher.stored_as
        found = bytes_of(teacher, autocast, stored_as, wanted, queries, keys, answers)
        return (
            f"laid cache of {len(sizes):,} entries: {found / 1e9:,.1f} GB, "
            f"{found / len(sizes) / 1e6:,.1f} MB each ({described(wanted)})"
        )

    def _remedies(self, setting: Setting) -> list[str]:
        """What to change, the cheapest first."""
        student, images, sharded = self.module.student_args, setting.images, setting.devices
        lora = not sharded and self.module.lora_args is None
        turns = {
            "--model.student.activation_checkpointing true": not student.activation_checkpointing,
            "--data.batch_size 1": setting.batch > 1,
            f"--data.pack_tokens below {self.data.pack_tokens}": len(setting.packed) > 1,
            "--trainer.precision bf16-mixed": setting.precision == "32-true",
            "--model.student.freeze_vision true": not student.freeze_vision,
            "--config configs/method/laid_lora.yaml: adapters alone are trained": lora,
            f"--trainer.strategy {NAME} and several devices": not sharded,
            f"more devices than {sharded} to shard the models across": sharded,
            f"haystacks of fewer images than {images}: --data.train.max_size": images > 2,
            "smaller images: --data.max_pixels": True,
        }
        return [words for words, applies in turns.items() if applies]
