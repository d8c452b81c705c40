"""A rule learnt in a start-up on real GPUs: which, in how many seconds, and what a call then costs.

    torchrun --nproc-per-node 2 benchmarks/startup_live.py --tp 2,4,8 --out startup_live.json

At each world size ``costmodel.live.tune`` is called as an engine would, with the project's Triton
kernels as its ops (ranks split over the GPUs, or one a GPU) and the prior of the shipped
calibration: as it is, several times, then held to 12 pairs, then with a table, which the last start
finds. Kernels are compiled before (an engine's are). Each rule is judged by the captured batches of
``measurements/h200-pair/revision-2/exhaustive.csv``, measured in full on another day's start of
such a pair, whose machine the prior's rows are of too. At the end: ns a call beside a constant.

``--rehearse`` draws latencies from a stated model instead, without a GPU: it tries the script.
"""

from __future__ import annotations

import argparse
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
    load = Workload.of(HIDDEN)
    for tokens, hidden in zip(load.tokens.tolist(), load.hidden_dim.tolist(), strict=True):
        backend.prepare(LiveShape(tokens, hidden, "bf16"), learning.REPETITION.slots, 0)
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


def at(world_size: int, given: argparse.Namespace, pairs) -> tuple[list[dict], object]:
    """Return the records of every start at a world size, and the last rule that was learnt."""
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
    backend.close()
    return found, learnt


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
    starts, learnt = [], None
    for world_size in map(int, given.tp.split(",")):
        found, rule = at(world_size, given, pairs)
        starts += found
        learnt = rule or learnt
        if dist.get_rank() == 0:
            ns = beside_by_hand(learnt) if learnt else None
            record = {"rehearsed": given.rehearse, "starts": starts, "ns_a_call": ns}
            given.out.write_text(json.dumps(record, indent=1) + "\n")
            print(f"ns a call: {ns}", flush=True)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
