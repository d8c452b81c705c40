"""The event loop: workgroups run their programs, flags fly, bytes flow.

State is arrays over actors, an actor being one class of workgroups on one rank. Time jumps from
event to event: an actor ends its own work, its flags are complete, or a flow ends. All that happens
at one time is handled together, so a symmetric collective costs a few array operations.

A transfer ends for a workgroup at start + smooth_maximum(round trip, x, c/g), as in the closed
form: x is the time that the links took, which is simulated here, while the round trip and the
workgroup's own limit are the workgroup's alone.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..errors import InputError
from ..model.latency import READ_KNEE, WRITE_KNEE, smooth_maximum
from ..model.latency import barrier as barrier_us
from ..units import BYTES_PER_US_PER_GBPS
from .conditions import Conditions
from .flows import Batch, Fluid
from .machine import Machine
from .program import EXCHANGE, MEMORY, READ, Barrier, Program, Transfer, Work

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Waiting for a compute unit, where not all workgroups of a kernel fit on the GPU.
QUEUE = "workgroup_queue"


class Blocked(InputError):
    """Nothing can happen any more, yet ranks are not done; the message is the state."""


class Span(Struct, frozen=True):
    """What actors did from ``start`` to ``end`` (us): arrays over (rank, class of workgroups)."""

    term: str
    rank: Integers
    workgroups: Integers
    start: Floats
    end: float


class Run(Struct, frozen=True):
    """What happened. Arrays over ranks; ``own_us`` (ranks, terms) along the workgroup that ended
    each rank's kernels last, so that arrival + own + waiting = finish.

    With recording, ``spans`` hold every step of every class of workgroups, and ``loads`` the bytes
    per microsecond on each link from each time on.
    """

    arrival_us: Floats
    finish_us: Floats
    waiting_us: Floats
    terms: tuple[str, ...]
    own_us: Floats
    events: int
    spans: tuple[Span, ...]
    loads: tuple[tuple[float, Floats], ...]


class Engine:
    """One run of a program. ``conditions`` must have been checked for the machine's ranks."""

    def __init__(
        self, program: Program, machine: Machine, conditions: Conditions, *, record: bool = False
    ) -> None:
        self.program = program
        self.ranks, self.classes = machine.ranks, program.workgroups.size
        self.rank_of = np.repeat(np.arange(self.ranks), self.classes)
        self.class_of = np.tile(np.arange(self.classes), self.ranks)
        actors = self.rank_of.size

        self.topology = machine.topology.with_memory(program.memory_gbps)
        self.fluid = Fluid(self.topology.capacity, self.topology.paths.shape[1], record=record)
        extra = np.maximum(self.topology.hops - machine.base_hops, 0) * machine.hop_us
        self.round_trip = machine.costs.round_trip_us + 2.0 * extra
        #: Flight of a flag between each pair of ranks; its own flag a rank sees at once.
        self.flight = float(barrier_us(machine.costs, np.array(float(self.ranks)))) + extra
        self.one_flight = not extra.any()

        self.arrival = np.asarray(conditions.arrivals_us, float)
        self.step = np.full(actors, -1)
        self.ready = self.arrival[self.rank_of]
        self.entered = self.ready.copy()
        self.done = np.zeros(actors, np.bool_)
        self.terms = tuple(dict.fromkeys([QUEUE, *(s.term for s in program.steps)]))
        self.term_at = np.array([self.terms.index(s.term) for s in program.steps])
        self.own = np.zeros((actors, len(self.terms)))
        self.waiting = np.zeros(actors)
        self.finish = np.full(self.ranks, np.nan)
        self.last = np.zeros(self.ranks, np.int64)

        # Per transfer and actor, flattened: flows to come, when the last one lands and was started,
        # and whether the actor is there to wait for them.
        transfers = [s for s in program.steps if isinstance(s, Transfer)]
        self.slot = {id(s): i * actors for i, s in enumerate(transfers)}
        self.pending = np.zeros(len(transfers) * actors, np.int64)
        self.landed = np.zeros(self.pending.size)
        self.posted = np.zeros(self.pending.size)
        self.awaited = np.zeros(self.pending.size, np.bool_)
        for s in transfers:
            if s.kind == EXCHANGE:
                mine = slice(self.slot[id(s)], self.slot[id(s)] + actors)
                self.pending[mine] = np.where(s.wire_bytes[self.class_of] > 0, self.ranks - 1, 0)

        self.flags = np.zeros((len(program.steps), self.classes), np.int64)
        everyone = np.arange(self.ranks)
        others = np.tile(everyone, self.ranks)[(everyone[:, None] != everyone).ravel()]
        self.peers = others.reshape(self.ranks, self.ranks - 1)
        self.queue = self._queue(machine, conditions)
        self.spans: list[Span] | None = [] if record else None
        self.events = 0
        for stream in conditions.background:
            self._flow(
                0.0,
                pair=np.array([stream.source * self.ranks + stream.target]),
                size=np.array([np.inf]),
                weight=np.array([float(stream.flows)]),
                limit=stream.gbps * BYTES_PER_US_PER_GBPS / stream.flows,
                waiter=np.array([-1]),
                alone=np.zeros((1, 2)),
            )

    def run(self) -> Run:
        """Run to the end; raise :class:`Blocked` when no rank can go on."""
        while not self.done.all():
            now = min(float(self.ready.min()), self.fluid.next_completion())
            if now == np.inf:
                raise Blocked(self._state())
            self.events += 1
            landed = self.fluid.complete(now)
            if landed is not None:
                self._land(now, landed)
            due = np.flatnonzero(self.ready <= now)
            if due.size:
                self._go_on(now, due)
        self.fluid.next_completion()  # books the load after the last flow
        return Run(
            arrival_us=self.arrival,
            finish_us=self.finish,
            waiting_us=self.waiting[self.last],
            terms=self.terms,
            own_us=self.own[self.last],
            events=self.events,
            spans=tuple(self.spans or ()),
            loads=tuple(self.fluid.loads or ()),
        )

    def _go_on(self, now: float, actors: Integers) -> None:
        """Let actors whose step has ended enter the next one."""
        if self.spans is not None:
            self._record(now, actors)
        self.ready[actors] = np.inf
        self.step[actors] += 1
        self.entered[actors] = now
        for at, some in self._by_step(actors):
            if at == len(self.program.steps):
                self.done[some] = True
                self.finish[self.rank_of[some]] = now
                continue
            step = self.program.steps[at]
            if isinstance(step, Work):
                self._work(now, at, step, some)
            elif isinstance(step, Transfer):
                self._transfer(now, step, some)
            elif isinstance(step, Barrier):
                self._barrier(at, some)
            else:
                self._end_of_kernel(now, some)

    def _work(self, now: float, at: int, step: Work, actors: Integers) -> None:
        us = np.where(step.members[self.class_of[actors]], step.us[self.rank_of[actors]], 0.0)
        self.own[actors, self.term_at[at]] += us
        self.ready[actors] = now + us

    def _barrier(self, at: int, actors: Integers) -> None:
        """Count flags; when the last rank of a class has stored its own, every end is known."""
        self.flags[at] += np.bincount(self.class_of[actors], minlength=self.classes)
        for k in np.flatnonzero(self.flags[at] == self.ranks).tolist():
            self.flags[at, k] = -1
            members = np.arange(self.ranks) * self.classes + k
            stored = self.entered[members]
            if self.one_flight:
                flight: Floats | float = self.flight[0]
                last, second = np.argsort(stored)[[-1, -2]]
                others = np.full(self.ranks, stored[last])
                others[last] = stored[second]
                end = np.maximum(stored, others + flight)
            else:
                between = self.flight.reshape(self.ranks, self.ranks)
                seen = stored[:, None] + between
                np.fill_diagonal(seen, stored)
                end, flight = seen.max(axis=0), between.max(axis=0)
            own = np.minimum(end - stored, flight)
            self.own[members, self.term_at[at]] += own
            self.waiting[members] += end - stored - own
            self.ready[members] = end

    def _transfer(self, now: float, step: Transfer, actors: Integers) -> None:
        """Start an actor's flows, and let it wait for those that are meant for it."""
        size = step.wire_bytes[self.class_of[actors]]
        self.ready[actors[size <= 0]] = now
        actors, size = actors[size > 0], size[size > 0]
        if not actors.size:
            return
        slot = self.slot[id(step)]
        rank, k = self.rank_of[actors], self.class_of[actors]
        if step.kind == MEMORY:
            self.pending[slot + actors] = 1
            self._flow(
                now,
                pair=rank * (self.ranks + 1),
                size=size,
                weight=np.ones(actors.size),
                waiter=slot + actors,
                alone=np.zeros((actors.size, 2)),
            )
        else:
            fan = self.ranks - 1
            peer, mine = self.peers[rank].ravel(), np.repeat(rank, fan)
            pair = peer * self.ranks + mine if step.kind == READ else mine * self.ranks + peer
            if step.kind == EXCHANGE:
                waiter = slot + peer * self.classes + np.repeat(k, fan)
                self.posted[waiter] = now
            else:
                waiter = np.repeat(slot + actors, fan)
                self.pending[slot + actors] = fan
            limit = np.repeat(step.limit_us[rank, k], fan)
            self._flow(
                now,
                pair=pair,
                size=np.repeat(size, fan),
                weight=np.repeat(self.program.workgroups[k], fan).astype(float),
                waiter=waiter,
                alone=np.stack([self.round_trip[pair], limit], axis=1),
                reads=step.kind == READ,
            )
        self.awaited[slot + actors] = True
        self._collect(slot + actors)

    def _flow(
        self, now: float, *, pair: Integers, size: Floats, weight: Floats, waiter: Integers,
        alone: Floats, reads: bool = False, limit: float = np.inf,
    ) -> None:  # fmt: skip
        """Start flows; ``alone`` (flows, 2) is the round trip and the workgroup's own limit.

        ``reads`` says with which knee they join the time over the links.
        """
        note = np.column_stack([np.full(pair.size, now), alone, np.full(pair.size, reads)])
        rates = np.full(pair.size, limit)
        self.fluid.add(now, Batch(self.topology.paths[pair], size, weight, rates, waiter, note))

    def _land(self, now: float, flows: Batch) -> None:
        """Book flows that ended; a workgroup that has all of its own can tell its end."""
        start, trip, limit, reads = flows.note.T
        limits = trip, now - start, limit
        as_read, as_written = (smooth_maximum(*limits, power=p) for p in (READ_KNEE, WRITE_KNEE))
        end = start + np.where(reads, as_read, as_written)
        np.maximum.at(self.landed, flows.tag, end)
        np.subtract.at(self.pending, flows.tag, 1)
        self._collect(np.unique(flows.tag))

    def _collect(self, where: Integers) -> None:
        """End the transfers for which nothing is missing, among slots ``where``."""
        where = where[self.awaited[where] & (self.pending[where] == 0)]
        if not where.size:
            return
        self.awaited[where] = False
        actors = where % self.rank_of.size
        entered = self.entered[actors]
        end = np.maximum(self.landed[where], entered)
        waiting = np.clip(self.posted[where] - entered, 0.0, end - entered)
        self.waiting[actors] += waiting
        self.ready[actors] = end
        self.own[actors, self.term_at[self.step[actors]]] += end - entered - waiting

    def _end_of_kernel(self, now: float, actors: Integers) -> None:
        """The last workgroup of a rank carries on for it; queued ones take the others' places."""
        self.done[actors] = True
        for rank, queue in self.queue.items():
            freed = actors[self.rank_of[actors] == rank]
            start, self.queue[rank] = queue[: freed.size], queue[freed.size :]
            if start:
                launched = self.own[freed[0], self.terms.index("launch")]
                self.own[start, self.terms.index("launch")] = launched
                queued = max(now - self.arrival[rank] - launched, 0.0)
                self.own[start, self.terms.index(QUEUE)] = queued
                self.step[start] = 0
                self.entered[start] = self.ready[start] = now
        left = np.bincount(self.rank_of[~self.done], minlength=self.ranks)
        heads = actors[left[self.rank_of[actors]] == 0]
        heads = heads[np.unique(self.rank_of[heads], return_index=True)[1]]
        self.last[self.rank_of[heads]] = heads
        self.done[heads] = False
        self.ready[heads] = now

    def _queue(self, machine: Machine, conditions: Conditions) -> dict[int, list[int]]:
        """Hold back the workgroups that do not fit on their rank; return rank -> queue."""
        room = np.full(self.ranks, machine.resident)
        room[list(conditions.resident)] = list(conditions.resident.values())
        queue: dict[int, list[int]] = {}
        for rank in np.flatnonzero(room < int(self.program.workgroups.sum())).tolist():
            first = rank * self.classes
            queue[rank] = list(range(first + int(room[rank]), first + self.classes))
            self.ready[queue[rank]] = np.inf
        return queue

    def _by_step(self, actors: Integers) -> list[tuple[int, Integers]]:
        """Return the actors grouped by the step that they are in."""
        if not actors.size:
            return []
        step = self.step[actors]
        first = int(step[0])
        if (step == first).all():
            return [(first, actors)]
        return [(at, actors[step == at]) for at in np.unique(step).tolist()]

    def _record(self, now: float, actors: Integers) -> None:
        assert self.spans is not None
        for at, some in self._by_step(actors[self.step[actors] >= 0]):
            self.spans.append(
                Span(
                    self.program.steps[at].term,
                    self.rank_of[some],
                    self.class_of[some],
                    self.entered[some].copy(),
                    now,
                )
            )

    def _state(self) -> str:
        """Say in one line where every rank stands and what it lacks."""
        stuck = np.flatnonzero(~self.done)
        when = float(
            np.max(self.entered[stuck], initial=0.0, where=np.isfinite(self.entered[stuck]))
        )
        places: dict[str, set[int]] = {}
        for actor in stuck.tolist():
            rank, at = int(self.rank_of[actor]), int(self.step[actor])
            if at < 0:
                queued = np.isfinite(self.arrival[rank])
                place = "had no CU for a workgroup" if queued else "never arrived"
            else:
                step = self.program.steps[at]
                if isinstance(step, Barrier):
                    lacking = np.flatnonzero(self._steps_of(int(self.class_of[actor])) < at)
                    place = f"spun at {step.term} for flags of {_ranks(lacking.tolist())}"
                else:
                    place = f"waited in {step.term} for bytes that do not come"
            places.setdefault(place, set()).add(rank)
        said = "; ".join(f"{_ranks(sorted(r))} {place}" for place, r in places.items())
        return f"the simulation is blocked at {when:.2f} us: {said}"

    def _steps_of(self, k: int) -> Integers:
        """Return the step of class ``k`` on every rank."""
        return self.step.reshape(self.ranks, self.classes)[:, k]


def _ranks(ranks: list[int]) -> str:
    """Return ``ranks 0, 1, 5`` with runs shortened: ``ranks 0-3, 7``."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"rank{'s' if len(ranks) != 1 else ''} {text}"
