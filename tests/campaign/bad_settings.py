"""Settings that can't be meant: one sentence that names the setting, and nothing is written."""

from collections.abc import Callable

from campaign.case import Case, refusal
from campaign.world import Place

KIND = "bad settings"

NO_NUMBER = ("nan", "inf", "-inf")
RATES = (
    "model.optimizer.student_lr", "model.optimizer.mixing_lr", "model.optimizer.lora_lr",
    "model.optimizer.gain_lr", "model.optimizer.weight_decay", "model.optimizer.warmup_ratio",
    "model.objective.laid.weight", "model.objective.kl.weight", "model.objective.sft.weight",
    "model.objective.kl.temperature", "data.min_area", "data.feature_gib",
    "trainer.gradient_clip_val",
)  # fmt: skip
"""Numbers of 0 or more."""

OF_FIT: tuple[tuple[str, object, str], ...] = (
    ("model.objective.kl.temperature", 0, "temperature"),
    ("model.optimizer.warmup_ratio", 1.5, "warmup_ratio"),
    ("model.optimizer.betas", "[0.9, nan]", "betas|finite"),
    ("model.optimizer.betas", "[0.9, 1.5]", "beta"),
    ("model.optimizer.betas", "[0.9]", "betas"),
    ("model.optimizer.schedule", "sine", "schedule"),
    ("model.lora.rank", 0, "model.lora.rank 0"),
    ("model.lora.rank", -4, "model.lora.rank -4"),
    ("model.lora.rank", 10**9, "rank"),
    ("model.lora.alpha", "nan", "alpha"),
    ("model.lora.dropout", 1.5, "dropout"),
    ("model.lora.dropout", "nan", "dropout"),
    ("model.rope_gain.layers", "[]", "model.rope_gain.layers"),
    ("model.rope_gain.layers", "[9]", "model.rope_gain.layers"),
    ("model.rope_gain.layers", "[-1]", "model.rope_gain.layers"),
    ("model.rope_gain.layers", "final", "model.rope_gain"),
    ("model.max_new_tokens", 0, "max_new_tokens 0"),
    ("model.max_new_tokens", -1, "max_new_tokens -1"),
    ("model.student.dtype", "float12", "float12"),
    ("model.student.attn_implementation", "magic", "magic|attn_implementation"),
    ("model.student.path", "", "configuration of ''"),
    ("model.student.path", "./no/model", "./no/model"),
    ("model.student.path", "tiny/nobody", "tiny/nobody"),
    ("model.teacher.path", "./no/teacher", "./no/teacher"),
    ("model.objective.laid.layers", "[[9, 0]]", "[9, 0]"),
    ("model.objective.laid.layers", "[[-9, 0]]", "[-9, 0]"),
    ("model.objective.laid.layers", "[]", "layers"),
    ("model.objective.laid.layers", "nearly", "layers"),
    ("model.window_extension", "stretch", "stretch"),
    ("model.window_extension", "self-extend", "self-extend|training-free"),
    ("model.yarn.factor", 4, "model.yarn"),
    ("data.batch_size", 0, "data.batch_size 0"),
    ("data.batch_size", -1, "data.batch_size -1"),
    ("data.batch_size", "two", "batch_size"),
    ("data.batch_size", 1.5, "batch_size"),
    ("data.global_batch_size", 0, "global_batch_size 0"),
    ("data.global_batch_size", -2, "global_batch_size -2"),
    ("data.global_batch_size", 14, "global_batch_size 14"),
    ("data.global_batch_size", 10**30, "global_batch_size"),
    ("data.eval_batch_size", 0, "eval_batch_size 0"),
    ("data.workers", -1, "data.workers -1"),
    ("data.workers", 10**6, "data.workers 1000000"),
    ("data.max_length", 20, "data.max_length 20"),
    ("data.max_length", -5, "max_length"),
    ("data.max_length", 0, "max_length"),
    ("data.min_pixels", -1, "min_pixels"),
    ("data.max_pixels", 0, "max_pixels"),
    ("data.max_pixels", 1, "max_pixels"),
    ("data.needles", "[0]", "needles"),
    ("data.needles", "[-1]", "needles"),
    ("data.needles", "[]", "needles"),
    ("data.min_area", 2, "min_area"),
    ("data.coco_root", "nowhere", "nowhere"),
    ("data.coco_root", "", "coco_root|annotations/instances_train2017.json"),
    ("data.train.entries", 0, "data.train.entries 0"),
    ("data.train.entries", -2, "data.train.entries -2"),
    ("data.train.entries", 3, "even"),
    ("data.train.entries", 10**12, "data.train.entries 1000000000000"),
    ("data.train.entries", 10**40, "data.train.entries"),
    ("data.train.min_size", 0, "min_size 0"),
    ("data.train.min_size", 9, "min_size 9"),
    ("data.train.max_size", 5000, "train2017"),
    ("data.train.max_size", 10**18, "max_size|train2017"),
    ("data.train.split", "test2023", "test2023"),
    ("data.train.split", "../annotations", "split|annotations"),
    ("data.train.source", "nothing.json", "nothing.json"),
    ("data.validate.per_size", -1, "per_size -1"),
    ("data.validate.per_size", 10**12, "per_size 1000000000000"),
    ("data.validate.sizes", "[0]", "size"),
    ("data.validate.sizes", "[-3]", "size"),
    ("data.validate.sizes", "[]", "sizes is empty"),
    ("trainer.max_epochs", "nan", "max_epochs"),
    ("trainer.max_epochs", -7, "max_epochs"),
    ("trainer.max_steps", -7, "max_steps"),
    ("trainer.max_steps", "many", "max_steps"),
    ("trainer.max_time", "soon", "max_time|soon"),
    ("trainer.limit_train_batches", -1, "limit_train_batches"),
    ("trainer.limit_train_batches", "nan", "limit_train_batches"),
    ("trainer.limit_train_batches", 0, "limit_train_batches|no training|nothing"),
    ("trainer.limit_val_batches", -1, "limit_val_batches"),
    ("trainer.limit_val_batches", "inf", "limit_val_batches"),
    ("trainer.overfit_batches", -1, "overfit_batches"),
    ("trainer.val_check_interval", 0, "val_check_interval 0"),
    ("trainer.val_check_interval", -1, "val_check_interval -1"),
    ("trainer.val_check_interval", "nan", "val_check_interval"),
    ("trainer.check_val_every_n_epoch", 0, "check_val_every_n_epoch 0"),
    ("trainer.log_every_n_steps", -1, "log_every_n_steps"),
    ("trainer.num_sanity_val_steps", -5, "num_sanity_val_steps"),
    ("trainer.reload_dataloaders_every_n_epochs", -1, "reload_dataloaders_every_n_epochs"),
    ("trainer.gradient_clip_val", 0, "gradient_clip_val 0"),
    ("trainer.gradient_clip_algorithm", "scissors", "gradient_clip_algorithm|scissors"),
    ("trainer.accumulate_grad_batches", 3, "accumulate_grad_batches"),
    ("trainer.use_distributed_sampler", "true", "use_distributed_sampler"),
    ("trainer.accelerator", "moon", "moon"),
    ("trainer.strategy", "hope", "hope"),
    ("trainer.devices", 0, "devices"),
    ("trainer.devices", -5, "devices"),
    ("trainer.devices", "some", "devices|some"),
    ("trainer.num_nodes", 0, "num_nodes"),
    ("trainer.precision", 3, "precision"),
    ("trainer.callbacks", "NoSuchCallback", "callbacks|NoSuchCallback"),
    ("trainer.profiler", "guess", "profiler|guess"),
    ("trainer.default_root_dir", "case.yaml", "case.yaml"),
    ("seed_everything", "true", "seed_everything"),
    ("seed_everything", -1, "seed_everything -1"),
    ("seed_everything", 2**40, "seed_everything"),
    ("seed_everything", "nan", "seed_everything"),
    ("name", "", "--name"),
    ("name", "..", "--name"),
    ("name", "../../x", "--name"),
    ("name", "a/b", "--name"),
    ("name", "/tmp/elsewhere", "--name"),
    ("name", "x" * 300, "name"),
    ("checkpoint.dirpath", "elsewhere", "checkpoint.dirpath"),
    ("checkpoint.filename", "../out", "checkpoint.filename"),
    ("checkpoint.filename", "/tmp/out", "checkpoint.filename"),
    ("checkpoint.filename", "a/{step}", "checkpoint.filename"),
    ("checkpoint.filename", "{step", "checkpoint.filename"),
    ("checkpoint.filename", "{step.__class__}", "checkpoint.filename"),
    ("checkpoint.monitor", "val/nothing", "checkpoint.monitor val/nothing"),
    ("checkpoint.monitor", "val/accuracy", "checkpoint.monitor val/accuracy"),
    ("checkpoint.save_top_k", 0, "checkpoint.save_top_k 0"),
    ("checkpoint.save_top_k", -3, "save_top_k"),
    ("checkpoint.save_top_k", 5, "save_top_k"),
    ("checkpoint.mode", "mean", "mode"),
    ("checkpoint.every_n_train_steps", -1, "every_n_train_steps"),
    ("checkpoint.save_weights_only", "true", "save_weights_only"),
    ("ckpt_path", "nowhere.ckpt", "nowhere.ckpt"),
    ("ckpt_path", "last", "no checkpoint"),
    ("ckpt_path", "case.yaml", "case.yaml cannot be read"),
    ("ckpt_path", "", "ckpt_path"),
    ("ckpt_path", ".", "no checkpoint"),
)
"""One setting of a fit, its value, words of the message."""


def _fit(key: str, value: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        name = [] if key == "name" else ["--name", "never"]
        return ["fit", "--config", place.config(), *name, f"--{key}={value}"]

    return prepare


CASES: list[Case] = [
    *(
        refusal(KIND, f"{key} {value}", _fit(key, value), key.split(".")[-1])
        for key in RATES
        for value in (*NO_NUMBER, "-1")
    ),
    *(
        refusal(KIND, f"{key} {str(value)[:20]}", _fit(key, value), word, sample=n == 114)
        for n, (key, value, word) in enumerate(OF_FIT)
    ),
]
