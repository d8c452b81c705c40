"""Whole numbers from outside: one syntax for lists of them, and sizes as arrays."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

#: Largest number: the bytes of a call of that many tokens and hidden elements still fit int64.
LARGEST = 2**30

#: Most numbers of one list.
MOST = 1_000_000

_SYNTAX = "give numbers such as 1,2,48, steps 8:64:8 (8, 16, ..., 64) or doublings 1..512"


def integers(text: str, name: str = "") -> tuple[int, ...]:
    """Return the numbers of a list in order, each once.

    Parts stand between commas or spaces: ``48`` is a number, ``first:last`` and
    ``first:last:step`` go in steps (of 1), ``first..last`` doubles while it stays within ``last``.

    >>> integers("1, 2, 8:24:8 100..400")
    (1, 2, 8, 16, 24, 100, 200, 400)

    Raises :class:`InputError`, which starts with ``name`` (an option, say), for anything else, for
    numbers outside 1 to :data:`LARGEST` and for more than :data:`MOST` of them.
    """
    at = f"{name}: " if name else ""
    parts = [
        word
        for piece in re.sub(r"\s*(:|\.\.)\s*", r"\1", text.strip()).split(",")
        for word in piece.split() or [""]
    ]
    numbers: dict[int, None] = {}
    for part in parts:
        values = _part(part, at)
        if len(values) > MOST:
            raise InputError(f"{at}'{part}' has more than a million values")
        numbers.update(dict.fromkeys(values))
    if len(numbers) > MOST:
        raise InputError(f"{at}more than a million values")
    return tuple(numbers)


def _part(part: str, at: str) -> range | list[int]:
    match = re.fullmatch(r"([0-9]+)(?:(\.\.|:)([0-9]+)(?::([0-9]+))?)?", part)
    if not match or (match[2] == ".." and match[4]):
        what = f"'{part}' is not a positive integer or a range" if part else "a number is missing"
        raise InputError(f"{at}{what}; {_SYNTAX}")
    # int() refuses thousands of digits; that many are too large in any case.
    first, last, step = (
        int(digits[:20]) for digits in (match[1], match[3] or match[1], match[4] or "1")
    )
    if min(first, last, step) < 1:
        raise InputError(f"{at}'{part}' is not a positive integer or a range of them; {_SYNTAX}")
    if max(first, last) > LARGEST:
        raise InputError(f"{at}'{part}' goes beyond {LARGEST}, the largest size that is taken")
    if last < first:
        raise InputError(f"{at}range '{part}' ends before it starts")
    if match[2] == "..":
        return [first * 2**k for k in range((last // first).bit_length())]
    return range(first, last + 1, step)


def sizes(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Return sizes as int64; raise :class:`InputError` for what is none from 1 to LARGEST.

    ``name`` is what they are called in the message.
    """
    try:
        given = np.asarray(values)
        if given.size == 0:
            return given.astype(np.int64)
        if given.dtype.kind not in "iuf" or (
            given.dtype.kind == "f" and (given != np.floor(given)).any()
        ):
            raise ValueError
    except ValueError:  # ragged; no numbers, or none that are whole
        raise InputError(f"{name} must be whole numbers, got {repr(values)[:80]}") from None
    least, most = given.min(), given.max()
    if least < 1:
        raise InputError(f"{name} must be 1 or more, got {least:.12g}")
    if most > LARGEST:
        raise InputError(f"{name} goes up to {LARGEST}, got {most:.12g}")
    return given.astype(np.int64, copy=False)
