"""Which teacher a run has, and where its signals come from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from laid.common.errors import UserError
from laid.signals.model_signals import AttentionShape, Wanted
from laid.signals.teacher_source import TeacherSource
from laid.teacher_cache.cache_identity import reading_identity, teacher_identity
from laid.teacher_cache.cached_teacher import CachedTeacher
from laid.teacher_cache.stored_numbers import StoredAs
from laid.training.placement import Placement
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.online_teacher import OnlineTeacher
from laid.vlm.pair_check import check_pair, check_teacher

ONLINE = "online"


class TeacherChoice:
    """``model.teacher``, ``model.teacher_source`` and ``model.teacher_stored_as``.

    Attributes:
        args: the teacher; None where none is named.
        folder: of the cache that its signals come from; None where it runs beside the student.
        stored_as: numbers of a cache.
    """

    def __init__(self, args: ModelArgs | None, source: str, stored_as: StoredAs = "teacher"):
        """Raises:
        UserError: a source that is none.
        """
        kind, _, folder = source.partition(":")
        if source != ONLINE and not (kind == "cache" and folder):
            raise UserError(
                f"model.teacher_source {source!r}: expected {ONLINE}, or cache:FOLDER of a folder "
                "that laid cache has made"
            )
        self.args, self.stored_as = args, stored_as
        self.folder = Path(folder).expanduser() if folder else None
        self._cached: CachedTeacher | None = None

    @property
    def online(self) -> ModelArgs | None:
        """The teacher whose weights a run needs; None where a cache stands in for it."""
        return self.args if self.folder is None else None

    def check(
        self,
        student: ModelArgs,
        tokenizer_of: Callable[[ModelArgs], Any],
        terms: Mapping[str, bool],
        trainer: L.Trainer,
    ) -> None:
        """Before any weight is read: whether it can teach the student, as ``check_teacher``; and
        whether the cache is the run's and whole.

        Raises:
            UserError: it can't, or as ``CachedTeacher``.
        """
        if self.folder is None:
            if self.stored_as != "teacher":
                raise UserError(
                    f"model.teacher_stored_as {self.stored_as}: the teacher's numbers are taken as "
                    "it computes them; name a cache (model.teacher_source cache:FOLDER), or leave "
                    "it out"
                )
            check_teacher(student, self.args, tokenizer_of, terms)
            return
        named = None if self.args is None else teacher_identity(self.args, trainer)
        reading = reading_identity(trainer.datamodule)
        self._cached = CachedTeacher(self.folder, named, reading, self.stored_as)
        # The teacher's tokenizer was compared with this one when the cache was made.
        ids = tokenizer_of(student).get_vocab()
        of_heads = [name for name, as_vectors in terms.items() if as_vectors]
        check_pair(load_config(student), self._cached.config, ids, ids, of_heads)

    @property
    def shape(self) -> AttentionShape:
        """The teacher's attention; once it is checked."""
        if self._cached is not None:
            return self._cached.shape
        assert self.args is not None
        return family_of(load_config(self.args)).shape

    def source(self, placement: Placement, wanted: Wanted) -> TeacherSource:
        """The teacher itself, or its cache; once it is checked.

        Args:
            wanted: all that the run may ask.

        Raises:
            UserError: it can't supply that.
        """
        teacher: TeacherSource
        if self._cached is not None:
            teacher = self._cached
        else:
            assert self.args is not None
            teacher = OnlineTeacher(placement.teacher(self.args))
        if reason := teacher.missing(wanted):
            raise UserError(f"the teacher can't supply what the objective asks for: {reason}")
        return teacher
