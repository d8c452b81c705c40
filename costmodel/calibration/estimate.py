"""From observations to a calibration: the fit, what the rows cover, and what contradicts."""

from __future__ import annotations

import hashlib

from ..data import hardware
from ..errors import InputError
from .coverage import coverage, hidden_effect, refusals, source_rows
from .fit import Fit, FitProblem, fit
from .observations import Observations
from .one_fabric import on_fabric
from .posterior import Calibration


def known_gpus(observations: Observations) -> tuple[tuple[str, str], ...]:
    """Return the (arch, gpu) pairs of the rows, and all catalogued GPUs of those archs."""
    seen = {(g.arch, g.gpu) for g in observations.groups}
    for arch in {a for a, _ in seen}:
        seen |= {(arch, gpu) for gpu in hardware.GPUS.get(arch, ())}
    return tuple(sorted(seen))


def calibrate(
    observations: Observations, *, arch: str | None = None, unclean: bool = False
) -> tuple[Calibration, Fit]:
    """Fit the model to observations and return the calibration with the fit behind it.

    ``unclean`` says that the rows are not clean, so that no cutoff may be read from them.
    Raises :class:`InputError` when no row can be used.
    """
    if len(observations) == 0:
        why = "; ".join(f"{n} {reason}" for reason, n in observations.set_aside.items())
        raise InputError(
            f"no row can be used: {observations.read} read, all set aside ({why}); "
            "the model needs clean rows of all_reduce, fused_ar_rmsnorm or ar_then_rmsnorm by "
            "kernels of one family (--family names another than AITER's)"
        )
    fabrics = {g.model.fabric for g in observations.groups}
    of_arch = {g.model.fabric for g in observations.groups if g.arch == arch}
    if len(of_arch) == 1:
        fabrics = of_arch
        observations = on_fabric(observations, *of_arch)
    if len(fabrics) > 1:
        raise InputError(
            f"rows of several fabrics ({', '.join(sorted(fabrics))}) cannot share a calibration; "
            "calibrate them apart"
        )
    gpus = known_gpus(observations)
    found = fit(FitProblem.of(observations, gpus))
    archs = sorted({a for a, _ in gpus})
    effect = hidden_effect(found)
    families = sorted({g.kernel_family for g in observations.groups})
    calibration = Calibration(
        arch=archs[0] if len(archs) == 1 else "+".join(archs),
        names=found.problem.names,
        harness=found.problem.harness,
        contrast=found.problem.contrast,
        mean=found.x,
        covariance=found.covariance,
        noise=dict(zip(found.problem.harness, found.row_noise.tolist(), strict=True)),
        harness_log_sd=found.harness_log_sd,
        taus=tuple((tau, weight) for tau, weight in found.taus.tolist()),
        sources=source_rows(observations),
        coverage=coverage(observations),
        refusals=refusals(found, unclean=unclean),
        gpus=gpus,
        fabric=fabrics.pop(),
        kernel_family="aiter" if "aiter" in families else families[0],
        data={
            "rows_read": observations.read,
            "rows_used": len(observations),
            "set_aside": observations.set_aside,
            "aside": list(observations.aside),
            "sources": sorted(set(observations.table.source.tolist())),
            "sha256": data_sha256(observations),
            "hidden_effect": effect.to_dict() if effect else None,
        },
    )
    return (calibration.restrict(arch) if arch else calibration), found


def data_sha256(observations: Observations) -> str:
    """Return the hash of the rows used, in their order, as schema 1 text."""
    lines = [",".join(row.values()) for row in observations.table.to_rows()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
