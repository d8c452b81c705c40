"""Where a call's time goes: in-kernel time stamps of the fused kernels, beside the model's terms.

    torchrun --nproc-per-node 2 benchmarks/stamps.py measure --tp 2,4,8 --out stamps.json
    python benchmarks/stamps.py measure --tp 2,4,8 --out stamps.json       # ranks on one GPU
    python benchmarks/stamps.py terms stamps.json --calibration calibration.json --out beside.json

``measure`` replays graphs of each arm as it is timed, and of the same arm with stamps
(:mod:`costmodel.live.backends.triton.stamps`), on as many programs; both are compared with the
reference first. Every phase is a number for each program, call and replay, all GPUs' together: its
median and the interval that holds 90 % of them. A phase of several turns is their sum. The first
call of a replay is left out: the GPU was idle before it. ``span_us`` is from the first program's
start to the last one's end on a GPU, ``outside_us`` what the stamped call takes beyond it: launch,
start of the programs, end of the grid.

``terms`` needs no GPU. It puts the terms that ``costmodel explain`` shows beside the phases that
they describe, where the calibration is of the row's interconnect.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as error:
    sys.exit(f"stamps: {error.name} is not installed; nothing to measure")

from costmodel.calibration.posterior import load
from costmodel.data.kernels import OWN_FAMILY
from costmodel.decide.explanation import explain
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.live.backends.base import LiveShape
from costmodel.live.backends.triton import stamps
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.backends.triton.launch import REGISTERS
from costmodel.live.repetition import GRAPH
from costmodel.live.run.harness import compare
from costmodel.model import choose
from costmodel.model.fabric import SPLIT, SWITCH
from costmodel.model.shape import ONE_STAGE, TWO_STAGE
from costmodel.show.table import table

SHAPES = ((1, 2880), (16, 2880), (128, 2880), (1, 7168), (16, 7168), (128, 7168))
ARMS = (ONE_STAGE, TWO_STAGE)
SLOTS, CALLS, ROUNDS, SAMPLES = 2, 16, 10, 5

CLOCKS = {"wall": stamps.WALL.value, "cycles": stamps.CYCLES.value}

#: The model's terms by the phases that they describe; "outside" are the phases of no program.
TERMS = {
    ONE_STAGE: {
        "entry_barrier": ("entry_barrier",),
        "link_read": ("read", "norm", "write"),
        "exit_barrier": ("exit_barrier",),
    },
    TWO_STAGE: {
        "entry_barrier": ("entry_barrier",),
        "link_read": ("read", "push", "norm", "write"),
        "link_gather": ("wait",),
    },
}
OUTSIDE = ("harness", "launch")

Marks = NDArray[np.int64]
Durations = dict[str, NDArray[np.float64]]


def durations(marks: Marks, arm: str) -> Durations:
    """Return each phase's clock units, shape (calls, programs), from stamps of whole calls.

    ``marks`` is (calls, turns + 1, programs, points), 0 where a program made no such turn. A stamp
    ends its phase, which began at the program's stamp before it; so a program's phases add up to
    what it took from its first stamp to its last, in whatever order they come.
    """
    last = "exit_barrier" if arm == ONE_STAGE else "write"
    ends = [(marks[:, 0, :, stamps.ENTERED.value], "entry_barrier")]
    ends += [(marks[:, 0, :, stamps.LEFT.value], last)]
    ends += [
        (turn[..., point.value], phase)
        for turn in np.moveaxis(marks[:, 1:], 1, 0)
        for point, phase in (
            (stamps.READ, "read"), (stamps.SENT, "push"), (stamps.GATHERED_ROW, "wait"),
            (stamps.NORMED, "norm"), (stamps.WRITTEN, "write"),
        )
    ]  # fmt: skip
    started = marks[:, 0, :, stamps.STARTED.value]
    at = np.stack([started, *(end for end, _ in ends)]).astype(float)
    at[at == 0] = np.nan  # sorted to the end
    order = np.argsort(at, axis=0)
    took = np.empty_like(at)
    np.put_along_axis(took, order, np.diff(np.take_along_axis(at, order, 0), axis=0, prepend=0), 0)
    found: Durations = {}
    for spent, (_, phase) in zip(np.nan_to_num(took[1:]), ends, strict=True):
        found[phase] = found.get(phase, np.zeros(started.shape)) + spent
    return {phase: found[phase] for phases in TERMS[arm].values() for phase in phases}


def grouped(found: Durations, arm: str) -> Durations:
    """Return the phases added up by the model's term that describes them."""
    return {
        term: np.asarray(sum(found[phase] for phase in phases))
        for term, phases in TERMS[arm].items()
    }


def summary(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the median and the interval that holds 90 %."""
    lo, median, hi = np.quantile(values, [0.05, 0.5, 0.95])
    return {"us": round(float(median), 3), "lo": round(float(lo), 3), "hi": round(float(hi), 3)}


@triton.jit
def read_often(out, COUNT: tl.constexpr, HIP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write what the wall clock shows, ``COUNT`` times in a row."""
    for at in range(COUNT):
        tl.store(out + at, stamps.now(stamps.WALL, HIP))


def wall_ns() -> float:
    """Return what a unit of the wall clock is, in ns: 10 on gfx942 and gfx950, 1 on NVIDIA."""
    return 10.0 if torch.version.hip else 1.0


def wall_step_ns() -> float:
    """Return the step in which the wall clock of this GPU goes on, in ns."""
    out = torch.zeros(4096, dtype=torch.int64, device="cuda")
    read_often[(1,)](out, len(out), torch.version.hip is not None, num_warps=1)
    return typical_step(out.cpu().numpy()) * wall_ns()


def typical_step(readings: Marks) -> float:
    """Return the median step of a clock that was read faster than it goes on.

    It may flatter: an H200 goes on by 32 ns in such a row, and by 256 from phase to phase, which is
    why cycles are what is read where nothing else is asked for.
    """
    steps = np.diff(np.sort(readings))
    return float(np.median(steps[steps > 0]))


class Stamped:
    """A launch that stamps, each call of a replay into a part of its own of :attr:`marks`."""

    def __init__(self, launch: Any, clock: int) -> None:
        tokens = launch.arguments[0]
        local = launch.options["LOCAL"]
        turns = -(-tokens // (launch.programs // local))
        size = (CALLS, turns + 1, launch.programs, stamps.POINTS.value)
        self.marks = torch.zeros(size, dtype=torch.int64, device="cuda")
        self.launch = launch._replace(options={**launch.options, "CLOCK": clock})
        self._calls = 0

    def with_stamps(self, call: int) -> Any:
        """Return the launch of one call of a replay."""
        return self.launch._replace(
            options={**self.launch.options, "stamps": self.marks[call % CALLS]}
        )

    def __call__(self, slot_table: Any) -> None:
        self.with_stamps(self._calls)(slot_table)
        self._calls += 1

    def later_calls(self) -> Marks:
        """Return the stamps of the last replay's calls, but for its first call's."""
        first = self._calls - CALLS  # of the captured ones: the slots were tried before
        order = [call % CALLS for call in range(first + 1, first + CALLS)]
        return np.asarray(self.marks.cpu().numpy()[order])


def stamped(backend: TritonBackend, launch: Any, clock: int) -> Stamped:
    """Return a launch with stamps, on the programs of the launch that is timed.

    Stamps take registers. Where fewer programs would fit at once for it, the compiler is held to
    the registers that the others leave.
    """
    fits = backend._resources[launch.kernel.__name__]["programs_per_multiprocessor"]
    for held in (False, True):
        more: dict[str, Any] = {}
        if held and not torch.version.hip:
            threads = 32 * launch.options["num_warps"]
            more = {"maxnreg": REGISTERS // (threads * fits) // 8 * 8}
        ready = Stamped(launch._replace(options={**launch.options, **more}), clock)
        again = backend._resident(
            launch.kernel, launch.arguments[0], launch.arguments, ready.with_stamps(0).options
        )
        if again.programs >= launch.programs:
            return ready
    raise InputError(
        f"with stamps only {again.programs} programs of {launch.kernel.__name__} fit, not the "
        f"{launch.programs} that are timed"
    )


def measured(backend: TritonBackend, arm: str, clock: int) -> dict[str, Any]:
    """Return what one arm takes at the prepared shape, in all and by phase, in us."""
    assert backend._shape is not None
    (launch,) = backend._launches(arm)
    with_stamps = stamped(backend, launch, clock)
    replays = [backend.capture_launches([one], CALLS, GRAPH) for one in (launch, with_stamps)]
    try:
        references = [backend.reference(slot) for slot in range(SLOTS)]
        for replay, name in zip(replays, (arm, f"{arm} with stamps"), strict=True):
            worst, _ = compare(backend, replay, references, backend._shape.dtype)
            if not worst <= 1.0:
                raise InputError(f"{name} computes wrong numbers at {backend._shape}")
        totals: tuple[list[float], list[float]] = ([], [])
        seen = []
        for _ in range(ROUNDS):
            for replay, total in zip(replays, totals, strict=True):
                backend.exchange(None)
                mine = float(np.median(replay.replay(SAMPLES)))
                total.append(max(backend.exchange(mine)))
            seen.append(with_stamps.later_calls())
    finally:
        for replay in replays:
            replay.close()
    marks = np.concatenate(seen)
    began, ended = (
        marks[:, 0, :, point.value + stamps.WALL_BEYOND.value] * wall_ns() * 1e-3
        for point in (stamps.STARTED, stamps.LEFT)
    )
    units = marks[:, 0, :, stamps.LEFT.value] - marks[:, 0, :, stamps.STARTED.value]
    us_a_unit = wall_ns() * 1e-3
    if clock == stamps.CYCLES.value:
        # On the whole both clocks have run equally long, however coarse the wall clock's steps.
        us_a_unit = float((ended - began).sum() / units.sum())
    phases = {name: units * us_a_unit for name, units in durations(marks, arm).items()}
    everybody = backend.exchange(
        (phases, grouped(phases, arm), ended.max(axis=1) - began.min(axis=1), us_a_unit)
    )

    def pooled(at: int) -> dict[str, dict[str, float]]:
        names = everybody[0][at]
        return {n: summary(np.concatenate([e[at][n].ravel() for e in everybody])) for n in names}

    by_phase = pooled(0)
    spans = np.concatenate([e[2] for e in everybody])
    span_us = float(spans.mean())
    stamped_us = float(np.median(totals[1]))
    return {
        "programs_per_rank": launch.programs // len(backend.local_ranks),
        "turns": with_stamps.marks.shape[1] - 1,
        "total_us": summary(np.array(totals[0])),
        "total_with_stamps_us": summary(np.array(totals[1])),
        "phases_us": by_phase,
        "sum_us": round(sum(phase["us"] for phase in by_phase.values()), 3),
        "span_us": round(span_us, 3),
        "outside_us": round(stamped_us - span_us, 3),
        "terms_us": pooled(1),
        "units_per_us": round(1.0 / float(np.mean([e[3] for e in everybody])), 3),
    }


@click.group(help=(__doc__ or "").splitlines()[0])
def main() -> None:
    pass


@main.command("measure", short_help="Run both arms with and without stamps.")
@click.option("--tp", default="2,4,8", help="World sizes.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="cycles", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def measure_command(tp: str, clock: str, out: Path) -> None:
    """Write a row for each arm, shape and world size as it comes."""
    try:
        measure([int(n) for n in tp.split(",")], clock, out)
    except InputError as error:
        sys.exit(f"stamps: {error}")


def measure(sizes: list[int], clock: str, out: Path) -> None:
    """Measure both arms at every world size and shape."""
    rows: list[dict[str, Any]] = []
    first = False
    for n in sizes:
        backend = TritonBackend(n)
        backend.set_up()
        if backend.local_ranks:
            first = 0 in backend.local_ranks
            step = max(backend.exchange(wall_step_ns()))
            labels = {
                "gpu": backend.environment()["gpu"],
                "kernels": backend.kernel_version,
                "clock": clock,
                "wall_step_ns": step,
            }
            for tokens, hidden in SHAPES:
                backend.prepare(LiveShape(tokens, hidden, "bf16"), SLOTS, 0)
                for arm in ARMS:
                    about = {
                        "world_size": n, "interconnect": backend.interconnect, "tokens": tokens,
                        "hidden_dim": hidden, "dtype": "bf16", "arm": arm,
                    }  # fmt: skip
                    rows.append({**about, **measured(backend, arm, CLOCKS[clock])})
                    if first:  # each result is kept as it comes
                        out.write_text(json.dumps({**labels, "rows": rows}, indent=1) + "\n")
        backend.meet(0)
        backend.close()
    backend.leave()
    if first:
        print(f"{labels['gpu']}, {labels['kernels']}; {clock} clock, wall steps of {step:g} ns")
        print(shown(rows))


def shown(rows: list[dict[str, Any]]) -> str:
    """Return the medians as a table, by arm."""
    tables = []
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        if not mine:
            continue
        phases = list(mine[0]["phases_us"])
        heads = ["arm", "ranks", "tokens", "hidden", "total", "stamped", "outside", "sum", *phases]
        cells = [
            [
                arm, str(r["world_size"]), str(r["tokens"]), str(r["hidden_dim"]),
                f"{r['total_us']['us']:.2f}", f"{r['total_with_stamps_us']['us']:.2f}",
                f"{r['outside_us']:.2f}", f"{r['sum_us']:.2f}",
                *(f"{r['phases_us'][phase]['us']:.2f}" for phase in phases),
            ]
            for r in mine
        ]  # fmt: skip
        tables.append(table(cells, heads))
    return "\n\n".join(tables)


@main.command("terms", short_help="Put the model's terms beside what was measured.")
@click.argument("measured_file", type=click.Path(path_type=Path, exists=True))
@click.option("--calibration", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def terms_command(measured_file: Path, calibration: Path, out: Path) -> None:
    """Write the measured file again, with ``model`` in every row that the calibration covers."""
    try:
        found = beside(json.loads(measured_file.read_text()), calibration)
    except InputError as error:
        sys.exit(f"stamps: {error}")
    out.write_text(json.dumps(found, indent=1) + "\n")
    heads = ["arm", "ranks", "tokens", "hidden", "term", "model", "90 %", "stamps", "90 %"]
    cells = []
    for row in found["rows"]:
        for term, model in row.get("model", {}).get("terms_us", {}).items():
            stamp = row["terms_us"].get(term)
            cells.append([
                row["arm"], str(row["world_size"]), str(row["tokens"]), str(row["hidden_dim"]),
                term, f"{model['us']:.2f}", f"{model['lo']:.2f} to {model['hi']:.2f}",
                f"{stamp['us']:.2f}" if stamp else "-",
                f"{stamp['lo']:.2f} to {stamp['hi']:.2f}" if stamp else "-",
            ])  # fmt: skip
    print(table(cells, heads))


def covers(fabric: str, row: dict[str, Any]) -> bool:
    """Return whether a calibration's fabric is a row's; N ranks on N GPUs are split over N too."""
    model = choose.for_interconnect(row["interconnect"], OWN_FAMILY)
    alone = f"{SPLIT}{row['world_size']}" if model and model.fabric == SWITCH else ""
    return model is not None and fabric in (model.fabric, alone)


def beside(found: dict[str, Any], calibration: Path) -> dict[str, Any]:
    """Return the measured record with the model's terms in it, where the fabric is the row's.

    ``outside_terms_us`` sums the terms of :data:`OUTSIDE`, which no program can stamp. Raises
    :class:`InputError` where the calibration covers no row.
    """
    setting = Setting(load(calibration), found["gpu"])
    rows = []
    for row in found["rows"]:
        if not covers(setting.calibration.fabric, row):
            rows.append(row)
            continue
        call = setting.shapes(row["tokens"], row["hidden_dim"], row["world_size"])
        arm = explain(setting, call).arms[row["arm"]]
        terms = {
            name: {"us": round(e.value, 3), "lo": round(e.lo, 3), "hi": round(e.hi, 3)}
            for name, e in arm.terms.items()
        }
        outside = sum(terms[name]["us"] for name in OUTSIDE if name in terms)
        model = {
            "calibration": setting.calibration.id,
            "total_us": round(arm.latency_us.value, 3),
            "outside_us": round(outside, 3),
            "terms_us": terms,
        }
        rows.append({**row, "model": model})
    if not any("model" in row for row in rows):
        have = ", ".join(sorted({row["interconnect"] for row in rows}))
        raise InputError(
            f"{calibration} is of {setting.calibration.fabric}, the rows of {have}; nothing to "
            "put beside"
        )
    return {**found, "rows": rows}


if __name__ == "__main__":
    main()
