"""One run of a rccl-tests or nccl-tests program: what it says of all its results.

Sources: src/common.cu, src/util.cu and the programs' own files of
https://github.com/NVIDIA/nccl-tests (b188a15 of 2017 to 2.19.6), https://github.com/ROCm/rccl-tests
and projects/rccl-tests of https://github.com/ROCm/rocm-systems.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from msgspec import Struct, field

from .cells import dtype_of, gpu_of, number, whole
from .rows import Imported

#: Collectives of the tests that schema 1 has an op for, by name without case and underscores.
OPS = {"allreduce": "all_reduce"}

#: What ``-a`` reports of the processes' times; 1 is the default.
AVERAGES = {"0": "rank0", "1": "mean", "2": "min", "3": "max"}

#: The largest error a rank may add before the tests of before 2022 call a result wrong
#: (``DeltaMaxValue`` in common.cu); any error of an integer is too large.
_ERROR_A_RANK = {"bf16": 1e-2, "fp16": 1e-2, "fp32": 1e-5, "double": 1e-12}

#: Ranks that are kept of one run; no fabric has more.
_RANKS = 100_000


class Rank(NamedTuple):
    """A line of the device list."""

    rank: int
    group: int
    process: str
    host: str
    device: str
    product: str


class Result(NamedTuple):
    """One result; texts as the file has them. ``wrong`` is a count, or an error where it is old."""

    size: str
    elements: str
    dtype: str
    redop: str
    root: str
    time: str
    wrong: str
    old_error: bool = False
    to_us: float = 1.0
    algbw: str = ""
    busbw: str = ""

    def is_all_reduce(self) -> bool:
        """Whether no other program of the tests prints such a line.

        It reduces, to no root, and its size is that of its elements on one rank: the size that a
        reduce-scatter prints is that of all ranks' elements.
        """
        size, count = whole(self.size), whole(self.elements)
        element = ELEMENT_BYTES.get(self.dtype, 0)
        return (
            self.redop in ("sum", "prod", "max", "min", "avg", "mulsum")
            and self.root in ("", "-1")
            and bool(size and count)
            and size == (count or 0) * element
        )


#: Bytes of an element by the tests' name of its type.
ELEMENT_BYTES = {
    "char": 1, "int8": 1, "uint8": 1, "half": 2, "bfloat16": 2, "int": 4, "int32": 4, "uint32": 4,
    "float": 4, "int64": 8, "uint64": 8, "double": 8, "fp8_e4m3": 1, "fp8_e5m2": 1, "f8e4m3": 1,
    "f8e5m2": 1,
}  # fmt: skip


class CollectiveRun(Struct, eq=False):
    """A run, filled while its lines are read.

    ``per_process`` is threads x GPUs x ranks a GPU. Where no rank is listed, ``processes`` and
    ``hosts`` count: what the file states, or what a launcher was told (``assumed``).
    """

    collective: str = ""
    number: int = 1
    name: str = ""
    per_process: int = 0
    processes: int = 0
    hosts: int = 1
    assumed: bool = True
    graph: bool | None = None
    average: str = ""
    library: str = ""
    tests: str = ""
    family: str = ""
    labels: list[str] = field(default_factory=list)
    ranks: list[Rank] = field(default_factory=list)
    n_results: int = 0
    cycle: int = 1
    bandwidths: tuple[float, float] = (0.0, 0.0)

    def list_rank(self, rank: Rank) -> None:
        """Take a line of the device list."""
        if len(self.ranks) < _RANKS:
            self.ranks.append(rank)

    @property
    def op(self) -> str:
        """The op of schema 1, "" where the collective is not known."""
        name = re.sub(r"[^a-z]", "", self.collective.lower())
        return OPS.get(name, "other") if name else ""

    def members(self) -> list[Rank]:
        """The ranks of one communicator: of the largest group, where the run was split."""
        groups = Counter(rank.group for rank in self.ranks)
        largest = max(groups, key=lambda group: groups[group], default=0)
        return [rank for rank in self.ranks if rank.group == largest]

    def world_size(self) -> int:
        """Return the ranks of one communicator, 0 where the run does not say.

        The device list of a process is cut at 2048 characters, so a process may list fewer ranks
        than it has: the larger of the list and of processes x ranks a process counts.
        """
        members = self.members()
        if not members:
            return self.per_process * (self.processes or (1 if self.per_process > 1 else 0))
        listed = len({rank.rank for rank in members})
        return max(listed, self.per_process * len({(m.host, m.process) for m in members}))

    def cells(self, imported: Imported) -> dict[str, Any]:
        """Return the cells that all results of the run share."""
        members = self.members()
        gpus = list(dict.fromkeys(gpu for m in members if (gpu := gpu_of(m.product))))
        if len(gpus) > 1:
            imported.note(f"several GPUs in one run, so none is taken: {', '.join(gpus[:8])}")
        if not members and self.per_process > 1 and self.assumed:
            how = f"{self.processes} processes" if self.processes else "one process assumed"
            imported.note(f"no rank is listed: ranks from threads x GPUs, {how}")
        if self.op == "other":
            imported.note(f"{self.collective}: op 'other', which no model uses")
        wire = {}
        devices = {(m.host, m.device) for m in members}
        if len(devices) < len({m.rank for m in members}):
            wire = {"interconnect": "loopback" if len(devices) == 1 else "shared GPUs"}
        return {
            "op": self.op,
            "world_size": self.world_size() or None,
            "hosts": len({m.host for m in members}) or self.hosts,
            "gpu": gpus[0] if len(gpus) == 1 else "",
            "kernel_family": self.family or _family(imported, self.library + self.tests, gpus),
            "timing": {None: "", False: "eager", True: "graph"}[self.graph],
            "statistic": "mean",
            "rank_reduction": imported.said.rank_reduction or AVERAGES.get(self.average, "mean"),
            **wire,
        }

    def version(self, redop: str, in_place: bool) -> str:
        """Return ``kernel_version``: the library, and what tells these results from others."""
        parts = [self.library or self.tests]
        if self.op == "other":
            parts.append(self.collective)
        if redop not in ("", "sum", "none"):
            parts.append(f"redop {redop}")
        if in_place:
            parts.append("in place")
        parts += self.labels
        if self.number > 1:
            parts.append(f"run {self.number}" + (f": {self.name}" if self.name else ""))
        if self.cycle > 1:
            parts.append(f"cycle {self.cycle}")
        return ", ".join(part for part in parts if part)


def _family(imported: Imported, versions: str, gpus: list[str]) -> str:
    """Return whose library ran: as the versions say, else the GPUs, else how the file was named."""
    if re.search(r"rccl|\+hip", versions, re.IGNORECASE):
        return "rccl"
    if gpus:
        return library_of(gpus[0])
    if "nccl" in versions.lower():
        return "nccl"
    return imported.kind.partition("-")[0] if imported.asked else ""


def library_of(gpu: str) -> str:
    """Return whose library runs on a GPU, by its name."""
    return "rccl" if re.match(r"MI\d|GFX|RX|W\d{4}", gpu) else "nccl"


class Taker:
    """Gives results of a run to the account, as rows or left with the reason."""

    def __init__(self, imported: Imported) -> None:
        self.imported = imported
        self.doubtful = 0
        self._of: tuple[Any, ...] = ()
        self._cells: dict[str, Any] = {}

    def take(self, run: CollectiveRun, result: Result, where: str, in_place: bool = False) -> None:
        """Take one latency; ``in_place`` where the run has no other."""
        run.n_results += 1
        size, time = whole(result.size), number(result.time)
        if time is None or time <= 0.0:
            self.imported.leave(where, "no time")
            return
        if not size:
            self.imported.leave(where, "of 0 bytes" if size == 0 else "size is no whole number")
            return
        # What all results of a run share is worked out again only when the run has learned more.
        state = (run, len(run.ranks), run.collective, run.library, run.graph, run.average)
        if state != self._of:
            self._of, self._cells = state, run.cells(self.imported)
        if not self._cells["op"] and not self.imported.said.op and result.is_all_reduce():
            run.collective, self._of = "all_reduce", ()
            self._cells["op"] = "all_reduce"
            self.imported.note(
                "the collective is not named: a sum to no root of count x element bytes is an "
                "all_reduce alone of the tests' programs"
            )
        bandwidths = number(result.algbw) or 0.0, number(result.busbw) or 0.0
        run.bandwidths = max(run.bandwidths, bandwidths)
        row = {
            **self._cells,
            "bytes": size,
            "dtype": result.dtype,
            "latency_us": round(time * result.to_us, 6),
            "kernel_version": run.version(result.redop, in_place),
        }
        if self._is_wrong(result, self._cells["world_size"] or 2):
            row["quality"] = "suspect"
            self.doubtful += 1
        self.imported.add(row, where)

    def finish(self, run: CollectiveRun) -> None:
        """Say where the bandwidths of an all-reduce do not fit its ranks.

        busbw is algbw x 2 (n - 1) / n (doc/PERFORMANCE.md of the tests).
        """
        algbw, busbw = run.bandwidths
        ranks = run.world_size()
        if run.op != "all_reduce" or algbw < 20.0 or not algbw <= busbw < 2.0 * algbw or not ranks:
            return
        fitting = 2.0 / (2.0 - busbw / algbw)
        if abs(fitting - ranks) > 0.25 * ranks:
            self.imported.note(
                f"busbw / algbw fits {fitting:.0f} ranks, the file states {ranks}; is its device "
                "list whole?"
            )

    def close(self) -> None:
        """Say what holds for the file as a whole."""
        imported = self.imported
        if self.doubtful:
            imported.note(f"{self.doubtful} rows with wrong results (#wrong > 0) marked suspect")
        if imported.n_rows and not imported.said.rank_reduction:
            imported.note(
                "rank reduction as -a said, mean over the processes where that is not shown"
            )

    @staticmethod
    def _is_wrong(result: Result, ranks: int) -> bool:
        text = result.wrong.strip()
        if text.endswith("*") or "nan" in text.lower() or "inf" in text.lower():
            return True
        value = number(text)
        if value is None:  # N/A: not checked
            return False
        if not result.old_error:
            return value > 0
        return value > _ERROR_A_RANK.get(dtype_of(result.dtype), 0.0) * max(ranks - 1, 1)
