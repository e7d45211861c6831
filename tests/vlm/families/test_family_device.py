"""Training steps of every family on a device of another kind than the CPU."""

from dataclasses import replace

import pytest
from other_device.conftest import on_device, registrable  # noqa: F401  # fixtures
from other_device.training_step import Run, assert_close, steps

from laid.losses.alignment import AlignmentArgs
from laid.losses.cross_entropy import CrossEntropyArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.head_mixing import MixingArgs
from laid.losses.retrieval import RetrievalArgs
from laid.training.objective import ObjectiveArgs
from laid.vlm.families.gemma3 import Gemma3
from laid.vlm.lora import LoraArgs
from laid.vlm.rope_gain import RopeGainArgs

OFF = {
    "laid": AlignmentArgs(weight=0.0),
    "kl": DivergenceArgs(weight=0.0),
    "sft": CrossEntropyArgs(weight=0.0),
}
COMPLEX = MixingArgs("complex", normalisation="none", initial="least-squares")


def alone(**terms):
    return ObjectiveArgs(**{**OFF, **terms})


def retrieval(**settings):
    return RetrievalArgs(weight=1.0, calibration=2, **settings)


RUNS = {
    "all layers, vision trained": Run(
        ObjectiveArgs(AlignmentArgs(layers="all"), kl=DivergenceArgs(weight=1.0)),
        freeze_vision=False,
    ),
    "matched layers, kept features": Run(
        ObjectiveArgs(AlignmentArgs(layers="matched", tokens="question")), kept=True
    ),
    "least squares": Run(alone(laid=AlignmentArgs(mixing=COMPLEX))),
    "shared keys, drawn tokens": Run(
        alone(laid=AlignmentArgs(tokens="sample:5", mixing=MixingArgs(keys="shared")))
    ),
    "largest logits": Run(ObjectiveArgs(kl=DivergenceArgs(weight=1.0, top_k=8))),
    "retrieval": Run(alone(retrieval=retrieval())),
    "retrieval of labels": Run(
        alone(retrieval=retrieval(target="label", distractors="batch", rows=2, gamma=1.0))
    ),
    "retrieval as shown": Run(alone(retrieval=retrieval(distractors="none", reach=0))),
    "packed": Run(ObjectiveArgs(retrieval=retrieval()), packed=True),
    "adapters": Run(ObjectiveArgs(), LoraArgs(rank=4)),
    "gains": Run(ObjectiveArgs(), gain=RopeGainArgs()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_steps_are_those_of_the_cpu(family, models, batch, on_device, name):  # noqa: F811
    run = RUNS[name]
    if run.packed and not family.packs:
        pytest.skip("it does not pack")
    if run.gain and family.qk_layout != "flat":
        pytest.skip("it has no gains")
    if family is Gemma3:  # those of its layers that see the whole haystack
        terms = run.objective
        whole = replace(terms.retrieval, layers=[(1, 2)])
        run = replace(run, objective=replace(terms, retrieval=whole))
    batches = [batch(rows=rows) for rows in ([0, 3], [4, 1])]
    found = on_device(steps, "other", run, models, batches)
    assert_close(found, steps(None, "cpu", run, models, batches))
