"""Which of a launcher's processes this is, asked before there is a process group or after it."""

import os

_LAUNCHERS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")
"""Where torchrun, Lightning and Slurm write a process's number. Where Lightning starts the
processes of several nodes, the first of a node knows nothing but the node's."""


def is_first_rank() -> bool:
    """Whether every number that a launcher gave this process is 0."""
    return all(os.environ.get(name, "0") == "0" for name in _LAUNCHERS)


def is_first_of_node() -> bool:
    """Whether this process is its machine's first, or the only one."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "SLURM_LOCALID"))
