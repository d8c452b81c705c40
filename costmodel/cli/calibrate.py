"""``costmodel calibrate``."""

from __future__ import annotations

import click

from . import options


@click.command()
@click.argument("measurements", nargs=-1, metavar="MEASUREMENTS...")
@click.option("--out", metavar="FILE", help="Write the calibration here.")
@click.option("--force", is_flag=True, help="Replace --out if it exists.")
@click.option("--published", is_flag=True, help="Add the published tables that costmodel ships.")
@click.option("--arch", help="Write the part of the fit that one arch needs.")
@click.option(
    "--family", default="aiter", metavar="NAME", show_default=True,
    help="Whose kernels: AITER's, with those of the same form, or another family's alone.",
)  # fmt: skip
@click.option(
    "--include", multiple=True, metavar="QUALITY",
    help="Also use rows of this quality: noisy, suspect, launch_bound, serving_trace.",
)  # fmt: skip
@click.option(
    "--no-cross-validation", is_flag=True, help="Skip leave-one-out; the fit is the same."
)
@options.format_option
def command(
    measurements: tuple[str, ...],
    out: str | None,
    published: bool,
    arch: str | None,
    family: str,
    include: tuple[str, ...],
    no_cross_validation: bool,
    force: bool,
    style: str,
) -> int:
    """Fit the model to schema 1 MEASUREMENTS (files or directories) and print the report.

    Exit code 1 when the rows contradict each other so much that no cutoff can be read from them;
    what could be estimated is still printed and written.

    \b
    costmodel calibrate mine.csv --out mine.json
    costmodel calibrate mine.csv --published --arch gfx942 --out mine.json
    costmodel calibrate --published --arch gfx950 --out gfx950.json
    costmodel calibrate --published --family hip_comms --arch gfx950 --out hip_comms.json
    """
    from ..calibration.estimate import calibrate
    from ..calibration.families import with_families
    from ..calibration.libraries import all_of_a_library, of_a_library
    from ..calibration.observations import observe
    from ..calibration.one_fabric import fabric_of, on_fabric
    from ..calibration.plausibility import check
    from ..data import kernels, measurement
    from ..data.measurement import VOCABULARY
    from ..decide.fit_report import report
    from ..errors import InputError
    from ..files import check_free
    from ..show.fit_report import text

    if not measurements and not published:
        raise InputError("give schema 1 files or --published")
    for quality in include:
        if quality not in VOCABULARY["quality"]:
            raise InputError(
                f"unknown quality '{quality}' in --include; one of "
                f"{', '.join(VOCABULARY['quality'])}"
            )
    if arch is not None:
        arch = arch.lower()
    family = kernels.read_family(family)
    if out:
        check_free(out, force, read=measurements)
    tables = [measurement.read_all(measurements)] if measurements else []
    for mine in tables:
        check(mine)
    if published:
        tables.append(measurement.published())
    table = measurement.concat(tables)
    if family == "aiter" and all_of_a_library(table):
        raise InputError(f"no row can be used: {of_a_library(table)}")
    observations = observe(table, include=("clean", *include), family=family)
    held_out = not len(observations)
    if held_out:
        # Nothing clean: estimate from what there is, so that the refusal carries numbers.
        unclean = observe(table, include=VOCABULARY["quality"], family=family)
        observations = unclean if len(unclean) else observations
    if published:
        own = {g.model.fabric for mine in tables[:-1] for g in observe(mine, family=family).groups}
        meant = fabric_of(observations, arch)
        if own <= {meant}:  # else the error says that fabrics are mixed
            observations = on_fabric(observations, meant)
    calibration, found = calibrate(observations, arch=arch, unclean=held_out)
    calibration = with_families(calibration, table, arch=arch, include=("clean", *include))
    if out:
        calibration.save(out)
    fitted = report(calibration, found, left_out=not no_cross_validation)
    if style == "json":
        options.print_json(fitted.to_dict())
    else:
        if held_out:
            options.say(
                "No clean row was given. What follows uses the others, only to show what they "
                "say.\n"
            )
        options.say(text(fitted))
        for mine in tables[: len(tables) - published]:
            if said := of_a_library(mine):
                options.say(f"\nnote: {said}")
        if out:
            others = " and ".join(c.kernel_family for c in calibration.families)
            beside = f", with {others} beside" if others else ""
            options.say(f"\nwrote {out}: calibration {calibration.id}{beside}")
    return 1 if fitted.refused else 0
