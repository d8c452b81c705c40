"""The function by which a patched engine tells the GPUs of its host, and what it reads there.

It reads the topology that the amdkfd driver shows (see :mod:`costmodel.live.kfd`): the arch or the
PCI device id of every GPU, and whether each has an xGMI link. The file is the same for every rank
of a host, so ranks cannot disagree; GPUs over PCIe, a host of different ones and cards that are
not listed keep the engine's own cutoffs. An arch is asked with the ids of the products that its
rule is made for: an MI300A is gfx942 too. AITER's ``get_gfx()`` would not do: it says what
``GPU_ARCHS`` holds, which names several archs in an image that is built for several, and its
communicator takes every host for fully connected.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from ..data import cards
from ..data.hardware import GPUS
from ..data.hosts import Host, Kind, target_version
from ..model.shape import WORLD_SIZES
from .expression import size
from .module import Function, Module, source_of

#: The function, and where it keeps what it found.
NAME, KEPT = "_cutoff_bytes_here", "_cutoff_bytes"


def source(tables: Mapping[Kind, Mapping[int, int]]) -> list[str]:
    """Return the function, to stand at module level before what decides.

    ``tables`` holds the cutoffs in bytes by world size, :data:`UNLIMITED` where there is none. It
    is called where it stands: torch.compile traces some engines' decision, and cannot read files.
    """
    by_card = any(kind.gpu for kind in tables)
    entries = [
        f'"{key}": {{{", ".join(f"{n}: {size(table[n])}" for n in WORLD_SIZES if n in table)}}},'
        f"  # {kind.name}"
        for kind, table in tables.items()
        for key in kind.keys
    ]
    what, ids = "card", []
    found = ['found.add(gpu.get("device_id") if xgmi else None)']
    if not by_card:
        what, ids = "arch, of cards", ["cards = {", *_cards(tables), "}"]
        found = [
            'arch = gpu.get("gfx_target_version")',
            'listed = gpu.get("device_id") in cards.get(arch, "").split()',
            "found.add(arch if xgmi and listed else None)",
        ]
    return [
        f"{KEPT} = None",
        "",
        "",
        f"def {NAME}() -> dict:",
        '    """Return the cutoffs of 1-stage in bytes by TP size for the GPUs of this host.',
        "",
        f"    Empty unless all are of one {what} below and each has an xGMI",
        "    link (type 11) in the topology of amdkfd, which is the same for every rank.",
        '    """',
        f"    global {KEPT}",
        f"    if {KEPT} is None:",
        "        from pathlib import Path",
        "",
        "        known = {",
        *(f"            {entry}" for entry in entries),
        "        }",
        *(f"        {line}" for line in ids),
        "        found = set()",
        '        for node in Path("/sys/class/kfd/kfd/topology/nodes").glob("*"):',
        "            texts = []",
        '            for file in (node / "properties", *node.glob("io_links/*/properties")):',
        "                try:",
        "                    texts.append(file.read_text())",
        "                except (OSError, ValueError):",
        '                    texts.append("")',
        '            gpu = dict(line.partition(" ")[::2] for line in texts[0].splitlines())',
        '            if gpu.get("simd_count", "0") != "0":',
        '                xgmi = any("type 11" in text.splitlines() for text in texts[1:])',
        *(f"                {line}" for line in found),
        f"        {KEPT} = known.get(found.pop(), {{}}) if len(found) == 1 else {{}}",
        f"    return {KEPT}",
        "",
        "",
        "# Read now: torch.compile may trace the calls, and cannot read files.",
        f"{NAME}()",
    ]


def tables_in(module: Module) -> ast.Dict | None:
    """Return the cutoffs by kind of GPU that a patched file holds, None where it has none."""
    function = _function_in(module)
    return None if function is None else _first(function, "known")


def kinds_in(module: Module) -> tuple[Kind, ...]:
    """Return the kinds of GPUs that a patched file has cutoffs of its own for."""
    table = tables_in(module)
    keys = [k.value for k in table.keys if isinstance(k, ast.Constant)] if table else []
    versions = {target_version(arch): arch for arch in GPUS}
    found: dict[Kind, None] = {}
    for key in map(str, keys):
        card = cards.card(int(key)) if key.isdecimal() else None
        if key in versions:
            found[Kind(versions[key])] = None
        elif card is not None:
            found[Kind(card.arch, card.gpu)] = None
    return tuple(found)


def table_for(module: Module, host: Host | None) -> ast.expr | None:
    """Return the cutoffs that hold on a host, as they stand in a patched file.

    None where the file has none for it, as where nothing is known of the host.
    """
    table = tables_in(module)
    if table is None or host is None or not host.xgmi:
        return None
    listed = _listed(module)
    if listed is not None and host.device_id not in listed.get(host.version, ()):
        return None
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant) and key.value in (host.version, host.device_id):
            return value
    return None


def answer(module: Module, host: Host) -> str:
    """Return what a patched file answers on a host, as text: hosts with one answer decide alike."""
    table = table_for(module, host)
    return "" if table is None else source_of(table)


def is_asked(node: ast.Call) -> bool:
    """Tell whether a call is one of the function."""
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name == NAME


def _cards(tables: Mapping[Kind, Mapping[int, int]]) -> list[str]:
    """Return the PCI device ids that each arch is asked with, a line for a product."""
    lines = []
    for kind in tables:
        lines.append(f'    "{kind.keys[0]}": (')
        for gpu in GPUS[kind.arch]:
            ids = " ".join(map(str, cards.device_ids(gpu)))
            lines.append(f'        "{ids} "  # {gpu}')
        lines.append("    ),")
    return lines


def _listed(module: Module) -> dict[str, list[str]] | None:
    """Return the PCI device ids that a patched file asks for, by target version.

    None where it asks for none, as a patch of an older costmodel and one by card.
    """
    function = _function_in(module)
    asked = None if function is None else _first(function, "cards")
    if asked is None:
        return None
    pairs = zip(asked.keys, asked.values, strict=True)
    return {
        str(key.value): str(value.value).split()
        for key, value in pairs
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    }


def _function_in(module: Module) -> Function | None:
    for name in module.functions():
        if name.rsplit(".", 1)[-1] == NAME and (target := module.function(name)) is not None:
            return target[0]
    return None


def _first(function: Function, name: str) -> ast.Dict | None:
    """Return the first literal dict that a function sets a name to."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Dict)
            and source_of(node.targets[0]) == name
        ):
            return node.value
    return None
