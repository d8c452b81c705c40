"""Griffe extension: the docstrings' reStructuredText, as far as it is used here, as Markdown.

Roles become code, ``::`` becomes a colon before an indented block, simple tables and doctests
become code blocks. Constants are documented by the ``#:`` lines above them.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension

_ROLE = re.compile(r":\w+:`~?\.*([\w.]+)`")
_SHORT_ROLE = re.compile(r":\w+:`~[\w.]*?(\w+)`")
_RULE = re.compile(r"=+(?: +=+)+$")


def markdown(text: str) -> str:
    """Return a docstring as Markdown."""
    lines: list[str] = []
    block = ""  # the language of the code block that the last line is in; a blank line ends it
    for line in [*text.splitlines(), ""]:
        if block and not line.strip():
            lines.append("```")
            block = ""
        elif not block and (_RULE.match(line) or line.startswith(">>> ")):
            block = "pycon" if line.startswith(">>> ") else "text"
            lines.append(f"```{block}")
        if _RULE.match(line):
            line = line.replace("=", "-")
        elif block == "text":
            line = _without_roles(line)
        elif not block:
            line = _ROLE.sub(r"`\1`", _SHORT_ROLE.sub(r"`\1`", line))
            if line.endswith("::"):
                line = line[:-2] + (":" if line.strip() != "::" else "")
        lines.append(line)
    return "\n".join(lines).rstrip()


def _without_roles(line: str) -> str:
    """Return a table's line with roles as bare names, columns where they were."""

    def name(match: re.Match[str]) -> str:
        return match[1].ljust(len(match[0]))

    return _ROLE.sub(name, _SHORT_ROLE.sub(name, line)).replace("``", "")


class PlainDocstrings(Extension):
    """Turn every docstring into Markdown and read ``#:`` comments."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """Convert the docstring of the package itself."""
        self.on_object(obj=pkg)

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Convert the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_attribute_instance(self, *, attr: Any, **_: Any) -> None:
        """Take the ``#:`` lines above an attribute as its docstring."""
        if attr.docstring or not attr.lineno or attr.is_alias:
            return
        lines = attr.lines_collection[attr.filepath]
        above: list[str] = []
        for line in reversed(lines[: attr.lineno - 1]):
            if not line.strip().startswith("#:"):
                break
            above.insert(0, line.strip().removeprefix("#:").strip())
        if above:
            attr.docstring = Docstring("\n".join(above), parent=attr, lineno=attr.lineno)
