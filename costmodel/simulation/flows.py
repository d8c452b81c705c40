"""Flows over links: max-min fair rates, and the fluid that moves at them.

A flow crosses every link of its path at one rate. Rates are max-min fair: raise all together until
a link is full or a flow reaches its own limit, hold those that are stopped, go on with the rest
(water filling; Bertsekas and Gallager, Data Networks, section 6.5.2). A flow of weight m stands for
m equal flows on one path: they start alike, are treated alike and end alike, so they are one.

Rates are in bytes per microsecond (1 GB/s = 1e3), sizes in bytes, times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Shares that differ by less than this are one level of the water.
SAME_LEVEL = 1e-12


#: Up to so many flows are shared all at once: to find out which a change touches costs more.
FEW = 256

#: Flows that are worked on together.
AT_ONCE = 1 << 15

#: How often the touched flows are shared by themselves before all are.
TRIES = 3

#: Loads and rates that differ by less than this share are equal.
SAME_LOAD = 1e-11


def fair_rates(paths: Integers, weight: Floats, limit: Floats, capacity: Floats) -> Floats:
    """Return the max-min fair rate of one member of each flow.

    ``paths`` (flows, hops) indexes links; a path shorter than the widest is padded with any link
    of infinite capacity. ``weight`` (flows,) counts a flow's members, ``limit`` (flows,) is the
    most that a member can take (inf: no limit) and ``capacity`` (links,) what a link carries.
    """
    return _filled(np.ascontiguousarray(paths.T), weight, limit, capacity)[0]


def _filled(
    path: Integers, weight: Floats, limit: Floats, capacity: Floats
) -> tuple[Floats, Integers]:
    """Return the fair rates for paths (hops, flows), and the link that holds each flow, -1: none.

    That link is full, and no flow on it is faster.
    """
    links, count = capacity.size, weight.size
    if len(path) == 1 and np.isinf(limit).all():
        only = path[0]
        return (capacity / np.maximum(np.bincount(only, weight, links), 1.0))[only], only.copy()
    rate, holder = np.zeros(count), np.full(count, -1)
    left = capacity.astype(float)
    open_: Integers | None = None  # all
    while weight.size:
        load = _sum_over(path, weight, links)
        share = np.full(links, np.inf)
        np.divide(left, load, out=share, where=load > 0)
        level, by = np.empty(weight.size), np.full(weight.size, -1)
        stopped = np.empty(weight.size, np.bool_)
        # A link is full when all its flows stop at its share; no later round can raise them.
        full = np.ones(links, np.bool_)
        for few in _in_turn(weight.size):
            offered = [share.take(link[few]) for link in path]
            low = np.minimum(limit[few], offered[0], out=level[few])
            for at_link in offered[1:]:
                np.minimum(low, at_link, out=low)
            for link, at_link in zip(path, offered, strict=True):
                at_link *= 1.0 - SAME_LEVEL
                full[link[few].take(np.flatnonzero(low < at_link))] = False
        for few in _in_turn(weight.size):
            for link in path[::-1]:
                np.copyto(by[few], link[few], where=full.take(link[few]))
            np.logical_or(by[few] >= 0, limit[few] <= level[few], out=stopped[few])
        if stopped.all():
            if open_ is None:
                return level, by
            rate[open_], holder[open_] = level, by
            break
        # Places, not masks: numpy picks by them several times as fast.
        ends, going = np.flatnonzero(stopped), np.flatnonzero(~stopped)
        fixed = ends if open_ is None else open_.take(ends)
        rate[fixed], holder[fixed] = level.take(ends), by.take(ends)
        used = _sum_over(path.take(ends, axis=1), level.take(ends) * weight.take(ends), links)
        left = np.maximum(left - used, 0.0)
        open_ = going if open_ is None else open_.take(going)
        path, weight, limit = path.take(going, axis=1), weight.take(going), limit.take(going)
    return rate, holder


def _in_turn(flows: int) -> Iterator[slice]:
    """Yield flows that are worked on together: what is worked out of them stays in the cache."""
    for first in range(0, flows, AT_ONCE):
        yield slice(first, min(first + AT_ONCE, flows))


def _sum_over(path: Integers, values: Floats | None, links: int) -> NDArray[Any]:
    """Return, per link, the sum of values over the flows that cross it; their number for None."""
    total = np.bincount(path[0], values, links)
    for link in path[1:]:
        total = total + np.bincount(link, values, links)
    return total


class Batch(Struct):
    """Flows: arrays of one length. ``tag`` and ``note`` are the caller's own.

    ``paths`` (flows, hops), ``size`` what is left of one member, ``weight`` members, ``limit`` the
    rate that a member can take, ``note`` (flows, any).
    """

    paths: Integers
    size: Floats
    weight: Floats
    limit: Floats
    tag: Integers
    note: Floats

    def pick(self, which: slice | Integers) -> Batch:
        """Return some of the flows."""
        return Batch(
            self.paths[which], self.size[which], self.weight[which], self.limit[which],
            self.tag[which], self.note[which],
        )  # fmt: skip


class _Slots(Struct):
    """One place per flow in motion, in arrays that are longer than needed.

    ``path`` (hops, places), ``left`` bytes of a member at time ``since``, ``rate`` since then,
    ``finish`` when it ends at that rate, ``holder`` the link that it cannot be faster for, -1:
    none. A free place has weight and rate 0, never ends and is held by nothing.
    """

    path: Integers
    left: Floats
    since: Floats
    rate: Floats
    finish: Floats
    holder: Integers
    weight: Floats
    limit: Floats
    tag: Integers
    note: Floats

    @classmethod
    def empty(cls, room: int, hops: int, notes: int) -> _Slots:
        """Return so many free places."""
        zero, free = (lambda: np.zeros(room)), (lambda: np.full(room, np.inf))
        whole = np.zeros((hops, room), np.int64)
        number = np.full(room, -1)
        return cls(
            whole, zero(), zero(), zero(), free(), number, zero(), free(), number.copy(),
            np.zeros((room, notes)),
        )  # fmt: skip

    def moved(self, places: Integers | slice, count: int, room: int) -> _Slots:
        """Return ``count`` of the places at the start of new arrays."""
        new = _Slots.empty(room, len(self.path), self.note.shape[1])
        for link, old in zip(new.path, self.path, strict=True):
            link[:count] = old[places]
        for name in self.__struct_fields__[1:]:
            getattr(new, name)[:count] = getattr(self, name)[places]
        return new


class Fluid:
    """The flows in motion on links of given ``capacity``.

    Between two changes of the set of flows every rate is constant, so the next completion is known
    exactly. A change solves anew only what it touches: see :meth:`_share`. A flow of infinite size
    never ends. With ``record`` the load of every link is kept after each change, as (time, bytes/us
    of all links).
    """

    def __init__(self, capacity: Floats, hops: int, *, record: bool = False) -> None:
        links = capacity.size
        self.capacity = capacity
        self.hops = hops
        self.finite = np.isfinite(capacity)
        self.time = 0.0
        self.stale = False
        self.loads: list[tuple[float, Floats]] | None = [] if record else None
        self.slots = _Slots.empty(0, hops, 0)
        self.used = self.flowing = 0
        self.fresh: list[slice] = []
        # Per link, where they are known: bytes/us, flows that cross it, flows that it holds and
        # their rate; and whether flows on it came or went since rates were shared.
        self.known = False
        self.load = np.zeros(links)
        self.crossing, self.holding = np.zeros((2, links), np.int64)
        self.level = np.full(links, np.inf)
        self.changed = np.zeros(links, np.bool_)

    def add(self, time: float, batch: Batch) -> None:
        """Start flows at ``time``, which must not lie before the last change."""
        self.time = max(time, self.time)
        count = batch.size.size
        new = slice(self.used, self.used + count)
        if new.stop > self.slots.left.size:
            if not self.slots.left.size:
                self.slots = _Slots.empty(0, self.hops, batch.note.shape[1])
            self.slots = self.slots.moved(slice(self.used), self.used, 2 * new.stop)
        slots = self.slots
        slots.path[:, new] = batch.paths.T
        slots.left[new], slots.since[new] = batch.size, self.time
        slots.weight[new], slots.limit[new] = batch.weight, batch.limit
        slots.tag[new], slots.note[new] = batch.tag, batch.note
        self.used, self.flowing = new.stop, self.flowing + count
        self.fresh.append(new)
        if self.known:
            self._count(slots.path[:, new], 1)
        self.stale = True

    def next_completion(self) -> float:
        """Return when the next flow ends; inf when none will."""
        if self.stale:
            self.stale = False
            self._share()
        return float(self.slots.finish[: self.used].min()) if self.used else np.inf

    def complete(self, time: float) -> Batch | None:
        """Move to ``time`` and return the flows that ended by then, None when none did.

        Ask :meth:`next_completion` before.
        """
        slots = self.slots
        ended = np.flatnonzero(slots.finish[: self.used] <= time)
        if not ended.size:
            return None
        self.time = max(time, self.time)
        path = slots.path.take(ended, axis=1)
        found = Batch(
            path.T, np.zeros(ended.size), slots.weight[ended], slots.limit[ended],
            slots.tag[ended], slots.note[ended],
        )  # fmt: skip
        if self.known:
            self.load -= self._loads(path, slots.rate[ended] * slots.weight[ended])
            self.holding -= self._held(slots.holder[ended])
            self._count(path, -1)
        slots.finish[ended], slots.holder[ended] = np.inf, -1
        slots.rate[ended] = slots.weight[ended] = 0.0
        self.flowing -= ended.size
        if not self.flowing:
            self.used, self.known = 0, False
        self.stale = True
        return found

    def _count(self, path: Integers, sign: int) -> None:
        self.crossing += sign * _sum_over(path, None, self.capacity.size)
        for link in path:
            self.changed[link] = True

    def _loads(self, path: Integers, rate: Floats) -> Floats:
        """Return the load of each link of finite capacity; the others' is of no interest."""
        return np.where(self.finite, _sum_over(path, rate, self.capacity.size), 0.0)

    def _held(self, holder: Integers) -> Integers:
        return np.bincount(holder[holder >= 0], minlength=self.capacity.size)

    def _share(self) -> None:
        """Share the links anew among the flows that a change touches.

        Those are the new ones and those that a link holds on which flows came or went. Fair rates
        are known by this: each flow is stopped by its limit, or held by a full link on which none
        is faster. Where that fails for flows that kept their rates, they are touched too.
        """
        if not self.known or self.flowing <= FEW:
            self._share_all()
        else:
            if self.used > 2 * self.flowing:
                self._close_ranks()
            self._share_touched()
        self.fresh = []
        self.changed[:] = False
        if self.loads is not None:
            slots = self.slots
            flowing = slots.rate[: self.used] * slots.weight[: self.used]
            total = _sum_over(slots.path[:, : self.used], flowing, self.capacity.size)
            self.loads.append((self.time, total.astype(float)))

    def _share_all(self) -> None:
        if self.used > 2 * self.flowing + FEW:
            self._close_ranks()
        slots, used = self.slots, self.used
        busy: Integers | slice = slice(used)
        path = slots.path[:, :used]
        if used > self.flowing:
            busy = np.flatnonzero(slots.weight[:used])
            path = path.take(busy, axis=1)
        weight = slots.weight[busy]
        rate, holder = _filled(path, weight, slots.limit[busy], self.capacity)
        counted, self.known = self.known, self.flowing > FEW
        if self.known:
            self.load = self._loads(path, rate * weight)
            held = np.flatnonzero(holder >= 0)
            by = holder.take(held)
            self.holding = np.bincount(by, minlength=self.capacity.size)
            if not counted:
                self.crossing = _sum_over(path, None, self.capacity.size)
            self.level[by] = rate.take(held)
            slots.holder[busy] = holder
        self._run_on(busy, rate)

    def _share_touched(self) -> None:
        slots = self.slots
        touched = np.zeros(self.used, np.bool_)
        for new in self.fresh:
            touched[new] = True
        self._touch(touched, self.changed)
        if not touched.any():
            return
        for _ in range(TRIES):
            some = np.flatnonzero(touched)
            if 2 * some.size > self.flowing:
                break
            path, weight = slots.path.take(some, axis=1), slots.weight[some]
            others = self.load - self._loads(path, slots.rate[some] * weight)
            left = np.where(self.finite, np.maximum(self.capacity - others, 0.0), np.inf)
            rate, holder = _filled(path, weight, slots.limit[some], left)
            load = others + self._loads(path, rate * weight)
            held = self.holding - self._held(slots.holder[some])
            if not self._more(touched, path, rate, holder, load, held):
                self.level[holder[holder >= 0]] = rate[holder >= 0]
                slots.holder[some] = holder
                self._run_on(some, rate)
                self.load, self.holding = load, held + self._held(holder)
                return
        self._share_all()

    def _close_ranks(self) -> None:
        """Let go of free places."""
        busy = np.flatnonzero(self.slots.weight[: self.used] > 0)
        place = np.cumsum(self.slots.weight[: self.used] > 0) - 1
        self.fresh = [slice(int(place[s.start]), int(place[s.stop - 1]) + 1) for s in self.fresh]
        self.slots = self.slots.moved(busy, busy.size, 2 * busy.size)
        self.used = busy.size

    def _touch(self, touched: NDArray[np.bool_], links: NDArray[np.bool_]) -> bool:
        """Touch the flows that some links hold; tell whether there are more now."""
        if not (self.holding[links] > 0).any():
            return False
        before = np.count_nonzero(touched)
        touched |= np.append(links, False)[self.slots.holder[: self.used]]
        return bool(np.count_nonzero(touched) > before)

    def _more(
        self, touched: NDArray[np.bool_], path: Integers, rate: Floats, holder: Integers,
        load: Floats, held: Integers,
    ) -> bool:  # fmt: skip
        """Touch the flows that cannot keep their rates beside those of the touched ones."""
        # Held by a link that is not full any more, or on which a touched flow is faster.
        kept = held > 0
        links = kept & (load < self.capacity * (1.0 - SAME_LOAD))
        level = np.where(kept, self.level, np.inf) * (1.0 + SAME_LOAD)
        for link in path:
            links[link[rate > level[link]]] = True
        more = self._touch(touched, links)
        # Faster than a touched flow on the link that holds it.
        most = np.full(self.capacity.size, np.inf)
        most[holder[holder >= 0]] = rate[holder >= 0] * (1.0 + SAME_LOAD)
        most[self.crossing == _sum_over(path, None, most.size)] = np.inf
        if np.isfinite(most).any():
            faster = np.zeros(self.used, np.bool_)
            for link in self.slots.path[:, : self.used]:
                faster |= self.slots.rate[: self.used] > most[link]
            faster &= ~touched
            more |= bool(faster.any())
            touched |= faster
        return more

    def _run_on(self, some: Integers | slice, rate: Floats) -> None:
        """Let flows go on at new rates."""
        slots = self.slots
        for few in _in_turn(rate.size):
            here, new = few if isinstance(some, slice) else some[few], rate[few]
            past, before = self.time - slots.since[here], slots.rate[here]
            with np.errstate(divide="ignore", invalid="ignore"):
                moved = np.where(past > 0, before * past, 0.0)
                left = np.maximum(slots.left[here] - moved, 0.0)
                slots.finish[here] = self.time + np.where(left > 0, left / new, 0.0)
            slots.left[here], slots.since[here], slots.rate[here] = left, self.time, new


def completion_times(
    start: Floats, size: Floats, paths: Integers, capacity: Floats,
    weight: Floats | None = None, limit: Floats | None = None,
) -> Floats:  # fmt: skip
    """Return when each of a given set of flows ends, if nothing else moves."""
    count = start.size
    order = np.argsort(start, kind="stable")
    every = Batch(
        paths,
        size.astype(float),
        np.ones(count) if weight is None else weight,
        np.full(count, np.inf) if limit is None else limit,
        np.arange(count),
        np.zeros((count, 0)),
    ).pick(order)
    fluid = Fluid(capacity, paths.shape[1])
    ends = np.full(count, np.inf)
    times, first = np.unique(start[order], return_index=True)
    stops = [*first[1:].tolist(), count]
    at = 0
    while True:
        upcoming = float(times[at]) if at < times.size else np.inf
        completion = fluid.next_completion()
        now = min(upcoming, completion)
        if now == np.inf:
            return ends
        done = fluid.complete(now)
        if done is not None:
            ends[done.tag] = now
        if upcoming == now:
            fluid.add(now, every.pick(slice(int(first[at]), stops[at])))
            at += 1
