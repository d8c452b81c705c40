"""The model beside every baseline, on published rows.

    python benchmarks/baselines.py [--rows first|all]

Four parts, minutes in all:

- errors in sample, leaving one row out and leaving one source out, of the model and of each
  baseline, with the model on the same rows;
- each table held out in turn, after one offset, and where along its sizes the model misses;
- every other source, by the model fitted to the named set alone: as calibrated, and after one
  offset;
- each table of pairs: the cutoff that the model recommends for their kernels beside the crossing of
  two straight lines with Fieller's set and the bootstrap's.

``first`` is the set of sources that the first calibrations were fitted to, so that figures stay
comparable while sources are added; ``all`` are all sources. Rows that are not clean are set aside
from fits and errors; pairs are shown whatever their quality.
"""

from __future__ import annotations

import itertools
from collections import Counter

import click
import numpy as np
from msgspec.structs import replace

from costmodel.calibration.baselines import BASELINES
from costmodel.calibration.coverage import arms
from costmodel.calibration.cross_validation import (
    ORIGAMI,
    ErrorSummary,
    cross_validate,
    leave_source_out,
    offset_leave_one_out,
    origami_us,
    refit_offset,
)
from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import Observations, observe
from costmodel.calibration.one_fabric import on_fabric
from costmodel.data import facts, kernels
from costmodel.data.measurement import Measurements, published
from costmodel.data.workload import Workload
from costmodel.decide.crossings import MeasuredCrossing, measured_crossings
from costmodel.decide.pairs import pair
from costmodel.decide.recommendation import recommend
from costmodel.decide.row_errors import compare, covered
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.fabric import FULL_MESH
from costmodel.model.shape import ALL_REDUCE, FUSED, WORLD_SIZES
from costmodel.show import words
from costmodel.show.crossings import point, sizes
from costmodel.show.table import table
from costmodel.units import ELEMENT_BYTES, KIB, kib

#: Sources of the first calibrations, which used 159 of their rows.
FIRST = (
    "aiter-1290", "aiter-1880", "aiter-3458-mi355x", "aiter-801", "vllm-19744", "vllm-39080",
    "vllm-54787",
)  # fmt: skip
FIRST_ROWS = 159

#: Sizes in three bands: where fixed times, both, and bytes make the latency.
BANDS_BYTES = (0, 64 * KIB, 1024 * KIB, np.inf)

#: The family on whose rows errors are stated, as in ``costmodel calibrate``.
FAMILY = "aiter"


def in_sample(fit) -> dict[str, np.ndarray]:
    """Errors in percent of each baseline fitted to all rows of an arm, origami's to its harness."""
    observations, arm = fit.problem.observations, arms(fit)
    observed, size = observations.latency_us, observations.size_bytes
    guess = {name: np.full(observed.size, np.nan) for name in BASELINES}
    for name, (make, needed) in BASELINES.items():
        for a in np.unique(arm):
            mine = arm == a
            if np.unique(size[mine]).size >= needed:
                guess[name][mine] = make(size[mine], observed[mine])(size[mine])
    guess[ORIGAMI] = origami_us(observations)
    for key in np.unique(observations.harness):
        mine = (observations.harness == key) & ~np.isnan(guess[ORIGAMI])
        if mine.any():
            guess[ORIGAMI][mine] += refit_offset(guess[ORIGAMI][mine], observed[mine])
    return {name: 100 * (g / observed - 1) for name, g in guess.items()}


def errors(observations: Observations, fit) -> None:
    scores = cross_validate(fit)
    family = observations.table.kernel_family == FAMILY
    fitted = {k: ErrorSummary.of(e[family]) for k, e in in_sample(fit).items()}
    rows = [
        (
            "model", cell(scores.family_in_sample), cell(scores.leave_one_out["model"]), "",
            cell(scores.leave_source_out_pooled["model"]), "",
        )
    ]  # fmt: skip
    nothing = ErrorSummary.of(np.array([]))
    for name in (*BASELINES, ORIGAMI):
        one, source = (
            scores.same_rows.get(key, (nothing, nothing)) for key in (name, f"source:{name}")
        )
        rows.append(
            (
                name, cell(fitted[name]), cell(one[1]), percent(one[0]), cell(source[1]),
                percent(source[0]),
            )
        )  # fmt: skip
    head = ("median error (rows)", "in sample", "one out", "model", "source out", "model")
    click.echo(table(rows, head))
    click.echo(
        f"rows of family {FAMILY}; 'model': the model on the same rows; interpolation goes through "
        "its rows"
    )
    click.echo(
        f"origami has one offset per harness; as it stands {cell(scores.origami_raw)}; "
        f"{scores.origami_elsewhere} of its rows are of archs that it is not calibrated for"
    )
    click.echo(
        f"leaving a source out, {scores.leave_source_out_skipped} rows have a norm kernel that no "
        "other source measured"
    )


def held_out(fit) -> None:
    """Print each table held out, after one offset: where along its sizes the form misses."""
    observations = fit.problem.observations
    source, size = observations.table.source, observations.size_bytes
    by_source, _, _ = leave_source_out(fit)
    rows = []
    for name, error in by_source.items():
        known = ~np.isnan(error)
        few = [known & (size >= lo) & (size < hi) for lo, hi in itertools.pairwise(BANDS_BYTES)]
        alone = int((source == name).sum() - known.sum())
        rows.append(
            (
                name, str(int(known.sum())), str(alone or ""),
                percent(ErrorSummary.of(error)), f"{ErrorSummary.of(error).p90:.1f} %",
                *(f"{np.median(error[mine]):+.1f} %" if mine.any() else "" for mine in few),
            )
        )  # fmt: skip
    bands = [f"{kib(int(lo))} on" if lo else f"below {kib(int(hi))}" for lo, hi in
             itertools.pairwise(BANDS_BYTES)]  # fmt: skip
    click.echo(table(rows, ("table held out", "rows", "alone", "median", "p90", *bands)))
    click.echo(
        "after one offset; alone: rows whose norm kernel no other table has, not scored; the last "
        "columns are signed medians by size, positive where the model is too slow"
    )


def others(rows: Measurements, calibration, inside: tuple[str, ...]) -> None:
    """Print every source that is not in the set, by the calibration of the set."""
    shown, uncovered = [], []
    for source in np.unique(rows.source[~np.isin(rows.source, inside)]).tolist():
        mine = covered(calibration, rows.select(rows.source == source))
        why = "; ".join(f"{n} {reason}" for reason, n in mine.set_aside.items())
        if not len(mine):
            uncovered.append((source, mine.read, why))
            continue
        accuracy = compare(calibration, mine).accuracy()
        origami = ErrorSummary.of(offset_leave_one_out(origami_us(mine), mine))
        shown.append(
            (
                source, f"{len(mine)} of {mine.read}", f"{accuracy.median_ape:.2f} %",
                f"{accuracy.median_ape_offset:.2f} %", f"{accuracy.max_ape_offset:.1f} %",
                f"{100 * accuracy.coverage90:.0f} %", percent(origami), why,
            )
        )  # fmt: skip
    if shown:
        head = (
            "source", "rows", "median", "one offset", "largest", "in 90 %", "origami", "set aside",
        )  # fmt: skip
        click.echo(table(shown, head))
    else:
        click.echo("no other source has a row that the calibration covers")
    if uncovered:
        click.echo()
        click.echo(table(uncovered, ("not covered", "rows", "why")))


def crossings(rows: Measurements, calibration) -> None:
    """Print every table of pairs, of whatever kernels and quality."""
    known = ~np.isnan(rows.world_size) & np.isin(rows.dtype, ["", *ELEMENT_BYTES])
    known &= ~np.isnan(rows.bytes) | (~np.isnan(rows.tokens) & ~np.isnan(rows.hidden_dim))
    rows = rows.select(known)
    shown = []
    for op in (FUSED, ALL_REDUCE):
        of_op = pair(rows, op)
        for c in measured_crossings(rows, of_op):
            mine = of_op.row[of_op.source == c.source]
            quality = Counter(rows.quality[mine[rows.world_size[mine] == c.world_size]].tolist())
            shown.append(
                (
                    c.source, f"{c.gpu or 'unknown'} TP{c.world_size}", f"{c.dtype} {op}",
                    "all" if c.hidden_dim is None else str(c.hidden_dim),
                    c.kernel_version or c.kernel_family, ", ".join(quality),
                    c.crossing.pairs, model(c, calibration), point(c),
                    sizes(c.crossing.fieller), sizes(c.crossing.bootstrap),
                )
            )  # fmt: skip
    head = (
        "source", "on", "op", "hidden", "kernel", "quality", "pairs", "model", "lines cross at",
        "Fieller 90 %", "bootstrap 90 %",
    )  # fmt: skip
    click.echo(table(shown, head, width=200))
    click.echo(
        "model: the recommended cutoff for these hidden sizes, with its interval, at the newest "
        "AITER release that has the kernels of the pairs (else the newest)"
    )


def own_release(c: MeasuredCrossing) -> str:
    """The newest AITER release whose kernels are those of the pairs, or the newest at all."""
    ran = kernels.of_row(c.kernel_family, c.source, c.kernel_version, "")
    releases = {row["since_release"] for row in facts.rows("aiter_kernels.csv")}
    first = kernels.parse_version(kernels.first_release("fused_2stage"))
    known = sorted({*releases, kernels.LATEST}, key=kernels.parse_version, reverse=True)
    for release in known:
        if ran is None or kernels.parse_version(release) < first:
            break
        kernel = kernels.aiter(release)
        if replace(ran, version=release, norm_kernel=kernel.norm_kernel) == kernel:
            return release
    return kernels.LATEST


def model(c: MeasuredCrossing, calibration) -> str:
    """The cutoff recommended for the pairs' own kernels with its interval, or why there is none."""
    if c.kernel_family != calibration.kernel_family or c.world_size not in WORLD_SIZES:
        return "another kernel"
    try:
        release = own_release(c)
        setting = Setting(calibration, c.gpu, c.op, c.dtype, release)
        load = None if c.hidden_dim is None else Workload.of([c.hidden_dim])
        cutoff = recommend(setting, load, world_sizes=(c.world_size,)).cutoffs[0]
    except InputError as error:
        return str(error)
    said = words.answer(cutoff.verdict, cutoff.max_bytes)
    ends = words.size_interval(cutoff.max_bytes_lo, cutoff.max_bytes_hi)
    return f"{said} ({ends}) of {release}"


def cell(score: ErrorSummary) -> str:
    return f"{score.median:.2f} % ({score.n})" if score.n else "-"


def percent(score: ErrorSummary) -> str:
    return f"{score.median:.2f} %" if score.n else "-"


@click.command()
@click.option("--rows", "named", type=click.Choice(["first", "all"]), default="first")
def main(named: str) -> None:
    """Print the model beside every baseline."""
    rows = published()
    inside = FIRST if named == "first" else tuple(np.unique(rows.source).tolist())
    observations = on_fabric(observe(rows.select(np.isin(rows.source, inside))), FULL_MESH)
    calibration, fit = calibrate(observations)
    sources = ", ".join(np.unique(observations.table.source).tolist())
    click.echo(f"{named}: {len(observations)} rows of {sources}")
    if named == "first" and len(observations) != FIRST_ROWS:
        click.echo(f"(the first calibrations used {FIRST_ROWS} rows of these sources)")
    click.echo()
    errors(observations, fit)
    click.echo()
    held_out(fit)
    if named == "first":
        click.echo("\nevery other source, by the calibration of these rows")
        others(rows, calibration, inside)
    click.echo("\ntables of pairs")
    crossings(rows, calibration)


if __name__ == "__main__":
    main()
