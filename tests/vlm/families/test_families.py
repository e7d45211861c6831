"""What every family must do, each with tiny models of its own."""

from dataclasses import replace

import pytest
import torch
from attention_spy import AttentionSpy
from PIL import Image

from laid.data.entries import HaystackEntry
from laid.data.prompt import PREFIX
from laid.planning.simulated_step import STUDENT, TEACHER, PlannedModule, Setting, simulate_training
from laid.signals.model_signals import Wanted
from laid.vlm.hf_folder import write_model, write_processor
from laid.vlm.lora import LoraArgs
from laid.vlm.model_loading import ModelArgs, empty_model, load_model, materialise
from laid.vlm.processor import ProcessorArgs, load_processor
from laid.vlm.vision_language_model import VLM
from laid.vlm.weight_files import all_rows
from laid.vlm.window_extension import SelfExtendArgs, YarnArgs

LOGITS = Wanted(layers=(0, 1), logits=True)
ENTRY = HaystackEntry(
    id="test-2-000000",
    question="For the image with a dog, is there a cat?",
    answer="no",
    anchor="dog",
    target="cat",
    mode="single",
    size=2,
    images=("a.png", "b.png"),
    needles=(1,),
)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_captured_queries_and_keys_make_the_models_own_attention_logits(
    models, batch, monkeypatch, attention
):
    vlm = VLM.load(ModelArgs(str(models[0]), attn_implementation=attention))
    inputs = batch()
    spy = AttentionSpy(monkeypatch, vlm.family.layers(vlm.hf))
    found = vlm.signals(inputs, LOGITS).qk
    assert sorted(spy.logits_BHLL) == sorted(found) == [0, 1]
    shape = vlm.shape
    for layer, qk in found.items():
        assert qk.q.shape[2:] == (shape.heads, shape.head_dim)
        assert qk.k.shape[2:] == (shape.kv_heads, shape.head_dim)
        q, k = (vlm.turn(x, inputs.position_ids_3BL) for x in (qk.q, qk.k))
        k = k.repeat_interleave(shape.heads // shape.kv_heads, dim=2)
        ours = torch.einsum("bqhd,bkhd->bhqk", q, k) / shape.head_dim**0.5
        torch.testing.assert_close(ours, spy.logits_BHLL[layer], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_are_those_that_the_model_makes_itself(vlm, batch):
    """In its forward pass, given everything but positions."""
    arguments = vlm._arguments(batch(rows=[4]))
    given = vlm.hf(**arguments).logits
    del arguments["position_ids"]
    assert torch.equal(vlm.hf(**arguments).logits, given)


def test_a_prompt_is_what_the_stock_processor_makes(encode):
    pictures = [Image.new("RGB", size, "teal") for size in ((140, 84), (56, 112))]
    stock = encode.processor.stock
    row = encode.encode(ENTRY, *encode.patches(pictures), with_answer=False)
    content = [{"type": "image"}, {"type": "image"}]
    content += [{"type": "text", "text": PREFIX + ENTRY.question}]
    text = stock.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    made = stock(text=[text], images=pictures, return_tensors="pt")
    assert torch.equal(row.input_ids_BL, made["input_ids"][0])
    assert torch.equal(row.pixel_values_PC, made["pixel_values"])
    answered = encode.encode(ENTRY, *encode.patches(pictures), with_answer=True)
    answer = answered.labels_BL[answered.labels_BL >= 0]
    assert stock.tokenizer.decode(answer) == "No" + encode.processor.family.end_of_turn


@torch.no_grad()
def test_features_that_were_kept_are_those_of_the_pixels(vlm, batch):
    inputs, prompts = batch(), batch(with_answer=False, side="left")
    plain = vlm.hf(**vlm.family.arguments(inputs), pixel_values=inputs.pixel_values_PC).logits
    each_once, answers = vlm.signals(inputs, LOGITS), vlm.answer(prompts, 4)
    pieces = inputs.pixel_values_PC.split(inputs.image_grid_thw_I3.prod(-1).tolist())
    for at, name in enumerate(inputs.image_names):
        vlm.learn([name], pieces[at], inputs.image_grid_thw_I3[at : at + 1], 1.0)
    blind = replace(inputs, pixel_values_PC=torch.empty(0))
    kept = vlm.signals(blind, LOGITS)
    # To rounding: a product of one image and of several may be added up in another order.
    torch.testing.assert_close(kept.logits_NV, each_once.logits_NV)
    torch.testing.assert_close(kept.qk[1].q, each_once.qk[1].q)
    torch.testing.assert_close(vlm.hf(**vlm._arguments(blind)).logits, plain)
    blind = replace(prompts, pixel_values_PC=torch.empty(0))
    assert torch.equal(vlm.answer(blind, 4), answers)


@torch.no_grad()
def test_an_answer_is_the_most_probable_continuation(vlm, batch):
    """Against forward passes without a cache, of the prompt and what was said so far."""
    inputs = batch(with_answer=False, side="left", rows=[2])
    answer = vlm.answer(inputs, max_new_tokens=5)[0].tolist()
    for at, token in enumerate(answer):
        said = torch.tensor([answer[:at]], dtype=torch.long)
        ids = torch.cat([inputs.input_ids_BL, said], dim=1)
        visual = torch.cat([inputs.mm_token_type_ids_BL, torch.zeros_like(said)], dim=1)
        longer = replace(
            inputs,
            input_ids_BL=ids,
            attention_mask_BL=torch.ones_like(ids),
            mm_token_type_ids_BL=visual,
            position_ids_3BL=vlm.family.positions(ids, visual, inputs.image_grid_thw_I3),
        )
        assert vlm.hf(**vlm._arguments(longer)).logits[0, -1].argmax() == token


def test_weights_read_row_by_row_are_those_of_from_pretrained(models):
    args = ModelArgs(str(models[0]))
    ours, stock = empty_model(args), load_model(args)
    materialise(ours, args, "cpu", all_rows)
    for (name, one), other in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert torch.equal(one, other), name
    for (name, one), other in zip(ours.named_buffers(), stock.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_names_in_a_saved_model_are_the_models(vlm, family):
    names = {name for name, _ in vlm.hf.named_parameters()}
    assert {family.parameter_name(name) for name in names} == names


@torch.no_grad()
def test_an_exported_model_is_one_of_plain_transformers(vlm, models, family, batch, tmp_path):
    args = ModelArgs(str(models[0]))
    write_model(tmp_path, args, vlm.hf.state_dict(), dtype=None)
    write_processor(tmp_path, load_processor(ProcessorArgs(args.path)))
    again = family.model_class.from_pretrained(tmp_path)
    inputs = batch()
    arguments = {**vlm.family.arguments(inputs), "pixel_values": inputs.pixel_values_PC}
    assert torch.equal(again(**arguments).logits, vlm.hf(**arguments).logits)
    back = load_processor(ProcessorArgs(str(tmp_path)))
    picture = [Image.new("RGB", (200, 130), "olive")]
    pixels, _ = back.pieces(picture)
    assert torch.equal(pixels, load_processor(ProcessorArgs(args.path)).pieces(picture)[0])


@pytest.mark.parametrize(
    ("name", "nothing"), [("yarn", YarnArgs(1.0, 64)), ("self-extend", SelfExtendArgs(1, 5))]
)
def test_a_window_extension_is_refused_or_works(vlm, models, family, batch, name, nothing):
    """With settings that change nothing, it answers as the model does."""
    args = ModelArgs(str(models[0]))
    if name not in family.extensions:
        with pytest.raises(ValueError, match=f"window_extension {name}: not for {family.title}"):
            load_model(args, nothing)
        return
    prompts = batch(with_answer=False, side="left")
    extended = VLM.load(args, extension=nothing)
    assert torch.equal(extended.answer(prompts, 4), vlm.answer(prompts, 4))


def test_adapters_are_the_decoders_and_the_vision_tower_stays_as_it_is(models, batch):
    vlm = VLM.load(ModelArgs(str(models[0])), LoraArgs())
    assert vlm.vision_frozen
    vlm.signals(batch(), LOGITS).logits_NV.sum().backward()
    trained = [name for name, p in vlm.named_parameters() if p.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)


def test_a_trained_vision_tower_gets_gradients(models, batch):
    vlm = VLM.load(ModelArgs(str(models[0]), freeze_vision=False))
    assert not vlm.vision_frozen
    vlm.signals(batch(), LOGITS).logits_NV.sum().backward()
    for part in (*vlm.family.vision_parts(vlm.hf), *vlm.blocks):
        assert any(p.grad is not None for p in part.parameters())


def test_a_planned_image_is_a_real_one(encode):
    family = encode.processor.family
    for width, height in ((140, 84), (56, 112), (300, 200)):
        picture = Image.new("RGB", (width, height), "teal")
        pixels, grid_I3 = encode.patches([picture])
        grid = family.planned_grid(width, height, 28 * 28, None)
        assert grid_I3.tolist() == [list(grid)]
        assert pixels.shape[1:] == family.planned_piece()
        row = encode.encode(
            replace(ENTRY, size=1, images=("a",)), pixels, grid_I3, with_answer=False
        )
        ids, image = row.input_ids_BL.tolist(), family.planned_image(grid)
        at = ids.index(image[0])
        assert ids[at : at + len(image)] == image


def test_a_run_can_be_planned(models):
    student, teacher = (ModelArgs(str(path), random_weights=True) for path in models)
    setting = Setting(devices=None, precision="32-true", images=3, grid=(1, 8, 6))
    ledger = simulate_training(PlannedModule(student, teacher), setting)
    flops = {phase for (phase, work), amount in ledger.flops.items() if work.vision and amount}
    assert flops == {TEACHER, STUDENT}
