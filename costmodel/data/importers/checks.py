"""What a table says of the correctness of its results: a wrong result is never a clean row.

AITER's op_tests state ``err``, the share of elements that are off (``checkAllclose`` in
aiter/test_common.py, which warns up to ``tol_err_ratio`` = 0.05 and fails above it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .cells import number
from .columns import Columns, Time
from .quantities import is_no_figure, plain, truth
from .rows import Imported
from .text_file import shortened

#: Share of elements off above which AITER's own check fails.
SHARE_LIMIT = 0.05
_FAILED = re.compile(r"fail|mismatch|incorrect|wrong|❌")
#: An error that was asked for and is no number: the result may be wrong.
_NOT_KNOWN = ("nan", "inf", "-inf")
#: What a check says where the run broke, and a status where it was not run.
_BROKEN = frozenset(("timeout", "oom", "hang", "crash", "crashed", "aborted", "killed", "error"))
_NOT_RUN = frozenset(("skip", "skipped", "disabled", "unsupported", "not supported", "not run"))
#: Suspect results that a note names.
_NAMED = 5


class Verdict(NamedTuple):
    """What is to be thought of one latency: the reason to leave it, or that it is suspect."""

    wrong: str = ""
    suspect: bool = False


class Verdicts:
    """The verdicts on one table's latencies."""

    def __init__(self, columns: Columns, header: Sequence[str]) -> None:
        self._columns = columns
        self._header = header
        self._suspect: list[str] = []
        self._n_suspect = 0

    def of(self, time: Time, cells: Sequence[str], where: str) -> Verdict:
        """Return the verdict on one latency."""
        for index, arm in self._columns.available.items():
            if _of(arm, time) and arm and truth(cells[index]) is False:
                return Verdict(f"not available: {plain(self._header[index])} is no")
        suspect = ""
        for index, arm in self._columns.errors.items():
            if _of(arm, time) and plain(cells[index]).lower() in _NOT_KNOWN:
                suspect = suspect or f"{shortened(plain(self._header[index]), 30)} is nan"
            elif _of(arm, time) and not is_no_figure(cells[index]):
                wrong, doubt = _share(plain(self._header[index]), cells[index])
                if wrong:
                    return Verdict(wrong)
                suspect = suspect or doubt
        for index in self._columns.checks:
            word, name = plain(cells[index]).lower(), plain(self._header[index])
            if word in _BROKEN or (word in _NOT_RUN and name.lower() == "status"):
                return Verdict(f"no result: {shortened(name, 40)} is {word}")
            if truth(cells[index]) is False or _FAILED.search(cells[index].lower()):
                said = [plain(cells[index]), *(plain(cells[i]) for i in self._columns.details)]
                figures = [text for text in said if any(c.isdigit() for c in text)]
                if not figures:
                    return Verdict(
                        f"wrong result: {shortened(plain(self._header[index]), 40)} is no"
                    )
                suspect = suspect or shortened(figures[0], 100)
        for index in self._columns.remarks:
            if _FAILED.search(cells[index].lower()):
                suspect = suspect or shortened(plain(cells[index]), 100)
        if suspect:
            self._n_suspect += 1
            if len(self._suspect) < _NAMED:
                self._suspect.append(f"{suspect} ({where.rpartition(':')[2]})")
        return Verdict(suspect=bool(suspect))

    def note(self, imported: Imported) -> None:
        """Say which results are suspect, with the figures."""
        if self._suspect:
            more = ", ..." if self._n_suspect > len(self._suspect) else ""
            imported.note(
                f"{self._n_suspect} suspect, with the line: {'; '.join(self._suspect)}{more}"
            )


def _of(arm: tuple[str, ...], time: Time) -> bool:
    """Whether a check of an arm is about a latency; one of no arm is about all."""
    return set(arm) <= set(time.arm)


def _share(name: str, text: str) -> tuple[str, str]:
    """Return (why a result is wrong, why it is doubtful) by its share of elements off."""
    text = plain(text)
    percent = text.endswith("%")
    share = number(text.rstrip("% "))
    if share is None:
        return f"wrong result: {shortened(name, 30)} is {shortened(text, 20)}", ""
    share = share / 100 if percent else share
    if "wrong" in name.lower():
        return ("wrong result: #wrong is above 0", "") if share else ("", "")
    if share > SHARE_LIMIT or share < 0:
        return f"wrong result: {shortened(name, 30)} above AITER's limit of {SHARE_LIMIT}", ""
    return "", f"{shortened(name, 30)} {share:g}" if share else ""
