"""Names of models as people write them: Hugging Face ids, any case, any separator."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from ..errors import InputError, one_line

#: Most names that an error offers.
OFFERED = 5


def key(name: str) -> tuple[str, ...]:
    """Return a name as its runs of letters and of digits: ``GLM-4.6``, ``glm4.6`` are alike, and so
    are ``gpt-oss`` and ``GptOss``.

    An organisation stays, as a run of its own: another organisation's copy is another model.
    """
    organisation, slash, own = name.strip().lower().rpartition("/")
    runs = tuple(re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])[^a-z\d]+(?=[a-z])", "", own)))
    return (f"{''.join(re.findall(r'[a-z0-9]+', organisation))}/", *runs) if slash else runs


def unknown(name: str, known: Sequence[str]) -> InputError:
    """Return the error for a name that is not known: names of its family, else the nearest."""
    offered = suggestions(name, known)
    hint = f" (did you mean {', '.join(offered)}?)" if offered else ""
    return InputError(
        f"model '{one_line(name)[:80]}' is not in the catalogue{hint}; for another one give "
        "--config config.json"
    )


def suggestions(name: str, known: Sequence[str]) -> list[str]:
    """Return the known names of the same family, the nearest first; without one the nearest."""
    wanted = name.rpartition("/")[2].strip().lower()[:80]
    family = next(iter(re.findall(r"[a-z]+", wanted)), "")

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, wanted, other).ratio()

    mine = [n for n in known if next(iter(re.findall(r"[a-z]+", n)), "") == family]
    nearest = sorted(mine or known, key=likeness, reverse=True)
    return [n for n in nearest if mine or likeness(n) >= 0.5][:OFFERED]
