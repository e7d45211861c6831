"""Ends all ranks soon after one of them has died, and says which and why.

A rank that is killed leaves the others waiting in a collective: with NCCL for ten minutes or more,
and at its end with a message about the collective. Here every rank holds a connection to rank 0.
A process that dies closes its connections whatever killed it, so the other side knows at once;
a machine that vanishes is noticed by TCP's keepalive.

On the wire: the rank's number (4 bytes) once; then nothing, until a last line before the connection
is closed: empty after a normal end, else ``OWN`` and the reason, or ``PASSED`` and what rank 0 has
seen of another rank.
"""

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import torch.distributed as dist

GRACE_S = 10.0
"""How long a rank may take to end by itself after another has given its reason: where all fail
alike, each says it in its own words."""
_CONNECT_S = 60.0
_END = b"\n"
_OWN, _PASSED = b"!", b">"


class Lifeline:
    """This rank's connection to rank 0, and on rank 0 those of all the others."""

    def __init__(self, address: str, end: Callable[[str, bool], None] | None = None):
        """All ranks make theirs together, when the process group stands.

        Args:
            address: host that rank 0 runs on.
            end: what to do when a rank is gone, given the message and whether it gave a reason.
                None: print the message and end this process.
        """
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._end = end or _end_process
        self._over = threading.Event()
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
                (number,) = struct.unpack("!I", _exactly(peer, 4))
                self._peers[number] = peer
            server.close()
        else:
            peer = socket.create_connection((address, port[0]), timeout=_CONNECT_S)
            peer.settimeout(None)
            peer.sendall(struct.pack("!I", self.rank))
            self._peers[0] = peer
        for number, peer in self._peers.items():
            _keep_alive(peer)
            threading.Thread(target=self._watch, args=(number, peer), daemon=True).start()

    def close(self, reason: str = "") -> None:
        """Says goodbye, with a reason if this rank failed. Once; later calls do nothing."""
        self._say(_OWN + " ".join(reason.split()).encode()[:2000] if reason else b"")

    def _say(self, last: bytes) -> None:
        if self._over.is_set():
            return
        self._over.set()
        for peer in self._peers.values():
            try:
                peer.sendall(last + _END)
                peer.shutdown(socket.SHUT_WR)
            except OSError:  # it is gone already
                peer.close()

    def _watch(self, number: int, peer: socket.socket) -> None:
        said = b""
        with suppress(OSError):
            while part := peer.recv(4096):
                said += part
        if self._over.is_set() or said == _END:
            return
        kind, text = said[:1], said[1:].decode(errors="replace").strip()
        if not said.endswith(_END):
            text = f"rank {number} died without a word (killed, or out of memory)"
        elif kind == _OWN:
            text = f"rank {number} ended with an error: {text}"
        if self.rank == 0:
            self._say(_PASSED + text.encode())
        self._end(text, kind == _OWN)


def _end_process(message: str, has_reason: bool) -> None:
    rank = dist.get_rank() if dist.is_initialized() else 0
    print(
        f"laid: {message}; rank {rank} ends too. The run can be taken up again from its last "
        "checkpoint, with --ckpt_path",
        file=sys.stderr,
        flush=True,
    )
    if has_reason:
        time.sleep(GRACE_S)
    sys.stdout.flush()
    # The main thread may be waiting in a collective, from which no exception would wake it.
    os._exit(1)


def _keep_alive(peer: socket.socket) -> None:
    """A machine that does not answer for half a minute counts as gone."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # macOS names the first otherwise
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _exactly(peer: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = peer.recv(count - len(got))
        if not part:
            raise ConnectionError("a rank closed its connection at once")
        got += part
    return got
