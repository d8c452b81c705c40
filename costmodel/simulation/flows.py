"""Flows over links: max-min fair rates, and the fluid that moves at them.

A flow crosses every link of its path at one rate. Rates are max-min fair: raise all together until
a link is full or a flow reaches its own limit, hold those that are stopped, go on with the rest
(water filling; Bertsekas and Gallager, Data Networks, section 6.5.2). A flow of weight m stands for
m equal flows on one path: they start alike, are treated alike and end alike, so they are one.

Rates are in bytes per microsecond (1 GB/s = 1e3), sizes in bytes, times in microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Shares that differ by less than this are one level of the water.
SAME_LEVEL = 1e-12


def fair_rates(paths: Integers, weight: Floats, limit: Floats, capacity: Floats) -> Floats:
    """Return the max-min fair rate of one member of each flow.

    ``paths`` (flows, hops) indexes links; a path shorter than the widest is padded with any link
    of infinite capacity. ``weight`` (flows,) counts a flow's members, ``limit`` (flows,) is the
    most that a member can take (inf: no limit) and ``capacity`` (links,) what a link carries.
    """
    links = capacity.size
    hops = paths.shape[1]
    if hops == 1 and np.isinf(limit).all():
        only = paths[:, 0]
        return (capacity / np.maximum(np.bincount(only, weight, links), 1.0))[only]
    rate = np.zeros(weight.size)
    left = capacity.astype(float)
    open_ = np.arange(weight.size)
    while open_.size:
        path, members = paths[open_], weight[open_]
        load = np.bincount(path.ravel(), np.repeat(members, hops), links)
        share = np.full(links, np.inf)
        np.divide(left, load, out=share, where=load > 0)
        offered = share[path]
        level = np.minimum(offered.min(axis=1), limit[open_])
        # A link is full when all its flows stop at its share; no later round can raise them.
        held_elsewhere = level[:, None] < offered * (1.0 - SAME_LEVEL)
        full = np.bincount(path[held_elsewhere], minlength=links) == 0
        stopped = (~held_elsewhere & full[path]).any(axis=1)
        stopped |= limit[open_] <= level
        fixed = open_[stopped]
        rate[fixed] = level[stopped]
        used = np.repeat(level[stopped] * members[stopped], hops)
        left = np.maximum(left - np.bincount(path[stopped].ravel(), used, links), 0.0)
        open_ = open_[~stopped]
    return rate


@dataclass
class Batch:
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

    def pick(self, which: NDArray[np.bool_]) -> Batch:
        """Return some of the flows."""
        return Batch(*(column[which] for column in self._columns()))

    def join(self, other: Batch) -> Batch:
        """Return both batches as one."""
        pairs = zip(self._columns(), other._columns(), strict=True)
        return Batch(*(np.concatenate(pair) for pair in pairs))

    def _columns(self) -> tuple[Any, ...]:
        return self.paths, self.size, self.weight, self.limit, self.tag, self.note


class Fluid:
    """The flows in motion on links of given ``capacity``.

    Between two changes of the set of flows every rate is constant, so the next completion is known
    exactly. A flow of infinite size never ends. With ``record`` the load of every link is kept
    after each change, as (time, bytes/us of all links).
    """

    def __init__(self, capacity: Floats, hops: int, *, record: bool = False) -> None:
        self.capacity = capacity
        self.hops = hops
        self.flows: Batch | None = None
        self.rate = self.finish = np.zeros(0)
        self.time = 0.0
        self.stale = False
        self.loads: list[tuple[float, Floats]] | None = [] if record else None

    def add(self, time: float, batch: Batch) -> None:
        """Start flows at ``time``, which must not lie before the last change."""
        self._move_to(time)
        self.flows = batch if self.flows is None else self.flows.join(batch)
        self.rate = np.concatenate([self.rate, np.zeros(batch.size.size)])
        self.stale = True

    def next_completion(self) -> float:
        """Return when the next flow ends; inf when none will."""
        if self.stale:
            self._share()
        return float(self.finish.min()) if self.finish.size else np.inf

    def complete(self, time: float) -> Batch | None:
        """Move to ``time`` and return the flows that ended by then, None when none did.

        Ask :meth:`next_completion` before.
        """
        ended = self.finish <= time
        if self.flows is None or not ended.any():
            return None
        self._move_to(time)
        self.stale = True
        if ended.all():
            found, self.flows, self.rate = self.flows, None, np.zeros(0)
            return found
        kept = ~ended
        found, self.flows, self.rate = (
            self.flows.pick(ended),
            self.flows.pick(kept),
            self.rate[kept],
        )
        return found

    def _move_to(self, time: float) -> None:
        """Let every flow run to ``time`` at its rate; ``size`` is what is left of it."""
        if self.flows is not None and time > self.time:
            self.flows.size = np.maximum(self.flows.size - self.rate * (time - self.time), 0.0)
        self.time = max(time, self.time)

    def _share(self) -> None:
        self.stale = False
        flows = self.flows
        if flows is None:
            self.finish = np.zeros(0)
            if self.loads is not None:
                self.loads.append((self.time, np.zeros(self.capacity.size)))
            return
        self.rate = fair_rates(flows.paths, flows.weight, flows.limit, self.capacity)
        with np.errstate(divide="ignore", invalid="ignore"):
            duration = np.where(flows.size > 0, flows.size / self.rate, 0.0)
        self.finish = self.time + duration
        if self.loads is not None:
            flowing = np.repeat(self.rate * flows.weight, self.hops)
            load = np.bincount(flows.paths.ravel(), flowing, self.capacity.size).astype(float)
            self.loads.append((self.time, load))


def completion_times(
    start: Floats, size: Floats, paths: Integers, capacity: Floats,
    weight: Floats | None = None, limit: Floats | None = None,
) -> Floats:  # fmt: skip
    """Return when each of a given set of flows ends, if nothing else moves."""
    count = start.size
    every = Batch(
        paths,
        size.astype(float),
        np.ones(count) if weight is None else weight,
        np.full(count, np.inf) if limit is None else limit,
        np.arange(count),
        np.zeros((count, 0)),
    )
    fluid = Fluid(capacity, paths.shape[1])
    ends = np.full(count, np.inf)
    times = np.unique(start)
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
            fluid.add(now, every.pick(start == now))
            at += 1
