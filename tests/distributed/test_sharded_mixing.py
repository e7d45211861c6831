"""Mixing weights and other tensors that are sharded across ranks."""

import pytest
import torch
from torch import nn

from laid.distributed.sharded_tensors import full_tensor, set_full_tensor, shard_like
from laid.distributed.sharding import shard_parameters
from laid.losses.head_mixing import HeadMixing, MixingArgs, mixture


class Weights(nn.Module):
    """Mixing weights of queries, as terms have them."""

    def __init__(self, args):
        super().__init__()
        self.q = HeadMixing(5, 3, 8, args)


def mixed(mesh, args, x_BLTD):
    torch.manual_seed(mesh.get_local_rank())
    weights = Weights(args)
    shard_parameters(weights, mesh)
    start = weights.q.magnitudes()
    value = torch.rand(5, 3).softmax(-1)
    if args.weights == "complex":
        value = torch.complex(torch.rand(5, 3, 4), torch.rand(5, 3, 4))
    weights.q.set_weights(value)
    out = mixture(weights.q(), x_BLTD)
    out.square().sum().backward()
    grad = full_tensor(weights.q.raw.grad)
    after = weights.q.magnitudes()
    return value, start, after, out.detach(), grad


@pytest.mark.parametrize("weights", ["real", "complex"])
def test_sharded_mixing_weights_are_read_and_set_in_full(on_ranks, weights):
    """Five rows on three ranks; the value that is set is rank 0's."""
    normalisation = "softmax" if weights == "real" else "none"
    args = MixingArgs(weights=weights, normalisation=normalisation, initial="uniform")
    x_BLTD = torch.rand(1, 4, 3, 8)
    results = on_ranks(3, mixed, args, x_BLTD)
    alone = Weights(args)
    first = results[0][0]
    for _, start, after, out, grad in results:
        assert torch.equal(start, alone.q.magnitudes())
        torch.testing.assert_close(after, first.abs().mean(-1) if first.ndim > 2 else first)
        plain = Weights(args)
        plain.q.set_weights(first)
        expected = mixture(plain.q(), x_BLTD)
        expected.square().sum().backward()
        torch.testing.assert_close(out, expected.detach())
        torch.testing.assert_close(grad, plain.q.raw.grad)


def sharded(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    parameter = distribute_tensor(torch.zeros(5, 2), mesh, [Shard(0)])
    set_full_tensor(parameter, torch.full((5, 2), float(mesh.get_local_rank())))
    value = torch.arange(10.0).view(5, 2)
    return full_tensor(parameter), full_tensor(shard_like(parameter, value)), value


def test_a_full_tensor_is_sharded_and_gathered_again(on_ranks):
    for parameter, again, value in on_ranks(4, sharded):
        assert torch.equal(parameter, torch.zeros(5, 2))
        assert torch.equal(again, value)
