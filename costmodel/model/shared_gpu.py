"""Loopback: N virtual ranks on one GPU, whose links are the GPU's own caches and memory.

The project's Triton kernels (family ``costmodel``) run all ranks in one launch, so nothing here is
per link: what one rank reads from another passes the same L2 cache as everything else. With S bytes
per rank, N ranks and P programs a rank::

    1-stage  = launch + barrier + phase((N + 3) N S, 4 N S) + barrier
    2-stage  = launch + barrier + phase(2 N S, 2 N S) + barrier + second launch + local pass
    2-stage of revision 2: the local pass in the same launch, by the programs that were behind the
               barrier together; of revision 3: both passes in turns that overlap, and no barrier
    barrier  = flight + straggler log2(N P)
    phase    = (chain^4 + (issued / cache rate)^4 + (missed / memory rate)^4)^(1/4)
    chain    = turns (program bytes / program rate + the waits of a turn)

*Issued* is all that the programs of all ranks load and store, *distinct* what of it differs.
A call's working set W (4 N S, and N S more where the gathered sum goes through memory) fits the
cache or not: the share ``1 / (1 + (C / W)^4)`` of the distinct bytes comes from memory. C is
fitted, since sets of buffers that calls rotate through share the cache.

A program that holds a row ends each turn with the norm, whose reduction waits for all loads: the
norm's own time, and where the cache misses a loaded memory latency, of which 1/k shows while k
programs share a multiprocessor. Programs without rows only load more slowly where it misses.

Programs per rank are what fits on the GPU at once (``facts/residency.csv``): barriers between
programs that cannot all be resident would never end, and few of them make many turns.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..data import facts
from ..data.kernels import OWN_FAMILIES, Kernel
from ..errors import InputError
from ..units import PACK_BYTES
from .fabric import LOOPBACK
from .latency import smooth_maximum
from .row_programs import (
    even_programs,
    part_of,
    row_block,
    row_threads,
    rows_a_turn,
    two_stage_threads,
)
from .shape import ALL_REDUCE, FUSED, ONE_STAGE, Shapes

Array = NDArray[np.float64]

#: How steeply misses set in where the working set outgrows the cache: the power 2^2 = 4. Between 4
#: and 8 the residuals of the calibration do not tell.
MISS_DOUBLINGS = 2

#: Power of the smooth maximum over the limits of one GPU: its programs, its cache, its memory.
LIMITS_POWER = 4.0

#: How a port's time joins that of the programs, which ask for all that they load at once: the power
#: of the norm, between a sum (1) and a maximum. Rows of two revisions on two H200 are off least
#: between 1.35 and 1.7 (1-stage at 2 to 8 ranks 1.5 to 2.0 %; at 4 they were 2.9 to 3.9 %).
PORT_POWER = 1.5

#: Turns in which the programs of a marked 2-stage still go in step, so that the port waits for them
#: and they for it; later ones hide one behind the other. On two H200 the second turn of hidden 7168
#: at 4 ranks takes 14.8 us, each further one 10.7 us, and its bytes alone 10.2 us.
TURNS_IN_STEP = 2.0

#: What a pack without columns takes of one that is full: in a 1-stage, which has the loads from all
#: ranks in flight at once, and in the rows of a marked 2-stage. Over 31 hidden sizes on two H200 in
#: three leases (a hidden size's mean near its crossover) the ratio of the arms is off by 0.65 % at
#: 4 ranks and 1.0 % at 8; with a half for both by 0.8 and 1.45, with three quarters for both by
#: 0.9 and 1.3. The parts that a 2-stage pushes count whole: at a half they are off by 0.8 and 1.2.
UNFILLED_ONE_STAGE = 0.75
UNFILLED_TWO_STAGE = 0.5

#: Packs of a row in each thread of the kernels that ``norm_us`` is fitted to; in a marked 2-stage,
#: whose threads hold up to four, the norm takes as much longer.
NORM_PACKS = 2.0

#: Programs of a multiprocessor whose fences come one after the other, see :func:`shared_terms`.
QUEUED_FENCES = 2.0

#: Parameters that one value serves for all GPUs.
FOR_ALL_GPUS = (
    "launch_us",
    "second_launch_us",
    "barrier_us[one_gpu]",
    "straggler_us",
    "release_acquire_us",
    "release_acquire_us_per_doubling",
    "norm_us",
    "miss_us",
    "harness_us",
)

ROW_KERNEL = "fused_one_stage"
SCATTER = "reduce_scatter_to_peers"
ROWS_TWICE = "fused_two_stage"
PLAIN = {"1stage": "all_reduce_one_stage", "2stage": "all_reduce_two_stage"}


class Phase(Struct, frozen=True):
    """One pass over data by the programs of all ranks, between barriers.

    A program makes ``turns`` turns and loads and stores ``program_bytes`` in each; all programs
    together ``issued_bytes``, of which ``distinct_bytes`` differ. ``sharing`` programs run on one
    multiprocessor; None where programs hold no row and end no turn with a norm. ``packs`` are those
    of a row in each thread.
    """

    turns: Array
    program_bytes: Array
    issued_bytes: Array
    distinct_bytes: Array
    sharing: Array | None = None
    packs: Any = NORM_PACKS


class SharedGpuGeometry(Struct, frozen=True):
    """What one call does, over all ranks of the one GPU. Arrays have the shapes' shape.

    ``programs`` counts those of all ranks that meet in a barrier. ``local`` is the pass behind it:
    a second kernel's, a program a row, which need not be resident; or, in ``one_launch``, that of
    the same programs. None for a single pass. ``marked`` 2-stages have no barrier between the
    passes: a turn of one goes beside a turn of the other.
    """

    op: str
    algorithm: str
    world_size: Array
    size_bytes: Array
    programs: Array
    rows: Array
    phases: tuple[Phase, ...]
    local: Phase | None
    working_set_bytes: Array
    one_launch: bool = False
    marked: bool = False


class SharedGpuCosts(Struct, frozen=True):
    """What each action costs on one GPU, as :class:`.latency.LinkCosts` for links."""

    launch_us: Any
    second_launch_us: Any
    barrier_us: Any
    straggler_us: Any
    release_us: Any
    release_us_per_doubling: Any
    stage_gap_us: Any
    norm_us: Any
    miss_us: Any
    program_gbps: Any
    miss_gbps: Any
    cache_gbps: Any
    memory_gbps: Any
    cache_bytes: Any
    harness_us: Any = 0.0


class AcrossGpus(Struct, frozen=True):
    """What ranks on other GPUs add to a pass, in us.

    ``port_us`` is what the port takes in each phase, ``trip_us`` a round trip a phase, ``row_us``
    what a turn of a program that holds rows waits besides, ``us_a_byte`` what each byte that a
    program loads and stores takes longer. Where ``ends_last``, the end of a program's last turn
    comes behind whatever limits the pass.
    """

    port_us: tuple[Any, ...]
    trip_us: Any = 0.0
    row_us: Any = 0.0
    us_a_byte: Any = 0.0
    ends_last: bool = False


class Residency(Struct, frozen=True):
    """How many programs of a kernel fit on one multiprocessor, by hidden size (0: any)."""

    multiprocessors: int
    hidden_dims: tuple[int, ...]
    programs: tuple[int, ...]

    def resident(self, hidden_dim: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the programs that fit on the GPU; a size not listed counts as the next larger."""
        at = np.searchsorted(self.hidden_dims, hidden_dim)
        at = np.minimum(at, len(self.hidden_dims) - 1)
        return self.multiprocessors * np.array(self.programs)[at]


@cache
def residency() -> dict[tuple[str, str, str, int], Residency]:
    """Return the facts by (arch, kernel family, kernel, world size)."""
    found: dict[tuple[str, str, str, int], list[tuple[int, int, int]]] = {}
    for row in facts.rows("residency.csv"):
        key = (row["arch"], row["family"], row["kernel"], int(row["world_size"]))
        found.setdefault(key, []).append(
            (
                int(row["hidden_dim"] or 0),
                int(row["programs_per_multiprocessor"]),
                int(row["multiprocessors"]),
            )
        )
    return {
        key: Residency(rows[0][2], tuple(r[0] for r in rows), tuple(r[1] for r in rows))
        for key, rows in ((key, sorted(rows)) for key, rows in found.items())
    }


def archs() -> tuple[str, ...]:
    """Return the archs whose residency is known."""
    return tuple(dict.fromkeys(arch for arch, *_ in residency()))


def multiprocessors(arch: str) -> int:
    """Return the multiprocessors of the GPU behind an arch's residency facts."""
    return next(r.multiprocessors for (a, *_), r in residency().items() if a == arch)


class SharedGpuModel(Struct, frozen=True):
    """The :class:`~.interface.LatencyModel` of ranks that share one GPU."""

    fabric: str = LOOPBACK
    wiring: None = None

    def parameter_names(
        self, gpus: Iterable[tuple[str, str]], norm_kernels: Iterable[str]
    ) -> list[str]:
        """See :meth:`.LatencyModel.parameter_names`; there is one norm kernel, the project's."""
        return [*shared_parameters(gpus), *FOR_ALL_GPUS]

    def covers(self, names: Container[str], norm_kernel: str) -> bool:
        """The separate norm kernel is always the project's own."""
        return True

    def reason_against(self, kernel_family: str, arch: str, world_size: int) -> str | None:
        """See :meth:`.LatencyModel.reason_against`.

        Only the project's kernels run like this, on archs whose residency is known.
        """
        if kernel_family not in OWN_FAMILIES:
            return "kernel on this interconnect"
        return None if arch in archs() else "programs that fit on this arch not known"

    def by_bytes(self, op: str, algorithm: str) -> bool:
        """See :meth:`.LatencyModel.by_bytes`; how many programs fit hangs on the hidden size."""
        return False

    def geometry(
        self, shapes: Shapes, algorithm: str, kernel: Kernel, arch: str
    ) -> SharedGpuGeometry:
        """See :func:`shared_geometry`: all ranks share the GPU."""
        return shared_geometry(
            shapes, algorithm, kernel, arch, shapes.world_size.astype(np.float64)
        )

    def costs(
        self, values: Mapping[str, Any], arch: str, gpu: str, *, norm_kernel: str, hbm_gbps: float,
        harness_us: Any = 0.0,
    ) -> SharedGpuCosts:  # fmt: skip
        """Resolve named parameter values for one GPU; there is one norm kernel, the project's."""
        barrier_us = values["barrier_us[one_gpu]"]
        return shared_costs(values, arch, gpu, barrier_us, hbm_gbps, harness_us)

    def terms(self, geometry: SharedGpuGeometry, costs: SharedGpuCosts) -> dict[str, Any]:
        """See :meth:`.LatencyModel.terms`; the names are those of :data:`.latency.TERMS`."""
        return shared_terms(geometry, costs)


def shared_parameters(gpus: Iterable[tuple[str, str]]) -> list[str]:
    """Return the parameters of what happens on one GPU, for (arch, gpu) pairs."""
    pairs = sorted(set(gpus))
    names = []
    for _, gpu in pairs:
        names += [f"cache_gbps[{gpu}]", f"memory_efficiency[{gpu}]", f"cache_bytes[{gpu}]"]
    for arch in sorted({arch for arch, _ in pairs}):
        names += [f"workgroup_gbps[{arch}]", f"miss_workgroup_gbps[{arch}]"]
        names += [f"stage_gap_us[{arch}]"]
    return names


def shared_geometry(
    shapes: Shapes, algorithm: str, kernel: Kernel, arch: str, local: Array
) -> SharedGpuGeometry:
    """Return what ``algorithm`` does for every shape on a GPU that holds ``local`` of its ranks.

    Raises :class:`InputError` for an arch whose residency is not known. Source:
    ``kernels.py`` and ``launch.py`` of ``costmodel/live/backends/triton``.
    """
    if arch not in archs():
        raise InputError(
            f"facts/residency.csv has no {arch}; loopback is modelled on {', '.join(archs())}"
        )
    n = shapes.world_size.astype(np.float64)
    tokens = shapes.tokens.astype(np.float64)
    row = shapes.hidden_dim.astype(np.float64) * shapes.element_bytes
    size = tokens * row
    one_stage, fused = algorithm == ONE_STAGE, shapes.op == FUSED
    held = row
    if kernel.ranks_loaded_together:
        # Revision 2 keeps the form that its predictions were registered with.
        unfilled = UNFILLED_ONE_STAGE if kernel.fused_2stage_marked else 1.0
        across = row_threads(shapes.hidden_dim, n) * PACK_BYTES
        held = packs_held(row, across, unfilled) * across
    block = float(kernel.threads * PACK_BYTES)

    def programs(name: str, work: Array) -> Array:
        resident = np.zeros(work.shape)
        for ranks in np.unique(shapes.world_size).tolist():
            mine = shapes.world_size == ranks
            fits = residency()[arch, kernel.family, name, ranks].resident(shapes.hidden_dim[mine])
            resident[mine] = fits // local[mine]
        most = np.minimum(np.minimum(work, resident), kernel.max_workgroups)
        return even_programs(work, most).astype(np.float64) if kernel.even_turns else most

    def phase(count: Array, work: Array, program_bytes: Array, issued: Any, distinct: Any) -> Phase:
        return Phase(np.ceil(work / count), program_bytes, issued * size, distinct * size)

    def shared_by(count: Array) -> Array:
        return np.ceil(local * count / multiprocessors(arch))

    second = None
    if fused and one_stage:
        count = programs(ROW_KERNEL, tokens)
        rows = phase(count, tokens, (n + 3) * held, (n + 3) * local, 4 * local)
        phases: tuple[Phase, ...] = (replace(rows, sharing=shared_by(count)),)
    elif fused and kernel.fused_2stage_marked:
        # A turn reads and pushes a rank's part of one row, and norms another: it reads the sum and
        # the residual, writes both outputs and the marks, and looks once too early.
        count = programs(ROWS_TWICE, tokens)
        part = row_block(part_of(shapes.hidden_dim, shapes.world_size, shapes.element_bytes))
        part_bytes = 2 * n * part * shapes.element_bytes
        phases = (phase(count, tokens, part_bytes, 2 * local, 2 * local),)
        across = two_stage_threads(shapes.hidden_dim, shapes.world_size) * PACK_BYTES
        packs = packs_held(row, across, UNFILLED_TWO_STAGE)
        rows = phase(count, tokens, 6 * packs * across, 6 * local, 4 * local)
        second = replace(rows, sharing=shared_by(count), packs=packs)
    elif fused and kernel.fused_2stage_one_launch:
        # A program takes the same tokens in both passes: its rank's part of each, then the rows.
        # A turn of the first takes as many parts as fill the threads, padded to a power of two.
        count = programs(ROWS_TWICE, tokens)
        part = row_block(shapes.hidden_dim / n)
        elements = row_threads(shapes.hidden_dim, 1) * (PACK_BYTES // shapes.element_bytes)
        parts = rows_a_turn(np.ceil(tokens / count), part, elements)
        part_bytes = 2 * n * part * parts * shapes.element_bytes
        phases = (phase(count, np.ceil(tokens / parts), part_bytes, 2 * local, 2 * local),)
        rows = phase(count, tokens, 4 * row, 4 * local, 4 * local)
        second = replace(rows, sharing=shared_by(count))
    else:
        share = size if one_stage else size / n
        work = np.ceil(share / block)
        part = np.minimum(share, np.full_like(share, block))
        count = programs(SCATTER if fused else PLAIN[algorithm], work)
        if fused:
            phases = (phase(count, work, 2 * n * part, 2 * local, 2 * local),)
        elif one_stage:
            phases = (phase(count, work, (n + 1) * part, (n + 1) * local, 2 * local),)
        else:
            phases = (
                phase(count, work, (n + 1) * part, (n + 1) * local / n, local),
                phase(count, work, 2 * n * part, 2 * local, 2 * local),
            )
        if shapes.op != ALL_REDUCE:
            second = Phase(np.ones_like(size), 5 * row, 4 * local * size, 4 * local * size)
    return SharedGpuGeometry(
        op=shapes.op,
        algorithm=algorithm,
        world_size=n,
        size_bytes=size,
        programs=n * count,
        rows=local * tokens,
        phases=phases,
        local=second,
        working_set_bytes=(4.0 if second is None else 5.0) * local * size,
        one_launch=fused and not one_stage and kernel.fused_2stage_one_launch,
        marked=fused and not one_stage and kernel.fused_2stage_marked,
    )


def packs_held(row_bytes: Array, across_bytes: Any, unfilled: float) -> Array:
    """Return how many packs of a row a thread has, of ``across_bytes`` over all threads.

    With all loads in flight a thread without a column takes its time too, but moves nothing: of
    what is missing to whole packs the share ``unfilled`` counts.
    """
    packs: Array = row_bytes / across_bytes
    return packs + unfilled * (np.ceil(packs) - packs)


def shared_costs(
    values: Mapping[str, Any], arch: str, gpu: str, barrier_us: Any, hbm_gbps: float,
    harness_us: Any,
) -> SharedGpuCosts:  # fmt: skip
    """Resolve named parameter values of what happens on one GPU."""
    return SharedGpuCosts(
        launch_us=values["launch_us"],
        second_launch_us=values["second_launch_us"],
        barrier_us=barrier_us,
        straggler_us=values["straggler_us"],
        release_us=values["release_acquire_us"],
        release_us_per_doubling=values["release_acquire_us_per_doubling"],
        stage_gap_us=values[f"stage_gap_us[{arch}]"],
        norm_us=values["norm_us"],
        miss_us=values["miss_us"],
        program_gbps=values[f"workgroup_gbps[{arch}]"],
        miss_gbps=values[f"miss_workgroup_gbps[{arch}]"],
        cache_gbps=values[f"cache_gbps[{gpu}]"],
        memory_gbps=values[f"memory_efficiency[{gpu}]"] * hbm_gbps,
        cache_bytes=values[f"cache_bytes[{gpu}]"],
        harness_us=harness_us,
    )


def shared_terms(
    geometry: SharedGpuGeometry, costs: SharedGpuCosts, crossing: AcrossGpus | None = None
) -> dict[str, Any]:
    """Return the named terms in us; ``crossing`` is what other GPUs' ranks add to each pass."""
    per_gbps = 1e-3  # bytes / (GB/s) = 1e-3 us
    miss = missed(geometry.working_set_bytes, costs.cache_bytes)
    crossing = crossing or AcrossGpus((0.0, 0.0))

    def slowest(phase: Phase, chain_us: Any) -> Any:
        return smooth_maximum(
            chain_us,
            phase.issued_bytes * (per_gbps / costs.cache_gbps),
            miss * phase.distinct_bytes * (per_gbps / costs.memory_gbps),
            power=LIMITS_POWER,
        )

    def row_end(rows: Phase) -> Any:
        return costs.norm_us * rows.packs / NORM_PACKS + miss * costs.miss_us / rows.sharing

    def pass_over(phase: Phase, port_us: Any) -> Any:
        turn = phase.program_bytes * (per_gbps / costs.program_gbps + crossing.us_a_byte)
        end = 0.0
        if phase.sharing is not None:
            end = crossing.row_us + row_end(phase)
        else:
            turn = turn + miss * phase.program_bytes * (per_gbps / costs.miss_gbps)
        last = end if crossing.ends_last else 0.0
        chain = phase.turns * (turn + end) - last
        on_gpu = slowest(phase, chain)
        if np.any(port_us):
            on_gpu = smooth_maximum(on_gpu, port_us, power=PORT_POWER)
        return crossing.trip_us + last + on_gpu

    def side_by_side(parts: Phase, rows: Phase, port_us: Any) -> Any:
        a_byte = per_gbps / costs.program_gbps
        chain = parts.program_bytes * (a_byte + crossing.us_a_byte) + rows.program_bytes * a_byte
        turns = parts.turns
        turn = slowest(
            replace(
                parts,
                issued_bytes=(parts.issued_bytes + rows.issued_bytes) / turns,
                distinct_bytes=(parts.distinct_bytes + rows.distinct_bytes) / turns,
            ),
            chain + row_end(rows),
        )
        in_step, later = turn, turn
        if np.any(port_us):
            in_step = smooth_maximum(turn, port_us / turns, power=PORT_POWER)
            # Each waits for its own loads and for what peers have pushed, which the first turn's
            # round trip and the call's end are counted for. On two H200, 4 ranks, hidden 2880 on 8
            # programs a rank, a turn takes 2.1 to 2.4 us (revision-3/workgroups.csv).
            waits = crossing.trip_us + costs.release_us
            later = smooth_maximum(turn + waits, port_us / turns, power=LIMITS_POWER)
        first = np.minimum(turns, TURNS_IN_STEP)
        return crossing.trip_us + first * in_step + (turns - first) * later

    one_stage, fused = geometry.algorithm == ONE_STAGE, geometry.op == FUSED
    barrier = costs.barrier_us + costs.straggler_us * np.log2(geometry.programs)
    if geometry.marked:
        assert geometry.local is not None
        return {
            "harness": costs.harness_us,
            "launch": costs.launch_us,
            "entry_barrier": barrier,
            "link_read": side_by_side(geometry.phases[0], geometry.local, crossing.port_us[0]),
            "link_gather": costs.release_us,  # the last parts' flight, and the look that finds them
        }
    passes = list(map(pass_over, geometry.phases, crossing.port_us))
    found: dict[str, Any] = {
        "harness": costs.harness_us,
        "launch": costs.launch_us,
        "entry_barrier": barrier,
        "link_read": passes[0],
    }
    if fused and not one_stage:
        # Fences of two programs that share a multiprocessor come one after the other: measured, at
        # one 1.1 to 1.3 us, at two 2.7 to 3.4 (measurements/h200-pair/differences.json). A third
        # adds nothing (revision-2/exhaustive.csv, 4 ranks, hidden 2880: +1.4 us from 64 to 72
        # tokens, where two meet, +0.2 from 128 to 136, where three do).
        sharing = geometry.local.sharing if geometry.one_launch and geometry.local else None
        fences = 1.0 if sharing is None else np.minimum(sharing, QUEUED_FENCES)
        found["middle_barrier" if geometry.one_launch else "exit_barrier"] = (
            barrier
            + costs.release_us * fences
            + costs.release_us_per_doubling * (np.log2(geometry.world_size) - 2.0)
        )
    elif one_stage:
        found["exit_barrier"] = barrier
    else:
        found["middle_barrier"] = barrier + costs.stage_gap_us
        found["link_gather"] = passes[1]
    if geometry.local is not None and geometry.local.sharing is not None:
        turn = geometry.local.program_bytes * (per_gbps / costs.program_gbps)
        turn = turn + row_end(geometry.local)
        found["local_pass"] = slowest(geometry.local, geometry.local.turns * turn)
    elif geometry.local is not None:
        # The fixed part of the second kernel is one sum with its launch.
        found["second_launch"] = costs.second_launch_us
        chain_us = geometry.local.program_bytes * (per_gbps / costs.program_gbps)
        spread = costs.straggler_us * np.log2(geometry.rows)
        name = "local_pass" if fused else "norm_kernel"
        found[name] = spread + slowest(geometry.local, geometry.local.turns * chain_us)
    return found


def missed(working_set_bytes: Array, cache_bytes: Any) -> Any:
    """Return the share of the distinct bytes that does not come from the cache."""
    ratio = cache_bytes / working_set_bytes
    for _ in range(MISS_DOUBLINGS):
        ratio = ratio * ratio
    return 1.0 / (1.0 + ratio)
