"""Ranks that come to one answer or to none, whatever becomes of a rank meanwhile.

Two ranks with different rules would run different kernels and wait for each other for ever. So
nothing is concluded from who answered whom: there is one verdict, in a store that the process of
the first rank serves, and whoever sets it first, sets it for all (``TCPStore.compare_set``). A rank
that will not wait any longer sets the verdict to none, and learns by that whether it was too late:
then it takes the rule, as the others do. What cannot reach the store has lost the first rank, and
with it the group.

The group itself is used for one broadcast, which says where the store is. It is issued by the
calling thread and waited for by another, so that the group's later collectives stay in step, even
where a rank comes too late. Fused kernels run between the GPUs of one host; the store listens on
the loopback alone.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from ...errors import InputError, one_line

_VERDICT, _OPEN = "verdict", "open"

#: Time between looks into the store, from eager to patient, s.
_LOOKS_S = (0.0005, 0.01)

#: Time in which a connection on one host comes about, or never, s.
_CONNECT_S = 5.0

#: Time for which the first rank looks whether the others have read the verdict, s.
_FAREWELL_S = 30.0

#: Stores whose verdict some rank had not read by then: served as long as this process lives.
_KEPT: list[Any] = []


class ClosedError(Exception):
    """A verdict stands."""


class TooLateError(Exception):
    """Some ranks did not answer in time; the message names them."""


class Meeting:
    """A meeting of a group's ranks that is under way."""

    def __init__(self, group: Any) -> None:
        """Call the ranks together; each rank does so once, as its next collective of the group.

        Does not wait for anybody.
        """
        import torch
        import torch.distributed as dist

        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise InputError("this process is not in the group")
        self._store, port = None, 0
        try:
            if self.rank == 0:
                self._store, port = _served()
        finally:  # a first rank that cannot serve says so: nobody is left waiting
            device = "cpu" if "gloo" in dist.get_backend(group) else "cuda"
            self._port = torch.tensor([port], device=device)
            first = 0 if group is None else dist.get_global_rank(group, 0)
            self._said = dist.broadcast(self._port, first, group=group, async_op=True)

    def held(self) -> Agreement:
        """Wait for the first rank, for ever if need be, and return what the ranks agree by."""
        self._said.wait()
        port = int(self._port.item())
        if not port:
            raise ConnectionError("the first rank serves no store")
        return Agreement(self._store or _connected(port), self.rank, self.world_size)


class Agreement:
    """One question to the ranks of a group, and what they say; values are those of JSON."""

    def __init__(self, store: Any, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._store = store

    @property
    def leads(self) -> bool:
        """Whether this is the first rank."""
        return self.rank == 0

    def say(self, key: str, value: Any) -> None:
        """Say something under a key, once."""
        self._store.set(f"{key}/{self.rank}", json.dumps(value))

    def heard(self, key: str, rank: int, until: float) -> Any:
        """Return what a rank says under a key; raises as :meth:`everybody`."""
        self._wait(key, (rank,), until)
        return self._read(key, rank)

    def everybody(self, key: str, until: float) -> list[Any]:
        """Return what each rank says under a key, by rank.

        Raises :class:`ClosedError` once a verdict stands, :class:`TooLateError` at the monotonic
        time ``until``.
        """
        ranks = range(self.world_size)
        self._wait(key, ranks, until)
        return [self._read(key, rank) for rank in ranks]

    def verdict(self) -> str | None:
        """Return the verdict that stands, None while none does."""
        said = str(self._store.get(_VERDICT).decode())
        return None if said == _OPEN else said

    def close(self, verdict: str) -> str:
        """Set the verdict, unless one stands; return the one that stands now, for every rank.

        Raises :class:`ConnectionError` where the first rank is lost.
        """
        try:
            return str(self._store.compare_set(_VERDICT, _OPEN, verdict).decode())
        except RuntimeError:
            raise ConnectionError("the group's first rank is lost") from None

    def leave(self) -> None:
        """Leave, with the verdict known. The first rank serves on while others may still ask."""
        self._store.set(f"left/{self.rank}", "")
        if self.leads:
            threading.Thread(target=self._serve_on, name="costmodel-store", daemon=True).start()

    def _serve_on(self) -> None:
        left = [f"left/{rank}" for rank in range(self.world_size)]
        if not _until(lambda: self._store.check(left), time.monotonic() + _FAREWELL_S):
            _KEPT.append(self._store)

    def _wait(self, key: str, ranks: Collection[int], until: float) -> None:
        keys = [f"{key}/{rank}" for rank in ranks]

        def there() -> bool:
            # Before the verdict: who waits for what was said with it shall read it.
            if self._store.check(keys):
                return True
            if self.verdict() is not None:
                raise ClosedError
            return False

        if not _until(there, until):
            silent = [
                str(r) for r, k in zip(ranks, keys, strict=True) if not self._store.check([k])
            ]
            raise TooLateError(f"rank{'s' * (len(silent) > 1)} {', '.join(silent)} did not answer")

    def _read(self, key: str, rank: int) -> Any:
        return json.loads(self._store.get(f"{key}/{rank}"))


def _until(done: Callable[[], bool], until: float) -> bool:
    """Look until ``done``, patiently; return whether it was before the monotonic time ``until``."""
    pause = _LOOKS_S[0]
    while not done():
        if time.monotonic() >= until:
            return False
        time.sleep(pause)
        pause = min(1.3 * pause, _LOOKS_S[1])
    return True


def _served() -> tuple[Any, int]:
    """Return a new store with an open verdict, served by this process, and its port."""
    from torch.distributed import TCPStore

    listening = socket.socket()
    try:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        port = int(listening.getsockname()[1])
        store = TCPStore(
            "127.0.0.1", port, None, True, timedelta(seconds=_CONNECT_S),
            wait_for_workers=False, master_listen_fd=listening.fileno(),
        )  # fmt: skip
    except BaseException:
        listening.close()
        raise
    listening.detach()  # it is the store's now
    store.set(_VERDICT, _OPEN)
    return store, port


def _connected(port: int) -> Any:
    from torch.distributed import TCPStore

    patience = timedelta(seconds=_CONNECT_S)
    try:
        return TCPStore("127.0.0.1", port, None, False, patience, wait_for_workers=False)
    except RuntimeError as error:
        raise ConnectionError(
            f"the first rank's store is out of reach: {one_line(str(error))}"
        ) from None
