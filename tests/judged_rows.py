"""Rows of both arms on MI355X at 4 ranks, as a user's table has them, for tests that judge them."""

from __future__ import annotations

import numpy as np

from costmodel.data.measurement import Measurements
from costmodel.model.shape import ALGORITHMS, FUSED


def a_row(**changes):
    row = {
        "source": "mine", "date": "2026-09-01", "gpu": "MI355X", "gpu_evidence": "stated",
        "arch": "gfx950", "interconnect": "xgmi", "world_size": 4, "op": FUSED,
        "algorithm": "1stage", "kernel_family": "aiter", "kernel_version": "0.1.19.post1",
        "tokens": 8, "hidden_dim": 7168, "dtype": "bf16", "latency_us": 9.5,
        "statistic": "median", "rank_reduction": "max", "timing": "graph", "quality": "clean",
    }  # fmt: skip
    return {**row, **changes}


def table(*rows):
    return Measurements.from_rows(rows)


def synthetic(setting, *, factor=(1.0, 1.0), offset_us=0.0, noise=0.01, tokens=None, seed=1):
    """Rows of both algorithms at TP4: the model's latency, each algorithm times a factor."""
    rng = np.random.default_rng(seed)
    t, h = np.meshgrid(np.arange(4, 100, 4) if tokens is None else tokens, [2880, 7168])
    shapes = setting.shapes(t.ravel(), h.ravel(), 4)
    rows = []
    for algorithm, times in zip(ALGORITHMS, factor, strict=True):
        truth = setting.latency_us(shapes, algorithm)
        measured = (times * truth + offset_us) * np.exp(rng.normal(0, noise, truth.size))
        rows += [
            a_row(algorithm=algorithm, tokens=int(n), hidden_dim=int(k), latency_us=float(us))
            for n, k, us in zip(shapes.tokens, shapes.hidden_dim, measured, strict=True)
        ]
    return Measurements.from_rows(rows)
