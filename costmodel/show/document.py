"""A report as a list of blocks of plain text, which Markdown and HTML each render their own way.

No block holds markup: what a user's file says passes through as text, and the renderer escapes all
of it in one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Code:
    """A name or command inside a sentence."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that stand out."""

    text: str


@dataclass(frozen=True)
class Link:
    """Words that lead to an address; other addresses than http and https are left out."""

    text: str
    address: str

    @property
    def is_safe(self) -> bool:
        """Whether the address may be followed."""
        return self.address.startswith(("https://", "http://"))


Inline: TypeAlias = str | Code | Strong | Link
Cell: TypeAlias = Inline | tuple[Inline, ...]


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title. ``page_only`` keeps it to HTML."""

    text: str
    level: int = 2
    page_only: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    parts: tuple[Inline, ...]

    @classmethod
    def of(cls, *parts: Inline) -> Paragraph:
        """Build from its parts."""
        return cls(parts)


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[tuple[Inline, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Listing:
    """Lines of code; folded away under ``summary`` where it is given."""

    text: str
    language: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: ``name`` of its file, what it shows in words. ``page_only`` keeps it to HTML."""

    name: str
    words: str
    figure: go.Figure = field(compare=False)
    page_only: bool = False


@dataclass(frozen=True)
class Explorer:
    """Where the page lets the reader pick a call; nothing in Markdown."""


Block: TypeAlias = Heading | Paragraph | Bullets | Table | Listing | Picture | Explorer


def parts_of(cell: Cell) -> tuple[Inline, ...]:
    """Return a cell as parts."""
    return cell if isinstance(cell, tuple) else (cell,)
