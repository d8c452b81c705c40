"""Time ``costmodel validate`` on a large table of synthetic rows.

    python benchmarks/validate.py [ROWS]

Both algorithms over a grid of shapes at 2, 4 and 8 ranks on MI355X, every shape measured several
times: the calibrated model's latency times noise of 2 %. Prints the seconds of each part, and of
the command as a user runs it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from costmodel.data import measurement
from costmodel.decide.pairs import calls
from costmodel.decide.row_errors import compare, covered
from costmodel.decide.setting import Setting
from costmodel.decide.validation import validate
from costmodel.model.shape import ALGORITHMS, FUSED

HIDDEN = (1024, 2048, 2880, 4096, 5120, 6144, 7168, 8192)


def rows(count: int, setting: Setting) -> measurement.Measurements:
    rng = np.random.default_rng(0)
    grid = [a.ravel() for a in np.meshgrid((2, 4, 8), HIDDEN, np.arange(1, 513), indexing="ij")]
    columns = []
    for algorithm in ALGORITHMS:
        shapes = setting.shapes(grid[2], grid[1], grid[0])
        columns.append((algorithm, shapes, setting.latency_us(shapes, algorithm)))
    out = []
    while len(out) < count:
        for algorithm, shapes, truth in columns:
            measured = truth * np.exp(rng.normal(0, 0.02, truth.size))
            out += [
                {
                    "source": "synthetic", "date": "2026-09-01", "gpu": "MI355X",
                    "gpu_evidence": "stated", "arch": "gfx950", "interconnect": "xgmi",
                    "world_size": n, "op": FUSED, "algorithm": algorithm,
                    "kernel_family": "aiter", "kernel_version": "0.1.19.post1", "tokens": t,
                    "hidden_dim": h, "dtype": "bf16", "bytes": t * h * 2, "latency_us": us,
                    "statistic": "median", "rank_reduction": "max", "timing": "graph",
                    "quality": "clean",
                }
                for n, t, h, us in zip(
                    shapes.world_size.tolist(), shapes.tokens.tolist(),
                    shapes.hidden_dim.tolist(), measured.tolist(), strict=True,
                )
            ]  # fmt: skip
    return measurement.Measurements.from_rows(out[:count])


def timed(name, work, *arguments):
    start = time.perf_counter()
    result = work(*arguments)
    print(f"{name:<28} {time.perf_counter() - start:6.2f} s")
    return result


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    setting = Setting.shipped("MI355X")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.csv"
        rows(count, setting).write(path)
        print(f"{count} rows, {path.stat().st_size / 1e6:.0f} MB")
        table = timed("read", measurement.read, path)
        observations = timed("sort into kernels", covered, setting.calibration, table)
        timed("compare with the model", compare, setting.calibration, observations)
        timed("pair", calls, observations.table, FUSED)
        timed("validate, all of it", validate, table, setting)
        command = [sys.executable, "-m", "costmodel", "validate", "--arch", "gfx950", str(path)]
        timed("the command", lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))


if __name__ == "__main__":
    main()
