"""Where a setting comes from: defaults, a checkpoint's run, files, the command line."""

import pytest
import torch
import yaml

from laid.checkpoints.runs import EMBEDDED, FORMAT, find_checkpoint
from laid.common.errors import UserError
from laid.data.entry_args import BUILT_ONLY, LIMITS
from laid.settings.run_settings import Given, plain, read_settings, settings_parser


def parser():
    made = settings_parser("laid fit")
    made.add_argument("--ckpt_path", type=str | None, default=None)
    return made


def read(*words):
    return read_settings(parser(), [str(word) for word in words])


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file; gives its path."""

    def path_of(file, **content):
        path = tmp_path / file
        path.write_text(yaml.safe_dump(content))
        return path

    return path_of


@pytest.fixture
def run(tmp_path):
    """A run's folder, with a checkpoint that has complete settings."""
    made = parser()
    words = (
        "--name=old", "--data.train.max_size=7", "--trainer.max_epochs=3", "--data.workers=5",
        "--data.test.sizes=[1, 2]", "--data.test.per_size=4",
    )  # fmt: skip
    content = plain(made, read_settings(made, words).config)
    for key in ("config", "ckpt_path"):
        content.pop(key, None)
    content["trainer"].pop("accumulate_grad_batches")
    folder = tmp_path / "runs" / "old"
    path = folder / "checkpoints" / "step=4.ckpt"
    path.parent.mkdir(parents=True)
    identity = {"step": 4, "id": "4"}
    embedded = {"config": yaml.safe_dump(content), "identity": identity, "format": FORMAT}
    torch.save({EMBEDDED: embedded, "state_dict": {}}, path)
    return folder


def test_what_is_typed_takes_precedence_wherever_it_stands_and_files_in_their_order(write):
    a = write("a.yaml", name="a", data={"seed": 1, "workers": 1}, trainer={"max_epochs": 1})
    b = write("b.yaml", name="b", data={"workers": 2})
    for words in (
        ["--data.seed=9", "--config", a, "-c", b],
        ["--config", a, "--data.seed=9", f"--config={b}"],
        ["--config", a, "--config", b, "--data.seed", 9],
    ):
        config = read(*words).config
        assert (config.name, config.data.workers, config.data.seed) == ("b", 2, 9)
        assert config.trainer.max_epochs == 1
        assert config.trainer.precision is None


def test_settings_that_follow_from_others_follow(write):
    path = write("a.yaml", model={"student": {"path": "tiny/teacher"}}, seed_everything=4)
    config = read("--config", path).config
    assert config.data.processor == "tiny/teacher"
    assert config.data.order_seed == 4


def test_a_runs_settings_are_beneath_files_and_these_beneath_what_is_typed(run, write):
    path = write("a.yaml", trainer={"max_epochs": 8}, data={"workers": 1})
    given = read("--ckpt_path", run, "--config", path, "--data.workers=0")
    assert given.config.name == "old"
    assert given.config.data.train.max_size == 7
    assert given.config.trainer.max_epochs == 8
    assert given.config.data.workers == 0
    made = parser()
    read_settings(made, [])
    assert given.overrides(made) == {"trainer.max_epochs": (3, 8), "data.workers": (5, 0)}


def test_a_limit_that_a_source_takes_the_place_of_is_no_override(run):
    given = read("--ckpt_path", run, "--data.test.source=[my.jsonl]", "--data.test.per_size=2")
    assert given.config.data.test.sizes is None
    made = parser()
    read_settings(made, [])
    expected = {"data.test.source": (None, ["my.jsonl"]), "data.test.per_size": (4, 2)}
    assert given.overrides(made) == expected


def test_a_part_of_a_group_leaves_the_runs_other_parts(run):
    train = read("--ckpt_path", run, "--data.train.entries=4").config.data.train
    assert (train.entries, train.max_size) == (4, 7)


def test_a_checkpoint_file_and_its_runs_folder_behave_alike(run):
    checkpoint = run / "checkpoints" / "step=4.ckpt"
    of_file, of_folder = (read("--ckpt_path", given) for given in (checkpoint, run))
    assert of_file.config == of_folder.config
    assert of_file.found == of_folder.found == find_checkpoint(str(run), run.parent)


def test_last_is_looked_for_where_files_and_command_line_say(run, write):
    path = write("a.yaml", trainer={"default_root_dir": str(run.parent)})
    assert read("--config", path, "--ckpt_path", "last").found.run == run
    assert read("--config", path, "--ckpt_path=last", "--name=old").found.run == run
    with pytest.raises(UserError, match="no checkpoint of a run named 'new'"):
        read("--config", path, "--ckpt_path", "last", "--name", "new")


def test_a_checkpoint_may_be_given_in_a_file(run, write):
    assert read("--config", write("a.yaml", ckpt_path=str(run))).found.run == run


def test_only_what_is_asked_of_a_runs_settings_counts(run):
    given = read_settings(
        parser(), ["--ckpt_path", str(run)], lambda settings: {"data": settings["data"]}
    )
    assert given.config.name == "laid"
    assert given.config.data.train.max_size == 7


def test_without_a_checkpoint_nothing_is_overridden():
    assert Given(read().config, None).overrides(parser()) == {}


@pytest.mark.parametrize("stage", BUILT_ONLY)
def test_a_setting_of_built_entries_beside_a_source_may_stand_in_a_file_and_is_refused_if_typed(
    stage, write
):
    source = "made.json" if stage == "train" else ["made.json"]
    path = write("a.yaml", data={stage: {"source": source, "split": "other2017"}})
    assert read("--config", path).config.data[stage].source == source
    for typed in (["--data.%s.split=x"], ["--data.%s", "{split: x}"]):
        with pytest.raises(UserError, match=f"data.{stage}.source gives some that are there"):
            read("--config", path, *(word.replace("%s", stage) for word in typed))


@pytest.mark.parametrize("probe", ["head_flow", "spectrum"])
def test_sizes_of_probes_are_those_of_the_validation_that_they_are_given_for(probe, write):
    def of(*words):
        return read(*words).config[probe].sizes

    sizes = {probe: {"sizes": [5, 100]}}
    built = write("built.yaml", **sizes)
    assert of("--config", built) == of("--config", built, "--data.test.source=[x]") == [5, 100]
    source = "--data.validate.source=[my.jsonl]"
    assert of("--config", built, source) is None
    assert of("--config", built, "--data.validate.source=[built, my.jsonl]") == [5, 100]
    assert of("--config", built, source, f"--{probe}.sizes=[2]") == [2]
    own = write("own.yaml", **sizes, data={"validate": {"source": ["my.jsonl"]}})
    assert of("--config", own) == [5, 100]


def test_a_mixture_is_a_source_unless_it_has_built_entries(write):
    built = write("built.yaml", data={"train": {"entries": 8, "split": "other2017"}})
    own = "--data.train.mixture={my.jsonl: 2, hf:a/b: 1}"
    assert read("--config", built, own).config.data.train.mixture == {"my.jsonl": 2, "hf:a/b": 1}
    assert read("--config", built, own).config.data.train.entries is None
    with pytest.raises(UserError, match=r"data.train.mixture gives some that are there"):
        read(own, "--data.train.min_size=3")
    mixed = read("--config", built, "--data.train.mixture={built: 2, my.jsonl: 1}")
    assert mixed.config.data.train.entries == 8


@pytest.mark.parametrize(
    "stage", ["train.source=a", "test.source=[a]", "train.mixture={a: 1, b: 1}"]
)
def test_a_folder_of_images_is_of_any_source(stage):
    assert read("--data.image_root=x", f"--data.{stage}").config.data.image_root == "x"


VALUES = {"entries": 8, "sizes": [2], "per_size": 6}


@pytest.mark.parametrize(("stage", "name"), [(s, n) for s, names in LIMITS.items() for n in names])
def test_a_limit_holds_for_a_source_only_if_it_is_given_beside_it_or_over_it(stage, name, write):
    source = "made.json" if stage == "train" else ["made.json"]
    limit = {name: VALUES[name]}
    built = write("built.yaml", data={stage: limit})
    sourced = write("sourced.yaml", data={stage: {"source": source}})
    both = write("both.yaml", data={stage: {"source": source, **limit}})

    def of(*words):
        return read(*words).config.data[stage][name]

    assert of("--config", built) == VALUES[name]
    assert of("--config", built, "--config", sourced) is None
    assert of("--config", sourced, "--config", built) == VALUES[name]
    assert of("--config", both) == VALUES[name]
    typed = f"--data.{stage}.source={source if stage == 'train' else '[made.json]'}"
    assert of("--config", built, typed) is None
    assert of("--config", built, typed, f"--data.{stage}.{name}={VALUES[name]}") == VALUES[name]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trainer.accumulate_grad_batches=1"], "follows from data.global_batch_size"),
        (["--checkpoint.dirpath=x"], "in the run's folder"),
        (["--checkpoint.filename={"], "checkpoint.filename '{'"),
        (["--trainer.use_distributed_sampler=true"], "over the devices itself"),
        (["--trainer.val_check_interval=0"], "expected more than 0"),
        (["--trainer.check_val_every_n_epoch=0"], "expected more than 0"),
        (["--trainer.gradient_clip_val=-1"], "expected more than 0"),
        (["--trainer.gradient_clip_val=.nan"], "trainer.gradient_clip_val"),
        (["--seed_everything=-1"], "expected 0 to 4294967295"),
        (["--seed_everything=true"], "expected a number"),
        (["--data.processor=x"], "model.student.path"),
        (["--ckpt=x"], "--ckpt"),
        (["--trainer.max_epoch=3"], "max_epoch"),
        (["--trainer.max_epochs=three"], "trainer.max_epochs"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--model.lora.rank", "x"], "model.lora"),
        (["--data.image_root=x"], r"no data\.\*\.source gives any"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        read(*words)


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.yaml: expected text in UTF-8"):
        read("--config", path)


def test_an_error_of_a_settings_class_is_its_own():
    made = parser()
    config = read_settings(made, ["--model.lora.rank=0"]).config
    with pytest.raises(UserError) as error:
        made.instantiate(config)
    assert str(error.value) == "model.lora.rank 0: expected 1 to 65536"


def test_home_is_expanded_in_files_and_words(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write("a.yaml", data={"coco_root": "~/coco", "test": {"source": ["~/a.json", "b"]}})
    config = read("--config", "~/a.yaml", "--model.student.path=~/model").config
    assert path.exists()
    assert config.data.coco_root == str(tmp_path / "coco")
    assert config.data.test.source == [str(tmp_path / "a.json"), "b"]
    assert config.model.student.path == config.data.processor == str(tmp_path / "model")


def test_print_config_prints_what_the_run_would_have(run, capsys):
    with pytest.raises(SystemExit):
        read("--ckpt_path", run, "--print_config", "--data.workers=0")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["name"] == "old"
    assert printed["data"]["workers"] == 0
