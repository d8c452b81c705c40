"""Files that rccl-tests and nccl-tests write beside their log: JSON and CSV.

- rccl-tests ``-Z json`` and ``-Z csv``: a record a time, out of place and in place each its own
  (``Reporter`` in its src/common.cu). Built with MPI, its CSV names 13 columns and writes 14 cells:
  the nodes stand after the collective without a name.
- nccl-tests ``-J`` (since 2.17.5): one object with the options, devices and results (src/util.cu).

Records are read line by line where each is one, which is how they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ...errors import InputError
from ...files import parse_json
from .cells import gpu_of, whole
from .collective_run import CollectiveRun, Rank, Result, Taker, library_of
from .collective_tests import program_of, version_of_code
from .json_tables import json_texts
from .pasted_lines import pasted_cells
from .rows import IN_PLACE, Imported
from .text_file import AROUND, TextFile, shortened

#: Keys of a record in lower case: those of the JSON, those of the CSV that differ.
_SAME = {"name": "collective", "#wrong": "wrong", "ranksPerNode": "rankspernode"}


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    taker = Taker(imported)
    if re.search(r'"nccl_version"\s*:', file.head):
        for text in json_texts(file) or [""]:
            _report(text, file, taker)
    elif '"busBw"' in file.head:
        _records(_json_records(file, imported), taker)
    else:
        _records(_csv_records(file, imported), taker)
    taker.close()


def _records(records: Iterator[tuple[str, dict[str, str]]], taker: Taker) -> None:
    """Take records of rccl-tests; a record in place is left beside one out of place."""
    runs: dict[tuple[str, ...], CollectiveRun] = {}
    #: Records in place that may have one out of place before them: (run, result, where).
    before: tuple[Any, ...] = ()
    for where, record in records:
        key = tuple(record.get(name, "") for name in _RUN)
        run = runs.get(key) or (_run_of(record) if len(runs) < 1000 else None)
        if run is None:
            taker.imported.leave(where, "of more than 1000 different runs")
            continue
        runs[key] = run
        result = Result(
            record.get("size", ""), "", record.get("type", ""), record.get("redop", ""), "",
            record.get("time", ""), record.get("wrong", ""),
            algbw=record.get("algbw", ""), busbw=record.get("busbw", ""),
        )  # fmt: skip
        call = (key, result.size, result.dtype, result.redop)
        if record.get("inplace", "").lower() not in ("1", "true"):
            taker.take(run, result, where)
            before = call
        elif call == before:
            taker.imported.leave(where, IN_PLACE)
            before = ()
        else:
            taker.take(run, result, where, in_place=True)
    for run in runs.values():
        taker.finish(run)


#: What one run's records share.
_RUN = ("numcycle", "collective", "nodes", "ranks", "gpusperrank", "gpus", "rankspernode")


def _run_of(record: dict[str, str]) -> CollectiveRun:
    processes = whole(record.get("ranks", "")) or 1
    gpus = whole(record.get("gpusperrank", "") or record.get("gpus", "")) or 0
    return CollectiveRun(
        collective=record.get("collective", ""), family="rccl", per_process=gpus,
        processes=processes, hosts=whole(record.get("nodes", "")) or 1, assumed=False,
        cycle=(whole(record.get("numcycle", "")) or 0) + 1,
    )  # fmt: skip


def _json_records(file: TextFile, imported: Imported) -> Iterator[tuple[str, dict[str, str]]]:
    for where, record in _objects(file, imported):
        if "results" in record or not {"size", "time"} <= record.keys():
            imported.leave(where, "a record without size and time")
            continue
        yield where, {_SAME.get(k, k).lower(): _text(v) for k, v in record.items()}


def _objects(file: TextFile, imported: Imported) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the JSON objects of a file, a line each, or those of its list."""
    begins = (line for _, line in file.program_lines() if line.lstrip(" \t[,").startswith("{"))
    if _object(next(begins, "")) is None:
        wanted = "the JSON that rccl-tests writes with -Z json"
        kind: Any = list[dict[str, Any]] | dict[str, Any]
        records: list[dict[str, Any]] = []
        for text in json_texts(file) or [""]:
            data = parse_json(text, kind, file.name, wanted, foreign=True)
            records += data if isinstance(data, list) else [data]
        yield from ((f"{file.name}: record {i}", record) for i, record in enumerate(records))
        return
    for number, line in file.program_lines():
        if "{" not in line and '"' not in line:  # of a log
            continue
        record = _object(line)
        if record is None:
            imported.leave(f"{file.name}:{number}", "a line that is no JSON object")
        else:
            yield f"{file.name}:{number}", record


def _object(line: str) -> dict[str, Any] | None:
    text = line.strip().removeprefix("[").removesuffix("]").strip().removesuffix(",")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _csv_records(file: TextFile, imported: Imported) -> Iterator[tuple[str, dict[str, str]]]:
    header: list[str] = []
    for number, line in file.program_lines():
        if not line.strip():
            continue
        cells = pasted_cells(line)
        if cells and not cells[0]:  # an index, or a bar
            cells = cells[1:]
        if AROUND.match(line):
            header = []
        names = [cell.lower() for cell in cells]
        if "numcycle" in names:
            header = [_SAME.get(name, name) for name in names]
            continue
        around = not header and len(cells) < _FEWEST  # what was pasted around it
        if around or not any(cell.strip("-: ") for cell in cells):
            continue
        where = f"{file.name}:{number}"
        columns = header
        if len(cells) == len(header) + 1 and "ranks" in header:
            at = header.index("ranks")
            columns = [*header[:at], "nodes", *header[at:]]
        if not header or len(cells) != len(columns):
            imported.leave(where, "a line whose cells are not those of the header")
            continue
        yield where, dict(zip(columns, cells, strict=True))


def _report(text: str, file: TextFile, taker: Taker) -> None:
    """Take the object that nccl-tests and rccl-tests write with ``-J``."""
    imported = taker.imported
    wanted = "the JSON that nccl-tests writes with -J"
    data = parse_json(text, dict[str, Any], file.name, wanted, foreign=True)
    results = data.get("results")
    if not isinstance(results, list):
        raise InputError(f"{file.name}: no list of results in it; give {wanted}")
    run = _run_of_report(data)
    for i, entry in enumerate(results):
        where = f"{file.name}: results[{i}]"
        if not isinstance(entry, dict):
            imported.leave(where, "a result that is no record")
            continue
        places = [(p, entry[p]) for p in _PLACES if isinstance(entry.get(p), dict)]
        if not places:
            imported.leave(where, "neither out of place nor in place")
        for j, (place, said) in enumerate(places):
            _leave_beside(entry.get(f"{place}_per_iter"), where, imported)
            if "time" not in said:
                imported.leave(where, "CPU time of the launch (-C 1), no latency")
            elif j:
                imported.leave(where, IN_PLACE)
            else:
                size, count, dtype, redop, root = (_text(entry.get(k)) for k in _CALL)
                result = Result(
                    size, count, dtype, redop, root,
                    time=_text(said["time"]), wrong=_text(said.get("nwrong")),
                    algbw=_text(said.get("alg_bw")), busbw=_text(said.get("bus_bw")),
                )  # fmt: skip
                taker.take(run, result, where, in_place=place == "in_place")
    taker.finish(run)


#: No line of a CSV has fewer cells.
_FEWEST = 6
_CALL = ("size", "count", "type", "redop", "root")
_PLACES = ("out_of_place", "in_place")


def _leave_beside(said: Any, where: str, imported: Imported) -> None:
    """Leave the times of single iterations (``-I 1``), their statistics, those of processes."""
    if isinstance(said, dict):
        count = sum(_times(value) for name, value in said.items() if name.endswith("_us"))
        imported.leave(where, "single iterations and their statistics, beside their mean", count)


def _times(said: Any) -> int:
    """Return how many times a value holds: one, a list, or (2.20) a list for each process."""
    lists = said if isinstance(said, list) else [said]
    return sum(len(one) if isinstance(one, list) else 1 for one in lists)


def _run_of_report(data: dict[str, Any]) -> CollectiveRun:
    config, args = data.get("config"), data.get("args")
    config = config if isinstance(config, dict) else {}
    arguments = [a for a in args if isinstance(a, str)] if isinstance(args, list) else []
    run = CollectiveRun(
        collective=program_of(arguments[0]) if arguments else "",
        per_process=_integer(config.get("nthreads"), 1) * _integer(config.get("ngpus"), 1),
        graph=_integer(config.get("graph"), 0) > 0,
    )
    for flag, value in pairwise(arguments):
        if flag in ("-a", "--average"):
            run.average = value[:1]
    aggregated = _integer(config.get("aggregated_iterations"), 1)
    if aggregated != 1:
        run.labels.append(f"aggregated {aggregated}")
    if str(config.get("blocking_collectives")).lower() == "true":
        run.labels.append("blocking")
    devices = config.get("devices") or data.get("devices")
    for i, device in enumerate(devices if isinstance(devices, list) else []):
        if isinstance(device, dict):
            said = [shortened(_text(device.get(k))) for k in _DEVICE]
            rank, group = _integer(device.get("rank"), i), _integer(device.get("group"), 0)
            run.list_rank(Rank(rank, group, *said))
    code = _integer(data.get("nccl_version"), 0)
    if code >= 1000 and run.ranks:
        library = library_of(gpu_of(run.ranks[0].product)).upper()
        run.library = f"{library} version {version_of_code(code)}"
    return run


_DEVICE = ("pid", "hostname", "device_hex", "device_info")


def _integer(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and 0 <= value < 10**6 else otherwise


def _text(value: Any) -> str:
    """Return a value of JSON as the text of a cell; "" for null, lists and objects."""
    return str(value).strip()[:100] if isinstance(value, str | int | float) else ""
