"""Ends all ranks soon after one of them has died, and reports which one and why.

A rank that is killed leaves the others waiting in a collective: with NCCL for ten minutes or more,
until a timeout whose message is about the collective. Here every rank keeps a TCP connection to
rank 0. The operating system closes a dead process's connections, whatever ended it, so the other
side is notified at once; a machine that vanishes is detected by TCP keepalive.

Protocol: the rank's number (4 bytes) once; then nothing, until a last line before the connection
is closed. It is empty after a normal end; else ``_OWN`` and the rank's error, or ``_FORWARDED`` and
what rank 0 reports of another rank.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import torch.distributed as dist

from laid.distributed.process_group import this_rank

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""Seconds that a rank gets to end by itself after another rank has reported its error, as all do
where all fail alike; then it says why it exits too."""
_CONNECT_S = 60.0
_END = b"\n"
_OWN, _FORWARDED = b"!", b">"


class RankWatchdog:
    """This rank's connection to rank 0; on rank 0 the connections to all other ranks."""

    def __init__(self, address: str, end: Callable[[str, bool], None] | None = None):
        """Connects; all ranks call it together, after the process group is initialised.

        Args:
            address: host that rank 0 runs on.
            end: called when a rank has died, with the message and whether that rank reported its
                error. None: print the message and end this process.

        Raises:
            OSError: a rank can't be reached within a minute.
        """
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._end = end or _end_process
        self._closed = threading.Event()
        self._peers: dict[int, socket.socket] = {}
        port: list[int] = [0]
        if self.rank == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
            server.settimeout(_CONNECT_S)
            port = [server.getsockname()[1]]
        dist.broadcast_object_list(port, src=0)
        if self.rank == 0:
            while len(self._peers) < self.ranks - 1:
                peer, _ = server.accept()
                peer.settimeout(None)
                number = peer.recv(4, socket.MSG_WAITALL)
                if len(number) < 4:
                    raise ConnectionError("a rank closed its connection before it sent its number")
                self._peers[int.from_bytes(number)] = peer
            server.close()
        else:
            peer = socket.create_connection((address, port[0]), timeout=_CONNECT_S)
            peer.settimeout(None)
            peer.sendall(self.rank.to_bytes(4))
            self._peers[0] = peer
        for rank, peer in self._peers.items():
            _keep_alive(peer)
            threading.Thread(target=self._watch, args=(rank, peer), daemon=True).start()

    def close(self, error: str = "") -> None:
        """Reports that this rank ends, with its error if it failed; later calls do nothing."""
        self._send_last(_OWN + " ".join(error.split()).encode()[:2000] if error else b"")

    def _send_last(self, last: bytes) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        for peer in self._peers.values():
            try:
                peer.sendall(last + _END)
                peer.shutdown(socket.SHUT_WR)
            except OSError:  # closed by the other side already
                peer.close()

    def _watch(self, rank: int, peer: socket.socket) -> None:
        received = b""
        with suppress(OSError):
            while part := peer.recv(4096):
                received += part
        if self._closed.is_set() or received == _END:
            return
        kind, text = received[:1], received[1:].decode(errors="replace").strip()
        if not received.endswith(_END):
            text = f"rank {rank} died without reporting an error"
        elif kind == _OWN:
            text = f"rank {rank} ended with an error: {text}"
        if self.rank == 0:
            self._send_last(_FORWARDED + text.encode())
        self._end(text, kind == _OWN)


def _end_process(message: str, reported: bool) -> None:
    if reported:
        time.sleep(GRACE_S)
    log.error(
        "%s; rank %d exits too. Resume the run from its last checkpoint with --ckpt_path",
        message,
        this_rank(),
    )
    sys.stdout.flush()
    # The main thread may be waiting in a collective, from which no exception would wake it.
    os._exit(1)


def _keep_alive(peer: socket.socket) -> None:
    """Closes the connection to a machine that has not answered for half a minute."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # macOS has another name for the first
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
