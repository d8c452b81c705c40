"""Do the printed ends of a cutoff hold the truth, also where the model is wrong?

Truths are drawn from the calibration on the published rows, bent by one misspecification (or all
at once), measured with the rows' own shapes, benchmarks and noise, calibrated anew, and asked for
the cutoffs of two GPUs at 4 and 8 ranks on a machine that nobody has measured. Per misspecification
and target: the share of truths whose best cutoff lies within the printed 90 % interval, with its
binomial error; and the mean interval score (Gneiting and Raftery, JASA 102 (2007), eq. 43: width
plus 2/alpha times what the truth lies outside), in log2 of bytes, beside

- ``flat``: the interval from half to twice the point,
- ``oracle``: the same fit told which misspecification holds and its size,
- ``before``: another checkout of costmodel (``--against DIR``).

    OPENBLAS_NUM_THREADS=1 python benchmarks/coverage.py --truths 400 --out coverage.json
    OPENBLAS_NUM_THREADS=1 python benchmarks/coverage.py --truths 10 --only none --only all
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from costmodel.calibration import estimate
from costmodel.calibration.observations import observe
from costmodel.data import measurement
from costmodel.decide.recommendation import known_workload, weigh
from costmodel.decide.setting import Setting
from costmodel.model.latency import READ_KNEE, WRITE_KNEE

TARGETS = (("MI355X", 4), ("MI355X", 8), ("MI300X", 4), ("MI300X", 8))
ALPHA = 0.10

#: Log2 of bytes at which scores are cut: one token of the smallest model, and the largest call.
SMALLEST, LARGEST = 12.0, 23.0


@dataclass(frozen=True)
class Misspecification:
    """How a truth differs from the model. ``contrast_us`` None: as the calibration says."""

    knees: tuple[float, float] = (READ_KNEE, WRITE_KNEE)
    noise_dof: float = 4.0
    rounding_us: float = 0.0
    contrast_us: float | None = None
    world_size_us: float | None = None


#: Strengths as in the review that asked for this benchmark. A knee of 4 rounds reads
#: less than the model's 2, one of 12 hardly at all; here reads and writes have the same.
MISSPECIFICATIONS = {
    "none": Misspecification(),
    "knee 4": Misspecification(knees=(4.0, 4.0)),
    "knee 12": Misspecification(knees=(12.0, 12.0)),
    "t(2) tails": Misspecification(noise_dof=2.0),
    "rounding 0.1 us": Misspecification(rounding_us=0.1),
    "contrast 0.3 us": Misspecification(contrast_us=0.3),
    "contrast 0.6 us": Misspecification(contrast_us=0.6),
    "world size 0.8 us": Misspecification(world_size_us=0.8),
    "all": Misspecification((4.0, 4.0), 2.0, 0.1, 0.6, 0.8),
}


def ends(calibration) -> list[tuple[int, int, int]]:
    """Return (lo, point, hi) in bytes per target; the last call on 1-stage of a cell each."""
    out = []
    for gpu, ranks in TARGETS:
        setting = Setting(calibration, gpu)
        best = weigh(setting, known_workload(setting), ranks)[1]
        out.append((best.lo.lo, best.cell.lo, best.hi.lo))
    return out


def calibrated(table):
    """Return the calibration of a table of rows."""
    return estimate.calibrate(observe(table))[0]


def _rows():
    table = measurement.published()
    return table.select(observe_keep(table))


def observe_keep(table):
    """Return a mask of the rows over xGMI."""
    return table.interconnect == "xgmi"


def truths_of(name: str, first: int, count: int) -> list[dict]:
    """Return one record per truth: ends, the true cutoffs, and the rows' latencies."""
    from costmodel.calibration.fit import fit
    from costmodel.calibration.posterior import Calibration
    from costmodel.model.fabric import FullMesh
    from costmodel.model.latency import LinkModel

    class Bent(Calibration, frozen=True):
        """A calibration whose model has another knee."""

        knees: tuple[float, float] = (READ_KNEE, WRITE_KNEE)

        @property
        def model(self):
            return LinkModel(FullMesh(), *self.knees)

    wrong = MISSPECIFICATIONS[name]
    base, found = estimate.calibrate(observe(_rows()))
    problem, observations = found.problem, found.problem.observations
    bent_groups = tuple(
        replace(g, model=LinkModel(FullMesh(), *wrong.knees)) for g in observations.groups
    )
    bent = replace(problem, observations=replace(observations, groups=bent_groups))
    root = np.linalg.cholesky(found.covariance + 1e-12 * np.eye(found.x.size))
    k, h = len(problem.names), len(problem.harness)
    taus = np.array(base.taus)
    single, ratio = found.noise.reshape(-1, 2).T
    known = problem.pairs.ravel()
    records = []
    for number in range(first, first + count):
        rng = np.random.default_rng([list(MISSPECIFICATIONS).index(name), number])
        x = found.x + root @ rng.standard_normal(found.x.size)
        spread = float(rng.choice(taus[:, 0], p=taus[:, 1]))
        if wrong.contrast_us is not None:
            spread = wrong.contrast_us
            x[k + h :] = spread * rng.standard_normal(len(problem.contrast))
        machine = spread * rng.standard_normal()
        if wrong.world_size_us is not None:
            for op in ("fused", "plain"):
                at = problem.names.index(f"eight_rank_us[{op}]")
                x[at] = wrong.world_size_us * rng.standard_normal()
        noise = single[problem.harness_index] * rng.standard_t(wrong.noise_dof, len(observations))
        # Two rows of a pair share what their mean has and differ by what their ratio has.
        a = problem.pairs[:, 0]
        common = single[problem.harness_index[a]] * rng.standard_t(wrong.noise_dof, len(a))
        apart = ratio[problem.harness_index[a]] * rng.standard_t(wrong.noise_dof, len(a))
        noise[known] = np.column_stack([common + apart, common - apart]).ravel() / np.sqrt(2)
        latency = np.maximum(bent.predict(x), 0.5) * np.exp(noise)
        if wrong.rounding_us:
            latency = np.round(latency / wrong.rounding_us) * wrong.rounding_us
        table = replace(observations.table, latency_us=np.maximum(latency, 0.1))
        # The same rows, shapes and kernels: only the figures are new.
        new = replace(problem, observations=replace(observations, table=table))
        told = replace(bent, observations=replace(bent.observations, table=table))
        record = {"name": name, "number": number, "latency_us": latency.tolist()}
        record["ours"] = ends(_calibration(base, fit(new)))
        grid = {} if wrong.contrast_us is None else {"taus_us": np.array([wrong.contrast_us])}
        seer = fit(told, **grid)
        oracle = Bent(**vars_of(_calibration(base, seer)), knees=wrong.knees)
        record["oracle"] = ends(oracle)
        world = Bent(**vars_of(replace(base, mean=x)), knees=wrong.knees)
        record["truth"] = [_best(world, gpu, ranks, machine) for gpu, ranks in TARGETS]
        records.append(record)
    return records


def vars_of(calibration) -> dict:
    """Return a calibration's fields."""
    return {name: getattr(calibration, name) for name in calibration.__struct_fields__}


def _calibration(base, found):
    return replace(
        base,
        mean=found.x,
        covariance=found.covariance,
        noise=dict(zip(found.problem.harness, found.row_noise.tolist(), strict=True)),
        harness_log_sd=found.harness_log_sd,
        taus=tuple(map(tuple, found.taus.tolist())),
    )


def _best(world, gpu: str, ranks: int, machine_us: float) -> int:
    """Return the true best cutoff on one machine: the largest call on 1-stage, 0 for none."""
    setting = Setting(world, gpu)
    values = {name: np.full((1, 1), value) for name, value in setting.point.items()}
    values["contrast[2stage]"] = np.full((1, 1), machine_us)
    return int(weigh(setting, known_workload(setting), ranks, values=values)[1].cell.lo)


def before(directory: str, records: list[dict]) -> list[list[tuple[int, int, int]]]:
    """Return the ends that another checkout prints for the same rows, one list per truth."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "latencies.json"
        path.write_text(json.dumps([r["latency_us"] for r in records]))
        table = observe(_rows()).table
        table.write(Path(scratch) / "rows.csv")
        run = subprocess.run(
            [sys.executable, __file__, "--ends-of", scratch],
            env={**os.environ, "PYTHONPATH": directory}, check=True, capture_output=True, text=True,
        )  # fmt: skip
    return json.loads(run.stdout)


def _print_ends(scratch: str) -> None:
    table = measurement.read_all([str(Path(scratch) / "rows.csv")])
    out = []
    for latency in json.loads((Path(scratch) / "latencies.json").read_text()):
        new = replace(table, latency_us=np.maximum(np.array(latency), 0.1))
        out.append(ends(calibrated(new)))
    print(json.dumps(out))


def log2(size) -> np.ndarray:
    """Return log2 of bytes, cut to the range of calls; 0 is no call at all."""
    return np.clip(np.log2(np.maximum(np.asarray(size, float), 1.0)), SMALLEST, LARGEST)


def score(low, high, truth) -> np.ndarray:
    """Return the interval score in log2 of bytes."""
    below, above = np.maximum(low - truth, 0), np.maximum(truth - high, 0)
    return (high - low) + 2 / ALPHA * (below + above)


def summary(records: list[dict]) -> dict:
    """Return coverage per misspecification and target, and mean scores over all truths."""
    table, scores = [], {}
    for name in dict.fromkeys(r["name"] for r in records):
        mine = [r for r in records if r["name"] == name]
        truth = np.array([r["truth"] for r in mine])
        ours = np.array([r["ours"] for r in mine])
        inside = (ours[..., 0] <= truth) & (truth <= ours[..., 2])
        for t, (gpu, ranks) in enumerate(TARGETS):
            p = float(inside[:, t].mean())
            table.append(
                {
                    "misspecification": name, "gpu": gpu, "world_size": ranks, "truths": len(mine),
                    "coverage": p, "se": float(np.sqrt(p * (1 - p) / len(mine))),
                }
            )  # fmt: skip
    truth = log2([r["truth"] for r in records])
    for who in ("ours", "oracle", "before"):
        if who in records[0]:
            low, _, high = np.moveaxis(np.array([r[who] for r in records], float), -1, 0)
            scores[who] = float(score(log2(low), log2(high), truth).mean())
    point = log2(np.array([r["ours"] for r in records])[..., 1])
    scores["flat"] = float(score(point - 1, point + 1, truth).mean())
    return {"coverage": table, "interval_score_log2_bytes": scores}


def main() -> None:
    """Run the truths in parallel and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--truths", type=int, default=400)
    parser.add_argument("--only", action="append", choices=list(MISSPECIFICATIONS))
    parser.add_argument("--against", help="directory of another checkout")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", help="write the summary here as JSON")
    parser.add_argument("--ends-of", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ends_of:
        _print_ends(asked.ends_of)
        return
    chunk = max(1, min(20, asked.truths // max(1, asked.workers // 4)))
    jobs = [
        (name, first, min(chunk, asked.truths - first))
        for first in range(0, asked.truths, chunk)
        for name in asked.only or MISSPECIFICATIONS
    ]
    with ProcessPoolExecutor(asked.workers) as pool:
        records = [r for part in pool.map(_job, jobs, [asked.against] * len(jobs)) for r in part]
    result = summary(records)
    for row in result["coverage"]:
        print(
            f"{row['misspecification']:18s} {row['gpu']} TP{row['world_size']}  "
            f"{100 * row['coverage']:5.1f} % +- {100 * row['se']:.1f}  of {row['truths']}"
        )
    for who, value in result["interval_score_log2_bytes"].items():
        print(f"interval score, {who:8s} {value:.3f}")
    if asked.out:
        Path(asked.out).write_text(json.dumps(result, indent=1) + "\n")


def _job(job: tuple[str, int, int], against: str | None) -> list[dict]:
    records = truths_of(*job)
    if against:
        for record, then in zip(records, before(against, records), strict=True):
            record["before"] = then
    return records


if __name__ == "__main__":
    main()
