"""Python objects between ranks."""

import torch.distributed as dist

from laid.common.errors import UserError
from laid.distributed.process_group import raised_on_all


@raised_on_all
def check(wrong):
    if dist.get_rank() in wrong:
        raise UserError(f"wrong on {dist.get_rank()}")


def said(*wrong):
    try:
        check(wrong)
    except UserError as error:
        return str(error)
    return None


def checks(_):
    return said(), said(1), said(0, 1)


def test_what_one_rank_finds_wrong_is_raised_on_all(on_ranks):
    assert on_ranks(2, checks) == [(None, "wrong on 1", "wrong on 0")] * 2
