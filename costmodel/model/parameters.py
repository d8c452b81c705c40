"""The parameters of the latency model: names, units and priors.

A name is a quantity with its scope in brackets when it has one: ``link_gbps[MI300X]``,
``kernel_time_scale[gfx942]``, ``separate_norm_us[gemma]``, ``harness[vllm-39080/aiter]``. Rates,
ratios and the round trip are handled by their logarithm (prior log-normal); fixed times, which only
ever add up, by their value (prior normal), so that the posterior of a sum that the data determine
stays exact when its parts are not determined. One row of ``facts/priors.csv`` each, with the source
of the figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ..data import facts
from . import shared_gpu as loopback
from .fabric import FULL_MESH, LOOPBACK

#: gfx950 is where both arms of the fused op are measured, so its kernels set the scale.
REFERENCE_ARCH = "gfx950"

#: Quantities that one value serves for all GPUs.
SHARED = (
    "eight_rank_efficiency",
    "round_trip_us",
    "workgroup_gbps",
    "turn_exposure_us",
    "launch_us",
    "second_launch_us",
    "barrier_us",
    "arrival_jitter_us",
    "release_acquire_us",
    "release_acquire_us_per_doubling",
    "norm_us",
    "local_us",
    "local_efficiency",
    "harness_us",
)


@dataclass(frozen=True)
class Prior:
    """A prior. ``form`` log: log-normal, ``centre`` the median, ``sd`` that of the logarithm;
    linear: normal with mean ``centre`` and standard deviation ``sd``, both in ``unit``.
    """

    name: str
    form: str
    centre: float
    sd: float
    unit: str
    source: str
    note: str


@cache
def _table() -> dict[tuple[str, str], dict[str, str]]:
    return {(row["parameter"], row["scope"]): row for row in facts.rows("priors.csv")}


@cache
def prior(name: str) -> Prior:
    """Return the prior of a parameter: its own scope's row, else the ``*`` row."""
    quantity, _, scope = name.partition("[")
    table = _table()
    row = table.get((quantity, scope.rstrip("]"))) or table[quantity, "*"]
    return Prior(
        name,
        row["form"],
        float(row["centre"]),
        float(row["sd"]),
        row["unit"],
        row["source"],
        row["note"],
    )


def is_log(names: Iterable[str]) -> list[bool]:
    """Return which parameters are handled by their logarithm."""
    return [prior(name).form == "log" for name in names]


def knows(names: Iterable[str], norm_kernel: str, fabric: str) -> bool:
    """Return whether ``names`` cover a separate norm kernel; in loopback it is always the same."""
    return fabric == LOOPBACK or f"separate_norm_us[{norm_kernel}]" in names


def names(
    gpus: Iterable[tuple[str, str]], norm_kernels: Iterable[str], fabric: str = FULL_MESH
) -> list[str]:
    """Return the parameters (without harness deviations) for (arch, gpu) pairs and norm kernels."""
    pairs = sorted(set(gpus))
    if fabric == LOOPBACK:
        return loopback.parameter_names(pairs)
    archs = sorted({arch for arch, _ in pairs})
    found = [f"link_gbps[{gpu}]" for _, gpu in pairs]
    found += [f"read_efficiency[{arch}]" for arch in archs]
    found += [f"read_efficiency_deviation[{gpu}]" for _, gpu in pairs]
    found += [f"kernel_time_scale[{arch}]" for arch in archs if arch != REFERENCE_ARCH]
    found += [f"stage_gap_us[{arch}]" for arch in archs]
    found += SHARED
    for kernel in sorted(set(norm_kernels)):
        found += [f"separate_norm_us[{kernel}]", f"separate_norm_efficiency[{kernel}]"]
    return found


def meaning(name: str) -> str:
    """Return what a parameter is, as words that follow "the"; its name where none are known.

    The scope is not in them: every ``link_gbps[...]`` is the "rate of a link".
    """
    return _meanings().get(name.partition("[")[0], name)


@cache
def _meanings() -> dict[str, str]:
    return {row["parameter"]: row["meaning"] for row in facts.rows("parameters.csv")}
