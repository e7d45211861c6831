"""A cache in place of a teacher: the same signals, whatever an entry is batched with."""

from dataclasses import replace

import pytest
import torch
from bare_entry import BARE

from laid.common.errors import UserError
from laid.signals.model_signals import Wanted
from laid.signals.token_choice import QUESTION, Tokens
from laid.signals.top_logits import TopK
from laid.teacher_cache.cache_size import bytes_of
from laid.teacher_cache.cached_teacher import CachedTeacher, cache_of_run
from laid.teacher_cache.entry_signals import entry_item
from laid.teacher_cache.signal_store import CacheHeader, SignalStore
from laid.teacher_cache.stored_numbers import packed, unpacked
from laid.vlm.model_loading import ModelArgs

ALL = Wanted((0, 2), logits=True)
OF_QUESTION = replace(ALL, queries=QUESTION)
TOP = replace(OF_QUESTION, logits=False, top_k=TopK(20, 2.0, 700))
SAMPLED = replace(ALL, queries=Tokens(sample=20) | QUESTION, keys=Tokens(sample=20))
READING = {"entries": {"count": 6, "content": "2b"}}


@pytest.fixture
def cache_of(teacher, haystacks, tmp_path):
    """Makes a cache of six entries, in two shards: a function of what it holds."""

    def make(held, stored_as="teacher", rows=range(6)):
        header = CacheHeader({}, READING, held, stored_as, entries_per_shard=4)
        store = SignalStore.begin(tmp_path, header)
        store.keep_teacher(teacher.hf.config.save_pretrained)
        batches = [haystacks(rows=[row]).inputs for row in rows]
        with torch.no_grad():
            entries = [
                entry_item(inputs, teacher.signals(inputs, ALL), held, stored_as)
                for inputs in batches
            ]
        store.write(0, entries[:4])
        store.write(1, entries[4:])
        return CachedTeacher(cache_of_run(tmp_path, None, READING, stored_as))

    return make


@pytest.fixture
def cached(cache_of):
    return cache_of(ALL)


def test_an_entry_alone_has_the_teachers_own_signals(cached, teacher, haystacks):
    inputs = haystacks(rows=[3]).inputs
    found, ours = cached.signals(inputs, ALL), teacher.signals(inputs, ALL)
    assert torch.equal(found.logits_NV, ours.logits_NV)
    for layer in ALL.layers:
        assert torch.equal(found.qk[layer].q, ours.qk[layer].q)
        assert torch.equal(found.qk[layer].k, ours.qk[layer].k)


def test_a_batch_has_them_as_far_as_the_teachers_depend_on_the_batch(cached, teacher, haystacks):
    """Matrix products of other sizes are rounded otherwise; what is padding has no meaning."""
    inputs = haystacks(rows=[5, 0, 2]).inputs
    found, ours = cached.signals(inputs, ALL), teacher.signals(inputs, ALL)
    torch.testing.assert_close(found.logits_NV, ours.logits_NV, rtol=1e-5, atol=1e-5)
    tokens_BL = inputs.attention_mask_BL.bool()
    for layer in ALL.layers:
        for name in "qk":
            mine, theirs = getattr(found.qk[layer], name), getattr(ours.qk[layer], name)
            assert mine.shape == theirs.shape
            torch.testing.assert_close(mine[tokens_BL], theirs[tokens_BL], rtol=1e-5, atol=1e-5)
            assert not mine[~tokens_BL].any()


def test_it_rotates_as_the_teacher_without_its_weights(cached, teacher, haystacks):
    inputs = haystacks().inputs
    x_BLHD = torch.randn(*inputs.input_ids_BL.shape, 6, teacher.shape.head_dim)
    positions_3BL = inputs.position_ids_3BL
    assert torch.equal(cached.rotate(x_BLHD, positions_3BL), teacher.rotate(x_BLHD, positions_3BL))
    assert cached.shape == teacher.shape


@pytest.mark.parametrize("stored_as", ["teacher", "bfloat16", "int8"])
@pytest.mark.parametrize(
    "held", [ALL, OF_QUESTION, SAMPLED, TOP], ids=["all", "question", "drawn", "largest logits"]
)
def test_it_takes_what_was_estimated(cache_of, held, stored_as, haystacks, pair, tmp_path):
    inputs, args = haystacks().inputs, ModelArgs(str(pair[1]))
    queries, keys = (int(choice.mask(inputs).sum()) for choice in (held.queries, held.keys))
    counts = queries, keys, len(inputs.answers.labels_N)
    cache_of(held, stored_as)
    files = sum(path.stat().st_size for path in tmp_path.glob("shards/*/tensors.safetensors"))
    assert 1 < files / bytes_of(args, False, stored_as, held, *counts) < 1.2
    own = bytes_of(args, False, "teacher", held, *counts)
    if held is TOP:  # whose logits are in float32 always
        return
    assert 2 * bytes_of(args, True, "teacher", held, *counts) == own
    assert 2 * bytes_of(args, False, "bfloat16", held, *counts) == own


@pytest.mark.parametrize(("stored_as", "of_logits"), [("bfloat16", 2**-8), ("int8", 0.0)])
def test_what_fewer_bits_cost_is_bounded(cache_of, teacher, haystacks, stored_as, of_logits):
    """In int8 half a step, of which there are 127 to the largest number of a token and head."""
    inputs = haystacks(rows=[3]).inputs
    found, ours = cache_of(ALL, stored_as).signals(inputs, ALL), teacher.signals(inputs, ALL)
    for layer in ALL.layers:
        for name in "qk":
            stored, own = (getattr(one.qk[layer], name).float() for one in (found, ours))
            largest = own.abs().amax(-1, keepdim=True)
            bound = largest / 254 if stored_as == "int8" else own.abs() * 2**-8
            assert (stored != own).any()
            assert ((stored - own).abs() <= bound * (1 + 1e-5)).all()
    error = (found.logits_NV.float() - ours.logits_NV).abs()
    assert (error <= of_logits * ours.logits_NV.abs()).all()


def test_a_head_that_is_silent_stays_so():
    x_LHD = torch.zeros(2, 3, 4)
    x_LHD[1, 2] = torch.tensor([0.0, 1e-30, -2e-30, 5.0])
    stored = packed("x", x_LHD, "int8")
    found_LHD = unpacked(stored.__getitem__, "x", "int8")
    assert not found_LHD[0].any()
    assert torch.equal(found_LHD[1, 2], torch.tensor([0.0, 0.0, 0.0, 5.0]))


@pytest.mark.parametrize("held", [OF_QUESTION, SAMPLED], ids=["question", "drawn"])
def test_it_may_hold_chosen_tokens_alone(cache_of, teacher, haystacks, held):
    """At which a batch has the teacher's signals, an entry without images too; a run that wants
    others is refused."""
    cached = cache_of(held, rows=(*range(5), BARE))
    inputs = haystacks(rows=[0, BARE, 3]).inputs
    found, ours = cached.signals(inputs, held), teacher.signals(inputs, ALL)
    for layer in ALL.layers:
        for kind, choice in (("q", held.queries), ("k", held.keys)):
            mask_BL = choice.mask(inputs)
            one, other = (getattr(signals.qk[layer], kind) for signals in (found, ours))
            torch.testing.assert_close(one[mask_BL], other[mask_BL], rtol=1e-5, atol=1e-5)
            assert not one[~mask_BL].any()
    assert f"lacks queries of all tokens: it holds those of {held.queries}" in cached.missing(ALL)
    more = replace(ALL, queries=Tokens(sample=21), keys=Tokens(sample=20))
    assert "lacks queries of 21 drawn tokens: it holds" in cached.missing(more)
    assert (
        cached.missing(replace(held, queries=Tokens(sample=9) if held is SAMPLED else QUESTION))
        is None
    )


@pytest.mark.parametrize("stored_as", ["teacher", "int8"])
def test_it_may_hold_the_largest_logits_alone(cache_of, teacher, haystacks, stored_as):
    """As the teacher's own are cut; a run that wants other logits is refused, and one that wants
    fewer than all is content with all."""
    held = Wanted(top_k=TopK(20, 2.0, 700))
    cached, inputs = cache_of(held, stored_as), haystacks(rows=[3]).inputs
    found, ours = cached.signals(inputs, held).top, teacher.signals(inputs, ALL).only(held).top
    for name in ("ids_NK", "log_p_NK", "log_rest_N"):
        assert torch.equal(getattr(found, name), getattr(ours, name))
    assert "lacks the logits of answers: it holds the 20 largest of 700" in cached.missing(
        Wanted(logits=True)
    )
    other = Wanted(top_k=TopK(10, 2.0, 700))
    assert "lacks the 10 largest of 700 logits at temperature 2: it" in cached.missing(other)
    assert cached.missing(held) is None


def test_a_run_that_wants_answers_is_refused_by_a_cache_without_any(cache_of):
    cached = cache_of(Wanted((0, 2)))
    assert "lacks the logits of answers: it holds none" in cached.missing(ALL)
    assert "lacks the 20 largest of 700 logits" in cached.missing(TOP)


def test_all_logits_serve_a_run_that_wants_the_largest(cached, teacher, haystacks):
    wanted, inputs = Wanted(top_k=TopK(20, 2.0, 700)), haystacks(rows=[3]).inputs
    assert cached.missing(wanted) is None
    found, ours = (one.signals(inputs, wanted).only(wanted) for one in (cached, teacher))
    assert found.logits_NV is None
    assert torch.equal(found.top.log_p_NK, ours.top.log_p_NK)


def test_it_says_what_it_lacks(cached):
    assert cached.missing(Wanted((0,))) is None
    assert "lacks teacher layers [1]: it holds [0, 2]" in cached.missing(Wanted((1, 2), True))


def test_it_has_no_other_entries(cached, haystacks):
    inputs = haystacks(rows=[0]).inputs
    inputs.entry_ids = ["elsewhere"]
    with pytest.raises(UserError, match="entry elsewhere is not in the cache"):
        cached.signals(inputs, ALL)


def test_an_entry_that_has_become_shorter_is_refused(cached, haystacks):
    inputs = haystacks(rows=[0]).inputs
    inputs.entry_ids = haystacks(rows=[5]).inputs.entry_ids
    with pytest.raises(UserError, match=r"tokens in the cache .* and at most"):
        cached.signals(inputs, ALL)
