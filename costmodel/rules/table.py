"""The run-time table: how many bytes are 1-stage, as a file that a patched engine reads once.

One file serves one GPU, by the name that engines give their tuned configurations
(``configs/fused_ar_rmsnorm,device_name=AMD_Instinct_MI300X.json``, as SGLang's and vLLM's fused MoE
kernels have theirs). An entry is keyed by arch, fabric, world size, op, dtype and a range of AITER
releases, and by the hidden sizes that it is for; its value is one number of bytes. It says when
1-stage is faster and never what a kernel takes: the guards of the engine and the limits of its
AITER stand around it in the engine's code. For every other hidden size the engine's own rule holds.

The same file is the cache of what was tuned on a machine: such an entry also holds its ``machine``
and the hidden sizes that it was tuned for; :func:`look_up` calls one of another machine, or of
other hidden sizes, a miss. Schema 1, which had neither hidden sizes nor other kernels than AITER's,
is still read: what was tuned on a machine is then for no hidden size, since it does not say which.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date
from pathlib import Path
from typing import Literal, TypedDict

from msgspec import Struct
from msgspec.structs import fields

from ..data import facts, kernels
from ..data.kernels import Kernel, parse_version
from ..errors import InputError
from ..files import json_text, parse_json, stated_schema
from ..model.shape import WORLD_SIZES
from ..units import KIB, MIB
from .algebra import asks_for_mesh, byte_limit, factors, with_version
from .condition import Always, Condition, exact_size
from .evidence import Provenance
from .rule import Rule
from .schemas import CalibrationName

#: Where engines look for it, relative to the file that consults it.
FOLDER = "configs"
#: A table of every world size, op and dtype of one GPU has under 50 entries of under 500 bytes.
MAX_FILE_BYTES = 64 * KIB
#: Engines hand no larger input to the custom kernels (SGLang, vLLM and AITER: 64 MiB), so this
#: stands for "every size"; no entry may be larger.
MOST_BYTES = 64 * MIB

#: Dtypes by the names that torch and so the engines have for them.
TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_WANTED = "a table, as 'costmodel emit --runtime-table --table-out' writes it"


class EntryMachine(TypedDict):
    """On what an entry was measured, beside its key; words that are compared as they stand."""

    driver: str
    topology: str
    kernel_state: str


class FirstTableEntry(TypedDict):
    """An entry of ``costmodel/table/1``: for every hidden size, and of AITER's kernels.

    ``aiter_from`` is the first release that it holds for, ``aiter_before`` the first that it does
    not, null where none is known. ``lo`` and ``hi`` bound the cutoff in bytes (90 %). ``dtype`` is
    torch's name. ``machine`` is null for a cutoff that comes from a calibration.
    """

    arch: str
    fabric: Literal["xgmi", "pcie"]
    world_size: int
    op: str
    dtype: Literal["bfloat16", "float16", "float32"]
    aiter_from: str
    aiter_before: str | None
    max_bytes: int
    verdict: str
    lo: float | None
    hi: float | None
    machine: EntryMachine | None


class TableEntry(TypedDict):
    """One cutoff: 1-stage up to and with ``max_bytes``, 0 for none, :data:`MOST_BYTES` for all.

    ``kernel_family`` says whose kernels it is of. ``aiter_from`` is the first of AITER's releases
    that it holds for (null for other kernels), ``aiter_before`` the first that it does not, null
    where none is known. ``hidden_dims`` are the only hidden sizes that it is for, null for every
    one. ``lo`` and ``hi`` bound the cutoff in bytes (90 %): on the ``machine`` on which it was
    tuned, or on one that nobody has measured, where ``machine`` is null: the cutoff is then a
    calibration's. ``dtype`` is torch's name.
    """

    arch: str
    fabric: Literal["xgmi", "pcie", "nvlink/2", "nvlink/4", "nvlink/8"]
    world_size: int
    op: str
    dtype: Literal["bfloat16", "float16", "float32"]
    kernel_family: str
    aiter_from: str | None
    aiter_before: str | None
    hidden_dims: list[int] | None
    max_bytes: int
    verdict: str
    lo: float | None
    hi: float | None
    machine: EntryMachine | None


class FirstTableRecord(TypedDict):
    """``costmodel/table/1``, as it was written before entries named hidden sizes."""

    schema: Literal["costmodel/table/1"]
    device_name: str
    date: str
    command: str
    calibration: CalibrationName
    entries: list[FirstTableEntry]


class TableRecord(TypedDict):
    """``costmodel/table/2``; ``date`` is the ISO day on which it was made, by ``command``."""

    schema: Literal["costmodel/table/2"]
    device_name: str
    date: str
    command: str
    calibration: CalibrationName
    entries: list[TableEntry]


class Call(Struct, frozen=True):
    """What an entry is looked up by; ``machine`` is None where only the key counts.

    ``hidden_dims`` are all to be in one entry.
    """

    arch: str
    fabric: str
    world_size: int
    op: str
    dtype: str
    aiter_version: str
    hidden_dims: tuple[int, ...]
    machine: EntryMachine | None = None
    kernel_family: str = "aiter"


class Miss(Struct, frozen=True):
    """No entry, and in a few words why."""

    why: str


def device_name(gpu: str, product: str = "") -> str:
    """Return a GPU's name as engines write it into file names: that of its ``product``, if known.

    A virtual function's (``AMD Instinct MI300X VF``) is that of its card.
    """
    return product.replace(" ", "_").removesuffix("_VF") or f"AMD_Instinct_{gpu}"


def file_name(device: str) -> str:
    """Return the name of a device's table, as engines name tuned configurations."""
    return f"fused_ar_rmsnorm,device_name={device}.json"


def make(
    rule: Rule,
    provenance: Provenance,
    kernel: Kernel,
    *,
    dtype: str,
    held: Mapping[int, Collection[Condition]],
    day: date,
) -> TableRecord:
    """Return the table of a rule: an entry for each world size that it claims.

    ``held`` is what the engine's code around the table asks at each world size. Raises
    :class:`InputError` for a rule that asks anything else besides bytes, one without a GPU, and one
    that claims no world size.
    """
    if not provenance.gpu or not provenance.arch:
        raise InputError("a table is for one GPU: give --arch or --gpu, also for a rule by name")
    condition = with_version(rule.condition, kernel.version)
    claimed = [n for n in WORLD_SIZES if n in condition.world_sizes]
    if not claimed:
        raise InputError(f"rule '{rule.name}' claims no world size; there is nothing to write")
    first, before = releases_like(kernel)
    entries: list[TableEntry] = []
    for n in claimed:
        evidence = provenance.evidence.get(n)
        entries.append(
            {
                "arch": provenance.arch,
                "fabric": "pcie" if rule.fabric == "pcie" else "xgmi",
                "world_size": n,
                "op": rule.op,
                "dtype": TORCH_NAMES[dtype],  # type: ignore[typeddict-item]
                "kernel_family": kernel.family,
                "aiter_from": first,
                "aiter_before": before,
                "hidden_dims": None,
                "max_bytes": _bytes(rule, condition.at(n), n, held[n]),
                "verdict": evidence.verdict if evidence else "",
                "lo": evidence.lo if evidence else None,
                "hi": evidence.hi if evidence else None,
                "machine": None,
            }
        )
    return {
        "schema": "costmodel/table/2",
        "device_name": device_name(provenance.gpu),
        "date": day.isoformat(),
        "command": provenance.command,
        "calibration": {"id": provenance.calibration_id, "sha256": provenance.calibration_sha256},
        "entries": entries,
    }


def _bytes(rule: Rule, here: Condition, world_size: int, held: Collection[Condition]) -> int:
    if here == Always(False):
        return 0
    limit = byte_limit(here)
    more = [f for f in factors(here) if f not in (limit, *held) and not asks_for_mesh(f)]
    if more:
        raise InputError(
            f"a table holds bytes alone; rule '{rule.name}' at TP{world_size} asks "
            f"{more[0].words()} too: emit it without --runtime-table"
        )
    most = MOST_BYTES if limit is None else limit.value - (limit.op == "<")
    return max(0, min(most, MOST_BYTES))


def releases_like(kernel: Kernel) -> tuple[str, str | None]:
    """Return the first AITER release with the same fused kernels, and the first one without.

    None where no such release is known yet: a newer one is taken to be like the newest.
    """
    known = {row["since_release"] for row in facts.rows("aiter_kernels.csv")}
    oldest = parse_version(kernels.first_release("fused_2stage"))
    releases = sorted((r for r in known if parse_version(r) >= oldest), key=parse_version)
    this = parse_version(kernel.version)
    at = max(i for i, r in enumerate(releases) if parse_version(r) <= this)
    own = _fused(kernels.aiter(releases[at]))
    first, last = at, at
    while first > 0 and _fused(kernels.aiter(releases[first - 1])) == own:
        first -= 1
    while last + 1 < len(releases) and _fused(kernels.aiter(releases[last + 1])) == own:
        last += 1
    return releases[first], releases[last + 1] if last + 1 < len(releases) else None


def _fused(kernel: Kernel) -> tuple[object, ...]:
    names = [f.name for f in fields(kernel) if f.name.startswith("fused_")]
    return tuple(getattr(kernel, name) for name in (*names, "release_acquire"))


def parse(text: str, where: str) -> TableRecord:
    """Read a table; raise :class:`InputError`, naming ``where``, for one that is damaged."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
        raise InputError(f"{where}: larger than {MAX_FILE_BYTES // KIB} KiB; give {_WANTED}")
    if _is_first(text):
        record = _now(parse_json(text, FirstTableRecord, where, _WANTED))
    else:
        record = parse_json(text, TableRecord, where, _WANTED)
    seen: list[TableEntry] = []
    for i, entry in enumerate(record["entries"]):
        at = f"{where}: entries[{i}]"
        checked(entry, at)
        if any(_same_key(entry, other) for other in seen):
            raise InputError(f"{at}: a second entry for the same key")
        seen.append(entry)
    return record


def _is_first(text: str) -> bool:
    try:
        return bool(stated_schema(text) == "costmodel/table/1")
    except (ValueError, RecursionError):  # no object: said in its own words
        return False


def _now(record: FirstTableRecord) -> TableRecord:
    """Return a table of schema 1 as one of today's."""
    entries = []
    for entry in record["entries"]:
        held: list[int] | None = None if entry["machine"] is None else []
        entries.append(TableEntry(**entry, kernel_family="aiter", hidden_dims=held))
    return {**record, "schema": "costmodel/table/2", "entries": entries}


def checked(entry: TableEntry, at: str) -> TableEntry:
    """Return an entry; raise :class:`InputError`, naming ``at``, for one that says nothing."""
    if not 0 <= entry["max_bytes"] <= MOST_BYTES:
        raise InputError(f"{at}: max_bytes is {entry['max_bytes']}, not 0 to {MOST_BYTES}")
    odd = [h for h in entry["hidden_dims"] or () if h < 1]
    if odd:
        raise InputError(f"{at}: hidden_dims holds {odd[0]}, which is no hidden size")
    if entry["hidden_dims"] is None and entry["machine"] is not None:
        raise InputError(f"{at}: hidden_dims is null, but what was tuned is for some sizes alone")
    if (entry["aiter_from"] is None) == (entry["kernel_family"] == "aiter"):
        raise InputError(f"{at}: aiter_from is for AITER's kernels, and for those alone")
    try:
        first, before = _range(entry)
    except InputError as error:
        raise InputError(f"{at}: {error}") from None
    if first >= before:
        raise InputError(f"{at}: no AITER release is between aiter_from and aiter_before")
    return entry


def with_entry(
    record: TableRecord | None,
    entry: TableEntry,
    *,
    device: str,
    calibration: CalibrationName,
    day: date,
    command: str,
) -> TableRecord:
    """Return a table (None: a new one) with an entry in the place of those of its key.

    Entries for other hidden sizes stay, for those. The oldest entries go where it would outgrow
    :data:`MAX_FILE_BYTES`. Raises :class:`InputError` for the table of another GPU, and for an
    entry that says nothing.
    """
    checked(entry, "the new entry")
    if record is not None and record["device_name"] != device:
        raise InputError(f"the table is for {record['device_name']}, not for {device}")
    before = record["entries"] if record else []
    others = [left for old in before if (left := _beside(old, entry)) is not None]
    found: TableRecord = {
        "schema": "costmodel/table/2",
        "device_name": device,
        "date": day.isoformat(),
        "command": command,
        "calibration": calibration,
        "entries": [*others, entry],
    }
    while len(json_text(found).encode()) > MAX_FILE_BYTES and len(found["entries"]) > 1:
        found["entries"] = found["entries"][1:]
    return found


def _beside(old: TableEntry, new: TableEntry) -> TableEntry | None:
    """Return what an entry is still for once there is a new one, None for nothing."""
    if not _near(old, new):
        return old
    if old["hidden_dims"] is None:
        return old if new["hidden_dims"] is not None else None
    left = [h for h in old["hidden_dims"] if h not in (new["hidden_dims"] or ())]
    return {**old, "hidden_dims": left} if left else None


def load(path: str | Path) -> TableRecord:
    """Read a table file.

    Raises :class:`InputError` for one that is missing, too large, damaged, or no regular file.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path}: not a regular file; give {_WANTED}")
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give {_WANTED}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; give {_WANTED}") from None
    return parse(text, str(path))


def look_up(record: TableRecord, call: Call) -> TableEntry | Miss:
    """Return the entry for a call, or why there is none; it never raises for a version."""
    key = (call.arch, call.fabric, call.world_size, call.op, call.dtype, call.kernel_family)
    near = [e for e in record["entries"] if _key(e) == key]
    if not near:
        return Miss(f"no entry for {call.arch}, {call.fabric}, TP{call.world_size}, {call.op}, "
                    f"{call.dtype}")  # fmt: skip
    if call.kernel_family == "aiter":
        try:
            running = parse_version(call.aiter_version.split("+")[0])
        except InputError:
            return Miss(f"AITER {call.aiter_version} is no release")
        found = [e for e in near if _range(e)[0] <= running < _range(e)[1]]
        if not found:
            made = " and ".join(dict.fromkeys(map(releases, near)))
            return Miss(f"stale: made for {made}, not {call.aiter_version}")
        near = found
    every = [e for e in near if e["hidden_dims"] is None]
    some = [(e, e["hidden_dims"]) for e in near if e["hidden_dims"] is not None]
    found = [e for e, held in some if {*call.hidden_dims} <= {*held}] or every
    if not found:
        held = " and ".join(map(_hidden_sizes, near))
        return Miss(f"made for {held}, not for {_listed(call.hidden_dims)}")
    entry = found[0]
    if call.machine is None or entry["machine"] in (None, call.machine):
        return entry
    other = next(k for k in EntryMachine.__annotations__ if entry["machine"][k] != call.machine[k])  # type: ignore[literal-required, index]
    return Miss(f"stale: tuned with another {other.replace('_', ' ')}")


def releases(entry: TableEntry) -> str:
    """Return in words which kernels an entry is for, AITER's by releases."""
    if entry["aiter_from"] is None:
        return f"{entry['kernel_family']}'s kernels"
    before = f" and before {entry['aiter_before']}" if entry["aiter_before"] else " and later"
    return f"AITER {entry['aiter_from']}{before}"


def words(entry: TableEntry) -> str:
    """Return an entry in one line, with units."""
    most = entry["max_bytes"]
    sizes = {0: "2-stage at every size", MOST_BYTES: "1-stage at every size"}.get(
        most, f"1-stage <= {exact_size(most)}"
    )
    on = f"{entry['arch']}, {entry['fabric']}, TP{entry['world_size']}"
    held = "" if entry["hidden_dims"] is None else f", {_hidden_sizes(entry)}"
    return f"{on}, {entry['op']}, {entry['dtype']}, {releases(entry)}{held}: {sizes}"


def _hidden_sizes(entry: TableEntry) -> str:
    """Return in words the hidden sizes that an entry is for."""
    held = entry["hidden_dims"]
    if held is None:
        return "every hidden size"
    return f"hidden {_listed(held)}" if held else "hidden sizes that it does not name"


def _listed(numbers: Collection[int]) -> str:
    few = sorted(numbers)[:6]
    more = f" and {len(numbers) - len(few)} more" if len(numbers) > len(few) else ""
    return ", ".join(map(str, few)) + more


def _key(entry: TableEntry) -> tuple[str, str, int, str, str, str]:
    of = entry["arch"], entry["fabric"], entry["world_size"]
    return *of, entry["op"], entry["dtype"], entry["kernel_family"]


def _range(entry: TableEntry) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if entry["aiter_from"] is None:
        return (0,), (float("inf"),)
    before = entry["aiter_before"]
    last = parse_version(before) if before is not None else (float("inf"),)
    return parse_version(entry["aiter_from"]), last


def _same_key(one: TableEntry, other: TableEntry) -> bool:
    """Tell whether one call could find both entries, one of them not more specific."""
    some, others = one["hidden_dims"], other["hidden_dims"]
    if some is None or others is None:
        return some is others and _near(one, other)
    return bool({*some} & {*others}) and _near(one, other)


def _near(one: TableEntry, other: TableEntry) -> bool:
    """Tell whether both are for one call, hidden sizes aside."""
    (first, before), (start, end) = _range(one), _range(other)
    return _key(one) == _key(other) and first < end and start < before
