"""Mixtures: shares, nothing twice before its time, and one order for all workers and ranks."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs, TrainArgs
from laid.data.entry_groups import by_source
from laid.data.loader import HaystackLoader, training_order
from laid.data.mixture import Mixture

MIXTURE = Mixture.of({"built": 0.5, "a": 0.3, "b": 0.2}, [20, 7, 100])


def source_of(index):
    return 0 if index < 20 else 1 if index < 27 else 2


def test_an_epoch_has_the_first_source_once_and_the_others_by_their_weights():
    assert (MIXTURE.drawn, MIXTURE.total) == ((20, 12, 8), 40)
    for number in (0, 1, 17):
        drawn = MIXTURE.epoch(3, number)
        assert Counter(map(source_of, drawn)) == {0: 20, 1: 12, 2: 8}
        assert sorted(drawn[:20]) == list(range(20))
    # Only the ratio of weights counts.
    assert Mixture.of({"built": 5, "a": 3, "b": 2}, [20, 7, 100]) == MIXTURE


def test_a_source_is_gone_through_before_an_entry_comes_again():
    seen = [at for number in range(50) for at in MIXTURE.epoch(3, number)]
    for source, count in enumerate((20, 7, 100)):
        own = [at for at in seen if source_of(at) == source]
        rounds = [own[at : at + count] for at in range(0, len(own) - count + 1, count)]
        assert all(len(set(one)) == count for one in rounds)
        assert len(rounds) < 2 or rounds[0] != rounds[1]


def test_an_epoch_depends_on_seed_and_number_alone():
    assert MIXTURE.epoch(3, 5) == MIXTURE.epoch(3, 5)
    assert MIXTURE.epoch(3, 5) != MIXTURE.epoch(4, 5)
    assert MIXTURE.epoch(3, 5) != MIXTURE.epoch(3, 6)


def test_a_weight_that_gives_no_entry_is_refused():
    with pytest.raises(UserError, match="of 'a' an epoch has no entry"):
        Mixture.of({"built": 1.0, "a": 0.01}, [20, 7])


def order(rank=0, ranks=1, sizes=None, epoch=0):
    how = {"seed": 3, "rank": rank, "world_size": ranks, "mixture": MIXTURE}
    found = training_order(40, 4, sizes, **how)
    found.set_epoch(epoch)
    return found


@pytest.mark.parametrize("grouped", [False, True])
def test_ranks_share_one_order_of_what_the_mixture_drew(grouped):
    sizes = [at % 5 for at in range(127)] if grouped else None
    for epoch in (0, 1):
        whole = list(order(sizes=sizes, epoch=epoch))
        assert Counter(whole) == Counter(MIXTURE.epoch(3, epoch))
        for ranks in (2, 4):
            shares = [list(order(rank, ranks, sizes, epoch)) for rank in range(ranks)]
            assert [at for step in zip(*shares, strict=True) for at in step] == whole
    assert list(order(sizes=sizes)) != whole


def loader(workers=0, epoch=0):
    data = TensorDataset(torch.arange(127))
    return HaystackLoader(data, sampler=order(epoch=epoch), batch_size=2, num_workers=workers)


def batches(load):
    return [batch[0].tolist() for batch in load]


def test_a_run_resumes_inside_an_epoch_with_any_number_of_workers():
    whole = batches(loader(epoch=2))
    for workers in (0, 2):
        assert batches(loader(workers, epoch=2)) == whole
        stopped = loader(workers, epoch=2)
        rows = iter(stopped)
        for _ in range(7):
            next(rows)
        again = loader(workers)
        again.seek(stopped.place())
        assert batches(again) == whole[7:]


@pytest.fixture
def own(small_coco, tmp_path):
    """Twelve conversations about two photographs."""
    names = [f"{small_coco}/val2017/{at:012d}.jpg" for at in (1, 2)]
    messages = [
        {"role": "user", "content": "<image><image> What is it?"},
        {"role": "assistant", "content": "A red ball."},
    ]
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join([json.dumps({"messages": messages, "images": names})] * 12))
    return str(path)


def module(drawn, pair, small_coco, train, **more):
    data = HaystackDataModule(
        str(drawn),
        str(pair[0]),
        train=train,
        validate=EvaluationArgs(sizes=[2], per_size=2),
        image_root=str(small_coco.absolute()),
        global_batch_size=4,
        batch_size=2,
        **more,
    )
    data.setup("fit")
    return data


def test_built_haystacks_and_conversations_are_trained_together(drawn, pair, small_coco, own):
    train = TrainArgs(entries=12, max_size=3, mixture={"built": 0.75, own: 0.25})
    seen = []
    for workers in (0, 2):
        data = module(drawn, pair, small_coco, train, workers=workers)
        batches = list(data.train_dataloader())
        assert all(len(batch.entries) == 2 for batch in batches)
        seen.append([entry.id for batch in batches for entry in batch.entries])
        kinds = Counter(bool(entry.turns) for batch in batches for entry in batch.entries)
        assert kinds == {False: 12, True: 4}
    assert seen[0] == seen[1]
    packed = module(drawn, pair, small_coco, train, workers=0, pack_tokens=200)
    ids = [entry.id for batch in packed.train_dataloader() for entry in batch.entries]
    steps = [sorted(ids[at : at + 4]) for at in range(0, 16, 4)]
    assert steps == [sorted(seen[0][at : at + 4]) for at in range(0, 16, 4)]


def test_a_mixture_without_built_haystacks_needs_no_annotations(
    pair, small_coco, own, tmp_path, drawn, caplog
):
    other = tmp_path / "other.jsonl"
    other.write_text(Path(own).read_text())
    train = TrainArgs(mixture={own: 1.0, str(other): 0.5})
    caplog.set_level("INFO")
    data = module(drawn, pair, small_coco, train)
    n = len(Path(own).read_text().splitlines())
    assert f"entries of an epoch: {own} {n} (of {n}), {other} {n // 2} (of {n})" in caplog.text
    ids = [entry.id for batch in data.train_dataloader() for entry in batch.entries]
    assert Counter(name.partition("-")[0] for name in ids).keys() == {"my", "other"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixture": {"built": 1.0}}, "two sources or more"),
        ({"mixture": {"built": 1.0, "a": 0.0}}, "a weight above 0"),
        ({"mixture": {"built": 1.0, "a": float("nan")}}, "a weight above 0"),
        ({"mixture": {"built": 1.0, "a": 1.0}, "source": "b"}, "a source or a mixture"),
        ({"mixture": {"b": 1.0, "a": 1.0}, "entries": 10}, "is how many are built"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        TrainArgs(**given)


def test_settings_of_conversations_are_refused_where_there_are_haystacks_alone(
    drawn, pair, small_coco
):
    with pytest.raises(ValueError, match=r"data\.train\.turns all is of conversations"):
        module(drawn, pair, small_coco, TrainArgs(entries=12, max_size=3, turns="all"))
    test = EvaluationArgs(sizes=[2], per_size=2, scoring="exact")
    data = HaystackDataModule(str(drawn), str(pair[0]), test=test)
    with pytest.raises(ValueError, match=r"data\.test\.scoring 'exact': built has haystacks"):
        data.setup("test")


def test_built_haystacks_are_tested_beside_a_source_which_is_asked_whole(
    drawn, pair, small_coco, own
):
    test = EvaluationArgs(source=["built", own], sizes=[3], per_size=4, scoring="contains")
    data = HaystackDataModule(
        str(drawn), str(pair[0]), test=test, image_root=str(small_coco.absolute())
    )
    data.setup("test")
    assert data.test_available == {"": {3: 4}, own: {2: 12}}
    assert len(data.test_entries) == 16


def test_what_was_asked_is_known_by_content_whatever_is_asked_beside_it(
    drawn, pair, small_coco, own, tmp_path
):
    """So records of one source stay when another is added, or the file is in another place."""
    (tmp_path / "other").mkdir()
    moved = Path(shutil.copy(own, tmp_path / "other" / "my.jsonl"))
    found = []
    for source in (["built", own], ["built"], [own], [str(moved)]):
        test = EvaluationArgs(source=source, sizes=[3], per_size=4) if "built" in source else None
        test = test or EvaluationArgs(source=source)
        data = HaystackDataModule(
            str(drawn), str(pair[0]), test=test, image_root=str(small_coco.absolute())
        )
        data.setup("test")
        parts = by_source(data.test_entries).items()
        found.append({bool(of): data.source.fingerprint(part) for of, part in parts})
    assert found[0] == {False: found[1][False], True: found[2][True]}
    assert found[2] == found[3]


def test_images_of_one_name_that_two_sources_exchange_make_other_entries(drawn, pair, tmp_path):
    sources, images = [], sorted((drawn / "train2017").iterdir())[:2]
    said = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    for name in "ab":
        (tmp_path / name).mkdir()
        sources.append(str(tmp_path / name / f"{name}.jsonl"))
        row = json.dumps({"messages": said, "images": ["one.jpg"]})
        Path(sources[-1]).write_text("\n".join([row] * 8))

    found = []
    for order in (images, images, images[::-1]):
        for name, image in zip("ab", order, strict=True):
            shutil.copy(image, tmp_path / name / "one.jpg")
        train = TrainArgs(mixture=dict.fromkeys(sources, 0.5))
        data = HaystackDataModule(str(drawn), str(pair[0]), train=train)
        data.setup("fit")
        found.append(data.source.fingerprint(data.train_entries))
    assert found[0] == found[1] != found[2]
