"""Fixtures that several test files share: the published rows and one fit to them."""

from __future__ import annotations

import os

import pytest

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.data import measurement


@pytest.fixture(scope="session", autouse=True)
def _wide_output():
    """Keep every table on wide lines, so that tests find their words whole; see test_table.py."""
    os.environ["COLUMNS"] = "250"


@pytest.fixture(scope="session")
def published():
    return measurement.published()


@pytest.fixture(scope="session")
def fitted(published):
    """Return (calibration over both archs, fit) on all clean published rows."""
    return calibrate(observe(published))


ROW = {
    "source": "mine", "date": "2026-09-01", "gpu": "MI300X", "gpu_evidence": "stated",
    "arch": "gfx942", "interconnect": "xgmi", "world_size": 4, "op": "fused_ar_rmsnorm",
    "algorithm": "1stage", "kernel_family": "aiter", "kernel_version": "0.1.19", "tokens": 8,
    "hidden_dim": 4096, "dtype": "bf16", "bytes": 65536, "latency_us": 9.5, "statistic": "median",
    "rank_reduction": "max", "timing": "graph", "quality": "clean",
}  # fmt: skip


@pytest.fixture
def row():
    """Return one valid schema 1 row as a dictionary."""
    return dict(ROW)
