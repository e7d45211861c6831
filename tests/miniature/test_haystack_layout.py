from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from laid.data.entries import HaystackEntry, ask
from laid.data.prompt import PromptEncoder
from laid.miniature.decoder_training import draw_slots, hidden_states, new_model
from laid.miniature.haystack_layout import Writer
from laid.miniature.question_sampler import Sampler
from laid.miniature.tower_training import new_tower

BLANK = Image.fromarray(np.zeros((56, 56, 3), np.uint8))


def encode(processor, entry, images):
    encoder = PromptEncoder(processor, "")
    return encoder.encode(entry, *encoder.patches(images), with_answer=True)


@pytest.mark.parametrize("words", [1, 2], ids=["one-word", "two-words"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_first_question_is_what_prompt_renders(
    processor, pool, writer, size, words, generator, two_words
):
    if words == 2:
        names = two_words["NAMES"][: len(pool.categories)]
        pool, writer = replace(pool, categories=names), Writer(processor, names)
    layout, single = writer.layout(size, 4), writer.layout(size, 1)
    drawn = Sampler(pool.present_IC).draw(20, size, 4, generator)
    ids = writer.write(layout, drawn.anchors_BQ, drawn.targets_BQ, drawn.yes_BQ)
    for row in range(20):
        anchor, target = (
            pool.categories[int(named[row, 0])] for named in (drawn.anchors_BQ, drawn.targets_BQ)
        )
        entry = HaystackEntry(
            id="x",
            question=ask(anchor, target, "single"),
            answer="yes" if drawn.yes_BQ[row, 0] else "no",
            anchor=anchor,
            target=target,
            mode="single",
            size=size,
            images=("blank.png",) * size,
            needles=(0,),
        )
        inputs = encode(processor, entry, [BLANK] * size)
        assert inputs.input_ids_BL[:-1].tolist() == ids[row, : len(single)].tolist()
        assert torch.equal(
            inputs.position_ids_3BL[:, :-1], layout.positions_3BL[:, 0, : len(single)]
        )
        assert inputs.labels_BL.ne(-100).nonzero()[0, 0] == layout.answers_Q[0]
        ends = (processor.ids(f" {name}")[-1] for name in (anchor, target))
        assert ids[row, [layout.anchors_Q[0], layout.targets_Q[0]]].tolist() == list(ends)
    assert inputs.input_ids_BL[-1] == writer.end


def test_questions_side_by_side_answer_as_if_asked_alone(config, pool, writer, generator):
    visual = new_tower(config).state_dict()
    tower = {"visual": visual, "words_CH": torch.randn(24, 128)}
    model = new_model(config, tower, writer, seed=0).eval()
    layout, single = writer.layout(3, 4), writer.layout(3, 1)
    drawn = Sampler(pool.present_IC).draw(2, 3, 4, generator)
    named = drawn.anchors_BQ, drawn.targets_BQ, drawn.yes_BQ
    sets = 3 if config.model_type == "qwen3_vl" else 1  # DeepStack adds two
    features = torch.randn(sets, 2, 3, 4, 128)
    with torch.no_grad():
        together = hidden_states(model, layout, writer.write(layout, *named), features)
        for question in range(4):
            ids = writer.write(single, *(part[:, question, None] for part in named))
            alone = hidden_states(model, single, ids, features)
            for columns in ("answers_Q", "anchors_Q"):
                torch.testing.assert_close(
                    together[:, getattr(layout, columns)[question]],
                    alone[:, getattr(single, columns)[0]],
                    rtol=1e-4,
                    atol=1e-4,
                )


@pytest.mark.parametrize("slots", [(0,), (3, 4), (0, 2, 6)], ids=str)
def test_positions_among_more_images_are_those_of_the_longer_haystack(writer, slots):
    few = writer.layout(len(slots), 2)
    size_B = torch.tensor([7, 9])
    positions_3BL = few.among(torch.tensor([slots, slots]), size_B).positions_3BL
    before = int(few.visual_I[0]) - 1
    for row, size in enumerate(size_B.tolist()):
        many = writer.layout(size, 2)
        images_NT = torch.arange(before, before + 6 * size).reshape(size, 6)
        after = before + 6 * size
        kept = [*range(before), *images_NT[list(slots)].flatten(), *range(after, len(many))]
        assert torch.equal(positions_3BL[:, row], many.positions_3BL[:, 0, kept])


def test_drawn_slots_are_different_places_of_haystacks_of_all_lengths(generator):
    slots_BN, size_B = draw_slots(2000, 3, 8, generator)
    assert set(size_B.tolist()) == {3, 4, 5, 6, 7, 8}
    assert (slots_BN.diff(dim=1) > 0).all()
    assert (slots_BN >= 0).all()
    assert (slots_BN < size_B[:, None]).all()
    assert set(slots_BN[size_B == 8].flatten().tolist()) == set(range(8))


def test_a_category_of_several_tokens_is_an_error(processor):
    with pytest.raises(ValueError, match="words of one token"):
        Writer(processor, ("person", "xylophone"))
