"""Rows from tables of latencies: one for each arm and line, or left with the reason.

The columns of benchmarks differ from release to release, so no fixed list is expected: a column is
known by its name, its unit and its cells, what a table does not say is said by the lines around it,
and ``--column NAME=OP:ALGORITHM`` says what an arm is. A harness that always measures in one way
states it as :class:`Harness`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from ...units import ELEMENT_BYTES
from . import grouped, row_forms
from .cells import dtype_of, gpu_of, listed, number
from .checks import Verdict, Verdicts
from .columns import Columns, Time, cell_statistic, read_columns, time_unit
from .context import SEVERAL, is_of_many_calls, said_by
from .labels import Label, is_of_another, read_label, spoken, untold
from .pasted_lines import Row
from .quantities import (
    TO_US,
    aside,
    count,
    has_time_unit,
    is_no_figure,
    is_open_figure,
    is_struck_out,
    microseconds,
    no_measurement,
    plain,
    ranks,
    shape,
    size,
    truth,
)
from .rows import IN_PLACE, Imported
from .tables import Table, tables, tables_of
from .text_file import TextFile, shortened

#: Rows by whose cells columns are judged.
_SAMPLE = 50


#: The first lines are kept, by what they say but for their times.
_LINES = 1 << 11
#: Cells of an arm without its latency, why it is left, and whether it has an op.
_Arm = tuple[dict[str, Any], str, bool]


#: What a label's words may say of a line beside its arm: ``TP8, hidden 7168``.
_OF_LABELS = ("world_size", "hosts", "hidden_dim", "tokens", "dtype", "gpu", "arch")
#: Columns that name who ran an op, and which op at most by the way.
_WHO = ("backend", "provider", "impl", "implementation", "communicator", "comm", "ar_backend",
        "resolved_backend", "path")  # fmt: skip
#: Captions that name a file or module, such as a kernel's that is loaded, and no op.
_LOADING = re.compile(r"\bmodule_\w|\.(?:so|py|cu|hip)\b|/\w+/\w")


class Harness(Struct, frozen=True):
    """What one harness always does, where its tables do not say.

    ``cells`` are schema 1 cells, ``unit`` that of times without one. ``arm`` says what a column's
    or row's label is, None to leave it to its words; ``skips`` tells tables that repeat others.
    ``captions`` is False where lines above the tables say nothing of the op; ``tells`` are columns
    whose cells tell states of a kernel apart, ``topic`` is what all tables are about.
    """

    kernel_family: str = ""
    cells: Mapping[str, Any] = field(default_factory=dict)
    unit: str = ""
    arm: Callable[[str], Label | None] = lambda label: None
    skips: Callable[[Table], bool] = lambda table: False
    captions: bool = True
    tells: tuple[str, ...] = ()
    topic: str = ""


def parse(file: TextFile, imported: Imported) -> None:
    """Read all tables of a file; see :mod:`costmodel.data.importers.formats`."""
    read_tables(file, imported, Harness())


def read_tables(file: TextFile, imported: Imported, harness: Harness) -> None:
    """Read the tables of a file, given what its harness always does."""
    table = None
    found = tables(file)
    if not imported.asked:
        found = (table for table, _ in tables_of(file, "table", imported))
    for table in found:
        if harness.skips(table):
            imported.note(f"the table of line {table.line} repeats others: not counted")
            continue
        read_table(table, file.name, imported, harness)
    if table is None:
        imported.note("no table with a line of names is in it, nor JSON records")


def read_table(table: Table, name: str, imported: Imported, harness: Harness) -> None:
    """Read one table; every latency of it is a row or left."""
    if table.problem:
        for line, cells in table.rows:
            figures = sum(microseconds(cell, 1.0) is not None for cell in cells[1:])
            imported.leave(f"{name}:{line}", table.problem, figures)
        return
    sample = list(itertools.islice(table.rows, _SAMPLE))
    sign, read = row_forms.decimals(table.header, sample)
    sample = [read(row) for row in sample]
    rows: Iterator[Row] = map(read, table.rows)
    if with_unit := row_forms.units(table.header, sample):
        sample, rows = [with_unit(row) for row in sample], map(with_unit, rows)
    above = table.says.get("unit", "")
    unit = above if above and above not in TO_US else imported.said.unit or above or harness.unit
    columns = read_columns(table.header, [cells for _, cells in sample], imported.said, unit)
    unused = [*columns.spare, *columns.left_out]
    spare = [shortened(plain(column), 40) for column in unused if plain(column)]
    if not columns.times:
        header = listed(shortened(plain(cell), 30) for cell in table.header[:12])
        imported.note(f"no column of times in the table of line {table.line}: {header}")
        return
    if spare:
        imported.note(f"columns not used: {listed(spare[:30])}")
    if columns.ranks_only:
        imported.note("minimum and maximum over the ranks are one call: the maximum is the latency")
    reader = _TableReader(table, columns, name, imported, harness, sign)
    if harness.captions:
        reader.doubt = row_forms.doubt(table.header, sample, columns)
        reader.untold = row_forms.Untold(table.header, sample, columns)
        for _, cells in sample:
            if len(cells) == len(table.header):
                reader.doubt = reader.doubt or reader.untold.of(cells)
    rows = row_forms.repeated(itertools.chain(sample, rows), columns)
    if grouped.is_grouped(columns):
        rows = grouped.one_a_call(rows, columns, len(table.header), name, imported)
    for row in rows:
        reader.read(row)
    reader.verdicts.note(imported)


class _TableReader:
    """Rows of one table."""

    def __init__(
        self, table: Table, columns: Columns, name: str, imported: Imported, harness: Harness,
        sign: str,
    ) -> None:  # fmt: skip
        self.table = table
        self.columns = columns
        self.name = name
        self.imported = imported
        self.harness = harness
        self.sign = sign
        self.doubt = ""
        self.untold: row_forms.Untold | None = None
        self.unit = str(table.says.get("unit", ""))
        self.verdicts = Verdicts(columns, table.header)
        times = [of for time in columns.times for of in (time, *time.others)]
        self.times = times
        self.labels = {time.at: self._arm(time.name) or time.label for time in times}
        self.above = self._above() if harness.captions else Label()
        self.of_many = self._of_many_calls() if harness.captions else ""
        arms = [self._of(time) for time in columns.times]
        self.alike = {
            arm for arm in arms
            if arms.count(arm) > 1 or arm[:3] in (("", "", ""), ("all_reduce", "", ""))
        }  # fmt: skip
        self.tells = [(i, n) for i, n in enumerate(table.header) if spoken(n) in harness.tells]
        of_times = {at for time in times for at in (time.at, *time.ranks)}
        self.telling = [at for at in range(len(table.header)) if at not in of_times]
        #: What lines say but for their times, by the cells that say it.
        self.lines: dict[tuple[str, ...], tuple[str, dict[int, _Arm]]] = {}
        self.of_mhc = any(
            "mhc" in spoken(text) for text in (*table.captions, *table.header, harness.topic)
        )

    def _of(self, time: Time) -> tuple[Any, ...]:
        """Return what is known of an arm without the words that are left over."""
        label = self.labels[time.at]
        says = sorted((k, str(v)) for k, v in time.says.items() if k != "statistic")
        return label.op, label.algorithm, label.kernel_family, *says

    def _arm(self, text: str) -> Label | None:
        of_user = read_label(text, self.imported.said)
        if spoken(text) in {spoken(name) for name in self.imported.said.columns}:
            return of_user
        return self.harness.arm(text)

    def _above(self) -> Label:
        """Return the op that the caption right above names, if it names one alone."""
        for text in self.table.captions:
            if _LOADING.search(text):
                continue
            label = self._arm(text) or read_label(text, self.imported.said)
            if re.search(r"(?:^|_)(?:vs|versus|against|compared|comparison)(?:_|$)", spoken(text)):
                return Label()
            if label.op or not label.used:
                return label
        return Label()

    def _of_many_calls(self) -> str:
        """Return the caption right above that says the times are no single call's, or ""."""
        found = next((text for text in self.table.captions if is_of_many_calls(text)), "")
        return shortened(plain(found).strip("*_#=: "), 60)

    def read(self, row: Row) -> None:
        """Take one line of the table."""
        line, cells = row
        where = f"{self.name}:{line}"
        if self._is_section(cells):
            return
        if len(cells) != len(self.table.header):
            self.imported.leave(
                where, f"{len(cells)} cells, the header has {len(self.table.header)}",
                len(self.columns.times),
            )  # fmt: skip
            return
        for at in self.columns.in_place:
            if not is_no_figure(cells[at]):
                self.imported.leave(where, IN_PLACE)
        problem, arms = self._line(cells)
        for time in self.columns.times:
            time = self._stated(time, cells)
            said, ask, known = arms[time.at]
            row_cells = dict(said)
            latency_us, unread = self._latency(time, cells)
            unread = unread or self._beside(time, cells, row_cells)
            reason = (ask if not known else "") or unread or problem or self._no_call() or ask
            verdict = Verdict(reason) if reason else self.verdicts.of(time, cells, where)
            if time.ranks:
                reason = verdict.wrong or "of another rank, beside the slowest"
                self.imported.leave(where, reason, len(time.ranks) - 1)
            if verdict.wrong:
                self.imported.leave(where, verdict.wrong)
                continue
            if verdict.suspect or is_struck_out(cells[time.at]):
                row_cells["quality"] = "suspect"
            self.imported.add({**row_cells, "latency_us": latency_us}, where)

    def _no_call(self) -> str:
        """Return why no time of the table is that of one call, or ""."""
        return self.doubt or (
            f"above it stands '{self.of_many}': no time of one call" if self.of_many else ""
        )

    def _is_section(self, cells: list[str]) -> bool:
        """Whether a line has one cell that speaks for the lines below it; take what it says."""
        filled = [text for text in map(plain, cells) if text]
        if len(filled) != 1 or len(cells) < 2:
            return False
        said, label = said_by(filled[0], bare=True), read_label(filled[0], self.imported.said)
        named_op = label.op or label.algorithm or not label.used
        if not said and not named_op:
            return False
        kept = {key: value for key, value in self.table.says.items() if key not in said}
        new = {key: value for key, value in said.items() if value != SEVERAL}
        self.table.says = {**kept, **new}
        self.unit = str(new.get("unit", self.unit))
        self.of_many = shortened(filled[0], 60) if is_of_many_calls(filled[0]) else ""
        if named_op:
            self.above = label._replace(op=label.op or self.above.op)
        self.lines.clear()
        return True

    def _line(self, cells: list[str]) -> tuple[str, dict[int, _Arm]]:
        """Return what in a line is not understood, and what it says of each column of times.

        Lines that differ in their times alone are worked out once.
        """
        told = tuple([cells[at] for at in self.telling])
        found = self.lines.get(told)
        if found is None:
            self.doubt = self.doubt or (self.untold.of(cells) if self.untold else "")
            shared, problem = self._shared(cells)
            by_row, texts, timing, of_labels = self._labels(cells)
            problem = problem or of_labels
            shared |= {"timing": timing} if timing else {}
            arms = {of.at: self._row(of, shared, by_row, texts) for of in self.times}
            found = problem, arms
            if len(self.lines) < _LINES:
                self.lines[told] = found
        return found

    def _stated(self, time: Time, cells: list[str]) -> Time:
        """Return the column that states an arm's time in this line: the first that does."""
        if time.others and is_no_figure(cells[time.at]):
            return next((o for o in time.others if not is_no_figure(cells[o.at])), time)
        return time

    def _latency(self, time: Time, cells: list[str]) -> tuple[float, str]:
        """Return the time of a cell in microseconds, and why it is none, or ""."""
        text = cells[time.at]
        if not self.sign and time.to_us != TO_US["ns"] and is_open_figure(text):
            return 0.0, f"'{shortened(plain(text), 30)}' may have decimals or thousands"
        if self._is_no_time(time, text):
            return 0.0, f"'{self.unit}' stands above it: no time"
        latency_us = microseconds(text, time.to_us)
        if latency_us is not None and time.ranks:
            of_ranks = [microseconds(cells[at], time.to_us) for at in time.ranks]
            known = [one for one in of_ranks if one is not None]
            missing = "no time of every rank" if len(known) < len(of_ranks) else ""
            return max(known), missing
        if latency_us is not None:
            return latency_us, ""
        if is_no_figure(text):
            return 0.0, f"no time ({shortened(plain(text), 20)})" if plain(text) else "no time"
        if microseconds(text, 1.0) is not None:
            name = shortened(plain(time.name), 40)
            return 0.0, f"column '{name}' has no unit: --unit us, ms or ns"
        return 0.0, f"'{shortened(plain(text), 30)}' {no_measurement(text) or 'is no time'}"

    def _is_no_time(self, time: Time, text: str) -> bool:
        """Whether a figure without a unit of its own stands under one that is none of time."""
        if not self.unit or self.unit in TO_US or time_unit(time.name) is not None:
            return False
        return microseconds(text, 1.0) is not None and not has_time_unit(text)

    def _beside(self, time: Time, cells: list[str], row: dict[str, Any]) -> str:
        """Return why what stands beside a figure speaks against it; an algorithm is taken."""
        said = aside(cells[time.at])
        if not said:
            return ""
        if said == "wrong":
            return "wrong result: a cross beside it"
        label = read_label(said, self.imported.said)
        if label.algorithm and row.get("algorithm", "") in ("", "auto", label.algorithm):
            row["algorithm"] = label.algorithm
            return ""
        return f"'{shortened(plain(cells[time.at]), 30)}': not the column's figure alone"

    def _shared(self, cells: list[str]) -> tuple[dict[str, Any], str]:
        """Return what a line says of all its latencies, and what in it is not understood."""
        shared: dict[str, Any] = {}
        problems = [row_forms.twice(self.table.header, cells, self.columns)]
        if self.harness.captions:
            problems.append(row_forms.another(self.table.header, cells, self.columns))
        problems = list(filter(None, problems))
        for held, indices in self.columns.knowns.items():
            index = next((i for i in indices if not is_no_figure(cells[i])), -1)
            if index < 0 or held == "bytes":
                continue
            text = cells[index]
            found = _READ[held](text)
            if isinstance(found, dict):
                shared.update({key: value for key, value in found.items() if key not in shared})
            elif found is not None and not _is_odd(held, self.table.header[index], found):
                shared[held] = found
            else:
                name = shortened(plain(self.table.header[index]), 30)
                problems.append(f"{name} '{shortened(plain(text), 30)}' is not understood")
        for index in self.columns.labels:
            for key, value in said_by(plain(cells[index]), bare=True).items():
                if key in _OF_LABELS and value != SEVERAL:
                    shared.setdefault(key, value)
            if (
                "tokens" not in shared
                and (sizes := shape(cells[index]))
                and sizes[1] >= row_forms.NARROWEST
            ):
                shared |= {"tokens": sizes[0], "hidden_dim": sizes[1]}
        problems += _take_batch(shared, sized="bytes" in self.columns.knowns)
        for key, value in {**self.harness.cells, **self.table.says}.items():
            if key not in ("unit", *shared):
                shared[key] = value
        told = [f"{name} {shortened(plain(cells[i]), 30)}" for i, name in self.tells if cells[i]]
        if told:
            shared["kernel_version"] = ", ".join(
                [*filter(None, [shared.get("kernel_version")]), *told]
            )
        if "bytes" in self.columns.knowns and not problems:
            problems += self._sized(cells, shared)
        return shared, problems[0] if problems else ""

    def _sized(self, cells: list[str], shared: dict[str, Any]) -> Iterator[str]:
        """Take the size of a line, beside its shape where it has one."""
        indices = self.columns.knowns["bytes"]
        index = next((i for i in indices if not is_no_figure(cells[i])), -1)
        if index < 0:
            return
        text = cells[index]
        found = size(text, self.columns.size_units[index])
        if found is None:
            sizes = shape(text)
            if sizes and "tokens" not in shared:
                shared["tokens"], shared["hidden_dim"] = sizes
                return
            yield f"size '{shortened(plain(text), 30)}' is not understood"
            return
        elements = shared.get("tokens", 0) * shared.get("hidden_dim", 0)
        said = self.imported.said
        dtype = dtype_of(str(shared.get("dtype") or said.dtype))
        each = ELEMENT_BYTES.get(dtype)
        if elements and any(found.fits(elements * e) for e in ([each] if each else (1, 2, 4))):
            shared |= {"bytes": found.exact} if found.exact and not each else {}
            return
        if elements and found.taken and each and found.fits(elements * each, decimal=True):
            self.imported.note("KB and MB of sizes are powers of 1000, as the shapes say")
            return
        if elements:
            yield "the size is not tokens x hidden size x element size"
        elif found.exact is None:
            yield f"size '{shortened(plain(text), 30)}' is rounded: no whole number of bytes"
        else:
            shared["bytes"] = found.exact
            if found.taken:
                self.imported.note("KB and MB of sizes are taken as powers of 1024")

    def _labels(self, cells: list[str]) -> tuple[Label, list[str], str, str]:
        """Return what a line's labels say together, texts that tell arms apart, a mode, a problem.

        Where a column names who ran (``backend``), what ran is what the others say.
        """
        algorithm = family = mode = ""
        side, used = False, True
        ops: dict[bool, dict[str, str]] = {False: {}, True: {}}
        texts: list[str] = []
        versions: list[str] = []
        for index in self.columns.labels:
            text = cells[index]
            if is_no_figure(text):
                continue
            known = self._arm(text)
            label = known or read_label(text, self.imported.said)
            timing = said_by(text, bare=True).get("timing", SEVERAL)
            if timing != SEVERAL:
                mode = mode or timing
            else:
                texts.append(plain(text))
                name = spoken(self.table.header[index])
                numbered = f"{name} {plain(text)}" if plain(text).isdecimal() and name else ""
                versions.append(known.version if known else numbered or untold(text))
            if label.op:
                of_whom = spoken(self.table.header[index]) in _WHO
                ops[of_whom].setdefault(label.op, shortened(plain(text), 30))
            algorithm, family = algorithm or label.algorithm, family or label.kernel_family
            side, used = side or label.side, used and label.used
        found = ops[False] or ops[True]
        both = "' and '".join(found.values())
        several = len(found) > 1
        problem = f"'{both}' say two ops: --op" if several and not self.imported.said.op else ""
        version = ", ".join(dict.fromkeys(filter(None, versions)))
        op = "" if several else next(iter(found), "")
        return Label(op, algorithm, family, used, side, version=version), texts, mode, problem

    def _is_plain(self, time: Time, label: Label) -> bool:
        """Whether a column's name has no word that could be another op than the caption's."""
        known = time.ranks or label.algorithm or label.kernel_family or self._arm(time.name)
        return bool(known) or not is_of_another(time.name)

    def _row(
        self, time: Time, shared: Mapping[str, Any], by_row: Label, texts: list[str]
    ) -> tuple[dict[str, Any], str, bool]:
        """Return the cells of one latency without it, why it is left, and whether it has an op."""
        label = self.labels[time.at]
        says = time.says
        if self.harness.arm(time.name):  # of a known name only the mode is said in words
            says = {k: v for k, v in says.items() if k in ("timing", "statistic", "rank_reduction")}
        row: dict[str, Any] = {**shared, **says}
        if not label.used or not by_row.used:
            text = plain(time.name) if not label.used else " ".join(texts)
            return row, f"no op of schema 1: {shortened(text, 60)}", False
        op = label.op or by_row.op or str(shared.get("op", ""))
        algorithm = label.algorithm or by_row.algorithm
        side = (label.side or by_row.side) and not op
        if not op and not side:
            if not self.above.used:
                text = self.table.captions[0].strip("=: ")
                return row, f"no op of schema 1: {shortened(text, 60)}", False
            if self.above.op and not self._is_plain(time, label):
                name = shortened(_without_unit(time.name), 40)
                return row, f"'{name}' may be another op: --column '{name}=OP:ALGORITHM'", True
            op, algorithm = self.above.op, algorithm or self.above.algorithm
        if self.of_mhc:
            op, algorithm = _of_mhc(op, algorithm, time.name)
            if not op:
                return row, f"no op of schema 1: {shortened(plain(time.name), 60)}, mHC", False
        if op == "ar_then_rmsnorm":
            algorithm = label.algorithm
        elif "one_stage" in row:
            algorithm = "1stage" if row["one_stage"] else "2stage"
        row.pop("one_stage", None)
        row["op"], row["algorithm"] = op, algorithm
        row["kernel_family"] = (
            by_row.kernel_family or label.kernel_family or self.above.kernel_family
            or shared.get("kernel_family") or self.harness.kernel_family
            or ("aiter" if str(shared.get("kernel_version", "")).startswith("AITER ") else "")
        )  # fmt: skip
        of_column = label.version
        if not of_column and self._of(time) in self.alike and time.arm:
            of_column = untold(time.name)
        named_by = [shortened(text, 60) for text in (by_row.version, of_column) if text]
        version = [str(shared["kernel_version"])] if shared.get("kernel_version") else []
        row["kernel_version"] = ", ".join([*version, *named_by])
        if not op and not self.imported.said.op:
            what = (texts or [_without_unit(time.name)])[0] or plain(time.name)
            what = shortened(what, 40)
            ask = f"'{what}' does not say which op: --op, or --column '{what}=OP:ALGORITHM'"
            return row, ask, True
        return row, "", True


def _is_odd(held: str, name: str, value: Any) -> bool:
    """Whether a column with a name of one letter, such as ``n``, holds no hidden size."""
    return held == "hidden_dim" and len(spoken(name)) == 1 and value < 128


def _take_batch(shared: dict[str, Any], *, sized: bool) -> Iterator[str]:
    """Take the tokens of batch size and sequence length; both above 1 leave open what ran.

    With a size beside them their product is taken, which is then held against it.
    """
    found = [n for n in (shared.pop("batch", None), shared.pop("length", None)) if n is not None]
    if "tokens" in shared or not found:
        return
    if len(found) == 2 and min(found) > 1 and not (sized and "hidden_dim" in shared):
        yield "batch size and sequence length both stand there: tokens are not said"
    shared["tokens"] = math.prod(found)


def _of_mhc(op: str, algorithm: str, name: str) -> tuple[str, str]:
    """Return (op, algorithm) of an arm in a table about hyper-connections, ("", "") for no op."""
    words = spoken(name)
    if "fus" in words or (algorithm and op in ("", "fused_ar_rmsnorm")):
        return "fused_ar_mhc", "2stage" if "split" in words else algorithm
    return ("all_reduce", algorithm) if op == "all_reduce" else ("", "")


def _without_unit(name: str) -> str:
    """Return a column's name without unit and statistic: what tells it from the others."""
    text = re.sub(r"[\[(]\s*(?:us|ms|ns|usec|msec)\s*[\])]", " ", plain(name))
    text = re.sub(
        r"(?i)(?:^|[_ ])(?:us|ms|ns|p50|median|mean|avg|max|min|latency|time)(?=$|[_ ])", " ", text
    )
    return " ".join(text.split())


def _read_timing(text: str) -> str | None:
    word = spoken(text)
    if word in ("profiler", "cupti"):
        return "profiler"
    if word in ("cuda_events", "cuda_graph", "hip_graph"):
        return "eager" if word == "cuda_events" else "graph"
    said = said_by(text, bare=True).get("timing")
    if said in ("eager", "graph"):
        return str(said)
    on = truth(text)
    return None if on is None else "graph" if on else "eager"


def _read_shape(text: str) -> dict[str, int] | None:
    sizes = shape(text)
    return {"tokens": sizes[0], "hidden_dim": sizes[1]} if sizes else None


def _read_reduction(text: str) -> str:
    word = spoken(text)
    if "slowest" in word or word.startswith("max"):
        return "max"
    return "mean" if word in ("mean", "avg", "average") else shortened(word, 20)


#: How a cell of each meaning is read; None for a cell that is not understood.
_READ: dict[str, Callable[[str], Any]] = {
    "tokens": count,
    "hidden_dim": count,
    "shape": _read_shape,
    "dtype": lambda text: dtype_of(plain(text)),
    "world_size": ranks,
    "one_stage": lambda text: truth({"2": "0"}.get(plain(text), text)),
    "fused": lambda text: {"op": "fused_ar_rmsnorm" if truth(text) else "ar_then_rmsnorm"},
    "timing": _read_timing,
    "gpu": lambda text: gpu_of(plain(text)) if number(text) is None else {},
    "arch": lambda text: plain(text).lower().partition(":")[0],
    "rank_reduction": _read_reduction,
    "batch": count,
    "length": count,
    "hosts": count,
    "rank": lambda text: {"rank_reduction": text} if text in ("max", "rank0") else {},
    "statistic": lambda text: cell_statistic(text) or plain(text).lower(),
    "kernel_version": plain,
    "kernel_family": plain,
}
