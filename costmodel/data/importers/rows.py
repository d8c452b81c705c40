"""What every importer shares: what the user says, rows made of both, and the account of a file.

A *result* is one figure that the file states: a latency, or a link rate. Each becomes a row or is
left with a reason; nothing else happens to it (:class:`Imported`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from msgspec import Struct, field
from msgspec.structs import asdict, force_setattr

from ...errors import InputError, nearest
from ...units import DTYPE_NAMES, ELEMENT_BYTES
from .. import gpu_names, hardware
from ..measurement import LARGEST_BYTES
from ..ranges import LARGEST
from .cells import dtype_of
from .text_file import shortened

#: Why the second of two times of one collective is left.
IN_PLACE = "in place, beside the out-of-place time"
#: Dtypes that libraries and quantised kernels have beside those of the model.
_OTHER_DTYPE = re.compile(r"(m?x?fp[468]|f8|float(8|64)|double|fp64|u?int(4|8|32|64)|u?char)\w*")
#: Rows that are checked and handed on at once.
BATCH = 20_000
#: The first calls are kept, a kilobyte each: a sweep has some thousand, measured many times.
_CALLS = 1 << 12
#: Hashes that are kept as a set.
_FEW = 1 << 18
#: Reasons that are counted apart; a file that makes more of them has them counted together.
_REASONS = 200
#: Families that are libraries of collectives, whose rows a table may hold beside those of kernels.
LIBRARIES = ("rccl", "nccl")
#: What stands in ``interconnect`` where ranks of several hosts took part.
NETWORK = "network"


class Said(Struct, frozen=True, dict=True):
    """Schema 1 cells that the user gives by option, "" where nothing is said.

    ``columns`` maps a column or label of the file to ``op`` or ``op:algorithm``, or to ``-`` to
    leave it out; ``unit`` is that of times whose column states none. A GPU or arch in any spelling
    becomes the project's own name.

    Raises :class:`InputError` for a GPU that is a misspelling, for a dtype that is none, and for an
    arch that is unknown or another GPU's.
    """

    source: str = ""
    url: str = ""
    date: str = ""
    gpu: str = ""
    arch: str = ""
    interconnect: str = ""
    world_size: str = ""
    op: str = ""
    algorithm: str = ""
    kernel_family: str = ""
    kernel_version: str = ""
    tokens: str = ""
    hidden_dim: str = ""
    dtype: str = ""
    timing: str = ""
    statistic: str = ""
    rank_reduction: str = ""
    quality: str = ""
    unit: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.unit not in ("", "us", "ms", "ns"):
            raise InputError(f"--unit {shortened(self.unit)}: one of us, ms, ns")
        dtype = dtype_of(self.dtype)
        if dtype and dtype not in ELEMENT_BYTES and not _OTHER_DTYPE.fullmatch(dtype):
            near = nearest(self.dtype, list(DTYPE_NAMES))
            raise InputError(
                f"--dtype {shortened(self.dtype)}: unknown{near}; {', '.join(ELEMENT_BYTES)}, or "
                "another that collectives take, such as fp8_e4m3 or uint8"
            )
        known = gpu_names.known()
        gpu = hardware.product(self.gpu)
        if meant := gpu_names.looks_like(gpu) if gpu else ():
            raise InputError(f"--gpu {shortened(self.gpu)}: did you mean {' or '.join(meant)}?")
        arch = self.arch.strip().lower()
        if gpu in known and arch and arch != known[gpu]:
            raise InputError(
                f"--gpu {gpu} --arch {shortened(arch)}: {gpu} is {known[gpu]}; leave --arch out"
            )
        if arch and not gpu and arch not in known.values():
            archs = ", ".join(sorted(set(known.values())))
            raise InputError(f"--arch {shortened(arch)}: unknown without a --gpu; known: {archs}")
        force_setattr(self, "gpu", gpu)
        force_setattr(self, "arch", arch)

    @cached_property
    def cells(self) -> dict[str, str]:
        """The cells that were said."""
        return {k: v for k, v in asdict(self).items() if k not in ("columns", "unit") and v}


class Left(Struct):
    """Results that are no row, for one reason: how many, and where the first stands."""

    count: int
    first: str


class Imported:
    """The account of one file: rows, what was left with its reason, and what a user should know.

    ``kind`` is the name by which the format was found, or ``asked`` for. Rows are kept in ``rows``;
    with ``hand_on`` they are handed on in batches instead, and ``rows`` holds those of no batch
    yet. ``n_rows`` counts all of them, ``missing`` how many rows have which cell empty.
    """

    def __init__(
        self, said: Said, kind: str,
        hand_on: Callable[[list[dict[str, Any]]], None] | None = None, *, asked: bool = False,
    ) -> None:  # fmt: skip
        self.said = said
        self.kind = kind
        self.asked = asked
        self.rows: list[dict[str, Any]] = []
        self.n_rows = 0
        self.left: dict[str, Left] = {}
        self.notes: list[str] = []
        #: Formats whose tables stand in the file too, and were passed over.
        self.others: set[str] = set()
        self.missing: Counter[str] = Counter()
        #: Rows that are clean because nothing was said of their quality.
        self.n_taken_clean = 0
        self._hand_on = hand_on
        self._seen = _Seen()
        self._calls: dict[tuple[tuple[str, Any], ...], _Call] = {}

    @property
    def n_left(self) -> int:
        """Results that are no row."""
        return sum(left.count for left in self.left.values())

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Take one latency, or leave it with the reason why schema 1 cannot hold it as evidence.

        ``row`` has schema 1 cells as the file says them and, where ranks of several hosts took
        part, their number as ``hosts``. ``detail`` is what else the file says of the kernel: it
        follows the version in ``kernel_version``. Raises :class:`InputError` where the file
        contradicts the user.
        """
        latency = row.get("latency_us")
        known = isinstance(latency, int | float) and 0.0 < latency < float("inf")
        call = self._call(row, where)
        reason = call.reason if known else "no time"
        if not reason and not self._seen.add(hash((call.number, latency))):
            reason = "the same row as one before, to the last digit"
        if reason:
            self.leave(where, reason)
            return
        self.missing.update(call.asked)
        self.n_taken_clean += call.is_taken_clean
        self.take({**call.cells, "latency_us": latency})

    def _call(self, row: Mapping[str, Any], where: str) -> _Call:
        """Return what a row says but for its latency; a call that stood before is known."""
        said = tuple(item for item in row.items() if item[0] != "latency_us")
        try:
            call = self._calls.get(said)
        except TypeError:  # a list of a literal
            return self._completed(dict(said), where)
        if call is None:
            call = self._completed(dict(said), where)
            if len(self._calls) < _CALLS:
                self._calls[said] = call
        return call

    def _completed(self, row: dict[str, Any], where: str) -> _Call:
        detail = str(row.pop("detail", ""))
        cells = complete(row, self.said, where)
        asked = tuple(_asked(cells)) if "op" in cells else ()
        if detail:
            version = [str(cells["kernel_version"])] if "kernel_version" in cells else []
            cells["kernel_version"] = ", ".join([*version, shortened(detail, 500)])
        reason = _unfit(cells)
        number = 0 if reason else hash(frozenset(cells.items()))
        return _Call(cells, asked, reason, number, not (row.get("quality") or self.said.quality))

    def add_link(self, cells: Mapping[str, Any], where: str) -> None:
        """Take the rate of one link, or leave it: ``gbps``, ``detail`` and what else is said.

        The rate is GB/s (1e9 bytes a second) one way between two GPUs.
        """
        gbps = cells.get("gbps")
        if not isinstance(gbps, float) or not 0.0 < gbps < 1e6:
            self.leave(where, "no rate")
            return
        row = complete(cells, self.said, where)
        if "gpu" not in row:
            self.missing["gpu"] += 1
        self.take(row)

    def take(self, cells: dict[str, Any]) -> None:
        """Take a row that is complete; of what is no latency too."""
        self.rows.append(cells)
        self.n_rows += 1
        if self._hand_on and len(self.rows) == BATCH:
            self.hand_on()

    def leave(self, where: str, reason: str, count: int = 1) -> None:
        """Count results that are no row; the reason is words, texts of the file shortened."""
        if reason not in self.left and len(self.left) >= _REASONS:
            reason = "other reasons"
        left = self.left.setdefault(reason, Left(0, where))
        left.count += count

    def note(self, text: str) -> None:
        """Say something that the user should know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def hand_on(self) -> None:
        """Hand on the rows that wait for it."""
        if self._hand_on:
            self._hand_on(self.rows)
            self.rows = []


class _Call(NamedTuple):
    """Cells of a row but for its latency, those that are asked for, and why it is no row, or ""."""

    cells: dict[str, Any]
    asked: tuple[str, ...]
    reason: str
    number: int
    is_taken_clean: bool


class _Seen:
    """Hashes of rows in eight bytes each, where a set takes a hundred: files may have millions."""

    def __init__(self) -> None:
        self._few: set[int] = set()
        self._buckets: list[bytearray] = []

    def add(self, key: int) -> bool:
        """Take a hash; return whether it is new."""
        if not self._buckets:
            if key in self._few:
                return False
            self._few.add(key)
            if len(self._few) > _FEW:
                self._buckets = [bytearray() for _ in range(1 << 16)]
                for one in self._few:
                    self._buckets[one & 0xFFFF] += one.to_bytes(8, "little", signed=True)
                self._few = set()
            return True
        text, bucket = key.to_bytes(8, "little", signed=True), self._buckets[key & 0xFFFF]
        at = bucket.find(text)
        while at % 8 and at > 0:  # bytes of two others
            at = bucket.find(text, at + 1)
        if at >= 0:
            return False
        bucket += text
        return True


#: Cells that are asked for where a file does not say them, each with the option that answers. Arch
#: and interconnect follow from the GPU: they are asked for where it is known and they do not.
ASKED = {
    "gpu": "--gpu", "arch": "--arch", "interconnect": "--interconnect", "algorithm": "--algorithm",
    "kernel_family": "--kernel-family", "kernel_version": "--kernel-version", "dtype": "--dtype",
    "hidden_dim": "--hidden-dim", "timing": "--timing", "statistic": "--statistic",
    "rank_reduction": "--rank-reduction",
}  # fmt: skip


def _asked(cells: Mapping[str, Any]) -> Iterator[str]:
    """Give the cells that a row lacks and that something is decided by."""
    library = cells.get("kernel_family") in LIBRARIES
    needless = {
        "arch": "gpu" not in cells,
        "interconnect": "gpu" not in cells,
        "algorithm": cells["op"] in ("ar_then_rmsnorm", "other") or library,
        "hidden_dim": cells["op"] in ("all_reduce", "other"),
    }
    for name in ASKED:
        if name not in cells and not needless.get(name):
            yield name


def _unfit(cells: Mapping[str, Any]) -> str:
    """Return why cells are no row of schema 1 that anything could be concluded from, or ""."""
    for name in ("world_size", "tokens", "hidden_dim", "bytes"):
        most = LARGEST_BYTES if name == "bytes" else LARGEST
        if name in cells and not (isinstance(cells[name], int) and 1 <= cells[name] <= most):
            said = f"{name} is {shortened(str(cells[name]), 40)}, not a whole number from 1"
            return f"{said} on" if cells[name] == 0 else f"{said} to {most}"
    if "op" not in cells:
        return "op not said: --op"
    if cells["quality"] == "serving_trace":  # a profile has neither, and nothing is fitted to it
        return ""
    ranks = [] if "world_size" in cells else ["--world-size"]
    sizes = [] if "bytes" in cells else [o for n, o in _SIZE.items() if n not in cells]
    if ranks or sizes:
        what = " and ".join(name for name, of in (("ranks", ranks), ("size", sizes)) if of)
        return f"{what} not said: {' and '.join([*ranks, *sizes])}"
    elements = cells.get("tokens", 0) * cells.get("hidden_dim", 0)
    element_bytes = ELEMENT_BYTES.get(cells.get("dtype", ""), 0)
    if elements * element_bytes not in (0, cells.get("bytes", 0)):
        return "bytes are not tokens x hidden size x element size"
    if elements and "dtype" not in cells and cells.get("bytes", elements) not in _sizes(elements):
        return "bytes are not tokens x hidden size x element size"
    return ""


def _sizes(elements: int) -> set[int]:
    return {elements * each for each in ELEMENT_BYTES.values()} | {elements}


_SIZE = {"tokens": "--tokens", "hidden_dim": "--hidden-dim"}


def complete(row: Mapping[str, Any], said: Said, where: str) -> dict[str, Any]:
    """Return a row with what the user said filled in, and what follows from both.

    Arch and interconnect follow from the GPU, bytes from tokens, hidden size and dtype. Ranks of
    several hosts (``hosts``) never have the interconnect of one. Texts are shortened and free of
    control characters.

    Raises :class:`InputError` where the file says otherwise than the user.
    """
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, str):
            value = shortened(value) if key != "dtype" else dtype_of(shortened(value))
        if value not in ("", None):
            cells[key] = value
    hosts = cells.pop("hosts", 1)
    for key, value in said.cells.items():
        if key == "algorithm" and cells.get("op") == "ar_then_rmsnorm" != said.op:
            continue  # the option is about the fused op beside it
        if key == "kernel_family" and cells.get(key) in LIBRARIES and value not in LIBRARIES:
            continue  # the option is about the kernels beside a library's
        told: Any = dtype_of(value) if key == "dtype" else value
        if key in _INTEGERS:
            told = _told(key, value)
        found = cells.setdefault(key, told)
        if key in ("source", "quality") or str(found).lower() == str(told).lower():
            continue
        if key == "gpu" and told in gpu_names.looks_like(str(found).upper()):
            cells[key] = told  # the file names a series (MI300), the user the product
            continue
        raise InputError(
            f"{where}: the file says {key} {found}, --{key.replace('_', '-')} says "
            f"{shortened(str(told), 60)}; leave the option out, or split the file"
        )
    _place(cells, hosts, where)
    cells.setdefault("quality", "clean")
    if "bytes" not in cells and cells.get("dtype") in ELEMENT_BYTES:
        tokens, hidden_dim = cells.get("tokens"), cells.get("hidden_dim")
        if isinstance(tokens, int) and isinstance(hidden_dim, int):
            cells["bytes"] = tokens * hidden_dim * ELEMENT_BYTES[cells["dtype"]]
    return cells


_INTEGERS = ("world_size", "tokens", "hidden_dim")


def _told(key: str, value: str) -> int:
    if not (value.isdecimal() and 1 <= len(value) <= 15 and int(value) > 0):
        option = f"--{key.replace('_', '-')}"
        raise InputError(f"{option} {shortened(value, 60)}: give a whole number from 1 on")
    return int(value)


def _place(cells: dict[str, Any], hosts: int, where: str) -> None:
    """Fill in what follows from the GPU, and from ranks on several hosts."""
    gpu = str(cells.get("gpu", "")).upper()
    if gpu:
        cells["gpu"] = gpu
        cells.setdefault("gpu_evidence", "stated")
    arch = gpu_names.known().get(gpu)
    if arch and cells.setdefault("arch", arch) != arch:
        raise InputError(
            f"{where}: {gpu} is {arch}, the file or --arch says {shortened(str(cells['arch']), 40)}"
        )
    if hosts > 1:
        if cells.setdefault("interconnect", NETWORK) in hardware.LINK_RATES:
            raise InputError(
                f"{where}: ranks on {hosts} hosts, --interconnect says {cells['interconnect']}; "
                "leave it out"
            )
    elif wire := hardware.wire(gpu, int(cells.get("world_size") or 1)):
        cells.setdefault("interconnect", wire)
