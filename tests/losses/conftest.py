"""What the losses' tests share."""

import pytest
import torch

from laid.losses.alignment import AlignmentArgs
from laid.losses.head_mixing import MixingArgs
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import ModelPair
from laid.signals.model_signals import AttentionShape


def models(student=(3, 4, 2), teacher=(4, 6, 3), head_dim=8):
    """A pair of models by (layers, query heads, KV heads); RoPE turns nothing."""
    return ModelPair(
        AttentionShape(*student, head_dim),
        AttentionShape(*teacher, head_dim),
        vocabulary=700,
        rotate=lambda x_BLHD, _: x_BLHD.float(),
        teacher_rotate=lambda x_BLHD, _: x_BLHD.float(),
    )


@pytest.fixture
def alignment():
    """The alignment of the final layers, by the settings of its mixing weights."""

    def build(heads=(4, 2), teacher_heads=(6, 3), layers="final", **mixing):
        args = AlignmentArgs(layers=layers, mixing=MixingArgs(**mixing))
        return args.build(models((3, *heads), (4, *teacher_heads)))

    return build


@pytest.fixture
def pair_of():
    return models


@pytest.fixture
def build_retrieval(student, teacher):
    """The term for the two tiny models, by its settings."""

    def term(**settings):
        turns = student.rotate, teacher.rotate
        models = ModelPair(student.shape, teacher.shape, 700, *turns)
        return RetrievalArgs(weight=1.0, **settings).build(models)

    return term


@pytest.fixture
def batch_loss(student, teacher):
    """The loss of a batch, of the models as they are."""

    def of(term, inputs):
        with torch.no_grad():
            asked = (
                student.signals(inputs, term.of_student),
                teacher.signals(inputs, term.of_teacher),
            )
            return term(*asked, inputs)

    return of
