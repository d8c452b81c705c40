"""The report as GitHub-flavoured Markdown, with no value in it taken for markup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..show.templating import environment
from .text import TEMPLATES

if TYPE_CHECKING:
    import jinja2

#: Characters that Markdown may read as markup wherever they stand.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]")

#: A name that stands in a code span as it is.
_PLAIN_CODE = re.compile(r"[A-Za-z0-9 _./:,;=+<>()'\"%&@#!?*^{}\[\]~$-]+")


#: More than two empty lines say nothing in Markdown.
_GAP = re.compile(r"\n{3,}")


def render(context: Mapping[str, Any]) -> str:
    """Return the report as Markdown, from what :func:`.text.context` gives."""
    text = _environment().get_template("report.md.j2").render(context)
    return _GAP.sub("\n\n", text).rstrip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    """Return the environment in which every value is escaped for Markdown.

    Jinja2 leaves alone what is ``Markup`` already, so the filters that write markup return it.
    """
    from markupsafe import Markup

    def flat(value: Any) -> Markup:
        """One line: markup as it is, anything else escaped."""
        return Markup(" ".join(value.split()) if isinstance(value, Markup) else escape(str(value)))

    made = environment(
        TEMPLATES, finalize=lambda v: v if isinstance(v, Markup) else Markup(escape(str(v)))
    )
    made.filters.update(
        flat=flat,
        line=lambda text: Markup(line_start(flat(text))),
        rows=lambda text: Markup("\n".join(row for row in text.splitlines() if row.strip())),
        code_span=lambda text: Markup(code(str(text))),
        link_target=lambda url: Markup(quote(url, safe=":/?=&%+,;-_.~")),
        fenced=lambda text, language: Markup(fenced(str(text), language)),
    )
    return made


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


def line_start(line: str) -> str:
    """Keep the start of a line from being a heading, a list or a quote."""
    return re.sub(r"^([-+#]|\d+(?=[.)]))", r"\\\1", line)


def fenced(text: str, language: str) -> str:
    """Return a listing inside a fence that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
