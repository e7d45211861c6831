"""What a plan takes for an image and a run of every family."""

from dataclasses import replace

from PIL import Image
from test_family_answers import ENTRY

from laid.planning.simulated_step import STUDENT, TEACHER, PlannedModule, Setting, simulate_training
from laid.vlm.families.qwen_vl import QwenVL
from laid.vlm.model_loading import ModelArgs


def least_pixels(family):
    """Of tests, not of the hub."""
    return 28 * 28 if isinstance(family, QwenVL) else None


def test_a_planned_image_is_a_real_one(encode):
    family = encode.processor.family
    least = least_pixels(family)
    for width, height in ((140, 84), (56, 112), (300, 200)):
        picture = Image.new("RGB", (width, height), "teal")
        pixels, grid_I3 = encode.patches([picture])
        grid = family.planned_grid(width, height, least, None)
        assert grid_I3.tolist() == [list(grid)]
        assert pixels.shape[1:] == family.planned_piece()
        row = encode.encode(
            replace(ENTRY, size=1, images=("a",)), pixels, grid_I3, with_answer=False
        )
        ids, image = row.input_ids_BL.tolist(), family.planned_image(grid)
        at = ids.index(image[0])
        assert ids[at : at + len(image)] == image


def test_a_run_can_be_planned(models, encode):
    student, teacher = (ModelArgs(str(path), random_weights=True) for path in models)
    family = encode.processor.family
    grid = family.planned_grid(112, 84, least_pixels(family), None)
    setting = Setting(devices=None, precision="32-true", images=3, grid=grid)
    ledger = simulate_training(PlannedModule(student, teacher), setting)
    flops = {phase for (phase, work), amount in ledger.flops.items() if work.vision and amount}
    assert flops == {TEACHER, STUDENT}
