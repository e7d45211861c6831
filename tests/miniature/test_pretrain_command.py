"""The whole command, with a recipe of a few steps."""

from dataclasses import replace

import pytest

from laid.miniature.model_cards import Card, render
from laid.miniature.packaged_models import LAYERS
from laid.miniature.pretrain_command import results_of, run
from laid.miniature.recipes import DecoderRecipe, TinyRecipe, TowerRecipe
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.processor import ProcessorArgs, load_processor

DECODER = DecoderRecipe(sizes=(1, 2), settle=1, threshold=0.0, cooldown=2, tokens=100)
RECIPE = TinyRecipe(
    images=300,
    held_out=20,
    tower=TowerRecipe(steps=2, batch=4),
    base=DECODER,
    teacher=replace(DECODER, sizes=(3,)),
    positions=replace(DECODER, sizes=(4,), limit=2, slots=20),
    test_per_size=4,
    test_sizes=(1, 2),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own, and a small data set to measure on."""
    from laid.minicoco.drawing import draw_minicoco

    folder = tmp_path_factory.mktemp("cache")
    drawn = draw_minicoco(folder / "measured", seed=0, images={"test2017": 60})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAID_CACHE", str(folder))
        patch.setattr("laid.miniature.model_cards.ensure_minicoco", lambda: drawn)
        yield folder


@pytest.fixture(scope="module")
def made(cache, tmp_path_factory):
    out, work = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("work")
    run(RECIPE, out, work, 7, processes=1)
    return out, work


def test_the_folders_are_complete_models(made):
    out, _ = made
    for name, layers in LAYERS.items():
        model = load_model(ModelArgs(path=str(out / name)))
        assert model.config.text_config.num_hidden_layers == layers
        load_processor(ProcessorArgs(path=str(out / name)))
        card = (out / name / "README.md").read_text()
        assert "| 2 | " in card
        assert "laid pretrain tiny --out DIR --seed 7" in card
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def weights(folder):
    return load_model(ModelArgs(path=str(folder))).state_dict()


def test_models_of_a_lineage_share_a_tower_and_the_independent_one_does_not(made):
    out, _ = made
    towers = {name: weights(out / name)["model.visual.merger.mlp.2.weight"] for name in LAYERS}
    for name in ("student-positions", "teacher"):
        assert (towers["student"] == towers[name]).all()
    assert (towers["student"] != towers["teacher-independent"]).any()


def test_the_positions_student_can_be_made_of_a_written_student_alone(made, tmp_path):
    out, _ = made
    run(RECIPE, tmp_path / "out", tmp_path / "work", 7, student=str(out / "student"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["student-positions"]
    alone, together = (weights(at / "student-positions") for at in (tmp_path / "out", out))
    student = weights(out / "student")
    for name, value in together.items():
        assert (alone[name] == value).all(), name
    assert (together["lm_head.weight"] != student["lm_head.weight"]).any()


def test_a_model_of_another_shape_is_refused_as_student(made, tmp_path):
    out, _ = made
    with pytest.raises(ValueError, match="no student of laid pretrain tiny"):
        run(RECIPE, tmp_path / "out", tmp_path / "work", 7, student=str(out / "teacher"))


def test_models_are_not_overwritten_unasked(made):
    out, work = made
    with pytest.raises(ValueError, match="overwrite=true"):
        run(RECIPE, out, work, 7)


def test_a_finished_run_writes_the_same_weights_again_without_training(made, monkeypatch):
    out, work = made
    before = (out / "teacher" / "model.safetensors").read_bytes()
    monkeypatch.setattr("laid.miniature.pretrain_command.train_tower", None)
    run(RECIPE, out, work, 7, overwrite=True, processes=1)
    assert (out / "teacher" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("recipe", "seed", "student"),
    [(RECIPE, 8, None), (replace(RECIPE, images=301), 7, None), (RECIPE, 7, "student")],
    ids=["seed", "recipe", "student"],
)
def test_a_work_folder_of_another_run_is_refused(made, tmp_path, recipe, seed, student):
    out, work = made
    with pytest.raises(ValueError, match="another recipe, seed, family or student"):
        run(recipe, tmp_path, work, seed, student=student and str(out / student))


def test_another_family_is_trained_by_the_same_recipe(cache, tmp_path):
    """And distils: its student learns from its teacher."""
    run(RECIPE, tmp_path / "out", tmp_path / "work", 7, processes=1, family="qwen3_vl")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"student", "student-positions", "teacher-independent"}
    for name in names:
        model = load_model(ModelArgs(str(tmp_path / "out" / name)))
        assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
        card = (tmp_path / "out" / name / "README.md").read_text()
        assert "Qwen3VLForConditionalGeneration with" in card
        assert "laid pretrain tiny --out DIR --seed 7 --family qwen3_vl" in card
    with pytest.raises(ValueError, match="another recipe, seed, family or student"):
        run(RECIPE, tmp_path / "other", tmp_path / "work", 7)


def test_a_negative_seed_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected 0 or more"):
        run(RECIPE, tmp_path, tmp_path, -1)


def test_a_card_gives_accuracy_with_its_interval(made):
    _, work = made
    card = Card("the command", RECIPE, results_of(work, "student"))
    card = replace(card, recipe=replace(RECIPE, test_per_size=100))
    text = render("student", card, {1: 0.97}, 1_000_000)
    assert "| 1 | 97.0% | 91.5% to 99.0% | 100 |" in text
