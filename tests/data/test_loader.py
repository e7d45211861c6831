"""The order of haystacks."""

import torch
from torch.utils.data import TensorDataset

from laid.data.loader import EpochSampler, HaystackLoader


def order(**options):
    return list(EpochSampler(options.pop("size", 20), shuffle=True, **options))


def test_an_epoch_has_every_index_once_in_an_order_of_its_own():
    sampler = EpochSampler(20, shuffle=True, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert order(seed=1) == first
    assert order(seed=2) != first


def test_ranks_share_out_the_common_order():
    whole = order(seed=3)
    for ranks in (2, 4, 5):
        shares = [order(seed=3, rank=r, world_size=ranks) for r in range(ranks)]
        dealt = [index for step in zip(*shares, strict=True) for index in step]
        assert dealt == whole


def test_what_an_epoch_leaves_out_is_others_each_time():
    sampler = EpochSampler(16, drawn_from=19, shuffle=True)
    left_out = set()
    for epoch in range(80):
        sampler.set_epoch(epoch)
        seen = list(sampler)
        assert len(seen) == len(set(seen)) == len(sampler) == 16
        left_out |= set(range(19)) - set(seen)
    assert left_out == set(range(19))


def test_haystacks_of_like_sizes_go_together():
    sizes = torch.randint(2, 21, (1608,), generator=torch.Generator().manual_seed(0)).tolist()
    grouped = EpochSampler(1600, drawn_from=1608, shuffle=True, sizes=sizes, step=8)
    first = list(grouped)
    plain = list(EpochSampler(1600, drawn_from=1608, shuffle=True))
    assert sorted(first) == sorted(plain)

    def padding(order):
        steps = [[sizes[i] for i in order[at : at + 8]] for at in range(0, 1600, 8)]
        return sum(8 * max(step) for step in steps) / sum(map(sum, steps)) - 1

    assert padding(first) < 0.05 < 0.4 < padding(plain)
    # Small and large come in any order.
    largest = [max(sizes[i] for i in first[at : at + 8]) for at in range(0, 1600, 8)]
    assert largest != sorted(largest)
    grouped.set_epoch(1)
    assert list(grouped) != first
    shares = [
        list(
            EpochSampler(
                1600, drawn_from=1608, shuffle=True, sizes=sizes, step=8, rank=r, world_size=2
            )
        )
        for r in (0, 1)
    ]
    assert [index for step in zip(*shares, strict=True) for index in step] == first


def loader(workers=0, **options):
    data = TensorDataset(torch.arange(20))
    return HaystackLoader(
        data, sampler=EpochSampler(20, shuffle=True, **options), batch_size=3, num_workers=workers
    )


def batches(load):
    return [batch[0].tolist() for batch in load]


def test_a_loader_goes_on_at_its_place_with_any_number_of_workers():
    whole = batches(loader())
    for workers in (0, 2):
        for taken in (1, 4, 6):
            stopped = loader(workers)
            rows = iter(stopped)
            for _ in range(taken):
                next(rows)
            again = loader()
            again.seek(stopped.place())
            assert batches(again) == whole[taken:]
            # and the next epoch is whole again
            again.sampler.set_epoch(1)
            assert len(batches(again)) == len(whole)


def test_the_place_does_not_depend_on_the_number_of_ranks():
    one = loader()
    rows = iter(one)
    for _ in range(4):
        next(rows)
    rest = [index for batch in batches_from(one.place(), 1) for index in batch]
    two = [batches_from(one.place(), 2, rank) for rank in (0, 1)]
    dealt = [i for a, b in zip(*two, strict=True) for pair in zip(a, b, strict=False) for i in pair]
    assert sorted(dealt) == sorted(rest)


def batches_from(place, ranks, rank=0):
    load = loader(rank=rank, world_size=ranks)
    load.seek(place)
    return batches(load)


def test_the_end_of_an_epoch_is_the_beginning_of_the_next():
    load = loader()
    batches(load)
    again = loader()
    again.seek(load.place())
    expected = EpochSampler(20, shuffle=True)
    expected.set_epoch(1)
    assert [i for batch in batches(again) for i in batch] == list(expected)


def test_ranks_that_must_have_equally_many_ask_the_first_again_and_say_so():
    for size in (1, 4, 7, 8):
        for ranks in (1, 2, 4):
            options = {"shuffle": False, "even": True, "world_size": ranks}
            shares = [list(EpochSampler(size, rank=r, **options)) for r in range(ranks)]
            assert len({len(share) for share in shares}) == 1
            assert len(shares[0]) == len(EpochSampler(size, **options))
            dealt = [index for turn in zip(*shares, strict=True) for index in turn]
            assert [index for index in dealt if index >= 0] == list(range(size))
            again = [~index for index in dealt if index < 0]
            assert len(again) < ranks
            assert set(again) <= set(range(size))
