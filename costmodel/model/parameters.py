"""The priors of the latency models' parameters: forms, units and sources.

A name is a quantity with its scope in brackets when it has one: ``link_gbps[MI300X]``,
``kernel_time_scale[gfx942]``, ``separate_norm_us[gemma]``, ``harness[vllm-39080/aiter]``. Rates,
ratios and the round trip are handled by their logarithm (prior log-normal); fixed times, which only
ever add up, by their value (prior normal), so that the posterior of a sum that the data determine
stays exact when its parts are not determined. One row of ``facts/priors.csv`` each, with the source
of the figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from msgspec import Struct

from ..data import facts, hardware


class Prior(Struct, frozen=True):
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


def nominal_gbps(name: str) -> float | None:
    """Return the nominal rate of the link a ``link_gbps[...]`` parameter stands for, if known."""
    if not name.startswith("link_gbps["):
        return None
    try:
        return hardware.number(name[10:-1], "xgmi_link_bw_unidir")
    except KeyError:
        return None


def meaning(name: str) -> str:
    """Return what a parameter is, as words that follow "the"; its name where none are known.

    The scope is not in them: every ``link_gbps[...]`` is the "rate of a link".
    """
    return _meanings().get(name.partition("[")[0], name)


@cache
def _meanings() -> dict[str, str]:
    return {row["parameter"]: row["meaning"] for row in facts.rows("parameters.csv")}
