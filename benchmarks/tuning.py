"""Does stopping when it looks good, and choosing shapes by what was found, bias the rule?

Hidden truths (posterior draws of machines that nobody has measured, some bent so that the model is
wrong about them) are tuned as ``costmodel tune`` does, with a measurement's scatter; then the same
truth is measured on a fixed grid of 40 shapes. Per misspecification and target:

- ``tune``: where the stopping rule ends; ``8 shapes``: after eight;
- ``argmin``: the grid's rows alone, the cutoff with the least mean regret on them;
- ``worst case``: the grid's rows alone, the cutoff with the least worst-case regret on them, which
  is how AITER's own tuner of its FlyDSL kernels fits a threshold;
- ``model on the grid``: the same model fitted to the 40 shapes.

Regret is over the known models' captured batches, at the truth, in points above the truth's best
cutoff, where a cutoff is claimed; ``refused`` counts the truths for which the stopped rule claims
none. Coverage is of the printed
interval of the stopped rule, by the truth's best cutoff; the score is its interval score
(benchmarks/coverage.py) beside that of the flat interval from half to twice the point.

A truth takes some seconds of a core. ``--record`` keeps each as it comes, one line of JSON; a run
that is started again with the same file goes on where it ended. ``--out`` is what is committed;
``--first`` and ``--before`` add truths of higher numbers to it.

    OPENBLAS_NUM_THREADS=1 python benchmarks/tuning.py --truths 30 --record truths.jsonl \\
        --out benchmarks/tuning.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from costmodel.calibration.posterior import Calibration, shipped
from costmodel.data import hardware, kernels
from costmodel.decide.recommendation import known_workload
from costmodel.decide.setting import Setting
from costmodel.decide.stopping import StoppingLimits, verdict
from costmodel.live.backends.base import LiveShape
from costmodel.live.run.points import DEFAULT_ARMS, Point
from costmodel.model.fabric import FullMesh
from costmodel.model.latency import READ_KNEE, WRITE_KNEE, LinkModel
from costmodel.show.table import table
from costmodel.tuning.journal import Journal
from costmodel.tuning.knowledge import Question, TunedMachine
from costmodel.tuning.tuner import Tuner, standing

TARGETS = (("MI355X", 4), ("MI355X", 8), ("MI300X", 4), ("MI300X", 8))
ALPHA = 0.10
EIGHT = 8

#: The grid: tokens so that bytes are spread over two octaves on either side of where rules differ.
GRID_HIDDEN = (1024, 2880, 4096, 5120, 7168)
GRID_BYTES = tuple(int(2**e) for e in np.linspace(16, 20.5, 8))


@dataclass(frozen=True)
class Misspecification:
    """How a truth and its measurement differ from what the model believes."""

    knees: tuple[float, float] = (READ_KNEE, WRITE_KNEE)
    noise: float = 0.01
    noise_dof: float = 4.0
    rounding_us: float = 0.0
    contrast_us: float | None = None


MISSPECIFICATIONS = {
    "none": Misspecification(),
    "knee 4": Misspecification(knees=(4.0, 4.0)),
    "t(2) tails": Misspecification(noise_dof=2.0),
    "noise 3 %": Misspecification(noise=0.03),
    "rounding 0.1 us": Misspecification(rounding_us=0.1),
    "contrast 0.6 us": Misspecification(contrast_us=0.6),
    "all": Misspecification((4.0, 4.0), 0.02, 2.0, 0.1, 0.6),
}


class Bent(Calibration, frozen=True):
    """A calibration whose model has another knee than the one that is fitted."""

    knees: tuple[float, float] = (READ_KNEE, WRITE_KNEE)

    @property
    def model(self):
        return LinkModel(FullMesh(), *self.knees)


class Truth:
    """A machine whose latencies are known, and what measuring it gives."""

    def __init__(self, wrong: Misspecification, gpu: str, world_size: int, seed: list[int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.wrong, self.world_size, self.gpu = wrong, world_size, gpu
        arch, gpu = hardware.choose(None, gpu)
        base = shipped(arch)
        fields = {name: getattr(base, name) for name in base.__struct_fields__}
        bent = Bent(**fields, knees=wrong.knees)
        self.setting = Setting(bent, gpu)
        drawn = base.draw(2, seed=int(self.rng.integers(2**31)))
        self.values = {name: value[:1] for name, value in drawn.items()}
        if wrong.contrast_us is not None:
            self.values["contrast[2stage]"] = wrong.contrast_us * self.rng.standard_normal((1, 1))
        load = known_workload(Setting(base, gpu))
        shapes = self.setting.shapes(load.tokens, load.hidden_dim, world_size)
        both = self.setting.takes_both(shapes)
        self.weight = load.weight[both] / load.weight[both].sum()
        self.size = shapes.bytes[both]
        self.one, self.two = (
            self.setting.latency_us(shapes.select(both), arm, self.values)[0]
            for arm in DEFAULT_ARMS
        )
        self.cutoffs = np.unique(np.append(self.size, 0))
        self.regrets = np.array([self.regret_pct(c) for c in self.cutoffs])

    def regret_pct(self, cutoff: float | None) -> float:
        """Return the mean regret of a cutoff in percent; None: no limit."""
        first = self.size <= (np.inf if cutoff is None else cutoff)
        chosen = np.where(first, self.one, self.two)
        return float(100 * self.weight @ (chosen / np.minimum(self.one, self.two) - 1))

    def best(self) -> tuple[float, float]:
        """Return the ends of the best cutoffs, which decide alike."""
        at = np.flatnonzero(self.regrets <= self.regrets.min() + 1e-9)
        above = self.cutoffs[at[-1] + 1] if at[-1] + 1 < self.cutoffs.size else np.inf
        return float(self.cutoffs[at[0]]), float(above)

    def labels(self):
        arch = hardware.choose(None, self.gpu)[0]
        return {
            "gpu": self.setting.gpu, "arch": arch, "interconnect": "xgmi",
            "kernel_family": "aiter", "kernel_version": kernels.aiter().version, "genuine": "no",
        }  # fmt: skip

    def measure(self, point: Point):
        """Return the record of one measured shape."""
        shape, labels = point.shape, self.labels()
        calls = self.setting.shapes([shape.tokens], [shape.hidden_dim], [self.world_size])
        rows = []
        for arm in point.arms:
            quiet = float(self.setting.latency_us(calls, arm, self.values)[0, 0])
            seen = quiet * np.exp(self.wrong.noise * self.rng.standard_t(self.wrong.noise_dof))
            if self.wrong.rounding_us:
                seen = round(seen / self.wrong.rounding_us) * self.wrong.rounding_us
            rows.append(
                {
                    "source": "x", "date": "2026-11-01", "gpu": labels["gpu"],
                    "gpu_evidence": "stated", "arch": labels["arch"], "interconnect": "xgmi",
                    "world_size": self.world_size, "op": "fused_ar_rmsnorm", "algorithm": arm,
                    "kernel_family": "aiter", "kernel_version": labels["kernel_version"],
                    "tokens": shape.tokens, "hidden_dim": shape.hidden_dim, "dtype": "bf16",
                    "bytes": shape.bytes, "latency_us": float(max(seen, 0.5)),
                    "statistic": "median",
                    "rank_reduction": "max", "timing": "graph", "quality": "suspect",
                }
            )  # fmt: skip
        arms = {arm: {"clean": True} for arm in point.arms}
        return {
            "kind": "shape", "index": 0, "when": "", "seconds": 1.0, "point": point.to_json(),
            "arms": arms, "rows": rows,
        }  # fmt: skip


def grid() -> list[Point]:
    points = []
    for hidden in GRID_HIDDEN:
        for size in GRID_BYTES:
            tokens = max(1, round(size / (2 * hidden)))
            points.append(Point(LiveShape(tokens, hidden, "bf16"), DEFAULT_ARMS))
    return list(dict.fromkeys(points))


def one_truth(task) -> dict:
    """Return what one truth gave."""
    name, gpu, world_size, number = task
    seed = [list(MISSPECIFICATIONS).index(name), TARGETS.index((gpu, world_size)), number]
    truth = Truth(MISSPECIFICATIONS[name], gpu, world_size, seed)
    machine = TunedMachine(Question("hidden", "bf16"), truth.labels())
    journal, records = Journal(), []
    tuner = Tuner(machine, world_size, StoppingLimits(0.0, EIGHT), journal)
    while len(records) < EIGHT and (point := tuner.next(records)) is not None:
        records.append(truth.measure(point))
    if journal.stop is None:
        tuner.next(records)
    history = [standing(step) for step in journal.steps]
    stopped = next(
        (i for i in range(len(history)) if verdict(history[: i + 1], StoppingLimits())),
        len(history) - 1,
    )
    step = journal.steps[stopped]
    low, high = step["max_bytes_lo"] or 1, step["max_bytes_hi"] or np.inf
    best = truth.best()
    measured = [truth.measure(point) for point in grid()]
    pairs = np.array(
        [
            [r["rows"][0]["bytes"], r["rows"][0]["latency_us"], r["rows"][1]["latency_us"]]
            for r in measured
        ]
    )
    fitted = machine.after(machine.rows(measured), (world_size,)).cutoff(world_size)
    return {
        "misspecification": name, "gpu": gpu, "world_size": world_size, "number": number,
        "shapes": step["shapes"],
        "least": float(truth.regrets.min()),
        "tune": lost(truth, step),
        "8 shapes": lost(truth, journal.steps[-1]),
        "argmin": truth.regret_pct(threshold(pairs, np.mean)),
        "worst case": truth.regret_pct(threshold(pairs, np.max)),
        "model on the grid": truth.regret_pct(fitted.max_bytes) if fitted.claimed else None,
        "prior": lost(truth, journal.steps[0]),
        "covered": bool(low < best[1] and high >= best[0]),
        "score": score(low, high, best),
        "flat": score(step["max_bytes"] / 2, step["max_bytes"] * 2, best)
        if step["max_bytes"] else None,
    }  # fmt: skip


def lost(truth: Truth, step) -> float | None:
    """Return the regret of the rule after a step in percent; None where no cutoff is claimed."""
    return None if step["regret_pct"] is None else truth.regret_pct(step["max_bytes"])


def threshold(pairs: np.ndarray, loss) -> float:
    """Return the measured size up to which 1-stage loses least on the rows, by ``loss``."""
    size, one, two = pairs.T
    regret = [
        loss(np.where(size <= c, one, two) / np.minimum(one, two)) for c in np.append(0.0, size)
    ]
    return float(np.append(0.0, size)[int(np.argmin(regret))])


def score(low: float, high: float, best: tuple[float, float]) -> float:
    """Return the interval score in log2 of bytes; the truth is what is nearest of its cell."""
    a, b = (float(np.clip(np.log2(max(end, 1)), 12, 23)) for end in (low, high))
    c, d = (float(np.clip(np.log2(max(end, 1)), 12, 23)) for end in best)
    outside = max(c - b, a - d, 0.0)
    return b - a + 2 / ALPHA * outside


ARMS = ("prior", "tune", "8 shapes", "model on the grid", "argmin", "worst case")

#: What eight chosen shapes are held against.
GRID_ARMS = ("argmin", "worst case", "model on the grid")

#: Figures that are means over truths.
MEANS = (*ARMS, "shapes", "covered", "score", "flat")


def figures(mine: list[dict]) -> dict:
    """Return means over truths; ``above`` is by how much eight shapes lose more than the grid's.

    ``above_error`` is its standard error, paired by truth; the error of the coverage is binomial.
    """
    rows = [{**r, **{arm: None if r[arm] is None else r[arm] - r["least"] for arm in ARMS}}
            for r in mine]  # fmt: skip
    errors = {}
    for arm in GRID_ARMS:
        both = [r for r in rows if r[arm] is not None and r["8 shapes"] is not None]
        errors[arm] = float(np.std([r["8 shapes"] - r[arm] for r in both]) / np.sqrt(len(both)))
    refused = sum(r["tune"] is None for r in rows)
    return _figures(rows, [1] * len(rows), len(rows), refused, errors)


def pooled(cells: list[dict]) -> dict:
    """Return the figures of the truths of several cells, each with the weight of its truths.

    ``above_error`` is of the truths for which it is known: those of this run.
    """
    weights = [c["truths"] for c in cells]
    known = [c for c in cells if "above_error" in c]
    count = sum(c["truths"] for c in known)
    errors = {
        arm: float(np.sqrt(sum((c["truths"] * c["above_error"][arm]) ** 2 for c in known)) / count)
        for arm in GRID_ARMS
        if known
    }
    return _figures(cells, weights, sum(weights), sum(c["refused"] for c in cells), errors)


def _figures(rows: list[dict], weights: list[int], truths: int, refused: int, errors: dict) -> dict:
    mean = {}
    for name in MEANS:
        there = [(w, r[name]) for r, w in zip(rows, weights, strict=True) if r[name] is not None]
        mean[name] = float(sum(w * x for w, x in there) / sum(w for w, _ in there))
    return {
        "truths": truths, "refused": refused, **mean,
        "covered_error": float(np.sqrt(mean["covered"] * (1 - mean["covered"]) / truths)),
        "above": {arm: mean["8 shapes"] - mean[arm] for arm in GRID_ARMS},
        "above_error": errors,
    }  # fmt: skip


def summary(records: list[dict], before: list[dict]) -> list[dict]:
    """Return the figures of each misspecification and world size, those of ``before`` in them."""
    out = []
    for name in MISSPECIFICATIONS:
        for world_size in (4, 8):
            key = {"misspecification": name, "world_size": world_size}
            mine = [r for r in records if key.items() <= r.items()]
            cells = [c for c in before if key.items() <= c.items()]
            if mine:
                cells.append(figures(mine))
            if cells:
                out.append({**key, **pooled(cells)})
    return out


def read(path: str | None) -> list[dict]:
    """Return the truths that a record holds; a torn last line is cut off."""
    if path is None or not os.path.exists(path):
        return []
    with open(path, "rb+") as stream:
        text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        stream.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def drawn(tasks: list[tuple], workers: int, record: str | None):
    """Yield what each truth gave, writing it into the record as it comes."""
    pool = ProcessPoolExecutor(workers) if workers > 1 else None
    try:
        for found in (pool.map if pool else map)(one_truth, tasks):
            if record:
                with open(record, "a") as stream:
                    stream.write(json.dumps(found) + "\n")
            yield found
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truths", type=int, default=30, help="a misspecification and target")
    parser.add_argument("--first", type=int, default=0, help="number of the first, which seeds it")
    parser.add_argument("--only", action="append", choices=list(MISSPECIFICATIONS))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, help="stop taking up truths after so long")
    parser.add_argument("--record", help="JSON lines, a truth each, from which a run goes on")
    parser.add_argument("--before", help="figures of an earlier run of other numbers, joined")
    parser.add_argument("--out", help="the figures, as JSON")
    given = parser.parse_args()
    records = read(given.record)
    known = {task_of(r) for r in records}
    tasks = [
        (name, gpu, n, number)
        for number in range(given.first, given.first + given.truths)
        for name in (given.only or MISSPECIFICATIONS)
        for gpu, n in TARGETS
        if (name, gpu, n, number) not in known
    ]
    began = time.monotonic()
    for found in drawn(tasks, given.workers, given.record):
        records.append(found)
        if given.seconds and time.monotonic() - began > given.seconds:
            break
    # As many of each, whenever it ended: a mean over all is not of what came first.
    whole = min(
        sum(task_of(r)[:3] == (name, *target) for r in records)
        for name in (given.only or MISSPECIFICATIONS)
        for target in TARGETS
    )
    records = [r for r in records if r["number"] < given.first + whole]
    if not records:
        raise SystemExit("no truth of every misspecification and target yet; go on with --record")
    before = []
    if given.before:
        with open(given.before) as stream:
            before = json.load(stream)["summary"]
    cells = summary(records, before)
    names = dict.fromkeys(c["misspecification"] for c in cells)
    found = {
        "together": pooled(cells),
        "by_misspecification": {
            name: pooled([c for c in cells if c["misspecification"] == name]) for name in names
        },
        "summary": cells,
    }
    if given.out:
        with open(given.out, "w") as stream:
            stream.write(json.dumps(found, indent=1) + "\n")
    head = ("misspecification", "ranks", "truths", "refused", "shapes",
            *(f"{arm}, points" for arm in ARMS), "coverage", "score", "flat")  # fmt: skip
    lines = [
        *((c["misspecification"], f"TP{c['world_size']}", c) for c in cells),
        *((name, "all", c) for name, c in found["by_misspecification"].items()),
        ("together", "all", found["together"]),
    ]
    rows = [
        (
            name, ranks, c["truths"], c["refused"],
            f"{c['shapes']:.1f}",
            *(f"{c[arm]:.3f}" for arm in ARMS),
            f"{100 * c['covered']:.0f} +- {100 * c['covered_error']:.0f} %",
            f"{c['score']:.2f}", "-" if c["flat"] is None else f"{c['flat']:.2f}",
        )
        for name, ranks, c in lines
    ]  # fmt: skip
    sys.stdout.write(table(rows, head, width=220) + "\n")
    for name, ranks, c in lines:
        said = (f"{arm} {c['above'][arm]:+.4f} +- {c['above_error'][arm]:.4f}" for arm in GRID_ARMS)
        sys.stdout.write(f"{name}, {ranks}: eight shapes lose more than {', '.join(said)} points\n")


def task_of(record: dict) -> tuple:
    """Return which truth a record is of."""
    return record["misspecification"], record["gpu"], record["world_size"], record["number"]


if __name__ == "__main__":
    main()
