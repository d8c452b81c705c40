"""A test file for a patched engine: the rule's boundary cases, run on the function itself.

The cases come from :mod:`costmodel.rules.boundary`; the file carries a copy of :mod:`.stand_in`.
"""

from __future__ import annotations

from pathlib import Path

from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.boundary import cases
from ..rules.evidence import Provenance
from . import comment
from .call_sites import ServingEngine


def render(
    adapted: Adapted,
    provenance: Provenance,
    engine: ServingEngine,
    file: str,
    function: str,
    source: str = "",
) -> str:
    """Return a test file for the patched function; it needs neither GPU, torch nor the engine.

    ``file`` is the patched file relative to ``source``, the tree as given on the command line;
    without one the installed package is looked for.
    """
    code = Path(__file__).with_name("stand_in.py").read_text(encoding="utf-8")
    body = code.split("from typing import Any\n", 1)[1].strip()
    rule = adapted.rule
    about = [rule.words(), *comment.lines(adapted, provenance, engine.title)]
    rows = [
        f"    ({c.world_size}, {c.fully_connected}, {c.dtype!r}, {c.hidden_dim}, "
        f"{{{', '.join(f'{count}: {one}' for count, one in c.decisions)}}}),"
        for c in cases(rule)
    ]
    tests = [
        f"def test_decides_as_the_rule_at_tp{n}():\n"
        f"    wrong = differences({n})\n"
        f"    assert not wrong, wrong[:5]\n"
        for n in WORLD_SIZES
    ]
    return _FILE.format(
        engine=engine.title,
        function=function,
        about="\n".join(about),
        file=file,
        package=engine.package,
        inside=_inside(file, engine),
        source=source,
        stand_in=body,
        rows="\n".join(rows),
        tests="\n\n".join(tests),
    )


_FILE = '''"""Boundary cases of the dispatch rule in {engine}'s {function}.

{about}

Run with pytest or as a script; COSTMODEL_SOURCE names the patched tree. No GPU, no torch, no import
of the engine: the function is cut out of its file and run on stand-ins.
"""
# fmt: off
# ruff: noqa

from __future__ import annotations

import ast
import builtins
import importlib.util
import math
import os as _os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILE = {file!r}
FUNCTION = {function!r}


def source():
    """Return the text of the file under test."""
    root = _os.environ.get("COSTMODEL_SOURCE") or {source!r}
    if root:
        return (Path(root) / FILE).read_text(encoding="utf-8")
    package = importlib.util.find_spec({package!r})
    if package is None or not package.submodule_search_locations:
        raise SystemExit("{package} is not installed; set COSTMODEL_SOURCE to the patched tree")
    return (Path(package.submodule_search_locations[0]) / {inside!r}).read_text(encoding="utf-8")


{stand_in}


# (world size, fully connected, dtype, hidden size, {{elements: 1-stage?}})
CASES = [
{rows}
]


def differences(world_size):
    """Return the cases of a world size in which the function does not decide as the rule."""
    decide = decider(source(), FUNCTION)
    return [
        f"TP{{n}} mesh={{mesh}} {{dtype}} hidden={{hidden}} elements={{elements}}: not {{one}}"
        for n, mesh, dtype, hidden, decisions in CASES
        if n == world_size
        for elements, one in decisions.items()
        if decide(n, dtype, hidden, elements, mesh) is not one
    ]


{tests}

if __name__ == "__main__":
    failed = [line for n in ({sizes}) for line in differences(n)]
    print("\\n".join(failed) or f"{{len(CASES)}} groups of boundary cases: all as the rule")
    raise SystemExit(bool(failed))
'''.replace("{sizes}", ", ".join(map(str, WORLD_SIZES)))


def _inside(file: str, engine: ServingEngine) -> str:
    """Return a file's path inside the engine's package."""
    for site in engine.call_sites:
        if file.endswith(site.file):
            return site.file
    return file
