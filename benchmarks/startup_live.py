"""A rule learnt in a start-up on real GPUs: which, in how many seconds, and what a call then costs.

    torchrun --nproc-per-node 2 benchmarks/startup_live.py --tp 2,4,8 --out startup_live.json

At each world size ``costmodel.live.tune`` is called as an engine would, with the project's Triton
kernels as its ops (ranks split over the GPUs, or one a GPU) and the prior of the shipped
calibration: as it is, several times, then held to 12 pairs, then with a table, which the last start
finds. Kernels are compiled before (an engine's are). Each rule is judged by the captured batches of
``measurements/h200-pair/revision-2/exhaustive.csv``, measured in full on another day's start of
such a pair, whose machine the prior's rows are of too. At the end: ns a call beside a constant.

Beside the regret stand the two other figures by which FlashInfer judges a tuner (its issue 3920):
winner flips, the share of captured batches that two starts decide otherwise (mean over pairs of
starts); and replay fidelity, at how many captured batches a graph of the arm that the rule names
launched the kernels of that arm, on every rank.

``--rehearse`` draws latencies from a stated model instead, without a GPU: it tries the script.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from startup import beside_by_hand

try:
    import torch.distributed as dist
except ImportError as error:
    sys.exit(f"startup_live: {error.name} is not installed; nothing to measure")

import costmodel.live
from costmodel.calibration.posterior import shipped
from costmodel.data import measurement
from costmodel.data.workload import Workload
from costmodel.decide.pairs import pair
from costmodel.decide.setting import Setting
from costmodel.decide.stopping import SHAPES
from costmodel.live.backends.base import LiveShape
from costmodel.live.backends.replay import ReplayBackend, truth
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.run.points import DEFAULT_ARMS
from costmodel.live.run.proof import refusals
from costmodel.live.startup import learning
from costmodel.model.shape import FUSED

HIDDEN = (2880, 7168)
ROWS = Path(__file__).parents[1] / "measurements" / "h200-pair" / "revision-2" / "exhaustive.csv"

#: Pairs to which a start is held for its time.
HELD_TO = 12


class Rehearsed(ReplayBackend):
    """A draw of the pair's calibration, in the place of the pair."""

    interconnect, kernel_family = "nvlink/2", "costmodel-2"
    genuine = True  # so that the table is tried too

    def set_up(self) -> None:
        """Draw the truth."""
        if self.world_size == 2:
            self.interconnect = "nvlink"
        self.gpu, self.arch, self.draw = "H200", "sm_90", 3
        self.setting = Setting(shipped(self.arch), self.gpu)
        self.kernel_version = "rehearsed"
        self.truth = truth(self.setting, self.draw)


class Counting:
    """Counts the shapes for which a back end is asked."""

    def __init__(self, backend) -> None:
        self.shapes, self._prepare = 0, backend.prepare
        backend.prepare = self

    def __call__(self, *given) -> None:
        self.shapes += 1
        self._prepare(*given)


def compiled(backend) -> float:
    """Run every captured batch once in both arms; return the seconds."""
    began = time.perf_counter()
    for shape in batches():
        backend.prepare(shape, learning.REPETITION.slots, 0)
        for arm in DEFAULT_ARMS:
            backend.capture(arm, learning.REPETITION.calls, backend.timings[0])
        backend.release()
    return time.perf_counter() - began


def regret_pct(pairs, world_size: int, max_bytes: int) -> float | None:
    """Return what the rule loses of the faster arm's latency, the mean over measured calls."""
    mine = pairs.select(pairs.world_size == world_size)
    if not mine.bytes.size:
        return None
    chosen = np.where(mine.bytes <= max_bytes, mine.one_us, mine.two_us)
    return float(100 * np.mean(chosen / mine.fastest_us - 1))


def batches() -> list[LiveShape]:
    """Return every captured batch of both hidden sizes."""
    load = Workload.of(HIDDEN)
    calls = zip(load.tokens.tolist(), load.hidden_dim.tolist(), strict=True)
    return [LiveShape(tokens, hidden, "bf16") for tokens, hidden in calls]


def flips_pct(cutoffs: list[int]) -> float | None:
    """Return the share of captured batches that two starts decide otherwise, None for one start."""
    size = np.array([shape.bytes for shape in batches()])
    pairs = list(itertools.combinations(cutoffs, 2))
    differ = [np.mean((size <= one) != (size <= other)) for one, other in pairs]
    return float(100 * np.mean(differ)) if pairs else None


def executed(backend, rule) -> list[int]:
    """Return at how many captured batches the rule's arm ran its own kernels, and of how many.

    Those whose kernels no rank can name are left out.
    """
    right = seen = 0
    for shape in batches():
        arm = DEFAULT_ARMS[not rule(shape.bytes)]
        backend.prepare(shape, learning.REPETITION.slots, 0)
        timed = backend.capture(arm, learning.REPETITION.calls, backend.timings[0])
        said = [None] * dist.get_world_size()
        dist.all_gather_object(said, (arm, timed.kernels()))
        timed.close()
        backend.release()
        names = [ran for _, ran in said]
        seen += all(names)
        alike = all(other == arm for other, _ in said)
        right += all(names) and alike and not refusals({arm: names}, backend.world_size)
    return [right, seen]


def started(name: str, backend, budget_s: float, pairs, **more):
    """Tune once on all ranks; return the record, and the rule."""
    counted, lines = Counting(backend), []
    dist.barrier()
    began = time.perf_counter()
    rule = costmodel.live.tune(None, backend, HIDDEN, budget_s, log=lines.append, **more)
    seconds = time.perf_counter() - began
    backend.prepare = counted._prepare
    said = [None] * dist.get_world_size()
    dist.all_gather_object(said, (seconds, rule and rule.text))
    world_size = backend.world_size
    record = {
        "start": name, "world_size": world_size, "seconds": max(s for s, _ in said),
        "ranks_agree": len({text for _, text in said}) == 1, "shapes": counted.shapes,
        "max_bytes": rule and rule.max_bytes, "lo": rule and rule.entry["lo"],
        "hi": rule and rule.entry["hi"],
        "regret_pct": rule and regret_pct(pairs, world_size, rule.max_bytes),
        "said": " ".join(lines),
    }  # fmt: skip
    if dist.get_rank() == 0:
        regret = record["regret_pct"]
        lost = "" if regret is None else f", loses {regret:.3f} % on the captured batches"
        print(
            f"TP{world_size} {name}: {record['seconds']:.2f} s, {counted.shapes} shapes, "
            f"ranks agree: {record['ranks_agree']}{lost}; {record['said']}",
            flush=True,
        )
    return record, rule


def at(world_size: int, given: argparse.Namespace, pairs) -> tuple[dict, list[dict], object]:
    """Return a world size's figures, the record of every start, and the last rule learnt."""
    backend = (Rehearsed if given.rehearse else TritonBackend)(world_size)
    backend.set_up()
    seconds = compiled(backend)
    if dist.get_rank() == 0:
        print(f"TP{world_size}: every captured batch run once, compiled, in {seconds:.1f} s")
    found, learnt = [], None
    for start in range(given.starts):
        record, rule = started(f"start {start}", backend, given.budget, pairs)
        found.append(record)
        learnt = rule or learnt
    verdict = learning.verdict
    learning.verdict = lambda history, limits: SHAPES if history[-1].shapes >= HELD_TO else None
    found += [started(f"held to {HELD_TO} pairs", backend, given.budget, pairs)[0]]
    learning.verdict = verdict
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        for name in ("filling a table", "finding it"):
            found += [started(name, backend, given.budget, pairs, table=table)[0]]
    learnt_bytes = [r["max_bytes"] for r in found[: given.starts] if r["max_bytes"] is not None]
    figures = {
        "world_size": world_size,
        "flips_pct": flips_pct(learnt_bytes),
        "executed": executed(backend, learnt) if learnt else None,
    }
    if dist.get_rank() == 0:
        print(f"TP{world_size}: {figures}", flush=True)
    backend.close()
    return figures, found, learnt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tp", default="2,4,8", help="world sizes")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of each start")
    parser.add_argument("--starts", type=int, default=3, help="at each world size, as it is")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, latencies drawn")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    dist.init_process_group("gloo" if given.rehearse else "cpu:gloo,cuda:nccl")
    pairs = pair(measurement.read(ROWS), FUSED)
    figures, starts, learnt = [], [], None
    for world_size in map(int, given.tp.split(",")):
        here, found, rule = at(world_size, given, pairs)
        figures.append(here)
        starts += found
        learnt = rule or learnt
        if dist.get_rank() == 0:
            ns = beside_by_hand(learnt) if learnt else None
            record = {
                "rehearsed": given.rehearse, "figures": figures, "starts": starts, "ns_a_call": ns,
            }  # fmt: skip
            given.out.write_text(json.dumps(record, indent=1) + "\n")
            print(f"ns a call: {ns}", flush=True)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
