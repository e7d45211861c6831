"""Ranks that fill a cache of the teacher together while they train."""

from laid.signals.model_signals import Wanted
from laid.teacher_cache.filling_teacher import FillingTeacher
from laid.teacher_cache.signal_store import CacheHeader, SignalStore
from laid.vlm.online_teacher import OnlineTeacher

WANTED = Wanted((0,))


class Counted(OnlineTeacher):
    """A teacher that counts how often it is asked."""

    asked = 0

    def signals(self, inputs, wanted):
        self.asked += 1
        return super().signals(inputs, wanted)


def filled(mesh, store, teacher, batches, ids):
    """How often each of a rank's steps asks the teacher, and what is stored then."""
    online, found = Counted(teacher), []
    source = FillingTeacher(store, online, ids, store.unfinished(), in_step=True)
    for inputs in batches[mesh.get_rank()]:
        source.signals(inputs, WANTED)
        found.append(online.asked)
    return found


def test_a_rank_whose_entries_are_there_asks_a_sharded_teacher_as_often_as_the_others(
    on_ranks, teacher, haystacks, tmp_path
):
    """They gather its weights together, so a rank that asks less often would leave others
    waiting."""
    ids = haystacks().inputs.entry_ids
    reading = {"entries": {"count": 6, "content": "2b"}}
    store = SignalStore.begin(tmp_path, CacheHeader({}, reading, WANTED, "teacher", 1))
    store.keep_teacher(teacher.hf.config.save_pretrained)
    of_ranks = ([0, 1], [2, 3]), ([0, 4], [2, 3])
    batches = [[haystacks(rows=rows).inputs for rows in steps] for steps in of_ranks]
    alone = FillingTeacher(store, OnlineTeacher(teacher), ids, store.unfinished(), in_step=False)
    alone.signals(haystacks(rows=[0, 4]).inputs, WANTED)
    both = on_ranks(2, filled, store, teacher, batches, ids)
    assert both[0] == both[1]
    assert both[0][0] == 1
    assert store.unfinished() == [5]
