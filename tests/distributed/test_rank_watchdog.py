"""A rank that dies takes the others with it, and they say why."""

import os
import re
import signal
import time

import pytest
import torch.distributed as dist

from laid.distributed.rank_watchdog import Lifeline


def until_told(mesh, how, who):
    """What this rank is told when rank ``who`` ends as ``how`` says; None: nothing."""
    told = []
    line = Lifeline("127.0.0.1", lambda text, own: told.append((text, own)))
    dist.barrier()
    if mesh.get_local_rank() == who:
        if how == "error":
            line.close("ValueError: no such\nfolder")
        if how == "normal":
            line.close()
        return None
    deadline = time.monotonic() + (60 if how == "error" else 1)
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    line.close()
    return told


@pytest.mark.parametrize("who", [0, 2])
def test_an_error_is_told_to_all(on_ranks, who):
    for rank, told in enumerate(on_ranks(3, until_told, "error", who)):
        if rank == who:
            continue
        ((text, own),) = told
        assert text == f"rank {who} ended with an error: ValueError: no such folder"
        assert own == (who == 0 or rank == 0)  # heard from the rank itself, or from rank 0


@pytest.mark.parametrize("who", [0, 1])
def test_a_normal_end_is_nothing_to_tell(on_ranks, who):
    assert all(not told for told in on_ranks(2, until_told, "normal", who))


def waiting(mesh, who):
    Lifeline("127.0.0.1")
    dist.barrier()
    if mesh.get_local_rank() == who:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:  # as a rank in a collective whose other side is gone
        time.sleep(0.1)


@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_rank_ends_ranks_that_wait_for_it(on_ranks, capfd, who):
    codes = [-signal.SIGKILL if rank == who else 1 for rank in range(3)]
    with pytest.raises(RuntimeError, match=re.escape(f"ranks ended with {codes}")):
        on_ranks(3, waiting, who)
    errors = capfd.readouterr().err
    assert f"rank {who} died without a word" in errors
    assert "--ckpt_path" in errors
