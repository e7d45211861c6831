"""Which haystacks share a micro-batch, and how long they are before they are read."""

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from laid.data.entries import HaystackEntry, dataset_of
from laid.data.image_files import check_images
from laid.data.loader import HaystackLoader, PackedSteps, training_order
from laid.data.packing import Packing, check_packs, rounds_of
from laid.data.prompt import HaystackDataset
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.packed_row import flops_of

HAYSTACKS, STEP = 163, 8


def packing(rounds, ranks=1):
    drawn = torch.randint(50, 900, (HAYSTACKS,), generator=torch.Generator().manual_seed(1))
    tokens = drawn.tolist()
    return Packing(tokens, [t * (700 + t) for t in tokens], STEP, rounds, ranks)


def steps(rounds, ranks=1, rank=0):
    """A rank's micro-batches of an epoch, by step."""
    order = training_order(HAYSTACKS, STEP, seed=3)
    packs = list(PackedSteps(order, packing(rounds, ranks), rank))
    return [packs[at : at + rounds] for at in range(0, len(packs), rounds)]


@pytest.mark.parametrize(("rounds", "ranks"), [(1, 1), (3, 1), (8, 1), (2, 2), (1, 3), (2, 4)])
def test_a_step_has_the_haystacks_of_an_unpacked_one_each_once(rounds, ranks):
    order = list(training_order(HAYSTACKS, STEP, seed=3))
    plain = [set(order[at : at + STEP]) for at in range(0, len(order), STEP)]
    by_rank = [steps(rounds, ranks, rank) for rank in range(ranks)]
    assert len(by_rank[0]) == len(plain) == HAYSTACKS // STEP
    for expected, *shares in zip(plain, *by_rank, strict=True):
        packs = [pack for share in shares for pack in share]
        assert len(packs) == rounds * ranks
        assert all(packs)
        assert sorted(at for pack in packs for at in pack) == sorted(expected)


def test_micro_batches_of_a_step_cost_about_the_same():
    """No more above the mean than one haystack costs, and those of a round are neighbours."""
    cost = packing(2, 2).flops
    for step in zip(steps(2, 2, 0), steps(2, 2, 1), strict=True):
        of_packs = [[sum(cost[at] for at in pack) for pack in share] for share in step]
        (first, last), (second, least) = of_packs
        assert first >= second >= last >= least
        in_step = [at for share in step for pack in share for at in pack]
        mean = sum(map(cost.__getitem__, in_step)) / 4
        assert first <= mean + max(map(cost.__getitem__, in_step))


def test_a_haystack_longer_than_the_others_together_is_alone():
    tokens = [100] * 7 + [5000]
    made = Packing(tokens, tokens, STEP, 2, 1).packs(range(8))
    assert made == [[[7]], [[0, 1, 2, 3, 4, 5, 6]]]


@pytest.mark.parametrize(
    ("mean", "pack_tokens", "step", "ranks", "expected"),
    [
        (8000, 8000, 8, 1, 1),
        (8001, 8000, 8, 1, 2),
        (8001, 8000, 8, 2, 1),
        (32000, 8000, 8, 2, 2),
        (32000, 1, 8, 3, 2),  # each has a haystack
        (100, 10**9, 8, 8, 1),
    ],
)
def test_a_micro_batch_has_at_most_pack_tokens_on_average(mean, pack_tokens, step, ranks, expected):
    assert rounds_of(mean, pack_tokens, step, ranks) == expected


def test_what_can_not_be_packed_is_refused(encoder):
    with pytest.raises(ValueError, match=r"global_batch_size 2: expected at least 4, a haystack"):
        rounds_of(100, 50, 2, 4)

    class Unpacked(Qwen25VL):
        packs = False
        title = "Some-VL"

    check_packs(encoder.processor.family)
    with pytest.raises(ValueError, match=r"data\.pack_tokens: Some-VL is not run on several"):
        check_packs(Unpacked(encoder.processor.family.config))


def loader(workers=0, ranks=1, rank=0, rounds=3):
    order = training_order(HAYSTACKS, STEP, seed=3)
    data = TensorDataset(torch.arange(HAYSTACKS))
    packs = PackedSteps(order, packing(rounds, ranks), rank)
    return HaystackLoader(data, batch_sampler=packs, num_workers=workers)


def batches(load):
    return [batch[0].tolist() for batch in load]


def test_a_loader_goes_on_after_the_last_whole_step_with_any_number_of_workers_and_ranks():
    whole = batches(loader())
    for workers, taken in ((0, 3), (0, 7), (2, 8), (0, len(whole))):
        stopped = loader(workers)
        rows = iter(stopped)
        for _ in range(taken):
            next(rows)
        place = stopped.place()
        assert place["taken"] == taken // 3 * STEP
        again = loader()
        again.seek(place)
        left = whole[taken // 3 * 3 :]
        if left:
            assert batches(again) == left
            shares = [loader(ranks=2, rank=rank, rounds=1) for rank in (0, 1)]
            for share in shares:
                share.seek(place)
            dealt = [at for share in shares for pack in batches(share) for at in pack]
            assert sorted(dealt) == sorted(at for pack in left for at in pack)
        again.order.set_epoch(1)
        assert len(batches(again)) == len(whole) == len(again)
        assert batches(again) != whole


def test_lengths_are_known_before_images_are_read(encoder, tmp_path):
    """From headers: of images of many sizes, long and short questions, and the answer."""
    sides = [(56, 56), (300, 40), (57, 111), (640, 427), (30, 29), (28, 400)]
    for at, size in enumerate(sides):
        Image.new("RGB", size, "red").save(tmp_path / f"{at}.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter
    Image.new("RGB", (100, 30)).save(tmp_path / "turned.jpg", exif=turned)
    names = [f"{at}.jpg" for at in range(len(sides))]
    shown = [names[:1], names[1:4], names, [names[5]] * 2, ["turned.jpg", names[2]]]
    asked = ["a dog", "a cup of tea", "an umbrella", "two", "an old man, with a hat"]
    entries = dataset_of(
        HaystackEntry(
            id=str(at), question=f"For the image with {asked[at]}, is there a cat?",
            answer=("yes", "no")[at % 2], size=len(images), images=tuple(images),
        )
        for at, images in enumerate(shown)
    )  # fmt: skip
    data = HaystackDataset(entries, tmp_path, encoder, with_answer=True)
    sizes = check_images(tmp_path, {name for images in shown for name in images}, encoder.patches)
    found = encoder.lengths(entries, sizes)
    assert found == [len(data[at].inputs.input_ids_BL) for at in range(len(data))]
    assert len(set(found)) > 3


def test_a_long_haystack_costs_more_than_two_halves(encoder):
    family = encoder.processor.family
    assert flops_of(family, 2000) > 2 * flops_of(family, 1000)
    assert flops_of(family, 2) / flops_of(family, 1) == pytest.approx(2, rel=1e-2)
