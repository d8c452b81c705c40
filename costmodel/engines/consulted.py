"""A source that consults the run-time table: the names by which it is known, and the files beside.

The table is the file that :mod:`costmodel.rules.table` reads; :mod:`.consultation` writes the
consultation into an engine.
"""

from __future__ import annotations

import ast

from msgspec import Struct

from ..errors import InputError
from ..rules import table
from .evaluation import CONSULTS
from .module import Module
from .schemas import ConsultationRecord
from .source import Tree


class TableBeside(Struct, frozen=True):
    """A table file beside a source; ``wrong`` says why it cannot be read, "" where it can."""

    file: str
    record: table.TableRecord | None
    wrong: str


class Consulted(Struct, frozen=True):
    """Where a source consults the table: (function, line, op) each, and the tables beside it."""

    file: str
    calls: tuple[tuple[str, int, str], ...]
    tables: tuple[TableBeside, ...]

    def to_dict(self) -> ConsultationRecord:
        """Return the part of a ``costmodel/audit/1`` record."""
        return {
            "file": self.file,
            "calls": [{"function": f, "line": n, "op": op} for f, n, op in self.calls],
            "tables": [{"file": t.file, "table": t.record, "wrong": t.wrong} for t in self.tables],
        }


def calls(module: Module) -> tuple[tuple[str, int, str], ...]:
    """Return (function, line, op) of every place of a module that consults the table."""
    found = []
    for qualified in module.functions():
        target = module.function(qualified)
        for node in ast.walk(target[0]) if target else ():
            if isinstance(node, ast.Call) and is_call(node):
                given = [a.value for a in node.args if isinstance(a, ast.Constant)]
                found.append((qualified, node.lineno, str(given[0]) if given else ""))
    return tuple(found)


def is_call(node: ast.AST) -> bool:
    """Tell whether a syntax node is a call that consults the table."""
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == CONSULTS
    )


def consulted(tree: Tree, name: str) -> Consulted | None:
    """Return where a file of a tree consults the table, None where it does not."""
    text = tree.read(name)
    if text is None or CONSULTS not in text:
        return None
    found = calls(Module.parse(name, text))
    return Consulted(name, found, _tables(tree, name)) if found else None


def _tables(tree: Tree, name: str) -> tuple[TableBeside, ...]:
    out = []
    for file in tree.beside(name, f"{table.FOLDER}/{table.file_name('*')}"):
        try:
            text = tree.read(file) or ""
            out.append(TableBeside(file, table.parse(text, file), ""))
        except InputError as error:
            out.append(TableBeside(file, None, str(error)))
    return tuple(out)
