"""What a rule learnt inside an engine's start-up is worth, and what it costs a call.

The hidden truths of benchmarks/tuning.py, bent ones among them, are learnt in closed form by the
loop of ``costmodel.live.tune``, with the same scatter; regret is over the calls of three hidden
sizes, in points above the truth's best cutoff there. Beside it: the prior, and the time that the
learning itself takes a shape on this machine.

Then the rule in use: ns a call, beside a function written by hand, as a ratio.

    OPENBLAS_NUM_THREADS=1 python benchmarks/startup.py --truths 10 --out startup.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
from tuning import MISSPECIFICATIONS, TARGETS, Truth

from costmodel.data import kernels
from costmodel.data.workload import Workload
from costmodel.decide.learnt import Learnt
from costmodel.decide.setting import Setting
from costmodel.live.backends.base import LiveShape
from costmodel.live.run.points import DEFAULT_ARMS, Point
from costmodel.live.startup.learning import Here, Learner, RefusedError
from costmodel.live.startup.rule import StartupRule
from costmodel.show.table import table

HIDDEN = (2880, 4096, 7168)

#: Scatter of the rounds of one arm around its latency: that of clean runs (live.backends.replay).
ROUNDS = 0.004


class Engine:
    """A hidden truth that answers as ranks do."""

    def __init__(self, name: str, gpu: str, world_size: int, number: int) -> None:
        seed = [list(MISSPECIFICATIONS).index(name), TARGETS.index((gpu, world_size)), number]
        self.truth, self.shapes, self.world_size = (
            Truth(MISSPECIFICATIONS[name], gpu, world_size, seed), 0, world_size,
        )  # fmt: skip
        setting = self.truth.setting
        load = Workload.of(HIDDEN)
        shapes = setting.shapes(load.tokens, load.hidden_dim, world_size)
        shapes = shapes.select(setting.takes_both(shapes))
        self.size = shapes.bytes
        self.us = [setting.latency_us(shapes, a, self.truth.values)[0] for a in DEFAULT_ARMS]
        self.setting = Setting.shipped(gpu)
        self.here: Here = {
            "costmodel": "", "torch": "", "gpu": gpu, "device": "", "interconnect": "xgmi",
            "world_size": world_size, "kernel_family": "aiter", "kernel_version": kernels.LATEST,
            "dtype": "bf16", "hidden_sizes": list(HIDDEN),
            "arms": list(DEFAULT_ARMS), "genuine": True,
        }  # fmt: skip

    def told(self, tokens: int, hidden: int):
        self.shapes += 1
        record = self.truth.measure(Point(LiveShape(tokens, hidden, "bf16"), DEFAULT_ARMS))
        scatter = np.exp(ROUNDS * self.truth.rng.standard_normal((2, 8, 3, 1)))
        return [
            {
                "latency_us": {
                    row["algorithm"]: (row["latency_us"] * some).tolist()
                    for row, some in zip(record["rows"], scatter, strict=True)
                },
                "refused": "",
            }
        ]

    def regret_pct(self, cutoff: float) -> float:
        chosen = np.where(self.size <= cutoff, *self.us)
        return float(100 * np.mean(chosen / np.minimum(*self.us) - 1))

    def best(self) -> tuple[float, float, float]:
        cutoffs = np.unique(np.append(self.size, 0)).astype(float)
        regrets = np.array([self.regret_pct(c) for c in cutoffs])
        at = int(np.argmin(regrets))
        above = cutoffs[at + 1] if at + 1 < cutoffs.size else np.inf
        return float(regrets[at]), float(cutoffs[at]), float(above)


def one_truth(name: str, gpu: str, world_size: int, number: int) -> dict:
    engine = Engine(name, gpu, world_size, number)
    least, low, above = engine.best()
    prior = Learnt.nothing(engine.setting, Workload.of(HIDDEN), world_size).best.cell.roundest()
    began = time.perf_counter()
    try:
        entry = Learner(engine.here, np.inf).rule(engine.told)
    except RefusedError:
        entry = None
    seconds = time.perf_counter() - began
    return {
        "misspecification": name, "gpu": gpu, "world_size": world_size, "shapes": engine.shapes,
        "prior": engine.regret_pct(prior) - least,
        "tune": entry and engine.regret_pct(entry["max_bytes"]) - least,
        "covered": entry
        and bool((entry["lo"] or 1) < above and (entry["hi"] or np.inf) >= low),
        "ms": 1e3 * seconds / max(engine.shapes, 1),
    }  # fmt: skip


def by_hand(size_bytes: int) -> bool:
    """What stands in an engine."""
    return size_bytes <= 131072


def ratio() -> dict:
    """Return :func:`beside_by_hand` of a rule that was learnt."""
    engine = Engine("none", "MI355X", 8, 0)
    return beside_by_hand(StartupRule.of(Learner(engine.here, np.inf).rule(engine.told)))


def beside_by_hand(rule: StartupRule) -> dict:
    """Return ns a call of the rule and of the function written by hand, the best of many.

    ``read once`` is a comparison with ``rule.max_bytes``, read beforehand, inside a function too.
    The loop around the calls counts, in all three alike.
    """
    most = rule.max_bytes

    def read_once(size_bytes: int) -> bool:
        return size_bytes <= most

    functions = {"by hand": by_hand, "rule": rule, "read once": read_once}
    sizes = range(0, 2 * most, most // 510 or 1)
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(400):
        for name, function in functions.items():
            began = time.perf_counter_ns()
            for size in sizes:
                function(size)
            best[name] = min(best[name], (time.perf_counter_ns() - began) / len(sizes))
    return {**best, "ratio": best["rule"] / best["by hand"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truths", type=int, default=10, help="a misspecification and target")
    parser.add_argument("--out")
    given = parser.parse_args()
    records = [
        one_truth(name, gpu, n, number)
        for name in MISSPECIFICATIONS
        for number in range(given.truths)
        for gpu, n in TARGETS
    ]
    summary = []
    for name in [*MISSPECIFICATIONS, "together"]:
        mine = [r for r in records if name in ("together", r["misspecification"])]
        claimed = [r for r in mine if r["tune"] is not None]
        summary.append(
            {
                "misspecification": name, "truths": len(mine),
                "refused": len(mine) - len(claimed),
                "shapes": float(np.mean([r["shapes"] for r in mine])),
                "prior": float(np.mean([r["prior"] for r in mine])),
                "tune": float(np.mean([r["tune"] for r in claimed])),
                "covered": float(np.mean([r["covered"] for r in claimed])),
                "ms": float(np.median([r["ms"] for r in mine])),
            }
        )  # fmt: skip
    speed = ratio()
    if given.out:
        with open(given.out, "w") as stream:
            json.dump({"summary": summary, "ns": speed}, stream, indent=1)
    head = ("misspecification", "truths", "refused", "shapes", "prior, points", "tune, points",
            "interval holds it", "ms a shape")  # fmt: skip
    rows = [
        (s["misspecification"], s["truths"], s["refused"], f"{s['shapes']:.1f}",
         f"{s['prior']:.3f}", f"{s['tune']:.3f}", f"{100 * s['covered']:.0f} %", f"{s['ms']:.0f}")
        for s in summary
    ]  # fmt: skip
    sys.stdout.write(table(rows, head, width=220) + "\n")
    words = ", ".join(f"{name} {value:.0f} ns" for name, value in speed.items() if name != "ratio")
    sys.stdout.write(f"a call: {words}; the rule beside the one by hand: {speed['ratio']:.2f}\n")


if __name__ == "__main__":
    main()
