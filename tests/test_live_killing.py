"""Processes killed at random moments: the short form of benchmarks/killing.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")


@pytest.fixture(scope="module")
def killing():
    """Return the module benchmarks/killing.py."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "killing.py"
    specification = importlib.util.spec_from_file_location("killing", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["killing"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.mark.campaign
def test_nothing_is_lost_and_nothing_left_whichever_process_is_killed(tmp_path, killing):
    killed, failures = killing.campaign("gloo", [2], 5, 20261129, tmp_path, horizon_s=2.0)
    assert failures == []
    assert sum(killed.values()) == 5
    assert "the launcher" in killed
