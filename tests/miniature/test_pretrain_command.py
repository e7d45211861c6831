"""The whole command, with a recipe of a few steps."""

from dataclasses import replace

import pytest

from laid.miniature.model_cards import render
from laid.miniature.pretrain_command import _card, run
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
    run(RECIPE, out, work, 7, True, 1, False, "laid pretrain tiny --seed 7")
    return out, work


def test_the_folders_are_complete_models(made):
    out, _ = made
    for name, layers in (("student", 3), ("teacher", 4), ("teacher-independent", 4)):
        model = load_model(ModelArgs(path=str(out / name)))
        assert model.config.text_config.num_hidden_layers == layers
        load_processor(ProcessorArgs(path=str(out / name)))
        card = (out / name / "README.md").read_text()
        assert "| 2 | " in card
        assert "laid pretrain tiny --seed 7" in card
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_teacher_and_student_share_a_tower_and_the_independent_one_does_not(made):
    out, _ = made
    student, teacher, other = (
        load_model(ModelArgs(path=str(out / name))).model.visual.merger.mlp[-1].weight
        for name in ("student", "teacher", "teacher-independent")
    )
    assert (student == teacher).all()
    assert (student != other).any()


def test_models_are_not_overwritten_unasked(made):
    out, work = made
    with pytest.raises(ValueError, match="overwrite=true"):
        run(RECIPE, out, work, 7, True, 1, False, "")


def test_a_finished_run_writes_the_same_weights_again_without_training(made, monkeypatch):
    out, work = made
    before = (out / "teacher" / "model.safetensors").read_bytes()
    monkeypatch.setattr("laid.miniature.pretrain_command.train_tower", None)
    run(RECIPE, out, work, 7, True, 1, True, "laid pretrain tiny --seed 7")
    assert (out / "teacher" / "model.safetensors").read_bytes() == before


def test_a_work_folder_of_another_recipe_or_seed_is_refused(made, tmp_path):
    _, work = made
    with pytest.raises(ValueError, match="another recipe or seed"):
        run(RECIPE, tmp_path, work, 8, True, 1, False, "")
    with pytest.raises(ValueError, match="another recipe or seed"):
        run(replace(RECIPE, images=301), tmp_path, work, 7, True, 1, False, "")


def test_a_wrong_number_of_processes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="1 or 2"):
        run(RECIPE, tmp_path, tmp_path, 0, True, 3, False, "")


def test_a_card_gives_accuracy_with_its_interval(made):
    _, work = made
    card = _card(RECIPE, work, "", ("base",), "the command")
    text = render("student", card, {1: (97, 100)}, 1_000_000, "bfloat16")
    assert "| 1 | 97.0% | 91.5% to 99.0% | 100 |" in text
