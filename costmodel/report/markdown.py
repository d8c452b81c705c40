"""Blocks as GitHub-flavoured Markdown, with nothing in them taken for markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from ..show.document import (
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

#: Characters that Markdown may read as markup wherever they stand.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]")

#: A name that stands in a code span as it is.
_PLAIN_CODE = re.compile(r"[A-Za-z0-9 _./:,;=+<>()'\"%&@#!?*^{}\[\]~$-]+")


def render(blocks: Iterable[Block], images: Mapping[str, str]) -> str:
    """Return the blocks as Markdown; ``images`` maps a picture's name to its file, if drawn."""
    return "\n\n".join(filter(None, (_block(b, images) for b in blocks))) + "\n"


def escape(text: str) -> str:
    """Return text that Markdown shows as it is: no tags, links, mentions or references."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = _SPECIAL.sub(lambda m: "\\" + m[0], flat)
    # Underscores inside a word are no emphasis.
    flat = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)
    # A comment keeps GitHub from pinging a person or linking an issue.
    flat = re.sub(r"[@#](?=\w)", r"\g<0><!-- -->", flat)
    return re.sub(
        r"(?i)(https?|ftp)://|www\.",
        lambda m: m[0].replace(":", "&#58;").replace("w.", "w&#46;"),
        flat,
    )


def code(text: str) -> str:
    """Return a code span; unusual characters are written as entities in a ``code`` element."""
    flat = " ".join(text.split())
    if _PLAIN_CODE.fullmatch(flat):
        return f"`{flat}`"
    return (
        "<code>"
        + "".join(c if c.isalnum() or c in " -./" else f"&#{ord(c)};" for c in flat)
        + "</code>"
    )


def _inline(part: Inline, in_table: bool = False) -> str:
    if isinstance(part, Code):
        # A bar ends a cell even inside a code span.
        return code(part.text)
    if isinstance(part, Strong):
        return f"**{escape(part.text)}**"
    if isinstance(part, Link):
        address = quote(part.address, safe=":/?=&%+,;-_.~")
        return f"[{escape(part.text)}]({address})" if part.is_safe else escape(part.text)
    return _spaced(part)


def _spaced(text: str) -> str:
    """Escape text and keep the blanks at its ends, which separate it from its neighbours."""
    left = " " if text[:1].isspace() else ""
    right = " " if text[-1:].isspace() and text.strip() else ""
    return left + escape(text) + right


def _line(parts: tuple[Inline, ...]) -> str:
    return "".join(_inline(p) for p in parts).strip()


def _cell(cell: Cell) -> str:
    return _line(parts_of(cell))


def _block(block: Block, images: Mapping[str, str]) -> str:
    if isinstance(block, Heading):
        return "" if block.page_only else f"{'#' * block.level} {escape(block.text)}"
    if isinstance(block, Paragraph):
        return _start(_line(block.parts))
    if isinstance(block, Bullets):
        return "\n".join(f"- {_start(_line(item))}" for item in block.items)
    if isinstance(block, Table):
        rows = [
            "| " + " | ".join(escape(h) for h in block.head) + " |",
            "|" + "---|" * len(block.head),
            *("| " + " | ".join(map(_cell, row)) + " |" for row in block.rows),
        ]
        return "\n".join(rows)
    if isinstance(block, Listing):
        return _listing(block)
    if isinstance(block, Picture):
        if block.page_only or block.name not in images:
            return ""
        return f"![{escape(block.words)}]({images[block.name]})"
    assert isinstance(block, Explorer)
    return ""


def _start(line: str) -> str:
    """Keep the start of a line from being a heading, a list or a quote."""
    return re.sub(r"^([-+#]|\d+(?=[.)]))", r"\\\1", line)


def _listing(block: Listing) -> str:
    longest = max((len(run) for run in re.findall(r"`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    text = f"{fence}{block.language}\n{block.text.rstrip()}\n{fence}"
    if not block.summary:
        return text
    summary = escape(block.summary)
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
