"""Settings that can't be meant: one sentence that names the setting, and nothing is written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from campaign.case import Case, refusal
from campaign.world import Place

KIND = "bad settings"

NO_NUMBER = ("nan", "inf", "-inf")
RATES = (
    "model.optimizer.student_lr", "model.optimizer.mixing_lr", "model.optimizer.lora_lr",
    "model.optimizer.weight_decay", "model.optimizer.warmup_ratio", "model.objective.laid.weight",
    "model.objective.kl.weight", "model.objective.sft.weight", "model.objective.kl.temperature",
    "data.min_area", "data.feature_gib", "trainer.gradient_clip_val",
)  # fmt: skip
"""Numbers of 0 or more."""

OF_FIT: tuple[tuple[str, object, str], ...] = (
    ("model.objective.kl.temperature", 0, "temperature"),
    ("model.optimizer.warmup_ratio", 1.5, "warmup_ratio"),
    ("model.optimizer.betas", "[0.9, nan]", "betas|finite"),
    ("model.optimizer.betas", "[0.9, 1.5]", "betas"),
    ("model.optimizer.betas", "[0.9]", "betas"),
    ("model.optimizer.schedule", "sine", "schedule"),
    ("model.lora.rank", 0, "model.lora.rank 0"),
    ("model.lora.rank", -4, "model.lora.rank -4"),
    ("model.lora.rank", 10**9, "rank"),
    ("model.lora.alpha", "nan", "alpha"),
    ("model.lora.dropout", 1.5, "dropout"),
    ("model.lora.dropout", "nan", "dropout"),
    ("model.max_new_tokens", 0, "max_new_tokens 0"),
    ("model.max_new_tokens", -1, "max_new_tokens -1"),
    ("model.student.dtype", "float12", "float12"),
    ("model.student.dtype", "bfloat16", "bfloat16|float32"),
    ("model.student.attn_implementation", "magic", "magic|attn_implementation"),
    ("model.student.path", "", "model.student.path|no model"),
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
    ("data.seed", -1, "seed"),
    ("data.coco_root", "nowhere", "nowhere"),
    ("data.coco_root", "", "coco_root|COCO folder"),
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
    ("trainer.val_check_interval", 1000, "val_check_interval"),
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
    ("head_flow.sizes", "[0]", "head_flow|sizes"),
    ("head_flow.per_size", -1, "per_size"),
    ("ckpt_path", "nowhere.ckpt", "nowhere.ckpt"),
    ("ckpt_path", "last", "no checkpoint"),
    ("ckpt_path", "case.yaml", "case.yaml cannot be read"),
    ("ckpt_path", "", "ckpt_path"),
    ("ckpt_path", ".", "no checkpoint"),
)
"""One setting of a fit, its value, words of the message."""

TYPED_WRONG: tuple[tuple[Sequence[object], str], ...] = (
    ((), "usage|COMMAND"),
    (("fti",), "no command 'fti'"),
    (("data", "biuld"), "no command 'data biuld'"),
    (("pretrain",), "no command 'pretrain'"),
    (("fit", "--conf", "case.yaml"), "--conf"),
    (("fit", "--config"), "--config|expected one argument"),
    (("fit", "--config", "case.yaml", "--ckpt", "last"), "--ckpt"),
    (("fit", "--config", "case.yaml", "--nam", "x"), "--nam"),
    (("fit", "--config", "case.yaml", "--trainer.max_step", 1), "--trainer.max_step"),
    (("fit", "--config", "case.yaml", "--data.coco", "x"), "--data.coco"),
    (("fit", "--config", "case.yaml", "--model.studnet.path", "x"), "studnet"),
    (("fit", "--config", "case.yaml", "--results", "x"), "--results"),
    (("fit", "--config", "case.yaml", "again"), "again"),
    (("fit", "--config", "nowhere.yaml"), "nowhere.yaml"),
    (("fit", "--config", "."), "config"),
    (("test", "--config", "case.yaml", "--data.test.per_size", 3), "even"),
    (("test", "--config", "case.yaml", "--data.test.sizes", "[5000]"), "test2017"),
    (("test", "--config", "case.yaml", "--data.test.sizes", "[0]"), "size"),
    (("test", "--config", "case.yaml", "--name", "../../x"), "--name"),
    (("test", "--config", "case.yaml", "--results", "case.yaml"), "case.yaml"),
    (("test", "--config", "case.yaml", "--results", "case.yaml/in"), "case.yaml"),
    (("test", "--config", "case.yaml", "--trainer.limit_test_batches", "nan"), "limit_test_batc"),
    (
        ("test", "--config", "case.yaml", "--model.window_extension", "yarn",
         "--model.yarn.factor", "nan"),
        "factor",
    ),
    (
        ("test", "--config", "case.yaml", "--model.window_extension", "yarn",
         "--model.yarn.factor", 0),
        "factor",
    ),
    (
        ("test", "--config", "case.yaml", "--model.window_extension", "self-extend",
         "--model.self_extend.group", 0, "--model.self_extend.window", 4),
        "group",
    ),
    (
        ("test", "--config", "case.yaml", "--model.window_extension", "self-extend",
         "--model.self_extend.group", 2, "--model.self_extend.window", -4),
        "window",
    ),
    (("validate", "--config", "case.yaml", "--results", "x"), "--results"),
    (("predict", "--config", "case.yaml"), "nothing to answer"),
    (("predict", "--config", "case.yaml", "--data.predict.images", "."), "nothing to answer"),
    (
        ("predict", "--config", "case.yaml", "--data.predict.images", "nowhere",
         "--data.predict.question", "why?"),
        "nowhere",
    ),
    (
        ("predict", "--config", "case.yaml", "--data.predict.images", ".",
         "--data.predict.question", "why?", "--data.predict.source", "q.json"),
        "not both",
    ),
    (("export", "--ckpt_path", "nowhere", "--out", "x"), "nowhere"),
    (("export", "--ckpt_path", "last", "--out", "x"), "no checkpoint"),
    (("export", "--ckpt_path", "case.yaml", "--out", "x"), "case.yaml"),
    (("export", "--ckpt_path", "last"), "out"),
    (("export", "--ckpt", "last", "--out", "x"), "--ckpt"),
    (("export", "--ckpt_path", "last", "--out", "x", "--dtype", "int4"), "int4"),
    (("export", "--ckpt_path", "last", "--out", "x", "--overwrite", "maybe"), "overwrite"),
    (("export", "--ckpt_path", "last", "--out", ""), "out"),
    (("compare",), "results"),
    (("compare", "nowhere"), "nowhere"),
    (("compare", "."), "results.json"),
    (("compare", "case.yaml"), "case.yaml"),
    (("compare", ".", "--threshold", "nan"), "threshold"),
    (("compare", ".", "--threshold", 2), "threshold"),
    (("plan", "--config", "case.yaml", "--gpu", "abacus"), "abacus"),
    (("plan", "--config", "case.yaml", "--mfu", "nan"), "mfu"),
    (("plan", "--config", "case.yaml", "--test_images", -5), "test_images"),
    (("data", "build", "--coco_root", "nowhere", "--out", "x"), "nowhere"),
    (("data", "build", "--coco_root", "nowhere"), "out"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--train_entries", 3), "even"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--train_entries", -2), "-2|even"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--train_entries", 10**12), "entries"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--sizes", "[0]"), "size"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--sizes", "[9000]"), "val2017"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--test_per_size", 1), "even"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--needles", "[0]"), "needle"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--min_area", "nan"), "min_area"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--categories", "[unicorn]"), "unicorn"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--seed", 1.5), "seed"),
    (("data", "build", "--coco_root", "COCO", "--out", "case.yaml"), "case.yaml"),
)  # fmt: skip
"""Command lines, in a folder that holds ``case.yaml``; COCO stands for a COCO folder."""


def _bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


FILES: tuple[tuple[str, bytes, str], ...] = (
    ("an alias bomb", _bomb(12).encode(), "bad.yaml|too many|too deep"),
    ("an alias bomb below a setting", b"data:\n  train:\n    " + _bomb(10).replace("\n", "\n    ").encode(), "bad.yaml|too many|too deep"),
    ("an alias that holds itself", b"data: &a [*a]", "bad.yaml|data"),
    ("a merge bomb", b"a: &a {x: 1}\n" + b"".join(b"b%d: &b%d {<<: [*a, *a, *a]}\n" % (n, n) for n in range(9)), "bad.yaml|b0|not expected"),
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
    ("a date", b"name: 2020-01-01", "name|bad.yaml"),
    ("a foreign class", b"trainer: {callbacks: [{class_path: os.system}]}", "os.system"),
)  # fmt: skip
"""Contents of a ``--config`` file."""


def _fit(key: str, value: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        name = [] if key == "name" else ["--name", "never"]
        return ["fit", "--config", place.config(), *name, f"--{key}={value}"]

    return prepare


def _typed(words: Sequence[object]) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        place.config()
        return [place.world.coco if word == "COCO" else word for word in words]

    return prepare


def _file(content: bytes) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        bad: Path = place.folder / "bad.yaml"
        bad.write_bytes(content.replace(b"MARKER", str(place.marker).encode()))
        return ["fit", "--config", place.config(), "--config", bad, "--name=never"]

    return prepare


CASES: list[Case] = [
    *(
        refusal(KIND, f"{key} {value}", _fit(key, value), key.split(".")[-1])
        for key in RATES
        for value in (*NO_NUMBER, "-1")
    ),
    *(
        refusal(KIND, f"{key} {str(value)[:20]}", _fit(key, value), word, sample=n % 60 == 0)
        for n, (key, value, word) in enumerate(OF_FIT)
    ),
    *(
        refusal(KIND, " ".join(map(str, words)) or "nothing", _typed(words), word)
        for words, word in TYPED_WRONG
    ),
    *(
        refusal(KIND, f"a file of {what}", _file(content), word, sample=n == 0)
        for n, (what, content, word) in enumerate(FILES)
    ),
]
