"""What planning is worth: hidden truths measured by planned shapes, grids and random shapes.

    python benchmarks/plan_value.py --out plan_value.json

Truths are draws of the shipped posterior; each is measured with Student-t scatter and a harness
constant of its own, the posterior is updated, the cutoff chosen, and its regret read off the truth
(costmodel/planning/rehearsal.py). All designs meet the same truths and the same noise. A
measurement is one latency: one algorithm at one shape. For a few truths the rows are written as
schema 1, joined to the published ones and fitted anew, which is what a user does; the fast update
must agree.

Designs:

- planned: ``costmodel plan``, one latency costing one unit;
- uniform: a grid, token counts evenly spaced over the captured batch sizes and hidden sizes evenly
  spaced over those of known models (near square), both algorithms, every world size asked about;
  mean over random phases of the grid;
- ends: the same grid laid out so that it holds the smallest and the largest batch;
- doubling: token counts evenly spaced in their logarithm at the middle hidden size, both
  algorithms, every world size: what an engineer who knows the knee would run;
- random: captured shape, world size and algorithm at random;
- variance: greedy for the total variance of the parameters instead of the regret.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import numpy as np

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.data import kernels as kernel
from costmodel.data.measurement import Measurements, concat, published
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.files import replacing
from costmodel.planning import Budget, MeasuringTime, Rehearsal, pose
from costmodel.planning.search import search
from costmodel.show.table import table

#: One latency costs one, so that a budget in "seconds" counts latencies.
BY_COUNT = MeasuringTime(0.0, 0.0, 1.0, 0)

#: Arch, GPU and world sizes rehearsed: all that ``plan`` asks about by default, and the open ones.
CASES = (
    ("gfx942", "MI300X", (2, 4, 8)),
    ("gfx942", "MI300X", (4, 8)),
    ("gfx950", "MI355X", (2, 4, 8)),
    ("gfx950", "MI355X", (4, 8)),
)
PLANNED = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
GRID = ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (4, 4), (5, 5))
DOUBLING = (1, 2, 3, 4, 5, 6, 8, 10)
RANDOM = (4, 8, 12, 16, 24, 32, 48, 64, 96)
REMOVED = (0.70, 0.75, 0.80, 0.85, 0.90)


def planned(problem, count):
    return search(problem, Budget(seconds=count + 0.01))


def grid(problem, tokens, hidden):
    c = problem.candidates
    at = {
        key: i
        for i, key in enumerate(
            zip(c.world_size.tolist(), c.hidden_dim.tolist(), c.tokens.tolist(), strict=True)
        )
    }
    return [
        2 * at[n, h, t] + a
        for n in np.unique(c.world_size).tolist()
        for h in hidden
        for t in tokens
        for a in (0, 1)
    ]


def evenly(values, count):
    """Return ``count`` of the values, ends included; the middle one for 1."""
    if count == 1:
        return [values[len(values) // 2]]
    return [values[i] for i in np.linspace(0, len(values) - 1, count).round().astype(int)]


def uniform(problem, tokens, hidden, seed):
    c = problem.candidates
    rng = np.random.default_rng(seed)

    def spaced(values, count):
        return values[
            ((rng.random() + np.arange(count)) * len(values) / count).astype(int)
        ].tolist()

    return grid(
        problem, spaced(np.unique(c.tokens), tokens), spaced(np.unique(c.hidden_dim), hidden)
    )


def with_ends(problem, tokens, hidden):
    c = problem.candidates
    return grid(
        problem,
        evenly(np.unique(c.tokens).tolist(), tokens),
        evenly(np.unique(c.hidden_dim).tolist(), hidden),
    )


def doubling(problem, count):
    c = problem.candidates
    sizes = np.unique(c.tokens)
    wanted = np.linspace(0, 9, count) if count > 1 else [4.5]
    tokens = sorted({int(sizes[np.argmin(np.abs(np.log2(sizes) - w))]) for w in wanted})
    return grid(problem, tokens, evenly(np.unique(c.hidden_dim).tolist(), 1))


def at_random(problem, count, seed):
    return np.random.default_rng(seed).choice(
        len(problem.candidates), count, replace=False
    ).tolist()  # fmt: skip


def by_variance(problem, count):
    c = problem.candidates
    design: list[int] = []
    for _ in range(count):
        rows = c.rows @ c.left_unknown(design)
        seen = np.einsum("ij,ij->i", rows, c.rows) + c.noise_variance
        gain = (rows[:, :-1] ** 2).sum(axis=1) / seen
        gain[design] = -1.0
        design.append(int(np.argmax(gain)))
    return design


def rehearse(arch, gpu, world_sizes, truths=1500, layouts=4, planned_counts=PLANNED):
    """Return regret against number of latencies for every kind of design, in percent."""
    setting = Setting.shipped(gpu)
    problem, posterior, noise = pose(
        setting, world_sizes=world_sizes, measuring_time=BY_COUNT, everywhere=True
    )
    rehearsal = Rehearsal.of(setting, posterior, problem, noise=noise, truths=truths)
    points = []

    def add(kind, designs):
        regret = [100 * rehearsal.regret_after(d).mean(axis=0) for d in designs]
        points.append(
            {
                "kind": kind,
                "n": len(designs[0]),
                "regret_pct": float(np.mean(regret)),
                "error_pct": float(np.std(np.mean(regret, axis=0)) / math.sqrt(truths)),
                "predicted_pct": float(np.mean([100 * problem.regret(d) for d in designs])),
            }
        )

    for count in planned_counts:
        add("planned", [planned(problem, count)])
    for tokens, hidden in GRID:
        add("uniform", [uniform(problem, tokens, hidden, seed) for seed in range(layouts)])
        add("ends", [with_ends(problem, tokens, hidden)])
    for count in DOUBLING:
        add("doubling", [doubling(problem, count)])
    for count in RANDOM:
        add("random", [at_random(problem, count, seed) for seed in range(layouts)])
    for count in PLANNED:
        add("variance", [by_variance(problem, count)])
    before = 100 * rehearsal.regret_after([]).mean()
    perfect = 100 * rehearsal.perfect().mean()
    return {
        "arch": arch,
        "gpu": gpu,
        "world_sizes": list(world_sizes),
        "noise": noise,
        "truths": truths,
        "before_pct": float(before),
        "perfect_pct": float(perfect),
        "points": points,
        "needed": needed(points, float(before), float(perfect)),
    }


def needed(points, before, perfect):
    """Return, per share of the avoidable regret removed, the latencies that each kind needs.

    Interpolated in the logarithms of count and avoidable regret left, along the best so far; None
    where a kind never gets there.
    """
    out = []
    kinds = list(dict.fromkeys(p["kind"] for p in points))
    for removed in REMOVED:
        row = {"removed": removed, "regret_pct": perfect + (1 - removed) * (before - perfect)}
        for kind in kinds:
            row[kind] = _crossing(
                [(p["n"], p["regret_pct"] - perfect) for p in points if p["kind"] == kind],
                row["regret_pct"] - perfect,
            )
        out.append(row)
    return out


def _crossing(curve, target):
    best = math.inf
    last = None
    for n, left in sorted(curve):
        if left > best:
            continue
        if left <= target:
            if last is None or best <= left:
                return float(n)
            share = math.log(best / target) / math.log(best / max(left, 1e-12))
            return float(math.exp(math.log(last) + share * math.log(n / last)))
        best, last = left, n
    return None


def refit(arch, gpu, world_sizes, count, refits, seed=1):
    """Return, per truth, cutoffs and regret by the fast update and by a fit of all rows anew."""
    setting = Setting.shipped(gpu)
    problem, posterior, noise = pose(
        setting, world_sizes=world_sizes, measuring_time=BY_COUNT, everywhere=True
    )
    rehearsal = Rehearsal.of(setting, posterior, problem, noise=noise, truths=refits, seed=seed)
    design = planned(problem, count)
    fast = 100 * rehearsal.regret_after(design)
    prints = rehearsal.printed_us(design)
    mean, covariance = rehearsal.update(design)
    old = published()
    out = []
    for t in range(refits):
        new = rows_of(problem, design, prints[t], arch, gpu)
        again, _ = calibrate(observe(concat([old, new])), arch=arch)
        # What was measured is the machine that is asked about.
        told = setting.but(calibration=again, source="rehearsal")
        left = np.linalg.cholesky(covariance[t])
        for s, (surface, regret) in enumerate(zip(problem.surfaces, rehearsal.regret, strict=True)):
            if not surface.open:
                continue
            now = surface.cutoff.arms
            calls = (now.shapes, now.weight)
            anew = Arms.of_calls(told, *calls)
            slow = anew.best()
            drawn = mean[t] + posterior.sample(512) @ left.T
            quick = Arms.of_calls(setting, *calls, posterior.values(drawn)).best()
            out.append(
                {
                    "truth": t,
                    "world_size": surface.world_size,
                    "true_cutoff": now.cells[int(np.argmin(regret[t]))].lo,
                    "refit_cutoff": slow.cell.roundest(),
                    "fast_cutoff": quick.cell.roundest(),
                    "refit_interval": [slow.lo.lo, slow.hi.hi],
                    "fast_interval": [quick.lo.lo, quick.hi.hi],
                    "refit_regret_pct": float(100 * regret[t, anew.cells.index(slow.cell)]),
                    "fast_regret_pct": float(fast[s, t]),
                }
            )
    return out


def rows_of(problem, design, latency_us, arch, gpu):
    """Return a rehearsed campaign's latencies as schema 1 rows."""
    c = problem.candidates
    return Measurements.from_rows(
        {
            "source": "rehearsal", "date": "2026-09-01", "gpu": gpu, "gpu_evidence": "stated",
            "arch": arch, "interconnect": "xgmi", "world_size": int(c.world_size[m // 2]),
            "op": c.op, "algorithm": c.arm(m), "kernel_family": "aiter",
            "kernel_version": kernel.LATEST, "tokens": int(c.tokens[m // 2]),
            "hidden_dim": int(c.hidden_dim[m // 2]), "dtype": c.dtype,
            "bytes": int(c.size_bytes[m // 2]), "latency_us": float(t), "statistic": "median",
            "rank_reduction": "max", "timing": "graph", "quality": "clean",
        }
        for m, t in zip(design, latency_us, strict=True)
    )  # fmt: skip


def figure_data(result):
    """Return what a figure of one case draws: series of (n, regret, error) and two levels."""
    series = {}
    for p in result["points"]:
        line = series.setdefault(
            p["kind"], {"name": p["kind"], "n": [], "regret_pct": [], "error_pct": []}
        )
        for key in ("n", "regret_pct", "error_pct"):
            line[key].append(p[key])
    return {
        "title": f"{result['gpu']}, TP {', '.join(map(str, result['world_sizes']))}",
        "x": "measured latencies",
        "y": "mean expected regret, percent (simulated)",
        "before_pct": result["before_pct"],
        "perfect_pct": result["perfect_pct"],
        "series": list(series.values()),
    }


def describe(result):
    kinds = list(dict.fromkeys(p["kind"] for p in result["points"]))
    rows = []
    for r in result["needed"]:
        cells = [f"{100 * r['removed']:.0f} %", f"{r['regret_pct']:.4f} %"]
        for kind in kinds:
            count = r[kind]
            ratio = f" (x{count / r['planned']:.1f})" if count and r["planned"] else ""
            cells.append(
                "never" if count is None else f"{count:.1f}{ratio if kind != 'planned' else ''}"
            )
        rows.append(cells)
    gaps = [
        p["regret_pct"] / p["predicted_pct"] - 1 for p in result["points"] if p["kind"] == "planned"
    ]
    sizes = ", ".join(map(str, result["world_sizes"]))
    return "\n".join(
        [
            f"{result['gpu']}, TP {sizes}, {result['truths']} truths: regret "
            f"{result['before_pct']:.4f} % now, {result['perfect_pct']:.4f} % unavoidable; "
            "latencies needed:",
            table(rows, ("removed", "regret left", *kinds)),
            f"planned: simulated regret {100 * min(gaps):+.0f} to {100 * max(gaps):+.0f} % of the "
            "predicted",
        ]
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="JSON file of the results.")
@click.option("--truths", default=1500, show_default=True)
@click.option("--refits", default=8, show_default=True, help="Truths fitted anew, per arch.")
def main(out, truths, refits):
    """Rehearse all designs and print how many latencies each kind needs."""
    results = []
    for case in CASES:
        results.append(rehearse(*case, truths=truths))
        click.echo(describe(results[-1]) + "\n")
    checks = {}
    for arch, gpu in dict.fromkeys(case[:2] for case in CASES):
        if not refits:
            break
        checks[gpu] = refit(arch, gpu, (4, 8), 6, refits)
        ratio = [abs(math.log(c["refit_cutoff"] / c["fast_cutoff"])) for c in checks[gpu]]
        click.echo(
            f"{gpu}: 6 planned latencies, {refits} truths fitted anew with the published rows: the "
            f"cutoff differs from the fast update's by a factor of "
            f"{math.exp(np.median(ratio)):.3f} (median), {math.exp(max(ratio)):.3f} (most); regret "
            f"{np.mean([c['refit_regret_pct'] for c in checks[gpu]]):.4f} % anew, "
            f"{np.mean([c['fast_regret_pct'] for c in checks[gpu]]):.4f} % fast"
        )
    if out:
        with replacing(out) as stream:
            json.dump({"cases": results, "refits": checks}, stream, indent=1)
            stream.write("\n")


if __name__ == "__main__":
    main()
