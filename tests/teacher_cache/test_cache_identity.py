"""What a cache of signals depends on."""

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs, TrainArgs
from laid.teacher_cache.cache_identity import reading_identity


def test_answers_of_all_turns_are_another_cache_than_the_last_alone(drawn, pair):
    found = []
    for turns in ("last", "all"):
        data = HaystackDataModule(
            str(drawn),
            str(pair[0]),
            train=TrainArgs(entries=8, max_size=3, turns=turns),
            validate=EvaluationArgs(sizes=[2], per_size=2),
        )
        data.setup("fit")
        found.append(reading_identity(data))
    assert found[1] == {**found[0], "turns": "all"}
