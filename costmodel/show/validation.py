"""A validation in words: the model's errors, the rules' regret on measured pairs, the verdict."""

from __future__ import annotations

from msgspec.structs import replace

from ..decide.measured_regret import RuleRegret
from ..decide.validation import Validation
from ..units import kib
from . import crossings
from .table import table


def text(found: Validation) -> str:
    """Return a validation as text."""
    return "\n\n".join(
        "\n".join(part)
        for part in (
            _rows(found),
            _accuracy(found),
            _choice(found),
            _regret(found),
            crossings.lines(found.crossings),
            _end(found),
        )
        if part
    )


def _rows(found: Validation) -> list[str]:
    observations = found.rows.observations
    table = observations.table
    gpus = ", ".join(sorted(set(table.gpu.tolist())))
    lines = [
        f"calibration {found.calibration.id} against {len(found.rows)} of {observations.read} "
        f"rows: {gpus}, {', '.join(sorted(set(table.op.tolist())))}"
    ]
    if observations.set_aside:
        aside = "; ".join(f"{n} {reason}" for reason, n in observations.set_aside.items())
        lines.append(f"set aside: {sum(observations.set_aside.values())} rows ({aside})")
    if found.own_sources:
        lines.append(
            f"{found.accuracy.known} of these rows are of sources that the calibration was fitted "
            f"on ({', '.join(found.own_sources)}): for them this is a fit, not a test; "
            "see --hold-out"
        )
    else:
        lines.append("none of these sources is in the calibration: this is a test on new data")
    return lines


def _accuracy(found: Validation) -> list[str]:
    a = found.accuracy
    head = (
        "model error, of the measured latency",
        "rows",
        "median",
        "90th percentile",
        "largest",
        "in 90 % interval",
    )
    rows = [
        (
            "as calibrated", a.n, f"{a.median_ape:.1f} %", f"{a.p90_ape:.1f} %",
            f"{a.max_ape:.1f} %", f"{100 * a.coverage90:.0f} %",
        ),
        (
            "one offset per source", a.n, f"{a.median_ape_offset:.1f} %",
            f"{a.p90_ape_offset:.1f} %", f"{a.max_ape_offset:.1f} %", "",
        ),
    ]  # fmt: skip
    notes = []
    if a.known < a.n:
        notes.append(
            f"{a.n - a.known} rows of unknown sources are predicted with the typical harness "
            "constant; their intervals carry its spread"
        )
    notes.append("each row's offset is fitted to the other rows of its source")
    return [table(rows, head), *notes]


def _choice(found: Validation) -> list[str]:
    pairs, choice = found.pairs, found.choice
    if not choice.pairs:
        return ["no call was measured with both algorithms: no rule is judged"]
    where = sorted(set(zip(pairs.gpu.tolist(), pairs.world_size.tolist(), strict=True)))
    sources = sorted(set(pairs.source.tolist()))
    lines = [
        f"{choice.pairs} calls of {pairs.op} measured with both algorithms: "
        f"{', '.join(f'{g} TP{n}' for g, n in where)}; {kib(int(pairs.bytes.min()))} to "
        f"{kib(int(pairs.bytes.max()))}; {_some(sources)}"
    ]
    for a in found.advice:
        # At other world sizes it is judged on nothing: the rule there is the engine's own.
        at = {c.world_size: a.rule.condition.at(c.world_size) for c in a.decision.cutoffs}
        said = "; ".join(f"TP{n} {replace(a.rule, condition=c).words()}" for n, c in at.items())
        lines.append(f"recommended on {a.setting.gpu}, {a.setting.dtype}: {said}")
        for c in a.decision.cutoffs:
            if c.world_size in a.filled:
                lines.append(
                    f"  TP{c.world_size} by {a.fallback}, because the recommendation makes no "
                    f"claim: {c.reason}"
                )
    outside = (
        f"{100 * choice.agree_outside_tie:.0f} % of the {choice.outside_tie} whose arms differ by "
        f"more than {found.limits.tie:g} % of the faster one's latency"
        if choice.agree_outside_tie is not None
        else f"none has arms more than {found.limits.tie:g} % of the faster one's latency apart"
    )
    lines.append(
        f"it takes the faster algorithm on {100 * (choice.agree or 0):.0f} % of them; {outside}"
    )
    return lines


def _regret(found: Validation) -> list[str]:
    if not found.regret:
        return []
    head = (
        "rule", "mean", "max", "mean us", "max us", "recommended is behind by", "noise",
        "differs on", "over the workload", "us a call",
    )  # fmt: skip
    lines = [
        (
            "regret above the faster measured algorithm, in percent of its latency, mean and max "
            "over these calls. How far the recommended rule is behind (negative: ahead), in the "
            "same percent, has a 90 % interval by bootstrap over calls; noise is what measurement "
            "noise alone explains. Over the workload (captured batch sizes x hidden sizes of known "
            "models) regret is by the model, with a 90 % interval."
        ),
        table([_row(r) for r in found.regret], head),
    ]
    alike = [r.rule for r in found.regret if r.behind and not r.differ and r.rule != "recommended"]
    noise = [r.rule for r in found.regret if r.behind and r.differ and not r.separable]
    if alike:
        lines.append(
            f"these shapes cannot separate recommended from {', '.join(alike)}: "
            "they decide alike on every one"
        )
    if noise:
        lines.append(
            f"these shapes cannot separate recommended from {', '.join(noise)}: "
            "the difference is within noise"
        )
    three = found.three_way
    if three is not None:
        named = (("the rule of all arms", three.choice), ("always fused", three.fused))
        regrets = "; ".join(
            f"{name} mean {r.mean_pct:.2f} %, max {r.max_pct:.1f} %, mean {r.mean_us:.2f} us"
            for name, r in named
        )
        lines.append(
            f"{three.choice.pairs} calls also ran as separate ops; regret above the fastest "
            f"measured arm there, in percent of its latency: {regrets}"
        )
    return lines


def _row(r: RuleRegret) -> tuple[str, ...]:
    compared = r.behind is not None and r.rule != "recommended"
    behind, pct, us = r.behind, r.modelled_pct, r.modelled_us
    return (
        r.rule, f"{r.mean_pct:.2f} %", f"{r.max_pct:.1f} %", f"{r.mean_us:.2f}",
        f"{r.max_us:.2f}",
        f"{behind.value:+.2f} ({behind.lo:+.2f} to {behind.hi:+.2f})"
        if behind and compared else "",
        f"{r.noise_90_pct:.2f}" if compared else "",
        f"{r.differ} of {r.pairs}" if compared else (f"({r.pairs})" if not behind else ""),
        f"{pct.value:.2f} % ({pct.lo:.2f} to {pct.hi:.2f})" if pct else "",
        f"{us.value:.3f} ({us.lo:.3f} to {us.hi:.3f})" if us else "",
    )  # fmt: skip


def _end(found: Validation) -> list[str]:
    limits = found.limits
    asked = f"median error <= {limits.median_ape:g} % of the measured latency"
    if found.choice.pairs:
        asked += (
            f", right outside ties >= {100 * limits.agree:g} % of the calls, mean regret <= "
            f"{limits.regret:g} % of the faster algorithm's latency"
        )
        if found.judged_against:
            asked += f", no worse than {found.judged_against} within noise"
    if found.passed:
        return [f"passed: {asked}"]
    return [f"not passed: {failure}" for failure in found.failures]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
