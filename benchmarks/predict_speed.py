"""Shape predictions a second, all terms, one core; beside numpy's own cost of one pass.

python benchmarks/predict_speed.py
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import time

import numpy as np

from costmodel.decide.setting import BLOCK, Setting


def best(run, repeat=7):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    rng = np.random.default_rng(0)
    total = 64 * BLOCK
    tokens = rng.integers(1, 513, total)
    hidden = rng.integers(64, 1025, total) * 8
    ranks = rng.choice([2, 4, 8], total)
    one_pass = best(
        lambda: [np.multiply(tokens[i : i + BLOCK], 1.5) for i in range(0, total, BLOCK)]
    )
    print(f"{'op':18} {'algorithm':9} {'million shapes/s':>17} {'numpy passes':>13}")
    for op in ("all_reduce", "fused_ar_rmsnorm", "ar_then_rmsnorm"):
        setting = Setting.shipped("MI355X", op=op)
        for algorithm in ("1stage", "2stage"):

            def run(setting=setting, algorithm=algorithm):
                for i in range(0, total, BLOCK):
                    part = slice(i, i + BLOCK)
                    setting.terms(
                        setting.shapes(tokens[part], hidden[part], ranks[part]), algorithm
                    )

            spent = best(run)
            print(f"{op:18} {algorithm:9} {total / spent / 1e6:17.1f} {spent / one_pass:13.0f}")


if __name__ == "__main__":
    main()
