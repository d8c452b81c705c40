"""Latency model of fused all-reduce + RMSNorm over xGMI, and the dispatch rule it leads to.

Five lines from data to decision::

    import costmodel as cm

    rows = cm.published()                                    # or cm.read("mine.csv")
    calibration, fit = cm.calibrate(cm.observe(rows), arch="gfx950")
    cm.recommend(calibration, gpu="MI355X")

Names are imported on first use, so ``import costmodel`` is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name -> module that defines it.
_PUBLIC = {
    "InputError": "errors",
    "Measurements": "data.measurement",
    "read": "data.measurement",
    "read_all": "data.measurement",
    "published": "data.measurement",
    "Shapes": "model.shape",
    "eligible": "model.eligibility",
    "aiter": "data.kernels",
    "observe": "calibration.observations",
    "Calibration": "calibration.posterior",
    "load": "calibration.posterior",
    "shipped": "calibration.posterior",
    "calibrate": "calibration.estimate",
    "predict": "decide.prediction",
    "latency_terms": "decide.prediction",
    "latency_us": "decide.prediction",
    "assess": "calibration.cross_validation",
    "Workload": "data.workload",
    "captured_batch_sizes": "data.workload",
    "Rule": "rules.rule",
    "recommend": "decide.recommendation",
    "validate": "decide.validation",
    "hold_out": "decide.validation",
    "Setting": "decide.sensitivity",
    "explain": "decide.explanation",
    "plan": "planning",
    "Budget": "planning",
    "Study": "simulation",
    "Skew": "simulation",
    "Conditions": "simulation",
    "cutoff_map": "simulation",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'costmodel' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
