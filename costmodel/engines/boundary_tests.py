"""A test file for a patched engine: the rule's boundary cases, run on the function itself.

The cases come from :mod:`costmodel.rules.boundary`; the file carries a copy of :mod:`.stand_in`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.algebra import asks_for_mesh, by_world_size, on_full_mesh
from ..rules.boundary import cases
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from . import comment
from .call_sites import ServingEngine
from .module import Module
from .overrides import LIMITS, SWITCHES
from .reader import DispatchFunction, read_dispatch


def render(
    adapted: Adapted,
    provenance: Provenance,
    engine: ServingEngine,
    file: str,
    function: str,
    source: str = "",
    patched: str = "",
) -> str:
    """Return a test file for the patched function; it needs neither GPU, torch nor the engine.

    ``file`` is the patched file relative to ``source``, the tree as given on the command line;
    without one the installed package is looked for. ``patched`` is the file's text: its settings
    that replace the rule get tests too.
    """
    code = Path(__file__).with_name("stand_in.py").read_text(encoding="utf-8")
    body = code.split("from typing import Any\n", 1)[1].strip()
    rule = adapted.rule
    dispatch = (
        read_dispatch(Module.parse(file, patched), function, constant=True) if patched else None
    )
    if dispatch is not None and not asks_for_mesh(dispatch.condition):
        # Such a function is not asked without a full mesh: its communicator disables itself.
        rule = replace(rule, condition=on_full_mesh(rule.condition))
    about = [adapted.rule.words(), *comment.lines(adapted, provenance, engine.title)]
    rows = [
        f"    ({c.world_size}, {c.fully_connected}, {c.dtype!r}, {c.hidden_dim}, "
        f"{{{', '.join(f'{count}: {one}' for count, one in c.decisions)}}}),"
        for c in cases(rule)
    ]
    settings = overridden_rows(dispatch) if dispatch is not None else []
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
        inside=inside(file, engine),
        source=source,
        stand_in=body,
        rows="\n".join(rows),
        settings="\n".join(f"    {row}," for row in settings),
        tests="\n\n".join([*tests, *([_SETTINGS_TEST] if settings else [])]),
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
from collections.abc import Callable, Mapping
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


# (setting, value, world size, dtype, hidden size, {{elements: 1-stage?}})
SETTINGS = [
{settings}
]


def overridden():
    """Return the cases in which a setting does not replace the rule as it did before."""
    wrong = []
    for name, value, n, dtype, hidden, decisions in SETTINGS:
        if "." in name:
            attribute = {{"true": True, "false": False}}.get(value, value)
            attribute = int(attribute) if attribute is value else attribute
            decide = decider(source(), FUNCTION, attributes={{name.split(".")[1]: attribute}})
        else:
            decide = decider(source(), FUNCTION, environ={{name: value}})
        wrong += [
            f"TP{{n}} {{name}}={{value}} hidden={{hidden}} elements={{elements}}: not {{one}}"
            for elements, one in decisions.items()
            if decide(n, dtype, hidden, elements) is not one
        ]
    return wrong


{tests}

if __name__ == "__main__":
    failed = [line for n in ({sizes}) for line in differences(n)] + overridden()
    print("\\n".join(failed) or f"{{len(CASES)}} groups of boundary cases: all as the rule")
    raise SystemExit(bool(failed))
'''.replace("{sizes}", ", ".join(map(str, WORLD_SIZES)))


_SETTINGS_TEST = """def test_settings_override_the_rule_as_before():
    wrong = overridden()
    assert not wrong, wrong[:5]
"""


def overridden_rows(dispatch: DispatchFunction) -> list[str]:
    """Return the boundary cases under each setting that replaces the rule, one dtype and size."""
    rows = []
    for override in dispatch.overrides:
        switches = SWITCHES[2:] if "." in override.name else SWITCHES[:2]
        for value, conditions in override.effects:
            if value not in (LIMITS[:1] if override.replaces == "limit" else switches):
                continue
            rule = Rule("", by_world_size(dict(zip(WORLD_SIZES, conditions, strict=True))))
            seen: set[int] = set()
            for case in cases(rule):
                if case.dtype == "bf16" and case.fully_connected and case.world_size not in seen:
                    seen.add(case.world_size)
                    rows.append(
                        f"({override.name!r}, {value!r}, {case.world_size}, {case.dtype!r}, "
                        f"{case.hidden_dim}, {dict(case.decisions)})"
                    )
    return rows


def inside(file: str, engine: ServingEngine) -> str:
    """Return a file's path inside the engine's package."""
    for site in engine.call_sites:
        if file.endswith(site.file):
            return site.file
    return file
