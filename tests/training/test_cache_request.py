"""What a cache of the teacher's signals is expected to take, before it is made."""

import json

import lightning as L
import pytest

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs, TrainArgs
from laid.signals.model_signals import Wanted
from laid.signals.token_choice import ALL, QUESTION, Tokens
from laid.teacher_cache.cache_size import bytes_of
from laid.training import cache_request
from laid.training.cache_request import CacheRequest
from laid.vlm.model_loading import ModelArgs

DRAWN = Tokens(sample=20)


@pytest.fixture
def data(drawn, pair, tmp_path):
    """Haystacks, and conversations without images."""
    text = tmp_path / "text.jsonl"
    said = [{"from": "human", "value": "Why? " * 40}, {"from": "gpt", "value": "So."}]
    text.write_text("\n".join([json.dumps({"conversations": said})] * 30))
    mixture = {"built": 0.5, str(text): 0.5}
    made = HaystackDataModule(
        str(drawn),
        str(pair[0]),
        train=TrainArgs(entries=20, min_size=1, max_size=6, mixture=mixture),
        validate=EvaluationArgs(sizes=[2], per_size=2),
        workers=0,
    )
    made.setup("fit")
    return made


@pytest.fixture
def request_of(data, pair, tmp_path):
    """A function of the tokens that are held."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)

    def make(choice, layers=(0, 2)):
        wanted, teacher = Wanted(layers, queries=choice, keys=choice), ModelArgs(str(pair[1]))
        return CacheRequest(tmp_path / "cache", teacher, wanted, "teacher", trainer, data)

    return make


def test_the_size_of_an_entry_is_estimated_with_and_without_images(data, request_of, pair):
    inputs = [batch.inputs for batch in data.probe(data.train_entries, "cpu")]
    for choice in (ALL, QUESTION, DRAWN, DRAWN | QUESTION):
        each = sum(int(choice.mask(one).sum()) for one in inputs) / len(inputs)
        request = request_of(choice)
        takes = bytes_of(request.teacher, False, "teacher", request.wanted, each, each, 0)
        assert request._bytes_each() == pytest.approx(takes, rel=0.05)


def test_what_does_not_fit_on_the_disk_is_refused_before_anything_is_written(
    request_of, monkeypatch, tmp_path
):
    monkeypatch.setattr(cache_request, "free_bytes", lambda folder: 10_000_000)
    with pytest.raises(UserError, match=r"take about 0\.02 GB in .*, where 0\.01 GB are free: na"):
        request_of(ALL).begun()
    assert not (tmp_path / "cache").exists()


def test_entries_of_one_id_are_refused(data, request_of):
    data.train_entries = data.train_entries.select([*range(20), 3])
    with pytest.raises(UserError, match=r"the id 'train-\d-000003' is there twice"):
        assert request_of(ALL).ids


def test_a_run_may_fill_a_cache_of_more_and_laid_cache_may_not(request_of):
    header, missing = request_of(ALL).begun(by_entry=True)
    assert missing == list(range(50))
    fewer = request_of(DRAWN, layers=(2,))
    assert fewer.begun(by_entry=True, may_hold_more=True) == (header, missing)
    with pytest.raises(UserError, match=r"(?s)layers: the cache \(0, 2\), now \(2,\).*queries: "):
        fewer.begun()
    with pytest.raises(UserError, match=r"layers: the cache \(0, 2\), now \(1, 2\)"):
        request_of(ALL, layers=(1, 2)).begun(by_entry=True, may_hold_more=True)
