"""How changed source is laid out: as the engines' formatters do, at most ``WIDTH`` columns."""

from __future__ import annotations

import ast
import re

from .diff import Edit, apply
from .expression import WIDTH


def laid_out(text: str, indent: int) -> str:
    """Return a statement on one line where it fits, else its brackets' inside on one line.

    A statement with comments, or with a comma before a closing bracket, keeps its lines.
    """
    first, *rest = (line.strip() for line in text.split("\n"))
    for part in rest:
        near = first.endswith(("(", "[", "{")) or part[:1] in (")", "]", "}")
        first += part if near else f" {part}"
    if "#" in first or re.search(r",\s*[)\]}]", first):
        return text
    opened = re.fullmatch(r"([\w.]+ = |return )\((.*)\)", first)
    if opened and _is_balanced(opened[2]):
        if indent + len(opened[1]) + len(opened[2]) <= WIDTH:
            return opened[1] + opened[2]
        inner = f"{'':{indent + 4}}{opened[2]}"
        return f"{opened[1]}(\n{inner}\n{'':{indent}})" if len(inner) <= WIDTH else text
    return first if indent + len(first) <= WIDTH else text


def _is_balanced(text: str) -> bool:
    try:
        ast.parse(text.strip(), mode="eval")
    except SyntaxError:
        return False
    return True


def spliced(text: str, node: ast.expr | ast.stmt, edit: Edit) -> str:
    """Return the source of a node with an edit inside it made."""
    changed = apply(text, [edit])
    last = changed.count("\n") - text.count("\n") + (node.end_lineno or node.lineno)
    tail = len(text.split("\n")[(node.end_lineno or node.lineno) - 1].encode())
    after = tail - (node.end_col_offset or tail)
    lines = [line.encode() for line in changed.split("\n")[node.lineno - 1 : last]]
    lines[-1] = lines[-1][: len(lines[-1]) - after]
    lines[0] = lines[0][node.col_offset :]
    return b"\n".join(lines).decode()


def call(function: str, arguments: str, indent: int) -> list[str]:
    """Return a call on one line, or its arguments on a line of their own when that is too long.

    The first argument is a name; where that line is too long too, each has one.
    """
    line = f"{function}({arguments})"
    if len(line) <= WIDTH:
        return [line]
    pad = f"{'':{indent + 4}}"
    inner = [f"{pad}{arguments}"]
    first, comma, rest = arguments.partition(", ")
    if len(inner[0]) > WIDTH and comma:
        inner = [f"{pad}{first},", f"{pad}{rest},"]
    return [f"{function}(", *inner, f"{'':{indent}})"]


def wrapped(terms: list[str], indent: int, before: int, word: str = "and") -> str:
    """Return joined terms as a formatter lays them out.

    On one line, else on one line in brackets, else in brackets with one term a line.
    """
    line = f" {word} ".join(terms)
    if indent + before + len(line) <= WIDTH:
        return line
    inner = [f"{'':{indent + 4}}{line}"]
    if len(inner[0]) > WIDTH:
        inner = _indented(terms, indent + 4, word)
    return "\n".join(["(", *inner, f"{'':{indent}})"])


def _indented(terms: list[str], indent: int, word: str = "and") -> list[str]:
    """Return joined terms, one a line; a long set with one value a line."""
    out: list[str] = []
    for i, term in enumerate(terms):
        line = f"{'':{indent}}{f'{word} ' if i else ''}{term}"
        opened = re.fullmatch(r"(.*\{)([\d, ]+)\}", line)
        if len(line) <= WIDTH or opened is None:
            out.append(line)
            continue
        out.append(opened[1])
        out += [f"{'':{indent + 4}}{value}," for value in opened[2].split(", ")]
        out.append(f"{'':{indent}}}}")
    return out
