"""Figures: one function each, which returns a plotly ``Figure``.

===============================================  ===================================================
:func:`~.latency.latency_against_bytes`          both arms with bands, measured points, cutoff
:func:`~.token_hidden_map.decision_map`          tokens x hidden: who wins, every rule's boundary
:func:`~.regret.regret_over_workload`            mean and worst regret of every rule, by the model
:func:`~.regret.regret_on_pairs`                 the same on measured pairs
:func:`~.regret.difference_from_best`            rule x batch size: percent above the faster arm
:func:`~.terms.terms_along_bytes`                stacked terms of both arms
:func:`~.terms.terms_of_call`                    waterfall from 1-stage to 2-stage for one call
:func:`~.fit.residuals`                          residuals and pulls per source
:func:`~.fit.parameter_intervals`                parameters against their priors
:func:`~.fit.left_out_errors`                    leave-one-out beside the baselines
:func:`~.cutoff_drift.cutoff_against_link_rate`  what moves the cutoff: link rate
:func:`~.cutoff_drift.cutoff_against_skew`       arrival skew
:func:`~.cutoff_drift.cutoff_against_version`    kernel version
:func:`~.worth.worth_by_batch`                   us per decode step by batch size
:func:`~.planning.regret_against_measurements`   what planning is worth, simulated
:func:`~.planning.cutoffs_after_plan`            what a plan is expected to bring
:func:`~.tuning.tuning_course`                   a tuning from its record, step by step
:func:`~.static.write_images`                    PNG and SVG files
===============================================  ===================================================

All carry the template of :mod:`.template`, and state conditions, calibration and evidence in their
subtitle. They are imported on first use; plotly is not imported before a figure is made.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "latency_against_bytes": "latency",
    "decision_map": "token_hidden_map",
    "regret_over_workload": "regret",
    "regret_on_pairs": "regret",
    "difference_from_best": "regret",
    "terms_along_bytes": "terms",
    "terms_of_call": "terms",
    "residuals": "fit",
    "parameter_intervals": "fit",
    "left_out_errors": "fit",
    "cutoff_against_link_rate": "cutoff_drift",
    "cutoff_against_skew": "cutoff_drift",
    "cutoff_against_version": "cutoff_drift",
    "worth_by_batch": "worth",
    "regret_against_measurements": "planning",
    "cutoffs_after_plan": "planning",
    "tuning_course": "tuning",
    "write_images": "static",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module 'costmodel.figures' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
