"""Python objects between ranks."""

import torch.distributed as dist

from laid.common.errors import UserError, is_from_another_rank
from laid.distributed.process_group import on_rank_zero, raised_on_all


@raised_on_all
def check(wrong):
    if dist.get_rank() in wrong:
        raise UserError(f"wrong on {dist.get_rank()}")


@raised_on_all
def whole(wrong, wrong_before):
    """A check that another is part of."""
    if dist.get_rank() in wrong_before:
        raise UserError(f"wrong before on {dist.get_rank()}")
    check(wrong)


def said(call, *args):
    """The message of what is raised, and whether it comes from another rank."""
    try:
        call(*args)
    except UserError as error:
        return str(error), is_from_another_rank(error)
    return None


def fails():
    raise UserError("wrong on 0")


def checks(_):
    return said(check, ()), said(check, (1,)), said(check, (0, 1)), said(on_rank_zero, fails)


def nested(_):
    wrong = [((), ()), ((1,), ()), ((), (0,)), ((), (1,)), ((), (0, 1))]
    return [said(whole, *ranks) for ranks in wrong]


def test_what_one_rank_finds_wrong_is_raised_on_all_and_is_the_others(on_ranks):
    zero, one = on_ranks(2, checks)
    assert zero == (None, ("wrong on 1", True), ("wrong on 0", False), ("wrong on 0", False))
    assert one == (None, ("wrong on 1", False), ("wrong on 0", True), ("wrong on 0", True))


def test_a_check_may_be_part_of_another(on_ranks):
    texts = [[found and found[0] for found in by_rank] for by_rank in on_ranks(2, nested)]
    before = "wrong before on"
    assert texts == [[None, "wrong on 1", f"{before} 0", f"{before} 1", f"{before} 0"]] * 2
