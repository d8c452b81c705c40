"""The code by which a patched engine reads the run-time table: one function in the engine's file.

It is asked on every call and looks into a dictionary; that is made from the file of
:mod:`costmodel.rules.table` once for each communicator. The ranks of its group tell each
other what they read, and use it only where all read the same: one that cannot read the file, or
reads another, turns it off for all, so that no two ranks ever run different kernels. Nothing that
the file, the driver or the installed packages say raises into the engine; the engine's own rule
holds then, and the group's first rank says why in one line. The exchange itself is not caught:
where it fails, the group's all-reduce would fail too, and ranks must not go on apart.

The fabric is what the driver's topology says: a link of type 11 is xGMI (``CRAT_IOLINK_TYPE_XGMI``
in amdkfd/kfd_crat.h). Only torch, which the engines import, and the standard library are used.

A call that torch.compile traces reads nothing and exchanges nothing: it takes what an earlier call
has read, or the engine's own rule. Ranks trace the same calls, so they agree in that too.

An entry holds for the hidden sizes that it names; one that names none, which is a calibration's,
for every one that no other names. What a table of schema 1 says of a tuned machine is for no hidden
size, since it does not say for which it was tuned. Entries of other kernels than AITER's name no
release.

One that ``fills`` the table calls :func:`costmodel.live.tune` before it reads, on all ranks or,
where one does not have costmodel, on none, for the hidden size of the call. What was tuned on some
machine then counts only where that call answered with it.
"""

from __future__ import annotations

import ast
import re

from ..rules import table
from .module import Module

_CODE = r'''def _tuned_max_size(comm, op, dtype, hidden):
    """Return the largest input in bytes for 1-stage, None for the rule built in.

    The table of this GPU in configs/ is read once, and used if all ranks read the same. A call
    that torch.compile traces reads no file.
    """
{torch}    if (
        hasattr(comm, "_tuned_max_sizes")
        or getattr(comm, "group", None) is None
        or torch.compiler.is_compiling()
    ):
        return (read := getattr(comm, "_tuned_max_sizes", {{}})).get(
            (op, dtype, hidden), read.get((op, dtype, None))
        )
{imports}
    def release(version):
        parts = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:\.post(\d+))?(?:\+.*)?", version)
        return [int(part or 0) for part in parts.groups()]

{fill}    sizes, said = {{}}, ""
    try:
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        name, arch = gpu.name.replace(" ", "_"), gpu.gcnArchName.split(":")[0]
        said = f"configs/fused_ar_rmsnorm,device_name={{name.removesuffix('_VF')}}.json"
        file = pathlib.Path(__file__).resolve().parent / said
        if not (comm.fully_connected and 0 < file.stat().st_size <= {max_file}):
            raise ValueError("no full mesh, or no file of up to {max_file} bytes")
        version, links = importlib.metadata.version("amd-aiter"), set()
        said, running = f"{{said}}, AITER {{version}}", release(version)
        for path in pathlib.Path("/sys/class/kfd/kfd/topology/nodes").glob(
            "*/io_links/*/properties"
        ):
            with contextlib.suppress(OSError):
                links.update(path.read_text().splitlines())
        here = [arch, "xgmi" if "type 11" in links else "pcie", comm.world_size]
        table = json.loads(file.read_text(encoding="utf-8"))
        for entry in {{
            "costmodel/table/1": table["entries"],
            "costmodel/table/2": table["entries"],
        }}[table["schema"]]:
            most, tuned = entry["max_bytes"], entry.get("machine")
            if type(most) is not int or not 0 <= most <= {most}:
                raise ValueError(f"max_bytes is {{most}}")
            held = entry.get("hidden_dims", [] if tuned else None)
            first, before = entry["aiter_from"], entry["aiter_before"]
            if (
                [entry["arch"], entry["fabric"], entry["world_size"]] == here
                and first is not None
                and release(first) <= running < release(before or "9999.0.0")
            ):
{own}                for size in [None] if held is None else map(int, held):
                    sizes[entry["op"], getattr(torch, entry["dtype"]), size] = most
        said = f"{{said}}, {{here}}: {{sizes}}"
    except Exception as error:
        sizes, said = {{}}, f"{{said}}, not used: {{error!r}}"
    ranks = [None] * comm.world_size
    torch.distributed.all_gather_object(ranks, (sizes, said), group=comm.group)
    if any(rank != ranks[0] for rank in ranks):
        sizes, said = {{}}, f"not used, the ranks read {{ranks}}"
    if torch.distributed.get_rank(comm.group) == 0:
        {logger}.info("tuned 1-stage sizes: %s", said)
    comm._tuned_max_sizes = sizes
    return sizes.get((op, dtype, hidden), sizes.get((op, dtype, None)))
'''

#: Before the file is read: what costmodel, where every rank has it, tunes and puts there.
_FILL = """    tune = rule = None
    with contextlib.suppress(Exception):
        from costmodel.live import tune
    ranks = [None] * comm.world_size
    torch.distributed.all_gather_object(ranks, tune is not None, group=comm.group)
    if all(ranks):
        configs = pathlib.Path(__file__).resolve().parent / "configs"
        say = {logger}.info
        rule = tune(comm.group, comm, [hidden], table=configs, dtype=dtype, log=say)
"""

#: An entry that was tuned counts where this start found or learnt it: it is of one machine.
_OWN = """                if tuned and (not rule or {**rule.entry, "machine": tuned} != entry):
                    said += ", what was tuned there is not of this start"
                    continue
"""

_IMPORTS = ("contextlib", "importlib.metadata", "json", "pathlib", "re")


def code(module: Module, fills: bool = False) -> str:
    """Return the function, for a file with or without ``torch`` and a ``logger`` of its own.

    With ``fills`` it has costmodel tune before it reads the file.
    """
    loads = [n for n in module.tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    top = {a.asname or a.name for n in loads for a in n.names}
    imports, logger = list(_IMPORTS), "logger"
    if "logger" not in top and not re.search(r"^logger\b.*=", module.text, re.MULTILINE):
        imports, logger = sorted([*imports, "logging"]), "logging.getLogger(__name__)"
    lines = "".join(f"    import {name}\n" for name in imports)
    return _CODE.format(
        torch="" if "torch" in top else "    import torch\n\n",
        imports=lines,
        logger=logger,
        fill=_FILL.format(logger=logger) if fills else "",
        own=_OWN if fills else "",
        max_file=table.MAX_FILE_BYTES,
        most=table.MOST_BYTES,
    )
