"""Accuracy: the calibrated model against measured rows, and whether its intervals hold.

A row of a source that the calibration knows is predicted with that source's harness constant and
contrast between arms. Any other source has a constant that nobody has measured: its rows get that
of the nearest source (same GPU and op), their intervals carry the spread over sources and over
machines, and a second error is given with one offset per source fitted to the rows themselves. A
row is predicted with the kernels of its own state.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..calibration.observations import Observations, observe
from ..calibration.posterior import NOISE_DOF, TAIL, Calibration, Values
from ..data.measurement import Measurements
from ..errors import InputError
from ..model.shape import ARMS
from .setting import DRAWS, SEED

if TYPE_CHECKING:
    from .fit_schemas import AccuracyRecord

Array = NDArray[np.float64]

#: Posterior draws evaluated at once against all rows.
BLOCK = 8

#: A latency is positive.
FLOOR_US = 1e-3


@dataclass(frozen=True)
class Accuracy:
    """Absolute percentage errors over ``n`` rows, percent; ``coverage90`` is a share of the rows.

    The errors named ``offset`` are after one fitted offset per source. ``known`` counts the rows
    whose source the calibration was fitted on.
    """

    n: int
    known: int
    median_ape: float
    p90_ape: float
    max_ape: float
    coverage90: float
    median_ape_offset: float
    p90_ape_offset: float
    max_ape_offset: float

    def to_dict(self) -> AccuracyRecord:
        """Return the ``accuracy`` part of ``costmodel/validate/1``."""
        return {
            "n": self.n,
            "median_ape": self.median_ape,
            "p90_ape": self.p90_ape,
            "max_ape": self.max_ape,
            "coverage90": self.coverage90,
            "median_ape_offset": self.median_ape_offset,
        }


@dataclass(frozen=True)
class Rows:
    """Measured rows that a calibration covers, with what the model makes of them.

    ``predicted_us`` (n,) holds the harness constant of each row's source, ``inside`` whether the
    90 % interval held, ``known`` whether the source is calibrated, ``noise`` the scale of the
    row's log residual that the calibration expects.
    """

    observations: Observations
    predicted_us: Array
    inside: NDArray[np.bool_]
    known: NDArray[np.bool_]
    noise: Array

    def accuracy(self) -> Accuracy:
        """Return the errors over all rows."""
        measured = self.observations.latency_us
        error = 100 * np.abs(self.predicted_us / measured - 1)
        shift = offsets_without_row(
            measured - self.predicted_us, 1 / measured, self.observations.harness
        )
        moved = 100 * np.abs((self.predicted_us + shift) / measured - 1)
        return Accuracy(
            n=measured.size,
            known=int(self.known.sum()),
            median_ape=float(np.median(error)),
            p90_ape=float(np.percentile(error, 90)),
            max_ape=float(error.max()),
            coverage90=float(self.inside.mean()),
            median_ape_offset=float(np.median(moved)),
            p90_ape_offset=float(np.percentile(moved, 90)),
            max_ape_offset=float(moved.max()),
        )


def covered(
    calibration: Calibration,
    table: Measurements,
    *,
    gpu: str | None = None,
    include: tuple[str, ...] = ("clean",),
) -> Observations:
    """Return the rows of ``table`` that the calibration covers; the others are counted by reason.

    ``gpu`` keeps the rows of one GPU only; ``include`` names the qualities to use.
    """
    archs = {a for a, _ in calibration.gpus}
    arch = next(iter(archs)) if len(archs) == 1 else None
    family = calibration.kernel_family
    found = observe(table, include=include, arch=arch, family=family)
    reason = np.full(len(found), "", dtype="U64")
    known_gpus = set(calibration.gpus)
    for group in found.groups:
        if (group.arch, group.gpu) not in known_gpus:
            reason[group.rows] = "GPU not in the calibration"
        elif gpu is not None and group.gpu != gpu:
            reason[group.rows] = "another GPU"
        elif group.model.fabric != calibration.fabric:
            reason[group.rows] = f"another fabric than the calibration's {calibration.fabric}"
        elif not group.model.covers(calibration.names, group.norm_kernel):
            reason[group.rows] = "norm kernel not in the calibration"
    if not (reason != "").any():
        return found
    kept = observe(found.table.select(reason == ""), include=include, arch=arch, family=family)
    counts = Counter(found.set_aside) + Counter(reason[reason != ""].tolist())
    return Observations(
        kept.table,
        kept.groups,
        kept.algorithm,
        kept.harness,
        dict(counts.most_common()),
        found.read,
        found.aside,
    )


def compare(calibration: Calibration, observations: Observations) -> Rows:
    """Predict every row and say whether its 90 % interval held.

    Raises :class:`InputError`, with why each was set aside, where no row is left.
    """
    if not len(observations):
        why = "; ".join(f"{n} {reason}" for reason, n in observations.set_aside.items())
        raise InputError(
            f"no row can be used: {observations.read} read, all set aside ({why}); give rows of "
            f"{', '.join(g for _, g in calibration.gpus)}"
        )
    table = observations.table
    pair = np.char.add(np.char.add(table.source, "/"), table.kernel_family)
    keys, index = np.unique(np.char.add(np.char.add(pair, "/"), table.gpu), return_inverse=True)
    harness = [_harness_key(calibration, key) for key in keys.tolist()]
    noise = np.array([calibration.noise.get(h, calibration.typical_noise) for h in harness])[index]
    seen = _Seen.of(calibration, observations, harness, index)
    predicted = seen.latency(observations, calibration.values, point=True)[0]
    return Rows(
        observations,
        predicted,
        _inside(calibration, observations, seen, noise),
        np.array([h != "" for h in harness], np.bool_)[index],
        noise,
    )


def _inside(
    calibration: Calibration,
    observations: Observations,
    seen: _Seen,
    noise: Array,
) -> NDArray[np.bool_]:
    """Return where the measured latency lies inside the 90 % interval of its prediction.

    A value is inside when between 5 and 95 % of the draws (posterior, machine, row noise) lie at
    or below it, which spares the quantiles.
    """
    values = calibration.draw(DRAWS, SEED)
    heavy = np.random.default_rng(SEED + 1).standard_t(NOISE_DOF, (DRAWS, 1))
    below = np.zeros(len(observations))
    for start in range(0, DRAWS, BLOCK):
        some = slice(start, start + BLOCK)
        block = {name: value[some] for name, value in values.items()}
        drawn = seen.latency(observations, block)
        drawn *= np.exp(heavy[some] * noise)
        below += (drawn <= observations.latency_us).sum(0)
    share = below / DRAWS
    return (share >= TAIL) & (share <= 1 - TAIL)


@dataclass(frozen=True)
class _Names:
    """A name of values per row: the distinct ones, and which of them each row has."""

    distinct: tuple[str, ...]
    index: NDArray[np.intp]

    @classmethod
    def of(cls, names: list[str]) -> _Names:
        at = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return cls(tuple(at), np.array([at[name] for name in names], np.intp))

    def columns(self, values: Values) -> Array:
        """Return each row's value, (draws, n)."""
        table = np.stack([np.ravel(values[name]) for name in self.distinct], axis=-1)
        return np.asarray(table[:, self.index])


@dataclass(frozen=True)
class _Seen:
    """What is known of each row's benchmark: names of values.

    ``constant`` per row the harness of its source, or of a new one; ``nearest`` the one that a
    point estimate takes; ``contrast`` per row that of its machine, "" for none.
    """

    constant: _Names
    nearest: _Names
    contrast: _Names

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        rows: Observations,
        harness: list[str],
        index: NDArray[np.intp],
    ) -> _Seen:
        constant, nearest, contrast = [], [], []
        closest = cache(calibration.nearest_source)
        columns = (index, rows.table.gpu, rows.table.op, rows.arm)
        for at, gpu, op, arm in zip(*(c.tolist() for c in columns), strict=True):
            key = harness[at]
            constant.append(f"harness[{key}]")
            nearest.append(f"harness[{key or closest(gpu, op) or ''}]")
            own = f"contrast[{key}|{arm}]" if key else f"contrast[{arm}]"
            contrast.append(own if key == "" or (key, arm) in calibration.contrast else "")
        return cls(_Names.of(constant), _Names.of(nearest), _Names.of(contrast))

    def latency(self, rows: Observations, values: Values, *, point: bool = False) -> Array:
        """Return latencies, (draws, n); one draw for point values."""
        none = np.zeros(np.size(values["harness_us"]))
        values = {"": none, **{f"contrast[{arm}]": none for arm in ARMS}, **values}
        base = np.atleast_2d(rows.latency(values))
        constant = (self.nearest if point else self.constant).columns(values)
        return np.maximum(base + constant + self.contrast.columns(values), FLOOR_US)


def _harness_key(calibration: Calibration, key: str) -> str:
    """Return the calibrated harness of ``source/family/gpu``, or "" when there is none."""
    for candidate in (key, key.rpartition("/")[0]):
        if candidate in calibration.harness:
            return candidate
    return ""


def offsets_without_row(residual: Array, weight: Array, source: NDArray[np.str_]) -> Array:
    """Return, per row, the offset that fits the other rows of its source best.

    The offset of a set of rows is the weighted median of their residuals; with weights 1 / measured
    it minimises their mean absolute percentage error. The row itself is left out, so that a source
    with few rows does not explain itself. 0 for the only row of a source.
    """
    out = np.zeros(residual.size)
    _, index, count = np.unique(source, return_inverse=True, return_counts=True)
    for rows in np.split(np.argsort(index, kind="stable"), np.cumsum(count)[:-1]):
        if rows.size < 2:
            continue
        order = rows[np.argsort(residual[rows], kind="stable")]
        w = weight[order]
        total = np.cumsum(w)
        half = (total[-1] - w) / 2
        # Position of half the others' weight, among all rows: first where the row itself comes
        # later in the order, then (its own weight skipped) where it comes earlier.
        position = np.arange(order.size)
        before = np.searchsorted(total, half)
        after = np.searchsorted(total, half + w)
        at = np.where(before < position, before, np.where(after == position, after + 1, after))
        out[order] = residual[order[np.minimum(at, order.size - 1)]]
    return out
