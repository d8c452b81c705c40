"""The comment that goes with an emitted rule: cutoffs, evidence, calibration, how to reproduce."""

from __future__ import annotations

import re
import textwrap

from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.condition import Always, exact_size
from ..rules.evidence import Provenance
from ..rules.rule import Rule


def lines(adapted: Adapted, provenance: Provenance, engine: str) -> list[str]:
    """Return the comment's paragraphs, without comment signs."""
    rule = adapted.rule
    out = [origin(rule, provenance)]
    for n in WORLD_SIZES:
        if n in adapted.unclaimed:
            evidence = provenance.evidence.get(n)
            why = evidence.words() if evidence else "no claim"
            out.append(f"TP{n}: {why}; the cutoff that stood here is kept.")
        else:
            out.append(f"TP{n}: {cutoff_words(rule, n)}{_evidence(provenance, n)}.")
    asked = _asked(adapted)
    if asked:
        out.append(f"All only where {'; '.join(asked)}.")
    out.append(f"For {adapted.releases()}.")
    out.append(reproduce(provenance))
    return out


def reproduce(provenance: Provenance) -> str:
    """Return the last paragraph of every comment: the command that gives the rule again."""
    return f"Reproduce: {provenance.command}"


def origin(rule: Rule, provenance: Provenance) -> str:
    """Return one sentence on where the rule comes from."""
    if provenance.calibration_id:
        where = f" for {provenance.gpu}" if provenance.gpu else ""
        digest = provenance.calibration_sha256[:12]
        return (
            f"1-stage or 2-stage by costmodel, calibration {provenance.calibration_id}"
            f" (sha256 {digest}){where}."
        )
    source = f" ({rule.source})" if rule.source else ""
    return f"1-stage or 2-stage by the rule '{rule.name}'{source}."


def cutoff_words(rule: Rule, world_size: int) -> str:
    """Return the sizes that are 1-stage at a world size, as a sentence says it."""
    cutoff = rule.cutoff_bytes(world_size)
    if cutoff is None:
        words = rule.sizes(world_size)
        if words == "no size":
            return "2-stage at every size"
        return f"1-stage {words}" if words.startswith("by") else f"1-stage at {words}"
    op, value = cutoff
    return f"1-stage {'up to' if op == '<=' else 'below'} {exact_size(value)}"


def as_comment(paragraphs: list[str], indent: int, width: int = 88) -> list[str]:
    """Return paragraphs as ``#`` comment lines of at most ``width`` columns."""
    out: list[str] = []
    for paragraph in paragraphs:
        if paragraph.startswith("Reproduce: "):
            # A command stays on one line, so that it can be pasted.
            out.append(f"{'':{indent}}# {paragraph}")
            continue
        # A number keeps its unit, and a comparison its number, on the line.
        bound = re.sub(
            r" (?=(?:KiB|MiB|B)\b)| (?=[<>=]=? \d)|(?<=[<>=]) (?=\d)", "\u00a0", paragraph
        )
        out += textwrap.wrap(
            bound,
            width,
            initial_indent=f"{'':{indent}}# ",
            subsequent_indent=f"{'':{indent}}# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return [line.replace("\u00a0", " ") for line in out]


def _asked(adapted: Adapted) -> list[str]:
    """Return what the rule asks at every world size besides bytes, in words.

    A rule that never runs 1-stage asks nothing.
    """
    first, *rest = (adapted.asked(n) for n in WORLD_SIZES)
    common = [f for f in first if all(f in others for others in rest)]
    return [f.words() for f in common if f != Always(False)]


def _evidence(provenance: Provenance, world_size: int) -> str:
    evidence = provenance.evidence.get(world_size)
    if evidence is None or evidence.verdict == "always_1stage":
        return ""
    return f" ({evidence.words()})"
