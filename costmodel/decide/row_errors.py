"""Accuracy: the calibrated model against measured rows, and whether its intervals hold.

A row of a source that the calibration knows is predicted with that source's harness constant and
contrast between arms. Any other source has a constant that nobody has measured: its rows get that
of the nearest source (same GPU and op), their intervals carry the spread over sources and over
machines, and a second error is given with one offset per source fitted to the rows themselves. A
row is predicted with the kernels of its own state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.observations import Observations, observe
from ..calibration.posterior import NOISE_DOF, Calibration, Values
from ..data.measurement import Measurements
from ..data.repeated import Repeated
from ..data.words import Words, combined, numbered
from ..errors import InputError
from ..model.shape import ARMS
from . import drawn as interval
from .setting import DRAWS, SEED

if TYPE_CHECKING:
    from .fit_schemas import AccuracyRecord

Array = NDArray[np.float64]

#: Calls that are evaluated at once, a few draws of them: what the L2 cache holds.
BLOCK = 2048

#: Rows whose offsets are found at once.
ROWS_AT_ONCE = 1 << 18

#: A latency is positive.
FLOOR_US = 1e-3


class Accuracy(Struct, frozen=True):
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


class Rows(Struct, frozen=True):
    """Measured rows that a calibration covers, with what the model makes of them.

    An observation is a row, or what many rows measured: ``measured`` (n,) are their latencies and
    ``kind`` (n,) says of which observation each is. Per observation, ``predicted_us`` holds the
    harness constant of its source, ``known`` whether the source is calibrated, ``noise`` the scale
    of the log residual that the calibration expects. ``inside`` (n,): whether the 90 % interval
    held a row.
    """

    observations: Observations
    predicted_us: Array
    inside: NDArray[np.bool_]
    known: NDArray[np.bool_]
    noise: Array
    kind: NDArray[np.int32]
    measured: Array

    def __len__(self) -> int:
        return self.measured.size

    def accuracy(self) -> Accuracy:
        """Return the errors over all rows."""
        # Arrays of rows are few at a time: there may be ten millions of them.
        count = np.bincount(self.kind, minlength=self.known.size)
        error = _error_pct(self.predicted_us[self.kind], self.measured)
        found = _median_p90_max(error)
        del error
        shift = offsets_without_row(
            self.measured - self.predicted_us[self.kind],
            1 / self.measured,
            self.observations.harness[self.kind],
        )
        shift += self.predicted_us[self.kind]
        offset = _median_p90_max(_error_pct(shift, self.measured))
        return Accuracy(
            len(self), int(count[self.known].sum()), *found, float(self.inside.mean()), *offset
        )


def _error_pct(predicted_us: Array, measured_us: Array) -> Array:
    """Return absolute errors in percent, in the place of the predictions."""
    error = np.divide(predicted_us, measured_us, out=predicted_us)
    error -= 1
    np.abs(error, out=error)
    return np.multiply(100, error, out=error)


def _median_p90_max(values: Array) -> tuple[float, float, float]:
    return float(np.median(values)), float(np.percentile(values, 90)), float(values.max())


def covered(
    calibration: Calibration,
    table: Measurements,
    *,
    gpu: str | None = None,
    include: tuple[str, ...] = ("clean",),
    times: NDArray[np.int64] | None = None,
) -> Observations:
    """Return the rows of ``table`` that the calibration covers; the others are counted by reason.

    ``gpu`` keeps the rows of one GPU only; ``include`` names the qualities to use. ``times`` as in
    :func:`.observe`.
    """
    archs = {a for a, _ in calibration.gpus}
    arch = next(iter(archs)) if len(archs) == 1 else None
    family = calibration.kernel_family
    found = observe(table, include=include, arch=arch, family=family, times=times)
    reasons: dict[str, int] = {}
    reason = np.full(len(found), -1, np.int16)
    known_gpus = set(calibration.gpus)
    for group in found.groups:
        if (group.arch, group.gpu) not in known_gpus:
            why = "GPU not in the calibration"
        elif gpu is not None and group.gpu != gpu:
            why = "another GPU"
        elif group.model.fabric != calibration.fabric:
            why = f"another fabric than the calibration's {calibration.fabric}"
        elif not group.model.covers(calibration.names, group.norm_kernel):
            why = "norm kernel not in the calibration"
        else:
            continue
        reason[group.rows] = reasons.setdefault(why, len(reasons))
    if not reasons:
        return found
    kept = observe(found.table.select(reason < 0), include=include, arch=arch, family=family)
    counts = Counter(found.set_aside)
    each = np.ones(len(found), np.int64) if times is None else times[found.index]
    counts += Counter({why: int(each[reason == code].sum()) for why, code in reasons.items()})
    return Observations(
        kept.table,
        kept.groups,
        kept.algorithm,
        kept.harness,
        dict(counts.most_common()),
        found.read,
        found.index[reason < 0],
        found.aside,
    )


def compare(
    calibration: Calibration, observations: Observations, rows: Repeated | None = None
) -> Rows:
    """Predict every row and say whether its 90 % interval held.

    ``rows`` are those of the observations, in the place of one each. Raises :class:`InputError`,
    with why each was set aside, where no row is left.
    """
    if not len(observations):
        why = "; ".join(f"{n} {reason}" for reason, n in observations.set_aside.items())
        raise InputError(
            f"no row can be used: {observations.read} read, all set aside ({why}); give rows of "
            f"{', '.join(g for _, g in calibration.gpus)}"
        )
    calls = _DistinctCalls.of(calibration, observations)
    holds, predicted = calls.ends(calibration)
    if rows is None:
        kind, measured = np.arange(len(observations), dtype=np.int32), observations.latency_us
    else:
        kind, measured = rows.kind, rows.latency_us
    inside = measured >= holds[0, calls.number][kind]
    inside &= measured < holds[1, calls.number][kind]
    return Rows(
        observations,
        predicted[calls.number],
        inside,
        calls.known[calls.number],
        calls.noise[calls.number],
        kind,
        measured,
    )


class _DistinctCalls(Struct, frozen=True):
    """The calls of which the rows are measurements: rows that the model predicts alike are one.

    ``number`` says which call each row is of, ``row`` which row stands for a call; calls of one
    group stand together. ``constant`` is the value of its source's harness or of a new one's,
    ``nearest`` the one that a point estimate takes, ``contrast`` that of its machine, "" for none.
    """

    observations: Observations
    number: NDArray[np.int64]
    row: NDArray[np.int64]
    constant: Words
    nearest: Words
    contrast: Words
    noise: Array
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, calibration: Calibration, rows: Observations) -> _DistinctCalls:
        """Find the calls and what is known of each one's benchmark."""
        table, group = rows.table, rows.group[0]
        harness = combined(
            (table.source, table.kernel_family, table.gpu),
            lambda *names: _harness_key(calibration, "/".join(names)),
        )
        sizes = (table.tokens, table.hidden_dim, table.world_size, table.bytes)
        number, first = numbered((group, harness, *sizes))
        order = np.argsort(group[first], kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        row = first[order]
        key = harness[row]
        closest = cache(calibration.nearest_source)

        def contrast(harness: str, arm: str) -> str:
            if not harness:
                return f"contrast[{arm}]"
            return f"contrast[{harness}|{arm}]" if (harness, arm) in calibration.contrast else ""

        return cls(
            rows,
            rank[number],
            row,
            key.renamed("harness[{}]".format),
            combined(
                (key, table.gpu[row], table.op[row]),
                lambda harness, gpu, op: f"harness[{harness or closest(gpu, op) or ''}]",
            ),
            combined((key, rows.arm[row]), contrast),
            key.each(
                lambda name: calibration.noise.get(name, calibration.typical_noise), np.float64
            ),
            key != "",
        )

    def ends(self, calibration: Calibration) -> tuple[Array, Array]:
        """Return, per call, between which latencies a row lies inside its interval, and the point.

        The interval is over draws of posterior, machine and row noise. Draws and calls come in
        blocks that fit the cache.
        """
        drawn = {"": np.zeros((DRAWS, 1)), **calibration.draw(DRAWS, SEED)}
        point = {"": 0.0, **{f"contrast[{arm}]": 0.0 for arm in ARMS}, **calibration.values}
        drawn = {**{f"contrast[{arm}]": drawn[""] for arm in ARMS}, **drawn}
        heavy = np.random.default_rng(SEED + 1).standard_t(NOISE_DOF, (DRAWS, 1))
        holds, predicted = np.empty((2, self.row.size)), np.empty(self.row.size)
        for start in range(0, self.row.size, BLOCK):
            some = slice(start, start + BLOCK)
            latency = self.observations.latency_of(self.row[some])
            predicted[some] = self._benchmarked(latency, point, self.nearest, some)
            seen = np.empty((DRAWS, predicted[some].size))
            for few in interval.in_turn(*seen.shape):
                values = {name: value[few] for name, value in drawn.items()}
                seen[few] = self._benchmarked(latency, values, self.constant, some)
                seen[few] *= np.exp(heavy[few] * self.noise[some])
            holds[:, some] = interval.holds(seen)
        return holds, predicted

    def _benchmarked(
        self, latency: Callable[[Values], Array], values: Values, constant: Words, some: slice
    ) -> Array:
        """Return latencies with what each call's benchmark and machine add, (draws, n) or (n,)."""
        added = sum(_columns(values, names[some]) for names in (constant, self.contrast))
        return np.maximum(latency(values) + added, FLOOR_US)


def _columns(values: Values, names: Words) -> Array:
    """Return each row's value, (draws, n), or (n,) for point values."""
    table = np.stack([np.ravel(values.get(name, 0.0)) for name in names.words], axis=-1)
    found = table[:, names.codes]
    return found if np.ndim(values["launch_us"]) else found[0]


def _harness_key(calibration: Calibration, key: str) -> str:
    """Return the calibrated harness of ``source/family/gpu``, or "" when there is none."""
    for candidate in (key, key.rpartition("/")[0]):
        if candidate in calibration.harness:
            return candidate
    return ""


def offsets_without_row(residual: Array, weight: Array, source: Words | NDArray[np.str_]) -> Array:
    """Return, per row, the offset that fits the other rows of its source best.

    The offset of a set of rows is the weighted median of their residuals; with weights 1 / measured
    it minimises their mean absolute percentage error. The row itself is left out, so that a source
    with few rows does not explain itself. 0 for the only row of a source.
    """
    out = np.zeros(residual.size)
    source = Words.of(source)
    for name in source.used:
        rows = np.flatnonzero(source == name)
        if rows.size < 2:
            continue
        order = rows[np.argsort(residual[rows], kind="stable")]
        del rows
        total = np.cumsum(weight[order])
        for start in range(0, order.size, ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            w = weight[order[some]]
            half = (total[-1] - w) / 2
            # Position of half the others' weight, among all rows: first where the row itself comes
            # later in the order, then (its own weight skipped) where it comes earlier.
            position = np.arange(start, start + w.size)
            before = np.searchsorted(total, half)
            after = np.searchsorted(total, half + w)
            at = np.where(before < position, before, np.where(after == position, after + 1, after))
            out[order[some]] = residual[order[np.minimum(at, order.size - 1)]]
    return out
