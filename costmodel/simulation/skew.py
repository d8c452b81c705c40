"""When ranks arrive: drawn from a distribution, or read from a file.

A specification is ``normal:SIGMA``, ``uniform:WIDTH``, ``exponential:MEAN`` (microseconds) or the
name of a file with one arrival in microseconds per rank (one a line; blank lines and what follows
``#`` do not count; ``never`` is a rank that does not come). Drawn arrivals are counted from the
earliest rank, so none is negative.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..errors import InputError, nearest
from ..files import read_text

Floats = NDArray[np.float64]

#: Distribution -> what its number is called.
DISTRIBUTIONS = {"normal": "SIGMA", "uniform": "WIDTH", "exponential": "MEAN"}

#: A rank that is later than this (1000 s) is not late but gone: engines' watchdogs end the run.
LATEST_US = 1e9

#: How a file says that a rank does not arrive.
NEVER = "never"


class Skew(Struct, frozen=True):
    """A distribution of arrivals: ``kind`` of :data:`DISTRIBUTIONS`, ``scale_us`` its number.

    Raises :class:`InputError` for another kind and a number outside 0 to :data:`LATEST_US`.
    """

    kind: str
    scale_us: float

    def __post_init__(self) -> None:
        if self.kind not in DISTRIBUTIONS:
            known = list(DISTRIBUTIONS)
            raise InputError(
                f"unknown skew '{self.kind}'{nearest(self.kind, known)}; one of {', '.join(known)}"
            )
        if not 0 <= self.scale_us <= LATEST_US:
            raise _no_scale(self.kind, f"{self.scale_us:g}")

    def draw(self, ranks: int, seed: int, count: int = 1) -> Floats:
        """Return ``count`` draws of ``ranks`` arrivals in us, shape (count, ranks), earliest 0.

        The same seed gives the same draws at every scale, so curves over the scale are smooth.
        """
        rng = np.random.default_rng(seed)
        shape = (count, ranks)
        if self.kind == "normal":
            unit = rng.standard_normal(shape)
        elif self.kind == "uniform":
            unit = rng.random(shape)
        else:
            unit = rng.standard_exponential(shape)
        drawn = self.scale_us * unit
        return np.asarray(drawn - drawn.min(axis=1, keepdims=True))


def _no_scale(kind: str, written: str) -> InputError:
    return InputError(
        f"skew '{kind}:{written}': {DISTRIBUTIONS[kind]} must be a number of us, 0 or more, "
        f"{LATEST_US:g} at most"
    )


def parse(spec: str) -> Skew | Path:
    """Return what a specification names: a distribution, or the file to read.

    Raises :class:`InputError` for an unknown distribution and a scale that is not 0 or more.
    """
    kind, colon, number = spec.partition(":")
    forms = ", ".join(f"{k}:{v}" for k, v in DISTRIBUTIONS.items())
    if kind in DISTRIBUTIONS and colon:
        try:
            scale = float(number)
        except ValueError:
            raise _no_scale(kind, number) from None
        return Skew(kind, scale)
    path = Path(spec)
    if path.exists():
        return path
    hint = nearest(kind, list(DISTRIBUTIONS)) if not path.suffix else ""
    raise InputError(f"skew '{spec}' is no distribution and no file{hint}; give {forms} or a file")


def read_arrivals(path: Path, ranks: int) -> Floats:
    """Return the arrivals of a file in us, inf for a rank that never arrives.

    Raises :class:`InputError` with file and line for anything that is not one number of 0 or more
    per rank.
    """
    lines = read_text(path, "a file with one arrival in us per rank").splitlines()
    arrivals: list[float] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            value = float("inf") if text == NEVER else float(text)
        except ValueError:
            value = float("nan")
        if np.isnan(value) or (value == np.inf and text != NEVER):
            raise InputError(
                f"{path}:{number}: '{text}' is no arrival; write a number of us, or '{NEVER}'"
            )
        if text != NEVER and value > LATEST_US:
            raise InputError(
                f"{path}:{number}: arrival {value:g} us is beyond {LATEST_US:g}; write '{NEVER}'"
            )
        if value < 0:
            raise InputError(f"{path}:{number}: arrival {value:g} us is negative; count from 0")
        arrivals.append(value)
    if len(arrivals) != ranks:
        raise InputError(f"{path}: {len(arrivals)} arrivals for {ranks} ranks; give one per rank")
    return np.array(arrivals)
