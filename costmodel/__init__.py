"""Latency model of fused all-reduce + RMSNorm over xGMI, and the dispatch rule it leads to.

Five lines from data to decision::

    import costmodel as cm

    rows = cm.published()                                    # or cm.read("mine.csv")
    calibration, fit = cm.calibrate(cm.observe(rows), arch="gfx950")
    cm.recommend(cm.Setting(calibration, "MI355X"))          # or cm.Setting.shipped("MI355X")

A :class:`Setting` is the question; :func:`recommend` answers it with a :class:`Decision`, which
explain, plan, worth, validate and the figures take. Names are imported on first use, so
``import costmodel`` is cheap.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

__version__ = "0.2.0.dev0"

#: Public name -> module that defines it.
_PUBLIC = {
    "InputError": "errors",
    "Measurements": "data.measurement",
    "read": "data.measurement",
    "read_all": "data.measurement",
    "published": "data.measurement",
    "Workload": "data.workload",
    "captured_batch_sizes": "data.workload",
    "Shapes": "model.shape",
    "Rule": "rules.rule",
    "observe": "calibration.observations",
    "Calibration": "calibration.posterior",
    "load": "calibration.posterior",
    "shipped": "calibration.posterior",
    "calibrate": "calibration.estimate",
    "cross_validate": "calibration.cross_validation",
    "Setting": "decide.setting",
    "Decision": "decide.decision",
    "recommend": "decide.recommendation",
    "predict": "decide.prediction",
    "explain": "decide.explanation",
    "choices": "decide.explanation",
    "worth": "decide.worth",
    "validate": "decide.validation",
    "hold_out": "decide.validation",
    "plan": "planning",
    "Budget": "planning",
    "Study": "simulation",
    "Skew": "simulation",
    "Conditions": "simulation",
    "cutoff_map": "simulation",
}

__all__ = [*_PUBLIC, "__version__"]


#: Wings that are public as modules: ``cm.figures.decision_map``.
_MODULES = ("figures", "planning", "rules", "simulation")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'costmodel' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))


if "IPython" in sys.modules:
    importlib.import_module(".show.notebook", __name__).register()
