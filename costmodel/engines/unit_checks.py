"""Unit checks on the comparisons of a rule: what does not fit what it is compared with.

=====================  ==================================================================
check                  example
=====================  ==================================================================
``kb_against_bytes``   ``total_bytes <= MAX_KB``
``elements``           ``inp.numel() <= 128 * 1024`` where bytes are meant
``at_most``            ``total_bytes < limit  # at most 128 KiB``, or ``<=`` beside "below"
=====================  ==================================================================
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from fractions import Fraction

from msgspec import Struct

from ..units import KIB
from .evaluation import Comparison
from .module import Module
from .reader import DispatchFunction
from .symbols import kilo_of

_INCLUSIVE = re.compile(
    r"\b(at most|up to|no more than|no larger than|not exceed\w*|inclusive|capped at|maximum of)\b"
    r"|<=|≤",
    re.IGNORECASE,
)
_EXCLUSIVE = re.compile(
    r"\b(less than|below|smaller than|under|strictly)\b|(?<![<=])<(?![<=])", re.IGNORECASE
)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class UnitMismatch(Struct, frozen=True):
    """One thing that does not fit: which check, at which line, and what it means."""

    check: str
    line: int
    text: str


def check(module: Module, dispatch: DispatchFunction) -> list[UnitMismatch]:
    """Return what does not fit in the comparisons that a rule rests on, in the order of lines."""
    comments = _comments(module.text)
    mismatches: dict[tuple[str, int], UnitMismatch] = {}
    for comparison in (*dispatch.decisive, *dispatch.overriding):
        for one in (
            _kilo(comparison),
            _elements(comparison),
            _strictness(comparison, comments, dispatch.node),
        ):
            if one is not None:
                mismatches.setdefault((one.check, one.line), one)
    return sorted(mismatches.values(), key=lambda m: m.line)


def _kilo(c: Comparison) -> UnitMismatch | None:
    if c.size.name != "bytes" or c.op not in _FLIPPED:
        return None
    in_bytes = c.size.factor == 1
    if in_bytes and c.limit.kilo:
        name = next((n for n in sorted(c.limit.names) if kilo_of(n)), "the limit")
        unit, example = ("KB", 512) if c.limit.kilo == 1 else ("MB", 1)
        return UnitMismatch(
            "kb_against_bytes",
            c.node.lineno,
            f"{name} says {unit} but is compared with bytes: {example} there means {example} "
            f"bytes{', which turns 1-stage off' if example < KIB else ''}",
        )
    scaled = c.size.factor in (Fraction(1, KIB), Fraction(1, 1000))
    named = next((n for n in sorted(c.limit.names) if re.search(r"byte", n, re.IGNORECASE)), "")
    if scaled and named and not c.limit.kilo:
        return UnitMismatch(
            "kb_against_bytes",
            c.node.lineno,
            f"{named} says bytes but is compared with bytes / {c.size.factor.denominator}",
        )
    return None


def _elements(c: Comparison) -> UnitMismatch | None:
    if c.size.name != "elements" or c.op not in _FLIPPED:
        return None
    names = c.size.names | c.limit.names
    said = next((n for n in sorted(names) if re.search(r"byte", n, re.IGNORECASE)), "")
    round_size = c.limit.value >= KIB and c.limit.value % KIB == 0
    if not said and not round_size:
        return None
    what = f"{said} says bytes" if said else f"{int(c.limit.value) // KIB} x 1024 looks like bytes"
    return UnitMismatch(
        "elements",
        c.node.lineno,
        f"the comparison counts elements but {what}: for 16-bit dtypes the limit is twice as "
        "high as it reads",
    )


def _strictness(c: Comparison, comments: dict[int, str], function: ast.AST) -> UnitMismatch | None:
    if c.size.name not in ("bytes", "elements") or c.op not in _FLIPPED:
        return None
    op = _FLIPPED[c.op] if c.limit_node is c.node.left else c.op
    text = _beside(c.node, comments, function)
    inclusive, exclusive = _INCLUSIVE.search(text), _EXCLUSIVE.search(text)
    # "bytes > limit: return False" takes the limit itself, as <= does.
    if op in ("<", ">=") and inclusive and not exclusive:
        return UnitMismatch(
            "at_most",
            c.node.lineno,
            f"the comparison leaves out the limit itself, the comment says '{inclusive[0]}'",
        )
    if op in ("<=", ">") and exclusive and not inclusive:
        return UnitMismatch(
            "at_most",
            c.node.lineno,
            f"the comparison takes the limit itself, the comment says '{exclusive[0].strip()}'",
        )
    return None


def _comments(text: str) -> dict[int, str]:
    by_line = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                by_line[token.start[0]] = token.string.lstrip("# ")
    except (tokenize.TokenError, IndentationError):
        pass
    return by_line


def _beside(node: ast.Compare, comments: dict[int, str], function: ast.AST) -> str:
    """Return the comments on the lines of a comparison and in the block right above it."""
    first = max(
        (
            s.lineno
            for s in ast.walk(function)
            if isinstance(s, ast.stmt) and s.lineno <= node.lineno <= (s.end_lineno or s.lineno)
        ),
        default=node.lineno,
    )
    lines = [comments[n] for n in range(first, (node.end_lineno or first) + 1) if n in comments]
    above = first - 1
    while above in comments:
        lines.insert(0, comments[above])
        above -= 1
    return " ".join(lines)
