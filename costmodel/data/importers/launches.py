"""Launches of kernels on a time line, made into rows: calls, their ranks, and the wait of each.

Every reader of a trace gives its launches to :class:`Launches`; :meth:`Launches.give` then puts the
two launches of a 2-stage call together, matches the calls of the ranks, and takes the wait for the
last rank off by the skew law (:mod:`costmodel.data.arrivals`) where the trace allows it. Calls
whose grid of workgroups differs are kept apart, for their sizes differ.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from ...errors import InputError
from ..arrivals import without_wait
from ..kernel_calls import CollectiveCall, calls
from ..kernel_names import KernelName, read
from . import kernel_rows
from .rows import Imported
from .text_file import shortened

Floats = NDArray[np.float64]

#: Launches of known kernels that are kept: 60 bytes each, and some seconds to put together.
MOST = 2_000_000
#: Ends of a call on its ranks, which an exit barrier brings together, lie apart by more than this
#: share of the call's time only where the ranks' clocks do.
_CLOCKS_APART = 0.5

#: Traces of one run that start this far apart, in us, are of other clocks.
_FAR_US = 1e9

HALF = "one of the two launches of a 2-stage call, the other is not beside it"
SECOND = "second launch of a call, summed with its first"
REPEATED = "in the median of a row"
NO_DURATION = "no duration"


class Launch(NamedTuple):
    """One launch: on which rank and stream, start and duration in us, grid and block as text."""

    name: str
    rank: str
    stream: str
    start_us: float
    duration_us: float
    grid: str = ""


class Clock:
    """Time stamps in ns counted from the first, in us: the stamps have too many digits."""

    def __init__(self) -> None:
        self._first: int | None = None

    @property
    def origin_us(self) -> Decimal:
        """The first time stamp in us, 0 before there is one."""
        return Decimal(self._first or 0) / 1000

    def span_us(self, start: int | None, end: int | None) -> tuple[float, float]:
        """Return start and duration; NaN for the duration where a stamp is missing.

        A stamp of 0 is missing too: the tools write it where they got no time of a dispatch.
        """
        if not start or not end:
            return 0.0, math.nan
        if self._first is None:
            self._first = start
        return (start - self._first) * 1e-3, (end - start) * 1e-3


class _Kind(Struct):
    """The calls of one kind: same kernels, same grid; a value a call in each array."""

    call: CollectiveCall
    names: tuple[KernelName, ...]
    grid: str
    place: int
    ranks: array[int] = field(default_factory=lambda: array("l"))
    start_us: array[float] = field(default_factory=lambda: array("d"))
    finish_us: array[float] = field(default_factory=lambda: array("d"))
    #: Launches after the first, which wait for nobody.
    local_us: array[float] = field(default_factory=lambda: array("d"))


class Launches:
    """The launches of a trace; ``place`` says in words where the n-th record stands."""

    def __init__(self, imported: Imported, place: Callable[[int], str], on_amd: bool) -> None:
        self._imported = imported
        self._place = place
        self._on_amd = on_amd
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []
        self._columns = {name: array("l") for name in ("name", "rank", "stream", "grid", "place")}
        self._start_us, self._duration_us = array("d"), array("d")
        #: What the file says of all its launches; ``run_ranks`` are those of the run, 0 unsaid.
        self.gpu = ""
        self.rank = ""
        self.run_ranks = 0
        #: Time stamp of the first start in us, from which the others are counted.
        self.origin_us = Decimal(0)
        #: Whether the ranks have names of their own, being of a file each.
        self.is_joined = False

    @classmethod
    def joined(cls, imported: Imported, traces: Sequence[tuple[str, Launches]]) -> Launches:
        """Return the launches of several traces as one, each with the rank that is given with it.

        Raises :class:`InputError` above :data:`MOST` launches.
        """
        count = len(traces)
        whole = cls(
            imported,
            lambda place: traces[place % count][1]._place(place // count),
            any(found._on_amd for _, found in traces),
        )
        if sum(len(found._start_us) for _, found in traces) > MOST:
            raise InputError(
                f"more than {MOST} launches of all-reduce kernels in {count} files; cut the traces "
                "down to some steps"
            )
        whole.is_joined = True
        whole.origin_us = min(found.origin_us for _, found in traces)
        for at, (rank, found) in enumerate(traces):
            ids = np.array([whole._id(text) for text in found._texts], np.int64)
            for name in ("name", "stream", "grid"):
                whole._columns[name].extend(ids[np.asarray(found._columns[name])].tolist())
            size = len(found._start_us)
            whole._columns["rank"].extend([whole._id(rank)] * size)
            whole._columns["place"].extend(n * count + at for n in found._columns["place"])
            late_us = float(found.origin_us - whole.origin_us)
            if late_us > _FAR_US:  # another clock: kept apart, and near enough for its digits
                late_us = _FAR_US * (1.0 + 0.01 * at)
            whole._start_us.extend((np.asarray(found._start_us) + late_us).tolist())
            whole._duration_us.extend(found._duration_us)
            whole.gpu = whole.gpu or found.gpu
            whole.run_ranks = max(whole.run_ranks, found.run_ranks)
        return whole

    @property
    def ranks(self) -> set[str]:
        """The ranks, or devices, of the launches that were taken."""
        return {self._texts[rank] for rank in set(self._columns["rank"])}

    def same_times(self, other: Launches) -> bool:
        """Whether another trace has the same launches, to the last digit of their times."""
        return (
            self.origin_us == other.origin_us
            and self._start_us == other._start_us
            and self._duration_us == other._duration_us
        )

    def add(self, launch: Launch, place: int) -> None:
        """Take a launch; one of no all-reduce is left at once.

        Raises :class:`InputError` above :data:`MOST` launches.
        """
        reason = kernel_rows.reason_against(read(launch.name), self._imported.said)
        if not reason and not 0.0 < launch.duration_us < 1e15:
            reason = NO_DURATION
        if reason:
            self._imported.leave(self._place(place), reason)
            return
        if len(self._start_us) >= MOST:
            raise InputError(
                f"{self._place(place)}: more than {MOST} launches of all-reduce kernels; cut the "
                "trace down to some steps"
            )
        for column, text in zip(
            ("name", "rank", "stream", "grid"),
            (launch.name, launch.rank, launch.stream, launch.grid),
            strict=True,
        ):
            self._columns[column].append(self._id(text))
        self._columns["place"].append(place)
        self._start_us.append(launch.start_us)
        self._duration_us.append(launch.duration_us)

    def streams(self) -> list[list[str]]:
        """Return the names of the launches that were taken, in order, for each rank and stream."""
        return [
            [self._texts[self._columns["name"][at]] for at in stream.tolist()]
            for stream in self._in_order()
        ]

    def give(self) -> None:
        """Give all launches to the account, as rows or left."""
        for kind in self._kinds():
            self._row(kind)

    def _id(self, text: str) -> int:
        known = self._ids.setdefault(text, len(self._texts))
        if known == len(self._texts):
            self._texts.append(text)
        return known

    def _in_order(self) -> list[NDArray[np.int64]]:
        """Return the launches of each rank's streams in the order of their starts, by index."""
        columns = {name: np.asarray(column) for name, column in self._columns.items()}
        start_us = np.asarray(self._start_us)
        order = np.lexsort((columns["place"], start_us, columns["stream"], columns["rank"]))
        if not order.size:
            return []
        where = columns["rank"][order], columns["stream"][order]
        ends = np.flatnonzero((np.diff(where[0]) != 0) | (np.diff(where[1]) != 0)) + 1
        return np.split(order, ends)

    def _kinds(self) -> list[_Kind]:
        """Put launches together into calls, stream by stream, and calls into kinds."""
        columns = {name: np.asarray(column) for name, column in self._columns.items()}
        start_us, duration_us = np.asarray(self._start_us), np.asarray(self._duration_us)
        kinds: dict[tuple[int, ...], _Kind] = {}
        for stream in self._in_order():
            ids = columns["name"][stream].tolist()
            names = [read(self._texts[i]) for i in ids]
            taken = 0
            for call in calls(names):
                taken += len(call.kernels)
                at = [int(stream[k]) for k in call.kernels]
                if not call.whole:
                    self._imported.leave(self._place(int(columns["place"][at[0]])), HALF)
                    continue
                grid = int(columns["grid"][at[0]])
                kind = kinds.setdefault(
                    (*(ids[k] for k in call.kernels), -1 - grid),
                    _Kind(
                        call, tuple(names[k] for k in call.kernels), self._texts[grid],
                        int(columns["place"][at[0]]),
                    ),
                )  # fmt: skip
                kind.ranks.append(int(columns["rank"][at[0]]))
                kind.start_us.append(float(start_us[at[0]]))
                kind.finish_us.append(float(start_us[at[0]] + duration_us[at[0]]))
                kind.local_us.append(float(duration_us[at[1:]].sum()))
            if alone := len(ids) - taken:
                first = self._place(int(columns["place"][stream[0]]))
                self._imported.leave(first, kernel_rows.ALONE, alone)
        return list(kinds.values())

    def _row(self, kind: _Kind) -> None:
        """Give one kind of call: a row of its median, and the account of its other launches."""
        count, where = len(kind.ranks), self._place(kind.place)
        title = f"{kind.call.op or kind.names[0].text} {kind.call.algorithm}".strip()
        latency_us, ranks, said = self._latency_us(kind)
        for words in said:
            self._imported.note(f"{shortened(title, 60)}{_on(kind.grid)}: {words}")
        detail = ", ".join(p for p in (kind.grid, f"{count} launches") if p)
        timed = kernel_rows.CallLatency(latency_us, "median", ranks, detail, self.gpu)
        call = kind.call._replace(kernels=tuple(range(len(kind.names))))
        refused = kernel_rows.add(self._imported, call, kind.names, timed, where, self._on_amd)
        if count > 1:
            self._imported.leave(where, refused or REPEATED, count - 1)
        if len(kind.names) > 1:
            self._imported.leave(where, refused or SECOND, count * (len(kind.names) - 1))

    def _latency_us(self, kind: _Kind) -> tuple[float, str, list[str]]:
        """Return the latency of a kind of call, over which ranks, and what is to be said of it."""
        ranks = np.asarray(kind.ranks)
        whole = np.asarray(kind.finish_us) - np.asarray(kind.start_us) + np.asarray(kind.local_us)
        present, counts = np.unique(ranks, return_counts=True)
        wanted = kind.names[0].world_size or self.run_ranks
        if len(present) == 1:
            alone = self._texts[present[0]] if self.is_joined else self.rank
            return float(np.median(whole)), alone, []
        reason = ""
        if not kind.names[0].barrier:
            reason = "its ranks do not wait for each other at its start"
        elif wanted and wanted != len(present):
            reason = f"the trace has {len(present)} of its {wanted} ranks"
        elif counts.min() != counts.max():
            reason = f"its ranks have {counts.min()} to {counts.max()} calls in the trace"
        if reason:
            said = f"the wait for the last rank is in it, for {reason}"
            return float(np.median(whole)), "pooled over ranks", [said]
        order = np.argsort(ranks, kind="stable")  # by rank, and within one as they started
        shape = (len(present), int(counts[0]))
        start, finish, local = (
            np.asarray(values)[order].reshape(shape).T
            for values in (kind.start_us, kind.finish_us, kind.local_us)
        )
        return _separated(start, finish, local)


def _separated(start: Floats, finish: Floats, local: Floats) -> tuple[float, str, list[str]]:
    """Return the time without waiting of calls, each array (calls, ranks) in us.

    By the skew law where the ranks' clocks are common. Where they are not, by what it says without
    them: the last rank does not wait, so the shortest of a call's durations is its time.
    """
    alone = without_wait(start, finish)
    duration = finish - start
    shortest_us = np.median((duration + local).min(axis=1))
    apart_us = float(np.median(np.ptp(finish, axis=1)))
    early = int((alone <= 0.0).any(axis=1).sum())
    if not early and apart_us <= _CLOCKS_APART * shortest_us:
        waited = duration - alone
        latency_us = float(np.median((alone + local).max(axis=1)))
        said = (
            f"{latency_us:.4g} us without the wait for the last rank, which is "
            f"{np.median(waited.max(axis=1)):.4g} us for the first one; ends of the ranks lie "
            f"{apart_us:.3g} us apart (medians)"
        )
        return latency_us, "max, wait for the last rank taken off", [said]
    why = f"ends of its ranks lie {apart_us:.3g} us apart" + (
        f", and in {early} of {len(start)} calls a rank ends before the last one starts"
        if early
        else ""
    )
    said = (
        f"the ranks' clocks are not common ({why}); the shortest duration of each call is taken, "
        "that of the last rank, which does not wait"
    )
    return float(shortest_us), "min, the last rank does not wait", [said]


def _on(grid: str) -> str:
    return f", {grid}" if grid else ""
