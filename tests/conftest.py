"""Fixtures that several test files share: published rows, a fit, shipped settings, one report.

In CI a skipped test fails: it would prove nothing, and nobody would see it.
"""

from __future__ import annotations

import os

import pytest

from costmodel.calibration import posterior as calibrations
from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import on_fabric
from costmodel.data import measurement
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.model.fabric import FULL_MESH


@pytest.fixture(scope="session", autouse=True)
def _wide_output():
    """Keep every table on wide lines, so that tests find their words whole; see test_table.py."""
    os.environ["COLUMNS"] = "250"


@pytest.fixture(scope="session")
def published():
    return measurement.published()


@pytest.fixture(scope="session")
def fitted(published):
    """Return (calibration over both archs, fit) on all clean published rows over xGMI."""
    return calibrate(on_fabric(observe(published), FULL_MESH))


@pytest.fixture(scope="session")
def gfx950():
    return calibrations.shipped("gfx950")


@pytest.fixture(scope="session")
def gfx942():
    return calibrations.shipped("gfx942")


@pytest.fixture(scope="session")
def mi355x(gfx950):
    return Setting(gfx950, "MI355X")


@pytest.fixture(scope="session")
def mi300x(gfx942):
    return Setting(gfx942, "MI300X")


@pytest.fixture(scope="session")
def decision(mi355x):
    return recommend(mi355x, world_sizes=(4, 8))


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Return a report, with pictures where there is a browser, and what the command said."""
    from reports import run

    out = tmp_path_factory.mktemp("plain") / "report"
    asked = ("--arch", "gfx950", "--model", "gpt-oss-120b", "--for", "sglang")
    done = run("report", *asked, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


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


#: Reasons for which a test may be skipped in CI, and why CI cannot do better.
MAY_SKIP_IN_CI = {
    "needs a CUDA or ROCm GPU": "CI has no GPU",
    "this machine has a GPU": "asks what happens without one",
    "Inductor's CPU code needs a C++ compiler": "CI's image may have none",
    "COSTMODEL_ENGINE_WHEELS names no wheels": ".ci/run says which the registry did not give",
}


def _no_skip_in_ci(report):
    """Turn a report of a skip into one of a failure in CI, unless its reason is on the list."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        path, line, said = report.longrepr
        if said.removeprefix("Skipped: ") not in MAY_SKIP_IN_CI:
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: a test may not be skipped in CI: {said}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _no_skip_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _no_skip_in_ci((yield))
