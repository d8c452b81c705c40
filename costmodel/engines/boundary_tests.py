"""A test file for a patched engine: the rule's boundary cases, run on the function itself.

The cases come from :mod:`costmodel.rules.boundary`; the file carries a copy of :mod:`.stand_in`
and of :mod:`.stand_in_values`.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.algebra import asks_for_mesh, by_world_size, on_full_mesh
from ..rules.boundary import cases
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from . import comment
from .by_arch import Gated
from .call_sites import ServingEngine
from .module import Module
from .overrides import LIMITS, SWITCHES
from .reader import DispatchFunction, read_dispatch

if TYPE_CHECKING:
    from .patch import Emitted
    from .source import Tree


def of(emitted: Emitted, provenance: Provenance, engine: ServingEngine, tree: Tree | None) -> str:
    """Return the test file of a patch of ``tree``, or of a snippet."""
    file = emitted.file if tree is not None else f"{engine.checkout}/{emitted.file}"
    return render(
        emitted.adapted,
        provenance,
        engine,
        file,
        emitted.function,
        str(tree.path) if tree is not None and tree.path.is_dir() else "",
        emitted.patched,
        emitted.copies,
        emitted.gated,
    )


def render(
    adapted: Adapted,
    provenance: Provenance,
    engine: ServingEngine,
    file: str,
    function: str,
    source: str = "",
    patched: str = "",
    copies: Sequence[str] = (),
    gated: Gated | None = None,
) -> str:
    """Return a test file for the patched function; it needs neither GPU, torch nor the engine.

    ``file`` is the patched file relative to ``source``, the tree as given on the command line;
    without one the installed package is looked for. ``patched`` is the file's text: its settings
    that replace the rule get tests too. ``copies`` are functions that must decide alike. With
    ``gated`` every kind of GPU has its own cases, on a stand-in for the topology of its host, and
    ``adapted`` is the rule elsewhere.
    """
    rule = adapted.rule
    dispatch = (
        read_dispatch(Module.parse(file, patched), function, constant=True) if patched else None
    )
    meshed = dispatch is None or asks_for_mesh(dispatch.condition)
    about = [adapted.rule.words(), *comment.lines(adapted, provenance, engine.title)]
    if gated is not None:
        about = [gated.words(), f"elsewhere: {adapted.rule.words()}"]
        about.append(comment.reproduce(provenance))
    settings = overridden_rows(dispatch) if dispatch is not None else []
    hosts = _hosts(gated) if gated is not None else []
    kinds = gated.kinds.items() if gated is not None else ()
    by_gpu = [f"    {kind.name!r}: [\n{_rows(a.rule, meshed)}\n    ]," for kind, a in kinds]
    tests = [
        f"def test_decides_as_the_rule_at_tp{n}():\n"
        f"    wrong = differences({n})\n"
        f"    assert not wrong, wrong[:5]\n"
        for n in WORLD_SIZES
    ]
    return _FILE.format(
        engine=engine.title,
        function=function,
        functions=(function, *copies),
        about="\n".join(about),
        file=file,
        package=engine.package,
        inside=inside(file, engine),
        source=source,
        stand_in=stand_ins(),
        rows=_rows(rule, meshed),
        by_gpu="\n".join(by_gpu),
        hosts="\n".join(hosts),
        settings="\n".join(f"    {row}," for row in settings),
        tests="\n\n".join(
            [*tests, *([_HOSTS_TEST] if hosts else []), *([_SETTINGS_TEST] if settings else [])]
        ),
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
import functools
import importlib.util
import math
import os as _os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILE = {file!r}
FUNCTIONS = {functions!r}


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


def differences(world_size, host=None, cases=CASES):
    """Return the cases of a world size, or of all, in which the function decides otherwise.

    A case that the function does not fuse has nothing to decide; some must be fused.
    """
    wrong = []
    for function in FUNCTIONS:
        decide, decided = decider(source(), function, host=host), 0
        for n, mesh, dtype, hidden, decisions in cases:
            for elements, one in decisions.items() if world_size in (n, None) else ():
                try:
                    said = decide(n, dtype, hidden, elements, mesh)
                except NotFusedError:
                    continue
                decided += 1
                if said is not one:
                    wrong.append(
                        f"{{function}}: TP{{n}} mesh={{mesh}} {{dtype}} hidden={{hidden}} "
                        f"elements={{elements}}: not {{one}}"
                    )
        if not decided:
            wrong.append(f"{{function}}: fuses no case of TP{{world_size}}")
    return wrong


# {{kind of GPU: cases as above}}
BY_GPU = {{
{by_gpu}
}}

# {{GPUs of the host: (gfx_target_version, device_id and xGMI there, kind of GPU or None)}}
HOSTS = {{
{hosts}
}}


def differences_by_host():
    """Return the cases in which the function does not decide as the rule for a host's GPUs.

    All cases of a rule are tried on one host, those of bf16 on its others.
    """
    wrong, seen = [], set()
    for name, (host, kind) in HOSTS.items():
        cases = BY_GPU.get(kind, CASES)
        cases = [c for c in cases if kind not in seen or (c[1] and c[2] == "bf16")]
        seen.add(kind)
        wrong += [f"{{name}}: {{line}}" for line in differences(None, host, cases)]
    return wrong


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
            given = dict(attributes={{name.split(".")[1]: attribute}})
        else:
            given = dict(environ={{name: value}})
        decide = decider(source(), FUNCTIONS[0], **given)
        for elements, one in decisions.items():
            try:
                said = decide(n, dtype, hidden, elements)
            except NotFusedError:
                continue
            if said is not one:
                at = f"hidden={{hidden}} elements={{elements}}"
                wrong.append(f"TP{{n}} {{name}}={{value}} {{at}}: not {{one}}")
    return wrong


{tests}

if __name__ == "__main__":
    failed = [line for n in ({sizes}) for line in differences(n)]
    failed += differences_by_host() + overridden()
    print("\\n".join(failed) or f"{{len(CASES)}} groups of boundary cases: all as the rule")
    raise SystemExit(bool(failed))
'''.replace("{sizes}", ", ".join(map(str, WORLD_SIZES)))


_HOSTS_TEST = """def test_decides_as_the_rule_for_the_gpus_of_the_host():
    wrong = differences_by_host()
    assert not wrong, wrong[:5]
"""


_SETTINGS_TEST = """def test_settings_override_the_rule_as_before():
    wrong = overridden()
    assert not wrong, wrong[:5]
"""


def stand_ins() -> str:
    """Return the code of the stand-ins, without what it imports, to stand in a test file."""
    texts = []
    for name in ("stand_in_values.py", "stand_in.py"):
        code = Path(__file__).with_name(name).read_text(encoding="utf-8")
        imports = [n for n in ast.parse(code).body if isinstance(n, ast.Import | ast.ImportFrom)]
        lines = code.split("\n")[imports[-1].end_lineno :]
        texts.append("\n".join(lines).strip())
    return "\n\n\n".join(texts)


def _rows(rule: Rule, meshed: bool) -> str:
    """Return a rule's boundary cases as lines of a list."""
    if not meshed:
        # Such a function is not asked without a full mesh: its communicator disables itself.
        rule = replace(rule, condition=on_full_mesh(rule.condition))
    return "\n".join(
        f"    ({c.world_size}, {c.fully_connected}, {c.dtype!r}, {c.hidden_dim}, "
        f"{{{', '.join(f'{count}: {one}' for count, one in c.decisions)}}}),"
        for c in cases(rule)
    )


def _hosts(gated: Gated) -> list[str]:
    """Return the hosts as entries of a dictionary, with the kind of GPU whose cases are theirs."""
    kinds = {id(adapted): kind.name for kind, adapted in gated.kinds.items()}
    return [
        f"    {name!r}: (({host.version!r}, {host.device_id!r}, {host.xgmi}), "
        f"{kinds.get(id(gated.at(host)))!r}),"
        for name, host in gated.hosts.items()
    ]


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
