"""When a rank dies the others exit, and report which and why."""

import os
import re
import signal
import time

import pytest
import torch.distributed as dist

from laid.common.logging_setup import set_up_logging
from laid.distributed.rank_watchdog import RankWatchdog


def until_reported(mesh, how, who):
    """What this rank's watchdog reports when rank ``who`` ends as ``how`` says."""
    reported = []
    watchdog = RankWatchdog("127.0.0.1", lambda text, own: reported.append((text, own)))
    dist.barrier()
    if mesh.get_local_rank() == who:
        if how == "error":
            watchdog.close("ValueError: no such\nfolder")
        if how == "normal":
            watchdog.close()
        return None
    deadline = time.monotonic() + (60 if how == "error" else 1)
    while not reported and time.monotonic() < deadline:
        time.sleep(0.01)
    watchdog.close()
    return reported


@pytest.mark.parametrize("who", [0, 2])
def test_an_error_is_reported_to_all(on_ranks, who):
    for rank, reported in enumerate(on_ranks(3, until_reported, "error", who)):
        if rank == who:
            continue
        ((text, own),) = reported
        assert text == f"rank {who} ended with an error: ValueError: no such folder"
        assert own == (who == 0 or rank == 0)  # from the rank itself, or forwarded by rank 0


@pytest.mark.parametrize("who", [0, 1])
def test_a_normal_end_is_not_reported(on_ranks, who):
    assert all(not reported for reported in on_ranks(2, until_reported, "normal", who))


def waiting(mesh, who):
    set_up_logging()
    RankWatchdog("127.0.0.1")
    dist.barrier()
    if mesh.get_local_rank() == who:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:  # like a rank in a collective with one that died
        time.sleep(0.1)


@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_rank_ends_ranks_that_wait_for_it(on_ranks, capfd, who):
    codes = [-signal.SIGKILL if rank == who else 1 for rank in range(3)]
    with pytest.raises(RuntimeError, match=re.escape(f"ranks ended with {codes}")):
        on_ranks(3, waiting, who)
    errors = capfd.readouterr().err
    assert f"rank {who} died without reporting an error" in errors
    assert "--ckpt_path" in errors
