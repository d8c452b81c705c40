"""A report in words: the blocks that both the Markdown file and the page are made of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from .. import __version__
from ..decide.recommendation import TRANSFERRED
from ..decide.regret import Estimate
from ..model.fabric import FULL_MESH
from ..show.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Explorer,
    Heading,
    Inline,
    Link,
    Listing,
    Paragraph,
    Picture,
    Strong,
    Table,
)
from ..units import kib
from .case import Findings


def story(found: Findings, pictures: Mapping[str, Picture], command: str, out: str) -> list[Block]:
    """Return the report's blocks. ``command`` is the one that wrote it, ``out`` its directory."""
    blocks: list[Block] = [
        Heading(title(found), 1),
        *_caution(found),
        *_what_changes(found),
        *_for_whom(found),
        *_evidence(found),
        *_regret(found),
        *_worth(found),
        Heading("Figures"),
        *(p for p in pictures.values() if not p.page_only),
        *_numerics(),
        *_rule_text(found),
        *_reproduce(found, command, out),
        Heading("Explore", page_only=True),
        Explorer(),
        *(p for p in pictures.values() if p.page_only),
    ]
    return blocks


def title(found: Findings) -> str:
    """Return the report's title: engine, GPU, and the sizes of the new rule that change."""
    where = f"{found.engine.title} on {found.gpu}"
    changed = [w for w in found.by_world_size if w.changes]
    if not changed:
        return f"{where}: the 1-stage rule stays as it is"
    sizes = [f"{_up_to(w.new_sizes)} at TP{w.world_size}" for w in changed]
    return f"{where}: 1-stage {', '.join(sizes)}"


def _up_to(sizes: str) -> str:
    if sizes.startswith("every size"):
        return "at every size"
    return sizes.partition(",")[0].replace("<= ", "up to ").replace("< ", "below ")


def _what_changes(found: Findings) -> list[Block]:
    head = ("ranks", "1-stage now", "1-stage proposed", "90 % interval of the cutoff", "evidence")
    rows = []
    for w in found.by_world_size:
        c = w.cutoff
        if c.max_bytes_lo is None:
            interval = "-"
        else:
            high = "no limit" if c.max_bytes_hi is None else kib(c.max_bytes_hi)
            interval = f"{kib(c.max_bytes_lo)} to {high}"
        proposed: Cell = Strong(w.new_sizes) if w.changes else w.new_sizes
        if not w.cutoff.claimed:
            proposed = f"{w.new_sizes} (no claim, stays)"
        rows.append((f"TP{w.world_size}", w.old_sizes, proposed, interval, w.evidence))
    intro: list[Inline] = [
        f"{found.engine.title} chooses between the 1-stage and the 2-stage kernel of the fused "
        "all-reduce + RMSNorm in ",
        Code(f"{found.emitted.function}"),
        ". 1-stage runs where the input's bytes on one rank meet the rule:",
    ]
    blocks: list[Block] = [Paragraph(tuple(intro)), Table(head, tuple(rows))]
    undecided = [f"TP{w.world_size}" for w in found.by_world_size if w.undecided]
    if undecided:
        blocks.append(
            Paragraph.of(
                Strong(f"Not decided at {' and '.join(undecided)}:"),
                " the 90 % interval of what the change spares includes zero. Measure before you "
                "merge (see Reproduce).",
            )
        )
    for other in found.elsewhere:
        worse = [f"TP{s.world_size}" for s in other.scores if s.saved_pct.hi < 0]
        if worse:
            blocks.append(
                Paragraph.of(
                    Strong(f"Worse on {other.gpu} at {' and '.join(worse)},"),
                    f" which {found.engine.title} would run by the same rule (see Regret).",
                )
            )
    notes = found.emitted.notes
    if notes:
        blocks.append(Bullets(tuple((n,) for n in notes)))
    return blocks


def _for_whom(found: Findings) -> list[Block]:
    llm = found.llm
    parts: list[tuple[Inline, ...]] = []
    for w in found.by_world_size:
        changed = [b.batch for b in w.worth.changed]
        if not changed:
            parts.append((Strong(f"TP{w.world_size}"), ": no captured batch size of it changes."))
            continue
        to = {b.new for b in w.worth.changed}
        arm = " and ".join(sorted(a.replace("stage", "-stage") for a in to))
        parts.append(
            (
                Strong(f"TP{w.world_size}"),
                f": {'batch' if len(changed) == 1 else 'batches'} {_runs(changed)} "
                f"({len(changed)} of {len(w.worth.batches)} captured sizes), now {arm}.",
            )
        )
    return [
        Heading("For whom"),
        Paragraph.of(
            "The rule reads bytes, so it serves every model. For ", Strong(llm.name),
            f" (hidden {llm.hidden_size}, {llm.num_layers} layers, {llm.calls_per_step} calls in a "
            f"decode step, {found.setting.dtype}):",
        ),
        Bullets(tuple(parts)),
    ]  # fmt: skip


def _runs(batches: list[int]) -> str:
    """Return captured batch sizes as runs: ``24 to 80``."""
    from ..data.workload import captured_batch_sizes

    order = captured_batch_sizes().tolist()
    at = [order.index(b) for b in batches]
    runs: list[list[int]] = []
    for i in at:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return ", ".join(
        f"{order[r[0]]} to {order[r[-1]]}" if len(r) > 1 else str(order[r[0]]) for r in runs
    )


def _evidence(found: Findings) -> list[Block]:
    items: list[tuple[Inline, ...]] = []
    for w in found.by_world_size:
        c = w.cutoff
        items.append((Strong(f"TP{w.world_size}: {w.evidence}"), f" - {c.reason.rstrip('.')}."))
    data = found.calibration.data
    origin = (
        "Nothing was measured for this report: the latencies are those of a model, calibrated with "
        f"{data.get('rows_used', '?')} of {data.get('rows_read', '?')} measured rows of "
        f"{len(found.calibration.data.get('sources', ()))} sources"
    )
    where = "which others published" if found.published else "listed under Reproduce"
    return [
        Heading("Evidence"),
        Bullets(tuple(items)),
        Paragraph.of(
            f"{origin}, {where}. ", Strong("measured"),
            ": both algorithms were measured on this GPU at this number of ranks. ",
            Strong("transferred"),
            ": link rates of this GPU and kernel constants of others carry it; physics, not data.",
        ),
    ]  # fmt: skip


def _caution(found: Findings) -> list[Block]:
    """Say what a calibration of another fabric than xGMI's mesh stands for."""
    if found.calibration.fabric == FULL_MESH:
        return []
    return [
        Paragraph.of(
            Strong(f"This is {found.calibration.fabric}, not xGMI:"),
            f" the calibration is of {found.kernels} on {found.gpu} and says nothing about links "
            f"between GPUs. It is no reason to change {found.engine.title}.",
        )
    ]


def _regret(found: Findings) -> list[Block]:
    head = ("ranks", "now loses", "proposed loses", "spared", "us a call", "calls that change")
    rows = []
    for w in found.by_world_size:
        s = w.score
        rows.append(
            (
                f"TP{w.world_size}",
                _percent(s.other_regret_pct),
                _percent(s.regret_pct),
                _percent(s.saved_pct) if s.differ else "-",
                f"{s.saved_us.value:+.2f} ({s.saved_us.lo:+.2f} to {s.saved_us.hi:+.2f})"
                if s.differ
                else "-",
                f"{100 * s.differ:.0f} %",
            )
        )
    blocks: list[Block] = [
        Heading("Regret"),
        Paragraph.of(
            "What each rule loses against always running the faster algorithm, over the model's "
            "captured batch sizes, with 90 % intervals of the model's posterior:"
        ),
        Table(head, tuple(rows)),
    ]
    blocks.append(Paragraph(_on_pairs(found)))
    for other in found.elsewhere:
        said = "; ".join(
            f"TP{s.world_size} {s.other_regret_pct.value:.2f} % now, {s.regret_pct.value:.2f} % "
            f"proposed (spares {s.saved_pct.lo:+.2f} to {s.saved_pct.hi:+.2f})"
            for s in other.scores
        )
        blocks.append(
            Paragraph.of(
                Strong(f"On {other.gpu}"),
                f", where {found.engine.title} would run the same rule (calibration "
                f"{other.calibration_id}): {said}.",
            )
        )
    return blocks


def _on_pairs(found: Findings) -> tuple[Inline, ...]:
    v = found.validation
    if v is None:
        return (
            Strong("No measured check:"),
            f" no call of this op is known on {found.gpu} with both algorithms measured, so rules "
            "cannot be judged on measurements here.",
        )
    ours, theirs = v.of("recommended"), v.of(found.old.name)
    ranks = ", ".join(f"TP{n}" for n in sorted(set(v.pairs.world_size.tolist())))
    text = f" on {len(v.pairs)} calls measured with both algorithms ({ranks}): "
    if ours is not None:
        text += (
            f"the recommended rule loses {ours.mean_pct:.2f} % on average (worst "
            f"{ours.max_pct:.1f} %)"
        )
    if theirs is not None:
        text += (
            f", {found.engine.title}'s rule now {theirs.mean_pct:.2f} % (worst "
            f"{theirs.max_pct:.1f} %)"
        )
    parts: list[Inline] = [Strong("Measured check"), text + "."]
    if set(v.pairs.source.tolist()) & set(v.own_sources):
        parts.append(
            " The calibration was fitted on rows of the same source, so this is agreement, not a "
            "test on unseen data."
        )
    return tuple(parts)


def _worth(found: Findings) -> list[Block]:
    head = ("ranks", "us saved in a decode step, mean", "most, at batch", "evidence")
    rows = []
    for w in found.by_world_size:
        mean = w.worth.mean_us
        changed = list(w.worth.changed)
        best = max(changed, key=lambda b: b.saved_us.value) if changed else None
        rows.append(
            (
                f"TP{w.world_size}",
                f"{mean.value:.1f} ({mean.lo:.1f} to {mean.hi:.1f})" if changed else "0, no change",
                f"{best.saved_us.value:.0f} ({best.saved_us.lo:.0f} to {best.saved_us.hi:.0f}), "
                f"batch {best.batch}"
                if best
                else "-",
                w.worth.evidence,
            )
        )
    weights = (
        "every captured batch size alike, which is nobody's traffic"
        if not found.histogram.name
        else f"the batches of {found.histogram.name}"
    )
    return [
        Heading("Worth"),
        Paragraph.of(
            f"Modelled, per decode step of {found.llm.name} ({found.llm.calls_per_step} calls); "
            f"the mean is over {weights}:"
        ),
        Table(head, tuple(rows)),
    ]


def _numerics() -> list[Block]:
    return [
        Heading("Numerics"),
        Paragraph.of(
            "Both kernels sum in fp32 in rank order and round once to the element type before the "
            "residual is added (AITER, ", Code("csrc/include/custom_all_reduce.cuh"),
            "), so outputs agree to rounding; read in the source, not compared on a GPU here. The "
            "rule depends on shape, dtype and ranks alone: a shape takes the same algorithm on "
            "every rank and in every run.",
        ),
    ]  # fmt: skip


def _rule_text(found: Findings) -> list[Block]:
    return [
        Heading("The rule"),
        Listing(found.emitted.text, "python", f"As it will stand in {found.engine.title}"),
    ]


def _reproduce(found: Findings, command: str, out: str) -> list[Block]:
    calibration = found.calibration
    data = calibration.data
    hashes: list[tuple[Cell, ...]] = [
        (("calibration ", Code(calibration.id)), Code(calibration.sha256)),
        (
            f"rows it was fitted to ({data.get('rows_used', '?')})",
            Code(str(data.get("sha256", "?"))),
        ),
        ("rows drawn and judged by here", Code(found.rows_sha256)),
        *(((Code(name),), Code(digest)) for name, digest in found.files),
    ]
    sources: list[tuple[Cell, ...]] = [
        (
            Link(s.name, s.url) if s.url else Code(s.name),
            ", ".join(s.gpus),
            str(s.rows) if s.rows else "-",
        )
        for s in found.sources
    ]
    return [
        Heading("Reproduce"),
        Listing(commands(found, command, out), "sh"),
        Paragraph.of(f"costmodel {__version__}, {found.kernels}. SHA-256 of what went in:"),
        Table(("input", "sha256"), tuple(hashes)),
        Paragraph.of("Sources of the calibration, and their rows in the model:"),
        Table(("source", "GPUs", "rows"), tuple(sources)),
        Paragraph.of("To measure it on your own GPUs, which decides:"),
        Listing(measure_commands(found), "sh"),
    ]


def commands(found: Findings, command: str, out: str) -> str:
    """Return the commands that give the report's numbers again."""
    target = found.target
    ranks = [w.world_size for w in found.by_world_size]
    changed = [w.world_size for w in found.by_world_size if w.changes] or ranks[-1:]
    rule_file = shlex.quote(f"{out.rstrip('/')}/rule.json")
    lines = [
        f"costmodel recommend {target} --for {found.engine.name}",
        f"{found.provenance.command} --source PATH --out rule.patch --tests test_rule.py",
    ]
    lines += [
        f"costmodel worth --tp {n} {target} --from {found.old.name} --to {rule_file}"
        for n in changed
    ]
    if found.validation is not None:
        tables = "--published" if found.published else _measurement_files(found)
        lines.append(f"costmodel validate {target} {tables}")
    lines.append(command)
    return "\n".join(lines)


def _measurement_files(found: Findings) -> str:
    return shlex.join([f for f, _ in found.files if f.endswith(".csv")])


def measure_commands(found: Findings) -> str:
    """Return the commands that measure the shapes that matter most."""
    target = found.target
    open_ones = [w.world_size for w in found.by_world_size if w.cutoff.verdict == TRANSFERRED]
    n = (open_ones or [w.world_size for w in found.by_world_size])[-1]
    return "\n".join(
        [
            f"costmodel plan {target} --tp {n} --out plan.json",
            f"torchrun --nproc-per-node={n} -m costmodel measure --backend aiter --plan plan.json "
            "--out run",
            f"costmodel validate {target} run/measurements.csv",
        ]
    )


def _percent(e: Estimate) -> str:
    return f"{e.value:.2f} % ({e.lo:.2f} to {e.hi:.2f})"
