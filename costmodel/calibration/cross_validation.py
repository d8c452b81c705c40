"""How good a calibration is: errors in sample, leaving one row out, leaving one source out.

Leaving a source out asks whether physics carries: the model is fitted without the source, then one
constant per harness (the source's own offset) is refitted to its rows. Rows whose separate norm
kernel no other source measured have constants that nothing else determines; they are counted and
left out of that score.

Beside the model stand the baselines that know one arm (:mod:`.baselines`), fitted to the same
rows, and :mod:`.origami`, which is fitted to none: raw, and with one offset per harness, which is
all that the rows tell it.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from ..data import kernels
from ..model.shape import ONE_STAGE, SEPARATE
from .baselines import BASELINES
from .coverage import HiddenEffect, arms, hidden_effect
from .fit import Fit, refits
from .observations import Observations
from .origami import all_reduce_us
from .posterior import NOISE_HALF_WIDTH, NORMAL_HALF_WIDTH

Array = NDArray[np.float64]


#: A refit takes about as long as its rows are many: beyond so many rows, sets are left out.
ONE_BY_ONE = 400
FOLDS = 20

#: Name of :mod:`.origami` among the baselines, and the arch that its constants are for.
ORIGAMI = "origami"
ORIGAMI_ARCH = "gfx942"


class ErrorSummary(Struct, frozen=True):
    """Absolute percentage errors over ``n`` rows."""

    n: int
    median: float
    p90: float
    max: float

    @classmethod
    def of(cls, error_pct: Array) -> ErrorSummary:
        """Summarise percentage errors of any sign."""
        e = np.abs(error_pct[~np.isnan(error_pct)])
        if not e.size:
            return cls(0, float("nan"), float("nan"), float("nan"))
        return cls(int(e.size), float(np.median(e)), float(np.percentile(e, 90)), float(e.max()))


class CrossValidation(Struct, frozen=True):
    """Scores of one fit; percent. ``family`` are the rows on which targets are stated: AITER's.

    Of a fit to another family's kernels that is all of them.

    ``origami_raw`` are the errors of origami as it stands; among the baselines it has an offset per
    harness. ``origami_elsewhere`` counts its rows of other archs than its constants are for.
    """

    in_sample: dict[str, ErrorSummary]
    family_in_sample: ErrorSummary
    leave_one_out: dict[str, ErrorSummary]
    coverage90: float
    leave_source_out: dict[str, ErrorSummary]
    leave_source_out_pooled: dict[str, ErrorSummary]
    leave_source_out_skipped: int
    hidden: HiddenEffect | None
    same_rows: dict[str, tuple[ErrorSummary, ErrorSummary]] = field(default_factory=dict)
    origami_raw: ErrorSummary = field(default_factory=lambda: ErrorSummary.of(np.array([])))
    origami_elsewhere: int = 0
    leave_hidden_out: ErrorSummary = field(default_factory=lambda: ErrorSummary.of(np.array([])))


def error_pct(found: Fit) -> Array:
    """Return signed errors (predicted over measured, minus 1) in percent."""
    return 100.0 * np.expm1(found.log_residual)


def leave_one_out(found: Fit) -> tuple[Array, NDArray[np.bool_]]:
    """Refit without each row; return its error in percent and whether its 90 % interval held.

    Noise scales are kept from the full fit. Above :data:`ONE_BY_ONE` rows, :data:`FOLDS` sets of
    rows are left out in turn instead of single ones.
    """
    observed = found.problem.observations.latency_us
    error, inside = np.empty(observed.size), np.empty(observed.size, bool)
    folds = observed.size if observed.size <= ONE_BY_ONE else FOLDS
    fold = np.arange(observed.size) % folds
    row_noise = found.row_noise[found.problem.harness_index]
    for k, without in enumerate(refits(found, (fold != k for k in range(folds)))):
        out = fold == k
        slope = without.slope[out]
        variance = np.einsum("ij,jk,ik->i", slope, without.covariance, slope)
        half = np.hypot(NORMAL_HALF_WIDTH * np.sqrt(variance), NOISE_HALF_WIDTH * row_noise[out])
        residual = np.log(without.predicted[out] / observed[out])
        error[out], inside[out] = 100 * np.expm1(residual), np.abs(residual) <= half
    return error, inside


def leave_hidden_out(found: Fit) -> Array:
    """Refit without each hidden size; return its rows' errors in percent.

    NaN for rows of arms that were measured at one hidden size only: those allow no such test. Where
    bytes are the wrong key, rows of a hidden size that was not seen miss by more than others.
    """
    table, arm = found.problem.observations.table, arms(found)
    known = ~np.isnan(table.hidden_dim)
    several = np.zeros(arm.size, np.bool_)
    for a in np.unique(arm[known]):
        mine = known & (arm == a)
        several |= mine & (np.unique(table.hidden_dim[mine]).size > 1)
    error = np.full(arm.size, np.nan)
    outs = [several & (table.hidden_dim == h) for h in np.unique(table.hidden_dim[several])]
    for out, without in zip(outs, refits(found, (~out for out in outs)), strict=True):
        measured = found.problem.observations.latency_us[out]
        error[out] = 100 * (without.predicted[out] / measured - 1)
    return error


def baseline_leave_one_out(found: Fit) -> dict[str, Array]:
    """Return, per baseline, the signed error of each row predicted from its arm's other rows.

    NaN where too few different sizes remain.
    """
    observations, arm = found.problem.observations, arms(found)
    observed, size = observations.latency_us, observations.size_bytes
    out = {name: np.full(observed.size, np.nan) for name in BASELINES}
    for i in range(observed.size):
        rest = np.flatnonzero((arm == arm[i]) & (np.arange(observed.size) != i))
        for name, (make, needed) in BASELINES.items():
            if np.unique(size[rest]).size >= needed:
                guess = make(size[rest], observed[rest])(size[i : i + 1])[0]
                out[name][i] = 100 * (guess / observed[i] - 1)
    return out


def origami_us(observations: Observations) -> Array:
    """Return what origami says of each row's all-reduce; NaN off xGMI.

    It is asked for as many workgroups as the row's kernel launches at most. A norm adds nothing.
    """
    table = observations.table
    run = zip(table.kernel_family.tolist(), table.date.tolist(), strict=True)
    workgroups = np.array([kernels.at_date(family, date).max_workgroups for family, date in run])
    workgroups = np.where(np.isnan(table.workgroups), workgroups, table.workgroups)
    one_shot = observations.algorithm == ONE_STAGE
    latency = all_reduce_us(observations.size_bytes, table.world_size, one_shot, workgroups)
    return np.where(table.interconnect == "xgmi", latency, np.nan)


def offset_leave_one_out(raw: Array, observations: Observations) -> Array:
    """Return the signed error of each row with the offset of its harness's other rows, percent.

    NaN for the only row of a harness.
    """
    observed, harness = observations.latency_us, observations.harness
    out = np.full(observed.size, np.nan)
    for i in np.flatnonzero(~np.isnan(raw)).tolist():
        rest = np.flatnonzero((harness == harness[i]) & ~np.isnan(raw))
        rest = rest[rest != i]
        if rest.size:
            shift = refit_offset(raw[rest], observed[rest])
            out[i] = 100 * ((raw[i] + shift) / observed[i] - 1)
    return out


def refit_offset(predicted: Array, observed: Array) -> float:
    """Return the additive constant that minimises the median relative error, by robust weights."""
    offset = float(np.median(observed - predicted))
    scale = 0.03
    for _ in range(50):
        residual = (observed - predicted - offset) / observed
        weight = 1.0 / ((1.0 + (residual / scale) ** 2) * observed**2)
        step = float(np.sum(weight * (observed - predicted - offset)) / np.sum(weight))
        offset += step
        if abs(step) < 1e-9:
            break
    return offset


def leave_source_out(found: Fit) -> tuple[dict[str, Array], dict[str, dict[str, Array]], int]:
    """Refit without each source; return its rows' errors, the baselines' and the rows left out.

    The second result maps baseline -> source -> errors, where another source measured the same arm
    (GPU, world size, op, algorithm) so that the baseline can be scored the same way. Origami needs
    no other source.
    """
    observations = found.problem.observations
    table, observed = observations.table, observations.latency_us
    size = observations.size_bytes
    norm = np.full(observed.size, "", dtype="U16")
    for group in observations.groups:
        if group.shapes.op == SEPARATE:
            norm[group.rows] = group.norm_kernel
    arm = np.array(
        [
            f"{g}|{n:.0f}|{o}|{a}"
            for g, n, o, a in zip(
                table.gpu, table.world_size, table.op, observations.algorithm, strict=True
            )
        ]
    )
    model: dict[str, Array] = {}
    simple: dict[str, dict[str, Array]] = {name: {} for name in (*BASELINES, ORIGAMI)}
    origami = origami_us(observations)
    skipped = 0
    sources = np.unique(table.source)
    if sources.size < 2:
        return model, simple, skipped
    for source in sources:
        out = table.source == source
        alone = out & (norm != "") & ~np.isin(norm, norm[~out])
        skipped += int(alone.sum())
        score = out & ~alone
        if not score.any():
            continue
        # A harness without rows keeps its prior: zero deviation.
        (without,) = refits(found, [~out])
        predicted = without.predicted
        error = np.full(observed.size, np.nan)
        guesses = {name: np.full(observed.size, np.nan) for name in simple}
        for key in np.unique(observations.harness[score]):
            mine = score & (observations.harness == key)
            shift = refit_offset(predicted[mine], observed[mine])
            error[mine] = 100 * ((predicted[mine] + shift) / observed[mine] - 1)
            raws = {ORIGAMI: origami}
            for name, (make, needed) in BASELINES.items():
                raws[name] = np.full(observed.size, np.nan)
                for a in np.unique(arm[mine]):
                    rest = np.flatnonzero(~out & (arm == a))
                    here = mine & (arm == a)
                    if np.unique(size[rest]).size >= needed:
                        raws[name][here] = make(size[rest], observed[rest])(size[here])
            for name, raw in raws.items():
                known = mine & ~np.isnan(raw)
                if known.any():
                    moved = raw[known] + refit_offset(raw[known], observed[known])
                    guesses[name][known] = 100 * (moved / observed[known] - 1)
        model[str(source)] = error
        for name, guess in guesses.items():
            if not np.isnan(guess).all():
                simple[name][str(source)] = guess
    return model, simple, skipped


def cross_validate(found: Fit, *, family: str = "aiter") -> CrossValidation:
    """Return every score; leave-one-out refits the model once a row (seconds for 160 rows).

    ``family`` is whose kernels the fit is of. Rows of another's may stand under AITER's name, where
    a source ran them for it.
    """
    observations = found.problem.observations
    mine = observations.table.kernel_family == family
    if family != "aiter" or not mine.any():
        mine = np.ones(len(observations), bool)
    error = error_pct(found)
    loo, inside = leave_one_out(found)
    origami = origami_us(observations)
    simple = baseline_leave_one_out(found)
    simple[ORIGAMI] = offset_leave_one_out(origami, observations)
    source_model, source_simple, skipped = leave_source_out(found)
    left_out = {"model": ErrorSummary.of(loo[mine])}
    same_rows = {}
    for name, values in simple.items():
        left_out[name] = ErrorSummary.of(values[mine])
        common = mine & ~np.isnan(values)
        same_rows[name] = (ErrorSummary.of(loo[common]), ErrorSummary.of(values[common]))
    pooled = {
        "model": ErrorSummary.of(
            np.concatenate([e[mine] for e in source_model.values()] or [np.array([])])
        )
    }
    for name, by_source in source_simple.items():
        if not by_source:
            continue
        joined = np.concatenate([e[mine] for e in by_source.values()])
        pooled[name] = ErrorSummary.of(joined)
        model_same = np.concatenate(
            [np.where(np.isnan(e), np.nan, source_model[s])[mine] for s, e in by_source.items()]
        )
        same_rows[f"source:{name}"] = (ErrorSummary.of(model_same), ErrorSummary.of(joined))
    return CrossValidation(
        in_sample={
            str(key): ErrorSummary.of(error[observations.harness == key])
            for key in found.problem.harness
        },
        family_in_sample=ErrorSummary.of(error[mine]),
        leave_one_out=left_out,
        coverage90=float(inside[mine].mean()),
        leave_source_out={s: ErrorSummary.of(e[mine]) for s, e in source_model.items()},
        leave_source_out_pooled=pooled,
        leave_source_out_skipped=skipped,
        hidden=hidden_effect(found),
        leave_hidden_out=ErrorSummary.of(leave_hidden_out(found)[mine]),
        same_rows=same_rows,
        origami_raw=ErrorSummary.of((100 * (origami / observations.latency_us - 1))[mine]),
        origami_elsewhere=int(
            (mine & ~np.isnan(origami) & (observations.table.arch != ORIGAMI_ARCH)).sum()
        ),
    )
