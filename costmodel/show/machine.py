"""What a machine has and can do, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from ..live.machine import OK, Ability, Check
from .table import terminal_width


def describe(
    checks: Sequence[Check],
    abilities: Sequence[Ability],
    paint: Callable[[str, str], str] = lambda text, status: text,
) -> str:
    """Return the checks, each with what to do, then what can be done here and what that lacks.

    ``paint`` colours a text by its status, where the output can show it.
    """
    lines = [describe_checks(checks, paint), "", "here costmodel can:"]
    for ability in abilities:
        if not ability.lacks:
            lines.append(_hanging(f"  {paint('yes', OK)}  ", ability.what, 7))
        else:
            lines.append(_hanging("  no   ", f"{ability.what}: lacks {', '.join(ability.lacks)}"))
    return "\n".join(lines)


def describe_checks(
    checks: Sequence[Check], paint: Callable[[str, str], str] = lambda text, status: text
) -> str:
    """Return the checks alone, each with what to do."""
    wide = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        start = f"{check.status:7}  {check.name:{wide}}  "
        lines.append(_hanging(start, check.seen).replace(check.status, "\0", 1))
        lines[-1] = lines[-1].replace("\0", paint(check.status, check.status))
        if check.advice:
            lines.append(_hanging(" " * len(start), f"-> {check.advice}"))
    return "\n".join(lines)


def describe_verdict(to_do: Sequence[str]) -> str:
    """Return the last words on a machine: ready, or what to do first."""
    if not to_do:
        return "ready"
    return "\n".join(["not ready:", *(_hanging("  - ", line) for line in to_do)])


def _hanging(start: str, text: str, indent: int | None = None) -> str:
    """Return ``start`` and the text, wrapped so that it hangs behind it; no word is broken."""
    space = " " * (len(start) if indent is None else indent)
    return start + textwrap.fill(
        text, terminal_width(), initial_indent=space, subsequent_indent=space,
        break_long_words=False, break_on_hyphens=False,
    ).lstrip()  # fmt: skip
