"""A tuning in words: the last lines on the terminal, and ``summary.md`` for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import ops
from ..data.kernels import AITER_FAMILIES
from ..model.shape import FUSED
from ..show.table import table
from ..show.words import answer, arm, size_interval
from ..units import kib
from .conclusion import BY_PAIRS, CONFIRMED, Conclusion, Ending
from .session import Session
from .tuner import counted


def text(found: Conclusion, written: Sequence[str]) -> str:
    """Return what the terminal shows last: the rule, what it wins, how sure, what to do next."""
    lines = [_title(found)]
    if found.machine.replayed:
        lines.append(replayed(found))
    lines += ["", table(_rows(found), _HEAD), ""]
    lines += [f"TP{e.world_size}: {e.verdict}: {e.reason}." for e in found.endings]
    lines += _wins(found)
    lines += ["", f"wrote {found.session.directory}: {', '.join(written)}", _next(found)]
    return "\n".join(lines)


def markdown(found: Conclusion) -> str:
    """Return the summary that is attached: the same facts, as Markdown."""
    head = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    body = ["| " + " | ".join(row) + " |" for row in _rows(found)]
    lines = [f"# {_title(found)}", ""]
    if found.machine.replayed:
        lines += [f"**{replayed(found)}**", ""]
    lines += [*head, *body, ""]
    lines += [f"- TP{e.world_size}: {e.verdict}: {e.reason}." for e in found.endings]
    lines += [f"- {line}" for line in _wins(found)]
    lines += ["", *_machine(found), "", *_order(found.session)]
    return "\n".join(lines) + "\n"


_HEAD = ("ranks", "1-stage when bytes", "90 %, this machine", "regret, contested", "shapes", "end")


def _title(found: Conclusion) -> str:
    labels = found.machine.labels
    on = f"{labels['gpu'] or 'this machine'} ({labels['interconnect']})"
    asked = found.machine.question
    of = "" if asked.op == FUSED else f"{ops.vocabulary()[asked.op].title}, "
    about = f"{of}{' or '.join(map(arm, asked.arms))} on {on}"
    if found.decided:
        return f"{about}: decided"
    got = ", ".join(f"TP{n}" for n in found.accepted)
    return f"{about}: {f'decided at {got} only' if got else 'not decided'}"


def replayed(found: Conclusion) -> str:
    """Return what is said wherever a number of a replayed tuning stands."""
    what = found.machine.question.name
    return f"Replayed, not measured: latencies are drawn from a stated model ({what})."


def _rows(found: Conclusion) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for e in found.endings:
        c = e.cutoff
        if c is None or not c.claimed:
            rows.append((f"TP{e.world_size}", "-", "-", "-", _measured(e), e.verdict))
            continue
        sizes = answer(c.verdict, c.max_bytes)
        span = "-"
        if c.max_bytes is not None:
            span = size_interval(c.max_bytes_lo, c.max_bytes_hi)
        contested = c.regrets.contested_pct
        lost = "-" if contested is None else f"{contested:.2f} %"
        rows.append((f"TP{e.world_size}", sizes, span, lost, _measured(e), e.verdict))
    return rows


def _measured(ending: Ending) -> str:
    """Return how many shapes the model learnt from, and how many were measured without it."""
    return f"{ending.shapes} + {ending.surveyed}" if ending.surveyed else str(ending.shapes)


def _wins(found: Conclusion) -> list[str]:
    """Return what the rule wins over the one in force, by the calibrated model or the pairs."""
    lines = []
    for world_size, score in found.scores().items():
        if not score.differ:
            lines.append(f"TP{world_size}: the rule in force decides alike; nothing to change.")
            continue
        s = score.saved_pct
        lines.append(
            f"TP{world_size}: {100 * score.differ:.0f} % of the calls change; that saves "
            f"{s.value:.2f} % of the faster arm's latency a call (90 %: {s.lo:.2f} to {s.hi:.2f})."
        )
    return lines


def _machine(found: Conclusion) -> list[str]:
    labels, question = found.machine.labels, found.machine.question
    kernels = f"{labels['kernel_family']} {labels['kernel_version']}".strip()
    said = [
        f"Kernels: {kernels}; op {question.op}; dtype {question.dtype}; rows under the source "
        f"{question.name}."
    ]
    if found.known is not None and found.modelled:
        calibration = found.known.setting.calibration
        used, read = calibration.data.get("rows_used"), calibration.data.get("rows_read")
        said.append(
            f"Calibration {calibration.id}: {used} of {read} rows used, the machine's among them."
        )
    return said


def _order(session: Session) -> list[str]:
    """Return the steps of the journals: the order of shapes, and the interval closing."""
    lines = ["<details><summary>The order of shapes, and what each left</summary>", ""]
    for n in session.started():
        journal = session.journal(n)
        lines += [f"TP{n}", "", "| after | 1-stage up to | interval | regret, contested | next |"]
        lines.append("|---|---|---|---|---|")
        for step in journal.steps:
            low, high = step["max_bytes_lo"], step["max_bytes_hi"]
            span = size_interval(low, high) if low and high else "-"
            at = kib(step["max_bytes"]) if step["max_bytes"] else "-"
            lost = step["contested_pct"]
            shape = step["next"]
            lines.append(
                f"| {counted(step['shapes'])} | {at} | {span} | "
                f"{'-' if lost is None else f'{lost:.2f} %'} | "
                f"{'-' if shape is None else '{tokens} x {hidden_dim}'.format(**shape)} |"
            )
        if journal.stop:
            lines += ["", f"Stopped after {journal.stop['shapes']}: {journal.stop['words']}.", ""]
        if journal.survey:
            count = len(session.surveyed(n))
            lines += [f"Then {counted(count)} without the model: {journal.survey['words']}.", ""]
    return [*lines, "</details>"]


def _next(found: Conclusion) -> str:
    """Return what to do next."""
    done = (CONFIRMED, BY_PAIRS)
    open_ends = [f"TP{e.world_size}" for e in found.endings if e.verdict not in done]
    if open_ends and found.machine.model is None:
        return "next: measure where a model is of the links; more shapes decide nothing here"
    if open_ends:
        are = "are" if open_ends[1:] else "is"
        return f"next: --resume with more --budget goes on; {', '.join(open_ends)} {are} open"
    if found.session.settings["engine"] and not found.machine.question.engine:
        what = ops.vocabulary()[found.machine.question.op].title
        return f"next: rule.json goes where the {what} is dispatched; no patch is written of it"
    if found.session.settings["engine"]:
        return "next: apply rule.patch, run its tests, attach summary.md"
    if found.known and found.known.setting.kernel.family not in AITER_FAMILIES:
        kernel = found.known.setting.kernel.title
        return f"next: rule.json goes where {kernel} are dispatched; no engine runs them"
    if not found.modelled:
        return "next: costmodel emit --rule rule.json writes it into an engine"
    return "next: costmodel emit --calibration with calibration.json writes it into an engine"
