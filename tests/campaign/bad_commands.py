"""Command lines that can't be meant: one sentence, and nothing is written."""

from collections.abc import Callable, Sequence

from campaign.case import Case, refusal
from campaign.world import Place

KIND = "bad command lines"

FLOW = ("--head_flow.enabled", "true")
TYPED_WRONG: tuple[tuple[Sequence[object], str], ...] = (
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
    (("fit", "--config", "case.yaml", *FLOW, "--head_flow.sizes", "[0]"), "size"),
    (("fit", "--config", "case.yaml", *FLOW, "--head_flow.sizes", "[5000]"), "val2017"),
    (("fit", "--config", "case.yaml", *FLOW, "--head_flow.per_size", -1), "per_size"),
    (("fit", "--config", "case.yaml", *FLOW, "--head_flow.per_size", 3), "even"),
    (
        ("fit", "--config", "case.yaml", "--trainer.limit_val_batches", 1,
         "--trainer.val_check_interval", 1000),
        "val_check_interval",
    ),
    (("fit", "--config", "case.yaml", "--trainer.max_steps", 0), "nothing|max_steps 0"),
    (("fit", "--config", "case.yaml", "--trainer.max_epochs", 0), "nothing|max_epochs 0"),
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
    (("export", "--ckpt_path", "last"), "no checkpoint"),
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
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--sizes", "[2]",
      "--train_entries", 10**12), "entries"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--sizes", "[0]"), "size"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--sizes", "[9000]"), "val2017"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--test_per_size", 1), "even"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--needles", "[0]"), "needle"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--min_area", "nan"), "min_area"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--categories", "[ogre]"), "ogre"),
    (("data", "build", "--coco_root", "COCO", "--out", "x", "--seed", 1.5), "seed"),
    (("data", "build", "--coco_root", "COCO", "--out", "case.yaml", "--sizes", "[2]",
      "--train_entries", 0), "case.yaml"),
)  # fmt: skip
"""Command lines, in a folder that holds ``case.yaml``; COCO stands for a COCO folder."""


def _typed(words: Sequence[object]) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        place.config()
        return [place.world.coco if word == "COCO" else word for word in words]

    return prepare


def _nothing(place: Place) -> None:
    done = place.laid()
    assert done.code == 2, str(done)
    assert "usage: laid COMMAND" in done.out + done.err


CASES: list[Case] = [
    Case(KIND, "no command", _nothing),
    *(
        refusal(KIND, " ".join(map(str, words)), _typed(words), word, sample=n == 5)
        for n, (words, word) in enumerate(TYPED_WRONG)
    ),
]
