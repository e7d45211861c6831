"""The bank of image keys: bounded, in the checkpoint, the same on every rank."""

import pytest
import torch

from laid.common.errors import UserError
from laid.losses.image_bank import ImageBank, KeyedImages
from laid.losses.image_tokens import ImageTokens
from laid.losses.retrieval_loss import at_one_level

SHAPES = {"student.0": (2, 4), "teacher.1": (3, 8)}


def shown(names, tokens=3, seed=0):
    """Images of some tokens each, with random keys."""
    generator = torch.Generator().manual_seed(seed)
    total = len(names) * tokens
    images = ImageTokens(
        image_N=torch.arange(len(names)).repeat_interleave(tokens),
        offset_3N=torch.randint(0, 9, (3, total), generator=generator),
        name_M=torch.tensor(names),
        extent_M=torch.full((len(names),), tokens + 1),
    )
    keys = {k: torch.randn(total, *shape, generator=generator) for k, shape in SHAPES.items()}
    return KeyedImages(images, keys)


def names(bank):
    held = bank.content()
    return [] if held is None else held.images.name_M.tolist()


def test_it_gives_back_what_it_was_given():
    bank, new = ImageBank(20, SHAPES), shown([3, 5, 9])
    assert bank.content() is None
    bank.add(new)
    held = bank.content()
    for name in ("image_N", "offset_3N", "name_M", "extent_M"):
        assert torch.equal(getattr(held.images, name), getattr(new.images, name)), name
    for key in SHAPES:
        assert torch.equal(held.keys[key], new.keys[key])


def test_the_oldest_images_make_room():
    bank = ImageBank(13, SHAPES)  # four images of three tokens
    bank.add(shown([1, 2, 3]))
    bank.add(shown([7, 8], seed=1))
    assert names(bank) == [2, 3, 7, 8]
    bank.add(shown([2], seed=2))  # again: replaced, and now the newest
    assert names(bank) == [3, 7, 8, 2]
    assert torch.equal(bank.content().keys["student.0"][-3:], shown([2], seed=2).keys["student.0"])
    assert int(bank.used) <= bank.capacity


@pytest.mark.parametrize("tokens", [20, 5])
def test_images_that_do_not_fit_are_not_kept(tokens):
    """One that is larger than the bank drives out none of those that it has."""
    bank = ImageBank(12, SHAPES)
    bank.add(shown([1, 2]))
    bank.add(shown([5, 6, 7], tokens=tokens, seed=1))
    assert names(bank) == ([1, 2] if tokens == 20 else [6, 7])


def test_a_bank_without_room_for_an_image_says_so_once(caplog):
    bank = ImageBank(4, SHAPES, term="image_share")
    for _ in range(2):
        bank.add(shown([1, 2], tokens=5))
    (record,) = caplog.records
    assert record.getMessage().startswith("objective.image_share.bank_tokens 4: no image fits")
    assert "has 5 tokens" in record.getMessage()


def test_a_bank_that_no_memory_holds_is_refused():
    with pytest.raises(UserError, match=rf"bank_tokens {10**15}: no memory .* GiB"):
        ImageBank(10**15, SHAPES)


def test_the_order_of_a_batch_does_not_matter():
    first, second = ImageBank(30, SHAPES), ImageBank(30, SHAPES)
    first.add(shown([4, 1, 8]))
    new = shown([4, 1, 8])
    order_N = torch.tensor([6, 7, 8, 0, 1, 2, 3, 4, 5])
    turned = ImageTokens(
        new.images.image_N, new.images.offset_3N[:, order_N], new.images.name_M[[2, 0, 1]],
        new.images.extent_M,
    )  # fmt: skip
    second.add(KeyedImages(turned, {key: k[order_N] for key, k in new.keys.items()}))
    for ours, theirs in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_brings_it_back():
    bank, resumed = ImageBank(20, SHAPES), ImageBank(20, SHAPES)
    bank.add(shown([1, 2]))
    resumed.load_state_dict(bank.state_dict())
    bank.add(shown([3, 4, 5, 6, 7], seed=1))
    resumed.add(shown([3, 4, 5, 6, 7], seed=1))
    assert names(resumed) == names(bank)
    assert torch.equal(resumed.content().keys["teacher.1"], bank.content().keys["teacher.1"])


def test_no_gradient_raises_all_keys_of_a_step_alike():
    """Distractors of the bank push queries away, as keys with a gradient would, and do not raise
    the keys of the step as a whole."""
    generator = torch.Generator().manual_seed(0)
    q_D, k_MD = torch.randn(8, generator=generator), torch.randn(6, 8, generator=generator)
    live_BM = torch.tensor([[True, True, True, False, False, False]])

    def gradients(levelled):
        q, k = q_D.clone().requires_grad_(), k_MD.clone().requires_grad_()
        logits = (k @ q)[None, None, None]
        if levelled:
            again = at_one_level(logits, (k @ q.detach())[None, None, None], live_BM)
            assert torch.equal(again, logits)
            logits = again
        (-logits.log_softmax(-1)[..., 0].sum()).backward()
        return q.grad, k.grad @ q_D / q_D.square().sum()  # of each key's logit

    (plain_q, plain_M), (level_q, level_M) = gradients(False), gradients(True)
    torch.testing.assert_close(level_q, plain_q)
    live_M = live_BM[0]
    assert plain_M[live_M].sum() < -0.01
    torch.testing.assert_close(level_M[live_M].sum(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(level_M[live_M] - level_M[0], plain_M[live_M] - plain_M[0])
    torch.testing.assert_close(level_M[~live_M], plain_M[~live_M])
