"""A measurement plan in words: what is open, which shapes, what they should bring, what to run."""

from __future__ import annotations

from pathlib import Path

from ..data.kernels import OWN_FAMILIES
from ..model.shape import PUSHED
from ..planning import Plan
from ..planning.candidates import harness_spread_us
from ..planning.measurement_plan import Entry, unmeasured
from ..planning.value import Interval
from ..units import kib
from . import words
from .place import machine, measure
from .recommendation import unidentified
from .table import table

#: What is said where a cutoff is open and no shape of a plan would settle it.
NO_SHAPE_SETTLES = (
    "no new shape is expected to change what the model says, and still no cutoff is claimed: "
    "measure both arms again, so that rows agree"
)


def text(plan: Plan, out: Path | None = None) -> str:
    """Return the plan as text; ``out`` is where it was written."""
    setting = plan.setting
    lines = [
        f"what to measure next: {setting.op} on {setting.gpu} ({setting.arch}), {setting.dtype}, "
        f"{setting.kernel.title}",
        f"calibration {setting.calibration.id}; measurements scatter by "
        f"{100 * plan.noise:.1f} % of the latency around the model, a new benchmark adds a "
        f"constant unknown to +-{harness_spread_us(setting):.1f} us",
        "",
        _prospects(plan),
        "",
    ]
    for p in plan.prospects:
        if p.note:
            lines.append(f"TP{p.world_size}: {p.note}.")
        if p.open_share > 0 and not p.always:
            lines.append(
                f"TP{p.world_size}: {100 * p.open_share:.0f} % of the calls lie inside the "
                f"interval on {machine(setting)}; there the expected regret is "
                f"{p.open_regret_pct:.2f} % {words.OF_FASTER}."
            )
    lines += _beside(plan)
    if not plan.entries:
        return "\n".join(
            [*lines, "nothing to measure: no measurement in this budget would change the rule."]
            if all(p.before.claimed or p.always for p in plan.prospects)
            else [*lines, NO_SHAPE_SETTLES]
        )
    lines += ["", _entries(plan), ""]
    lines += [f"{i}. {e.reason}." for i, e in enumerate(plan.entries, 1)]
    lines += ["", _total(plan)]
    lines += ["", *_next(plan, out)]
    return "\n".join(lines)


def _beside(plan: Plan) -> list[str]:
    """Return why no shape has the plain op's arms that push, and what to measure of them."""
    known = [(p.world_size, p.cutoff.pushed) for p in plan.prospects if p.cutoff.pushed is not None]
    if not known:
        return []
    from ..decide.pushed import said_to_measure

    lines = [
        f"{' and '.join(map(words.arm, PUSHED))} are in no shape below: their rows calibrate apart "
        "from those of 1-stage and 2-stage, whose regret the plan weighs."
    ]
    for n, push in known:
        for c in push.cutoffs:
            where = words.size_interval(c.here.lo.lo, c.here.hi.hi)
            measure = said_to_measure(c.measure_next) if c.measure_next else "no captured batch"
            lines.append(
                f"TP{n}: {words.arm(c.of.arm)} against 1-stage is open at {where}: {measure}."
            )
    return lines + [f"{line}." for line in unidentified(known)]


def _prospects(plan: Plan) -> str:
    rows = []
    for p in plan.prospects:
        if p.always:
            rows.append((f"TP{p.world_size}", "always", "-", "-", "-",
                         f"{p.regret_pct_before:.3f}", "-",
                         f"{p.regret_pct_perfect:.3f}"))  # fmt: skip
            continue
        rows.append(
            (
                f"TP{p.world_size}",
                _cutoff_now(p.before),
                _span(p.before),
                words.size_interval(*p.this_kernel),
                _span(p.after),
                f"{p.regret_pct_before:.3f}",
                f"{p.regret_pct_after:.3f}",
                f"{max(p.regret_pct_perfect, 0):.3f}",
            )
        )
    head = (
        "ranks", "cutoff now", f"90 %, {machine(plan.setting)}", "90 %, this kernel",
        "expected after", "regret", "after", "least",
    )  # fmt: skip
    return "\n".join(
        [
            table(rows, head),
            (
                f"regret: expected, in percent {words.OF_FASTER}, now and after measuring; least: "
                "what one cutoff cannot avoid"
            ),
        ]
    )


def _cutoff_now(interval: Interval) -> str:
    size = words.NO_LIMIT if interval.bytes is None else f"<= {kib(interval.bytes)}"
    return size if interval.claimed else f"{words.arm('')} ({size})"


def _span(interval: Interval) -> str:
    return words.size_interval(interval.lo or 0, interval.hi)


def _entries(plan: Plan) -> str:
    rows = [
        (
            i,
            f"TP{e.world_size}",
            e.hidden_dim,
            e.tokens,
            kib(e.bytes),
            planned_arms(e),
            " / ".join(f"{t:.1f}" for t in e.latency_us),
            f"{e.seconds:.0f}",
            f"{e.regret_pct_left:.3f} %",
        )
        for i, e in enumerate(plan.entries, 1)
    ]
    head = (
        "",
        "ranks",
        "hidden",
        "tokens",
        "bytes",
        "arms",
        "model us",
        "seconds",
        "regret left, of faster arm",
    )
    return table(rows, head)


def planned_arms(entry: Entry) -> str:
    """Return the arms that a shape is measured with: ``1-stage + 2-stage``."""
    return " + ".join(map(words.arm, entry.arms))


def _total(plan: Plan) -> str:
    before, after, _ = plan.regret_pct
    total = (
        f"{len(plan.entries)} shape{'s' * (len(plan.entries) > 1)}, {plan.latencies} "
        f"latenc{'ies' if plan.latencies > 1 else 'y'}, about {plan.seconds:.0f} s: "
        f"mean expected regret {before:.3f} % -> {after:.3f} % {words.OF_FASTER}, which removes "
        f"{100 * plan.removed_share:.0f} % of what measuring can remove"
    )
    limit = plan.budget.shapes
    if limit is not None and len(plan.entries) < limit:
        total += ". More shapes would bring next to nothing"
    return total + "."


def _next(plan: Plan, out: Path | None) -> list[str]:
    if why := unmeasured(plan.setting):
        return [f"{why}: use a build of your own; 'costmodel import' reads its output"]
    if out is None:
        return ["--out plan.json writes this for: costmodel measure --plan plan.json"]
    said = f"written: {out}. Measure, then calibrate with the new rows:"
    return [said, *(f"  {line}" for line in measuring(plan, out))]


def measuring(plan: Plan, out: Path) -> list[str]:
    """Return the commands that measure the plan file ``out`` and calibrate with its rows."""
    calibration = plan.setting.calibration
    sizes = sorted({e.world_size for e in plan.entries})
    lines = [f"{measure(calibration, n)} --plan {out} --tp {n} --out run-tp{n}" for n in sizes]
    rows = " ".join(f"run-tp{n}/measurements.csv" for n in sizes)
    own = calibration.kernel_family in OWN_FAMILIES
    old = "YOUR_ROWS.csv" if own else f"--published --arch {plan.setting.arch}"
    return [*lines, f"costmodel calibrate {rows} {old} --out mine.json"]
