"""Ranks that come to one answer or to none, whatever becomes of a rank meanwhile.

Two ranks with different rules would run different kernels and wait for each other for ever. So
nothing is concluded from who answered whom. There is one state, in a store that the process of the
first rank serves: how many steps were begun, and the verdict. It changes by ``compare_set`` alone,
so that all ranks see the same sequence:

- the first rank begins a step only while no verdict stands. A step that was begun is done by every
  rank, also once a verdict stands: its calls wait for each other on all ranks.
- whoever sets the verdict first, sets it for all. A rank that will not wait any longer sets it to
  none, and learns by that whether it was too late: then it takes the rule, as the others do.

What cannot reach the store has lost the first rank, and with it the group.

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

import msgspec

from ...errors import InputError, one_line

_STATE = "state"

#: Time between looks into the store, from eager to patient, s.
_LOOKS_S = (0.0005, 0.01)

#: Time in which a connection on one host comes about, or never, s.
_CONNECT_S = 5.0

#: Time for which the first rank looks whether the others have read the verdict, s.
_FAREWELL_S = 30.0

#: Stores whose verdict some rank had not read by then: served as long as this process lives.
_KEPT: list[Any] = []


class ClosedError(Exception):
    """A verdict stands, and every step that was begun is done."""


class SharedState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many steps were begun, and the verdict: a ``rule``'s hash, or why there is ``none``."""

    begun: int = 0
    rule: str = ""
    none: str = ""

    @property
    def closed(self) -> bool:
        """Whether a verdict stands."""
        return bool(self.rule or self.none)

    @property
    def text(self) -> str:
        """The state as it is stored."""
        return msgspec.json.encode(self).decode()


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

    def held(self) -> Consensus:
        """Wait for the first rank, for ever if need be, and return what the ranks agree by."""
        self._said.wait()
        port = int(self._port.item())
        if not port:
            raise ConnectionError("the first rank serves no store")
        return Consensus(self._store or _connected(port), self.rank, self.world_size)


class Consensus:
    """What the ranks of a group say, and the state that they share; values are those of JSON."""

    def __init__(self, store: Any, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._store = store
        self._awaited: list[str] = []

    @property
    def leads(self) -> bool:
        """Whether this is the first rank."""
        return self.rank == 0

    def say(self, key: str, value: Any) -> None:
        """Say something under a key, once."""
        self._store.set(f"{key}/{self.rank}", json.dumps(value))

    def heard(self, key: str, rank: int = 0) -> Any:
        """Return what a rank says under a key; raises as :meth:`everybody`."""
        self._wait(key, (rank,))
        return self._read(key, rank)

    def everybody(self, key: str) -> list[Any]:
        """Return what each rank says under a key, by rank.

        Raises :class:`ClosedError` where a verdict stands before they have said it.
        """
        ranks = range(self.world_size)
        self._wait(key, ranks)
        return [self._read(key, rank) for rank in ranks]

    def begin(self, step: int, asked: Any) -> None:
        """Begin a step, counted from 0, for all ranks; only the first rank does.

        Raises :class:`ClosedError` where a verdict stands: then nobody begins it.
        """
        self.say(f"step{step}", asked)
        state = self.state()
        after = SharedState(step + 1)
        if state.closed or self._changed(state, after) != after:
            raise ClosedError

    def next(self, step: int) -> Any:
        """Return what is asked for in a step, once it was begun.

        Raises :class:`ClosedError` where a verdict stands and it was not.
        """
        self._awaited = [f"step{step}/0"]

        def begun() -> bool:
            state = self.state()
            if state.begun <= step and state.closed:
                raise ClosedError
            return state.begun > step

        _until(begun)
        return self._read(f"step{step}", 0)

    def state(self) -> SharedState:
        """Return the state as it is."""
        return msgspec.json.decode(self._store.get(_STATE), type=SharedState)

    def close(self, *, rule: str = "", none: str = "") -> SharedState:
        """Set the verdict, unless one stands; return the state that stands now, for every rank.

        Raises :class:`ConnectionError` where the first rank is lost.
        """
        try:
            state = self.state()
            while not state.closed:
                state = self._changed(state, SharedState(state.begun, rule, none))
            return state
        except RuntimeError:
            raise ConnectionError("the group's first rank is lost") from None

    def leave(self) -> None:
        """Leave, with the verdict known. The first rank serves on while others may still ask."""
        self._store.set(f"left/{self.rank}", "")
        if self.leads:
            threading.Thread(target=self._serve_on, name="costmodel-store", daemon=True).start()

    def silent(self) -> str:
        """Return in words the ranks that have not answered yet, "" for none."""
        ranks = [k.rpartition("/")[2] for k in self._awaited if not self._store.check([k])]
        return f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks)}" if ranks else ""

    def _changed(self, state: SharedState, after: SharedState) -> SharedState:
        """Change the state, if it still is as given; return the one that stands now."""
        now = self._store.compare_set(_STATE, state.text, after.text)
        return msgspec.json.decode(now, type=SharedState)

    def _serve_on(self) -> None:
        left = [f"left/{rank}" for rank in range(self.world_size)]
        ends = time.monotonic() + _FAREWELL_S
        _until(lambda: self._store.check(left) or time.monotonic() > ends)
        if not self._store.check(left):
            _KEPT.append(self._store)

    def _wait(self, key: str, ranks: Collection[int]) -> None:
        keys = self._awaited = [f"{key}/{rank}" for rank in ranks]

        def there() -> bool:
            if self._store.check(keys):
                return True
            if self.state().closed:
                raise ClosedError
            return False

        _until(there)

    def _read(self, key: str, rank: int) -> Any:
        return json.loads(self._store.get(f"{key}/{rank}"))


def _until(done: Callable[[], bool]) -> None:
    """Look until ``done``, patiently."""
    pause = _LOOKS_S[0]
    while not done():
        time.sleep(pause)
        pause = min(1.3 * pause, _LOOKS_S[1])


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
    store.set(_STATE, SharedState().text)
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
