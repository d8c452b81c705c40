"""The rule that an engine gets: one number of bytes, and the entry of the run-time table behind it.

Like an entry of the table it decides the size and nothing else: the engine's own guards, and the
limits of its kernels, stand around it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from ...rules.table import TableEntry, checked, words


@dataclass(frozen=True, slots=True)
class StartupRule:
    """1-stage up to and with ``max_bytes`` of input on one rank; all ranks hold the same.

    Calling it with a size in bytes says whether 1-stage runs: one comparison.
    """

    entry: TableEntry = field(repr=False)
    max_bytes: int

    @classmethod
    def of(cls, entry: TableEntry) -> StartupRule:
        """Return the rule of an entry; raise :class:`InputError` for one that cannot be."""
        return cls(checked(entry, "the rule"), entry["max_bytes"])

    @classmethod
    def from_text(cls, text: str) -> StartupRule:
        """Return the rule of :attr:`text`; raise for anything else."""
        return cls.of(msgspec.json.decode(text, type=TableEntry))

    def __call__(self, size_bytes: int) -> bool:
        """Return whether 1-stage runs for an input of ``size_bytes`` on one rank."""
        return size_bytes <= self.max_bytes

    @property
    def text(self) -> str:
        """The entry as JSON, the same text on every rank."""
        return msgspec.json.encode(self.entry, order="sorted").decode()

    @property
    def sha256(self) -> str:
        """Hash of :attr:`text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return words(self.entry)
