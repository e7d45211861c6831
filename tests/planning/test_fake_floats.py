"""Float tensors have shapes alone, integer tensors are computed."""

import torch

from laid.planning.fake_floats import fake_floats


def test_integer_tensors_are_computed():
    with fake_floats():
        ids = torch.arange(10)
        chosen = (ids > 3).nonzero()[:, 0]
        assert chosen.tolist() == [4, 5, 6, 7, 8, 9]
        assert torch.full((3,), 7).sum().item() == 21


def test_float_tensors_of_any_size_take_no_memory():
    with fake_floats():
        x = torch.empty(2**20, 2**20)
        assert (x @ x).shape == (2**20, 2**20)


def test_known_indices_and_masks_select_from_fake_tensors():
    with fake_floats():
        x = torch.empty(4, 6)
        mask = torch.tensor([True, False, True, False])
        assert x[mask].shape == (2, 6)
        assert x[torch.tensor([0, 0, 3])].shape == (3, 6)


def test_integers_that_depend_on_fake_floats_are_zero_and_bools_false():
    with fake_floats():
        logits = torch.empty(5, 100)
        assert logits.argmax(-1).tolist() == [0] * 5
        assert not (logits > 0).any()
        assert logits.sum().item() == 1.0
