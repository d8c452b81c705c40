"""Jinja2 for everything that is more than a line of text: values escaped, the words at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    import jinja2

#: Templates that any wing above may include: ``html.j2``, ``notebook.html.j2``.
TEMPLATES = Path(__file__).resolve().parent / "templates"

_WORDS = (
    words.arm, words.evidence, words.answer, words.unit, words.size, words.size_interval,
    words.estimate, words.percent,
)  # fmt: skip


def environment(
    *directories: Path, finalize: Callable[[Any], Any] | None = None
) -> jinja2.Environment:
    """Return an environment over templates of these directories and of :data:`TEMPLATES`.

    Every value is escaped for HTML unless ``finalize`` has made it markup before; a name that the
    context lacks is an error. The functions of :mod:`.words` are filters.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*directories, TEMPLATES]),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update({word.__name__: word for word in _WORDS})
    made.tests["web_address"] = is_web_address
    return made


def is_web_address(text: str) -> bool:
    """Whether a link may lead there: http and https alone."""
    return text.startswith(("https://", "http://"))
