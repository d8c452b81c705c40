"""Blocks as HTML, with nothing in them taken for markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from .document import (
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
    parts_of,
)

#: The page's place for picking a call; the script fills it.
EXPLORER = '<section id="explorer" class="explorer"></section>'


def render(blocks: Iterable[Block]) -> str:
    """Return the blocks as HTML; a picture becomes an empty place that the page's script fills."""
    return "\n".join(_block(b) for b in blocks)


def escape(text: str) -> str:
    """Return text for an element or an attribute in double quotes."""
    return html.escape(text, quote=True)


def _inline(part: Inline) -> str:
    if isinstance(part, Code):
        return f"<code>{escape(part.text)}</code>"
    if isinstance(part, Strong):
        return f"<strong>{escape(part.text)}</strong>"
    if isinstance(part, Link):
        text = escape(part.text)
        return (
            f'<a href="{escape(part.address)}" rel="noreferrer">{text}</a>'
            if part.is_safe
            else text
        )
    return escape(part)


def _line(parts: tuple[Inline, ...]) -> str:
    return "".join(map(_inline, parts))


def _cell(cell: Cell) -> str:
    return _line(parts_of(cell))


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{_line(block.parts)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{_line(i)}</li>" for i in block.items) + "</ul>"
    if isinstance(block, Table):
        return table(block)
    if isinstance(block, Listing):
        text = f"<pre><code>{escape(block.text.rstrip())}</code></pre>"
        if not block.summary:
            return text
        return f"<details><summary>{escape(block.summary)}</summary>{text}</details>"
    if isinstance(block, Picture):
        return (
            f'<figure><div class="figure" data-figure="{escape(block.name)}" role="img" '
            f'aria-label="{escape(block.words)}"></div></figure>'
        )
    assert isinstance(block, Explorer)
    return EXPLORER


def table(block: Table) -> str:
    """Return a table, which scrolls sideways where it is wider than the page."""
    head = "".join(f"<th>{escape(h)}</th>" for h in block.head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(c)}</td>" for c in row) + "</tr>" for row in block.rows
    )
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{inside}</table></div>'
