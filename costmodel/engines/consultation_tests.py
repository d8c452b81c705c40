"""A test file for an engine that asks the run-time table; it needs neither GPU, torch nor engine.

Two things are tested on the patched source itself: the functions that choose, on stand-ins, without
an entry and with one; and the function that reads the table, with real files and real processes.
The file carries a copy of :mod:`.stand_in`.
"""

from __future__ import annotations

from ..model.shape import WORLD_SIZES
from ..rules import table
from ..rules.algebra import asks_for_mesh, on_full_mesh
from ..rules.boundary import cases
from ..rules.rule import Rule
from ..units import KIB
from .boundary_tests import inside, overridden_rows, stand_ins
from .call_sites import ServingEngine
from .consultation import ChoosingFunction, Consultation
from .module import Module
from .reader import read_dispatch

#: Sizes of entries that are tried: none, some, and every size, so that only the guards decide.
_SIZES = (0, 448 * KIB, table.MOST_BYTES)


def render(made: Consultation, engine: ServingEngine, source: str = "") -> str:
    """Return a test file for a patched tree.

    ``source`` is the tree as given on the command line; without one the installed package is looked
    for.
    """
    places = [_place(made, place, engine) for place in made.done]
    return (
        _FILE.replace("@engine@", engine.title)
        .replace("@package@", engine.package)
        .replace("@source@", repr(source))
        .replace("@stand_in@", stand_ins())
        .replace("@places@", "\n".join(places))
        .replace("@fills@", _FILLS if made.fills else "")
        .replace("@most@", str(table.MOST_BYTES))
        .replace("@max_file@", str(table.MAX_FILE_BYTES))
        .replace("@name@", f"{table.FOLDER}/{table.file_name('AMD_Instinct_MI300X')}")
    )


def _place(made: Consultation, place: ChoosingFunction, engine: ServingEngine) -> str:
    """Return one function: its file, name and op, cases by entry, and settings that override."""
    rules: dict[int | None, Rule] = {None: Rule("own", place.own)}
    rules |= {size: place.with_bytes(dict.fromkeys(WORLD_SIZES, size)) for size in _SIZES}
    rows = [f"        {size}: [\n{_rows(rule, place)}\n        ]," for size, rule in rules.items()]
    text = made.patched.get(place.file)
    dispatch = read_dispatch(Module.parse(place.file, text), place.function) if text else None
    settings = overridden_rows(dispatch) if dispatch else []
    return "\n".join(
        [
            f"    ({place.file!r}, {inside(place.file, engine)!r}, {place.function!r}, "
            f"{place.op!r}, {{",
            *rows,
            "    }, [",
            *(f"        {row}," for row in settings),
            "    ]),",
        ]
    )


def _rows(rule: Rule, place: ChoosingFunction) -> str:
    # A function that does not ask for a full mesh is not called without one; the table is not used.
    full = not asks_for_mesh(place.own) or rule.name != "own"
    meant = Rule(rule.name, on_full_mesh(rule.condition)) if full else rule
    return "\n".join(
        f"            ({c.world_size}, {c.fully_connected}, {c.dtype!r}, {c.hidden_dim}, "
        f"{{{', '.join(f'{count}: {one}' for count, one in c.decisions)}}}),"
        for c in cases(meant)
        if c.fully_connected or not full
    )


_FILLS = """def test_a_start_up_fills_the_table(tmp_path):
    asked = []

    def tune(group, ops, sizes, **how):
        asked.append((group.rank, ops.world_size, sizes, how["table"], how["dtype"]))
        how["log"]("tuned: %s", 4096)
        how["table"].mkdir(exist_ok=True)
        (how["table"] / Path(NAME).name).write_text(written({**ENTRY, "max_bytes": 4096}))

    size, said = read(tmp_path, tune=tune)
    assert size == 4096
    assert asked == [(0, 8, [2880], (tmp_path / NAME).parent, "bf16")]
    assert len(said) == 2 and said[0] == "tuned: 4096"


def test_nobody_tunes_where_one_rank_lacks_costmodel(tmp_path):
    class OneLacks(Alone):
        def gather(self, read, ranks):
            return [read] * (ranks - 1) + [False if read is True else read]

    def tune(group, ops, sizes, **how):
        raise AssertionError("tuned")

    assert read(tmp_path, written(ENTRY), tune=tune, group=OneLacks())[0] == 139264


"""

_FILE = '''"""The run-time table in @engine@: what it decides, and that it never decides by halves.

Run with pytest or as a script; COSTMODEL_SOURCE names the patched tree. No GPU, no torch, no import
of the engine: functions are cut out of their file and run on stand-ins.
"""
# fmt: off
# ruff: noqa

from __future__ import annotations

import ast
import builtins
import functools
import importlib.metadata
import importlib.util
import json
import logging
import math
import os as _os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

READS = "_tuned_max_size"


def source(file, inside):
    """Return the text of a file under test."""
    root = _os.environ.get("COSTMODEL_SOURCE") or @source@
    if root:
        return (Path(root) / file).read_text(encoding="utf-8")
    package = importlib.util.find_spec("@package@")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("@package@ is not installed; set COSTMODEL_SOURCE to the patched tree")
    return (Path(package.submodule_search_locations[0]) / inside).read_text(encoding="utf-8")


@stand_in@


# (file, file inside the package, function, op, {bytes of the entry: cases}, settings); a case is
# (world size, fully connected, dtype, hidden size, {elements: 1-stage?}).
PLACES = [
@places@
]


def choice(decide, *call):
    """Return what a function chooses for a call, None where it does not run its op at all."""
    try:
        return decide(*call)
    except AssertionError as error:
        if "without choosing a stage" not in str(error) or "Error(" in str(error):
            raise
        return None


def differences(entry):
    """Return the cases in which a function decides otherwise than with this entry it should."""
    wrong = []
    for file, inside, function, wanted, cases, settings in PLACES:
        text = source(file, inside)
        given = {READS: lambda comm, op, dtype, hidden: entry if op == wanted else None}
        decide = decider(text, function, given=given)
        chosen = 0
        for n, mesh, dtype, hidden, decisions in cases[entry]:
            for count, one in decisions.items():
                said = choice(decide, n, dtype, hidden, count, mesh)
                chosen += said is not None
                if said not in (None, one):
                    wrong.append(
                        f"{function} TP{n} mesh={mesh} {dtype} hidden={hidden} "
                        f"elements={count}: not {one}"
                    )
        wrong += [] if chosen else [f"{function} never chooses"]
        for name, value, n, dtype, hidden, decisions in settings:
            how = {"environ": {name: value}}
            if "." in name:
                attribute = {"true": True, "false": False}.get(value, value)
                attribute = int(attribute) if attribute is value else attribute
                how = {"attributes": {name.split(".")[1]: attribute}}
            decide = decider(text, function, given=given, **how)
            wrong += [
                f"{function} TP{n} {name}={value} hidden={hidden} elements={count}: not {one}"
                for count, one in decisions.items()
                if choice(decide, n, dtype, hidden, count) not in (None, one)
            ]
    return wrong


def test_without_an_entry_the_rule_is_as_it_was():
    assert not differences(None)


def test_an_entry_decides_inside_the_guards():
    for entry in PLACES[0][4]:
        assert not differences(entry), (entry, differences(entry)[:5])


OP = "fused_ar_rmsnorm"
NAME = "@name@"
ENTRY = {
    "arch": "gfx942", "fabric": "xgmi", "world_size": 8, "op": OP, "dtype": "bfloat16",
    "kernel_family": "aiter", "aiter_from": "0.1.17", "aiter_before": "0.1.19.post1",
    "hidden_dims": None, "max_bytes": 139264, "machine": None,
}


def written(*entries, **more):
    """Return the text of a table."""
    return json.dumps({"schema": "costmodel/table/2", "entries": list(entries), **more})


class Alone:
    """A group in which every rank reads what this one does."""

    rank = 0

    def gather(self, read, ranks):
        return [read] * ranks


@functools.lru_cache(maxsize=1)
def reading():
    """Return the source of the function that reads the table."""
    code = source(*PLACES[0][:2])
    function = next(
        n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef) and n.name == READS
    )
    return ast.get_source_segment(code, function)


def read(root, text=None, *, op=OP, dtype="bf16", hidden=2880, group=None, tune=None, **changes):
    """Return what the reading function says with a table of that text, and what it logs.

    ``tune`` is costmodel's, None where it is not installed. ``changes`` are those of the machine:
    gpu, arch, ranks, version, link, mesh, and whether torch.compile traces the call.
    """
    machine = {"gpu": "AMD Instinct MI300X", "arch": "gfx942:sramecc+:xnack-", "ranks": 8,
               "version": "0.1.17", "link": 11, "mesh": True, "traced": False, **changes}
    root = Path(root)
    table, link = root / NAME, root / "kfd/topology/nodes/1/io_links/0/properties"
    for file, content in ((table, text), (link, f"type {machine['link']}\\nweight 15\\n")):
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code = reading().replace("/sys/class/kfd/kfd", str(root / "kfd"))
    gpu = SimpleNamespace(name=machine["gpu"], gcnArchName=machine["arch"])

    def all_gather_object(out, given, group):
        out[:] = group.gather(given, len(out))

    torch = SimpleNamespace(
        bfloat16="bf16", float16="fp16", float32="fp32",
        compiler=SimpleNamespace(is_compiling=lambda: machine["traced"]),
        cuda=SimpleNamespace(current_device=lambda: 0, get_device_properties=lambda device: gpu),
        distributed=SimpleNamespace(
            all_gather_object=all_gather_object, get_rank=lambda group: group.rank
        ),
    )
    said = []
    logger = SimpleNamespace(info=lambda text, *more: said.append(text % more))
    names = {"torch": torch, "logger": logger, "__file__": str(root / "engine.py")}
    exec(code, names)
    comm = SimpleNamespace(
        group=group or Alone(), world_size=machine["ranks"], fully_connected=machine["mesh"]
    )
    live = SimpleNamespace(tune=tune) if tune else None
    modules = {"torch": torch, "costmodel": live, "costmodel.live": live}
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(importlib.metadata, "version", lambda name: machine["version"]),
        mock.patch.object(logging, "getLogger", lambda name=None: logger),
    ):
        size = names[READS](comm, op, dtype, hidden)
        with mock.patch.object(Path, "read_text", side_effect=AssertionError("read again")):
            assert names[READS](comm, op, dtype, hidden) == size
    return size, said


def test_an_entry_is_found_once_and_said(tmp_path):
    size, said = read(tmp_path, written(ENTRY))
    assert size == 139264
    assert len(said) == 1 and "139264" in said[0] and NAME in said[0]


def test_only_the_entry_of_the_key_counts(tmp_path):
    for change in (
        {"gpu": "AMD Instinct MI325X"}, {"arch": "gfx950"}, {"ranks": 4}, {"link": 2},
        {"mesh": False}, {"op": "other"}, {"dtype": "fp16"},
    ):
        assert read(tmp_path, written(ENTRY), **change)[0] is None, change
    assert read(tmp_path, written(ENTRY), gpu="AMD Instinct MI300X VF")[0] == 139264


def test_the_releases_of_aiter_bound_an_entry(tmp_path):
    for version, found in {
        "0.1.16.post6": False, "0.1.17": True, "0.1.17+rocm7.2": True, "0.1.19": True,
        "0.1.18.post3": True, "0.1.19.post1": False, "0.1.20": False, "0.1.9": False,
        "0.1.17rc0": False, "0.1.18.dev3+g0123abc": False, "main": False, "": False,
    }.items():
        assert (read(tmp_path, written(ENTRY), version=version)[0] is not None) == found, version
    open_end = {**ENTRY, "aiter_before": None}
    assert read(tmp_path, written(open_end), version="0.2.0")[0] == 139264


def test_without_a_file_the_rule_built_in_holds(tmp_path):
    size, said = read(tmp_path)
    assert size is None
    assert len(said) == 1 and "not used" in said[0]


def test_a_damaged_file_is_not_used_at_all(tmp_path):
    good = written(ENTRY)
    lacking = {key: value for key, value in ENTRY.items() if key != "aiter_from"}
    for text in (
        "", "{", good[:-20], "[]", "null", b"\\xff\\xfe", "[" * 5000, written(), "1" * 5000,
        good.replace("table/2", "table/3"), written(ENTRY, 7), written(ENTRY, lacking),
        written(ENTRY, {**ENTRY, "aiter_from": "x"}), good + " " * @max_file@,
        *(
            written(ENTRY, {**ENTRY, "max_bytes": most})
            for most in (-1, @most@ + 1, 2**70, 1.5, "1024", True, None, [], float("nan"))
        ),
    ):
        size, said = read(tmp_path, text)
        assert size is None, text[:80]
        assert len(said) == 1, text[:80]
    _os.mkfifo(tmp_path / "pipe")
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to(tmp_path / "pipe")
    done = subprocess.run(
        [sys.executable, __file__, "one", str(tmp_path)],
        stdout=subprocess.PIPE, text=True, timeout=60,
    )
    assert done.stdout.split() == ["None"]


def test_an_entry_holds_for_the_hidden_sizes_that_it_names(tmp_path):
    every, some = {**ENTRY, "max_bytes": 4096}, {**ENTRY, "hidden_dims": [2880, 7168]}
    for entries, sizes in (
        ([some], {2880: 139264, 7168: 139264, 4096: None}),
        ([every, some], {2880: 139264, 7168: 139264, 4096: 4096}),
        ([some, every], {2880: 139264, 4096: 4096}),
        ([{**some, "hidden_dims": []}], {2880: None}),
        ([{**some, "kernel_family": "other", "aiter_from": None}, every], {2880: 4096}),
    ):
        found = {hidden: read(tmp_path, written(*entries), hidden=hidden)[0] for hidden in sizes}
        assert found == sizes
    for wrong in (7, "7168", True, {}, [None]):
        assert read(tmp_path, written({**some, "hidden_dims": wrong}), hidden=2880)[0] is None


def test_a_table_of_schema_1_is_read(tmp_path):
    first = {k: v for k, v in ENTRY.items() if k not in ("kernel_family", "hidden_dims")}
    text = written(first).replace("table/2", "table/1")
    assert [read(tmp_path, text, hidden=h)[0] for h in (2880, 4096)] == [139264] * 2
    # What was tuned on a machine does not say there for which hidden sizes.
    tuned = written({**first, "machine": {"driver": "6.14"}}).replace("table/2", "table/1")
    assert read(tmp_path, tuned)[0] is None


def test_the_ends_of_what_an_entry_may_say(tmp_path):
    for most in (0, 1, @most@):
        assert read(tmp_path, written({**ENTRY, "max_bytes": most}))[0] == most


def test_a_traced_call_reads_nothing_and_asks_no_rank(tmp_path):
    class Silent(Alone):
        def gather(self, read, ranks):
            raise AssertionError("asked")

    assert read(tmp_path, written(ENTRY), traced=True, group=Silent()) == (None, [])


def test_there_is_no_choice_without_a_communicator(tmp_path):
    names = {"torch": None}
    exec(reading(), names)
    assert names[READS](None, OP, "bf16", 2880) is None
    assert names[READS](SimpleNamespace(), OP, "bf16", 2880) is None


@fills@class Two:
    """A group of two processes that exchange what they read through a directory."""

    def __init__(self, rank, folder):
        self.rank, self.folder, self.said = rank, Path(folder), 0

    def gather(self, read, ranks):
        self.said += 1
        own = self.folder / f"said{self.said}-{self.rank}"
        own.with_suffix(".part").write_bytes(pickle.dumps(read))
        own.with_suffix(".part").rename(own)
        said = [self.folder / f"said{self.said}-{rank}" for rank in range(ranks)]
        ends = time.monotonic() + 60
        while not all(file.exists() for file in said):
            assert time.monotonic() < ends, "the other rank did not answer"
            time.sleep(0.01)
        return [pickle.loads(file.read_bytes()) for file in said]


#: What the two ranks read, and what both have to do.
PAIRS = {
    "alike": (written({**ENTRY, "world_size": 2}),) * 2,
    "one without": (written({**ENTRY, "world_size": 2}), None),
    "one damaged": (written({**ENTRY, "world_size": 2}), "{"),
    "other sizes": tuple(
        written({**ENTRY, "world_size": 2, "max_bytes": most}) for most in (4096, 8192)
    ),
    "none": (None, None),
}


def run(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def as_rank(rank, folder):
    """Print what one rank does in every pair."""
    for name, texts in PAIRS.items():
        shared = Path(folder) / name
        size, _ = read(shared / str(rank), texts[rank], ranks=2, group=Two(rank, shared))
        print(size)


def test_two_processes_decide_alike(tmp_path):
    for name in PAIRS:
        (tmp_path / name).mkdir()
    ranks = [run([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in (0, 1)]
    first, second = (rank.communicate(timeout=120)[0].split() for rank in ranks)
    assert first == second == ["139264", "None", "None", "None", "None"]


if __name__ == "__main__" and len(sys.argv) == 3 and sys.argv[1] == "one":
    # A table that is there already, whatever it is: nothing is written over it.
    _write, Path.write_bytes = Path.write_bytes, lambda self, data: (
        None if str(self).endswith(NAME) else _write(self, data)
    )
    print(read(sys.argv[2], "")[0])
elif __name__ == "__main__" and len(sys.argv) == 3:
    as_rank(int(sys.argv[1]), sys.argv[2])
elif __name__ == "__main__":
    tests = [f for name, f in list(globals().items()) if name.startswith("test_")]
    for test in tests:
        with tempfile.TemporaryDirectory() as folder:
            test(*([Path(folder)] if test.__code__.co_argcount else []))
    print(f"{len(tests)} tests of the table: all as they should be")
'''
