import pytest
import torch

from laid.miniature.question_sampler import Sampler


@pytest.fixture(scope="module")
def sampler(pool):
    return Sampler(pool.present_IC)


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_answers_follow_from_the_images(sampler, generator, size):
    drawn = sampler.draw(50, size, 8, generator)
    present = sampler.present_IC[drawn.images_BN]  # [B, N, C]
    batch = torch.arange(50)[:, None].expand(-1, 8)
    holds = present.transpose(1, 2)[batch, drawn.anchors_BQ]  # [B, Q, N]
    assert (holds.sum(dim=2) == 1).all()
    needle = holds.int().argmax(dim=2)
    contents = present[batch, needle]
    answer = contents.gather(2, drawn.targets_BQ[..., None])[..., 0]
    fair = drawn.valid_BQ
    assert fair.float().mean() > 0.8
    assert torch.equal(answer[fair], drawn.yes_BQ[fair])
    assert (drawn.anchors_BQ != drawn.targets_BQ)[fair].all()
    assert (drawn.others_BQC <= contents).all()


@pytest.mark.parametrize("size", [2, 4, 16])
def test_nothing_but_the_needle_gives_the_answer(sampler, size):
    """Neither the balance of answers nor the number of images with the target predicts it."""
    generator = torch.Generator().manual_seed(1)
    count, yes = [], []
    for _ in range(60):
        drawn = sampler.draw(64, size, 4, generator)
        holding = sampler.present_IC[drawn.images_BN].sum(dim=1).gather(1, drawn.targets_BQ)
        count.append(holding[drawn.valid_BQ])
        yes.append(drawn.yes_BQ[drawn.valid_BQ])
    count, yes = torch.cat(count), torch.cat(yes)
    assert (count > 0).all()
    right = sum(
        max(int(yes[count == k].sum()), int((~yes[count == k]).sum())) for k in count.unique()
    )
    assert right / len(yes) < 0.52
    # Nor does the target by itself.
    assert abs(yes.float().mean() - 0.5) < 0.02


def test_equal_seeds_draw_equal_haystacks(sampler):
    first, second = (sampler.draw(4, 5, 4, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first.images_BN, second.images_BN)
    assert torch.equal(first.targets_BQ, second.targets_BQ)


def test_a_pool_without_enough_images_is_an_error():
    with pytest.raises(ValueError, match="draw more images"):
        Sampler(torch.ones(10, 3, dtype=torch.bool)).draw(2, 4, 2, torch.Generator())
