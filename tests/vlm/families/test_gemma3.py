"""Gemma 3: local and global layers, images in both directions, pairs that don't fit."""

import pytest
import torch
from tiny_families import gemma3_processor, tiny_gemma3

from laid.losses.alignment import Alignment, AlignmentArgs
from laid.losses.attention_rows import question_rows, row_logits
from laid.losses.layer_pairs import similarity
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import CalibrationData, ModelPair
from laid.miniature.tiny_models import tiny_model
from laid.planning.planned_inputs import haystack_inputs
from laid.signals.model_signals import Wanted
from laid.spectrum.spectrum_measurement import measure
from laid.vlm.families.gemma3 import LOCAL, Gemma3
from laid.vlm.pair_check import check_pair
from laid.vlm.processor import ImageTextProcessor, user_turn
from laid.vlm.rope_gain import RopeGainArgs, add_gains
from laid.vlm.vision_language_model import VLM

GLOBAL = "full_attention"


@pytest.fixture(scope="module")
def tokenizer():
    return gemma3_processor().tokenizer


def config_of(tokenizer, layers=4, heads=4, kinds=None, **text):
    config = tiny_gemma3(tokenizer, layers=2, heads=heads, kv_heads=2)
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = kinds or [LOCAL, LOCAL, GLOBAL, LOCAL][:layers]
    for key, value in text.items():
        setattr(config.text_config, key, value)
    return config


def vlm_of(config, seed=0):
    torch.manual_seed(seed)
    hf = tiny_model(config).eval()
    with torch.no_grad():
        hf.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.3)
    return VLM(hf).requires_grad_(False)


@pytest.fixture
def gemma(tokenizer):
    return vlm_of(config_of(tokenizer))


@pytest.fixture
def inputs(gemma):
    made = haystack_inputs(gemma.hf.config, 5, (1, 1, 1), 2, with_answer=True)
    made.pixel_values_PC.normal_(generator=torch.Generator().manual_seed(1))
    return made


def pair_of(ours, theirs):
    """A pair of the same weights' kind, for terms."""
    return ModelPair(ours.shape, theirs.shape, 700, ours.rotate, theirs.rotate)


@pytest.mark.parametrize("scalar", [32, 42])
@torch.no_grad()
def test_rows_of_the_question_see_what_the_model_lets_them_see(tokenizer, inputs, scalar):
    """In local and global layers, beside images whose tokens see each other: against eager's own
    attention, whose logits 27B scales by another number than head_dim."""
    config = config_of(tokenizer, query_pre_attn_scalar=scalar)
    config._attn_implementation = "eager"
    eager = vlm_of(config)
    eager.hf.set_attn_implementation("eager")
    arguments = {**eager.family.arguments(inputs), "pixel_values": inputs.pixel_values_PC}
    seen = eager.hf(**arguments, output_attentions=True).attentions
    found = eager.signals(inputs, Wanted(layers=(0, 1, 2, 3))).qk
    rows = question_rows(inputs)
    for layer, qk in found.items():
        rotate = lambda x, at, n=layer: eager.rotate(x, at, n)  # noqa: E731
        made = row_logits(qk, rows.within(eager.shape.window(layer)), rotate).softmax(-1)
        index_BHRL = rows.columns_BR[:, None, :, None].expand_as(made)
        torch.testing.assert_close(made, seen[layer].gather(2, index_BHRL), atol=1e-5, rtol=1e-4)
    near = rows.within(eager.shape.window(0)).visible_BRL.sum(-1)
    assert near.max() == config.text_config.sliding_window < rows.visible_BRL.sum(-1).min()
    first = int(inputs.mm_token_type_ids_BL[0].nonzero()[0])
    assert (seen[2][0, :, first, first + 3] > 0).all()  # within an image, forwards
    assert (seen[2][0, :, first, first + 6 :] == 0).all()


def test_each_layer_is_compared_with_one_of_its_kind(gemma, tokenizer):
    kinds = [LOCAL, LOCAL, LOCAL, GLOBAL, LOCAL, GLOBAL]
    teacher = vlm_of(config_of(tokenizer, layers=6, kinds=kinds))
    models = pair_of(gemma, teacher)

    def pairs(layers):
        return Alignment(AlignmentArgs(layers=layers), models).pairs

    assert pairs("all") == pairs("matched") == [(0, 0), (1, 2), (2, 3), (3, 4)]
    assert pairs([(2, 5), (0, 1)]) == [(2, 5), (0, 1)]
    expected = (
        r"student's layer {} is of kind {} and the teacher's layer {} of kind {}.*\[\[3, 4\]\]"
    )
    with pytest.raises(ValueError, match=expected.format(3, LOCAL, 5, GLOBAL)):
        pairs("final")
    with pytest.raises(ValueError, match=expected.format(2, GLOBAL, 0, LOCAL)):
        pairs([(2, 0)])
    none = pair_of(gemma, vlm_of(config_of(tokenizer, layers=2, kinds=[LOCAL, LOCAL])))
    with pytest.raises(ValueError, match="which rotate and see differently"):
        Alignment(AlignmentArgs(layers="all"), none)


@torch.no_grad()
def test_matched_layers_are_of_one_kind_and_compared_in_their_windows(gemma, inputs):
    """The student is its own teacher: of each kind, each layer resembles itself most."""
    models = pair_of(gemma, gemma)
    data = CalibrationData([inputs], gemma.signals, gemma.signals)
    term = Alignment(AlignmentArgs(layers="matched", calibration=1), models)
    term.calibrate(data)
    assert term.pairs == [(0, 0), (1, 1), (2, 2), (3, 3)]
    similar, _ = similarity([(0, 0), (2, 2)], models, data)
    for correlation_ST in similar.values():
        torch.testing.assert_close(correlation_ST.diagonal(), torch.ones(4), rtol=1e-4, atol=1e-4)


def test_retrieval_is_taught_in_layers_that_see_every_image(gemma):
    models = pair_of(gemma, gemma)
    with pytest.raises(ValueError, match=r"layers \[0, 1, 3\] see 12 tokens.*such as \[\[2, 2\]\]"):
        RetrievalArgs(weight=1.0).build(models)
    RetrievalArgs(weight=1.0, layers=[(2, 2)]).build(models)


def test_a_spectrum_of_layers_that_rotate_differently_is_refused(gemma):
    with pytest.raises(ValueError, match=r"a spectrum of Gemma 3: its layers are of several kinds"):
        measure(gemma, [])


def test_a_gain_of_each_head_is_refused_behind_a_norm(gemma):
    with pytest.raises(ValueError, match=r"Gemma 3 has a norm of queries"):
        add_gains(gemma.hf, RopeGainArgs())


def test_limits_of_pixels_are_refused(gemma):
    with pytest.raises(ValueError, match="Gemma 3 shows every image at 56 x 56; leave them out"):
        gemma.family.limit_pixels(gemma3_processor(), None, 1000)


def test_27b_is_refused_for_terms_that_compare_vectors_alone(tokenizer):
    ours = config_of(tokenizer)
    theirs = config_of(tokenizer, head_dim=16, query_pre_attn_scalar=21)
    check_pair(ours, theirs, {}, {}, [])  # retrieval alignment, KL and cross-entropy
    with pytest.raises(ValueError, match="head_dim: student 32, teacher 16") as refusal:
        check_pair(ours, theirs, {}, {}, ["laid"])
    assert "query_pre_attn_scalar: student 32, teacher 21" in str(refusal.value)


def test_every_difference_of_the_rotation_is_named_by_the_kind_of_layer(tokenizer):
    ours, theirs = config_of(tokenizer), config_of(tokenizer, sliding_window=16)
    theirs.text_config.rope_parameters[GLOBAL]["factor"] = 4.0
    theirs.text_config.rope_parameters[LOCAL]["rope_theta"] = 2e4
    with pytest.raises(ValueError, match="do not fit together") as refusal:
        check_pair(ours, theirs, {}, {}, ["laid"])
    for said in (
        "sliding_window: student 12, teacher 16",
        "full_attention factor: student 8.0, teacher 4.0",
        "sliding_attention rope_theta: student 10000.0, teacher 20000.0",
    ):
        assert said in str(refusal.value)


def test_a_prompt_begins_with_one_bos(tokenizer):
    stock = gemma3_processor()
    processor = ImageTextProcessor(Gemma3(config_of(tokenizer)), stock)
    ids = processor.ids(
        processor.conversation([user_turn(2, "word")], torch.ones(2, 3, dtype=torch.long))
    )
    assert (ids == tokenizer.convert_tokens_to_ids("<bos>")).nonzero().tolist() == [[0]]
