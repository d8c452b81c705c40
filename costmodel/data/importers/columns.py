"""What the columns of a table hold, by their names: shapes, ranks, arms, times, checks.

A time is known by its unit, in the column's name, in its cells, or in a line around the table that
says it for all. Several statistics of one arm are one latency: the median is taken before the mean,
and the maximum over the ranks where only minimum and maximum stand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Struct, field

from .context import SEVERAL, is_of_many_calls, said_by
from .labels import Label, named, of_two_arms, read_label
from .quantities import TO_US, has_time_unit, is_no_figure, microseconds, plain, size_unit, truth
from .rows import Said

#: What a column holds, by the words of its name joined by ``_``; the first of a meaning counts.
MEANINGS = {
    "tokens": ("tokens", "num_tokens", "n_tokens", "ntokens", "ntok", "token", "token_num",
               "tokens_m", "m_tokens", "m", "num_rows"),
    "batch": ("bs", "batch", "batch_size", "batchsize"),
    "length": ("seq_len", "seqlen", "seq", "sequence_length", "q_len"),
    "hidden_dim": ("hidden_dim", "hidden_size", "hidden", "hidden_dimension", "hdim", "d_model",
                   "n_hidden", "n", "h", "k", "dim"),
    "shape": ("shape", "input_shape", "tensor_shape", "shapes", "shape_m_n", "m_n", "m_x_n",
              "mxn", "mxk", "mxh", "m_k", "shape_mxn", "shape_mxk", "shape_m_k", "shape_m_x_k",
              "shape_m_x_n", "shape_m_h", "tokens_hidden", "tokens_x_hidden",
              "shape_tokens_hidden", "shape_tokens_x_hidden", "shape_tokens_hidden_size"),
    "dtype": ("dtype", "data_type", "input_dtype", "datatype", "type"),
    "world_size": ("world_size", "worldsize", "world", "tp", "tp_size", "ranks", "num_gpus", "gpus",
                   "nranks", "ngpus", "n_gpus", "num_ranks", "tensor_parallel_size", "ws"),
    "one_stage": ("use_1stage", "use_1stage_ar", "one_stage", "1stage"),
    "timing": ("timing_mode_request", "withgraph", "with_graph", "use_graph", "graph",
               "cuda_graph", "graph_mode",
               "cudagraph", "hip_graph", "timing"),
    "gpu": ("gpu", "device", "gpu_name", "device_name", "hardware", "platform"),
    "arch": ("gfx", "arch", "gpu_arch"),
    "rank_reduction": ("rank_reduction", "rank_aggregation", "aggregation"),
    "statistic": ("statistic", "stat", "stats", "percentile", "quantile"),
    "rank": ("rank", "local_rank", "rank_id", "gpu_id", "device_id"),
    "hosts": ("hosts", "num_hosts", "nodes", "num_nodes", "nnodes", "n_nodes"),
    "kernel_version": ("kernel_version", "aiter_version", "version"),
    "kernel_family": ("kernel_family",),
}  # fmt: skip
#: Columns whose cells name the arm: each is read, the first that says something counts.
LABELS = (
    "algorithm", "algo", "arm", "kernel", "mode", "impl", "implementation", "provider", "op",
    "operation", "name", "stage", "method", "backend", "candidate", "strategy", "config", "case",
    "path", "variant", "communicator", "comm", "test", "pattern", "fusion", "strategy_request",
    "ar_backend", "resolved_backend", "collective", "primitive",
)  # fmt: skip
_BY_NAME = {name: meaning for meaning, names in MEANINGS.items() for name in names}
_BYTES = re.compile(
    r"(?:(?:message|msg|data|tensor|input|payload|total|buffer|transfer)_?)*"
    r"(?:size|bytes|nbytes|len)(?:_bytes|_in_bytes|_per_rank|_rank)?(?:_[kmg]?i?b?)?|_?nbytes"
    r"|[kmg]i?b"
)

#: Words of a name that say no arm.
_STATISTICS = {
    "median": "median", "p50": "median", "med": "median", "mean": "mean", "avg": "mean",
    "average": "mean", "min": "min", "max": "max",
}  # fmt: skip
_TIME_WORDS = frozenset(("latency", "time", "elapsed", "duration", "runtime", "lat", "times"))
_TAIL = re.compile(r"p(?:[6-9]\d(?:\.\d+)?|99\d*|1\d|2\d|5|25)$|std|stdev|stddev|iqr|var")
#: Words of columns that are worked out of latencies, or are none.
_DERIVED = re.compile(
    r"speed_?ups?|ratio|gain|delta|diff|saved|savings?|improve\w*|change|reduction|spread|roof\w*|"
    r"(?:alg|bus)?_?bw\w*|bandwidth|\w*gb/?p?s\w*|gbps|tb\S*|throughput|t?flops|sqnr|warmups?|"
    r"iters?|"
    r"iterations|repeats?|trials|vs|best|fastest|winner|overall|prod|eff|efficiency|regret|gap|x|"
    r"overhead|pct|percent|loss|error|err|"
    # What no clock took, and what is no time of one op.
    r"model(?:led|ed)?|predict\w*|expect\w*|estimat\w*|est|theor\w*|ideal|simulated|sim|target|"
    r"bound|limit|sigma|jitter|ci|ttft|tpot|itl|e2el?|\w+/s(?:ec)?"
)
#: Signs of a difference or a ratio, and of a spread that stands for itself.
_DIFFERENCE = re.compile(r"[Δ∆δ÷]|^\W*[±σ]|±\W*$|^[^±]*σ[^±]*$")
#: What the cells of a column have beside its statistic: ``mean ± std``, ``avg (stdev)``.
_SPREAD = re.compile(
    r"(?i)(?<=\w)\s*(?:±|\+/-|\+-)\s*(?:std|stdev|stddev|sd|sigma|σ|ci|err)\b"
    r"|(?<=mean|.avg|dian|.p50|rage)\s*[(\[/]\s*(?:std|stdev|stddev|σ|sd|sigma)\s*[)\]]?"
)
#: Words of a sum over many calls, where the same arm has a time of one.
_SUMS = frozenset(("total", "sum", "cumulative", "accumulated", "overall"))
#: A word of a name that says which rank's time it is: ``rank0``, ``gpu 3``.
_OF_RANK = re.compile(r"(?:^|_)(?:rank|gpu|device|dev)_?(\d{1,5})(?=_|$)")
_ERR = re.compile(r"(?:^|_)err(?:or)?(?:_(?:ratio|rate|share))?$|^#?wrong$")
_NO_SHARE = re.compile(r"abs|max_err|mean_err|mse|rel")
_CHECK = re.compile(
    r"correct\w*|accuracy|acc|allclose|passed|pass|status|match|corr(?:_.*)?|valid\w*|check|ok"
)
_AVAILABLE = re.compile(r"(?:^|_)available$")


class Time(NamedTuple):
    """A latency column: where it stands, what its unit is, and what its name says.

    ``to_us`` is None where neither the name nor the surroundings state a unit. ``others`` are
    columns with other statistics of the same calls, for lines where this one is empty; ``ranks``
    those of the other ranks, where each has a column.
    """

    at: int
    name: str
    to_us: float | None
    label: Label
    arm: tuple[str, ...]
    says: Mapping[str, Any]
    others: tuple[Time, ...] = ()
    ranks: tuple[int, ...] = ()


class Columns(Struct):
    """The columns of one table by what they hold, as indices into its rows."""

    knowns: dict[str, list[int]] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)
    size_units: dict[int, tuple[int, bool] | None] = field(default_factory=dict)
    times: list[Time] = field(default_factory=list)
    errors: dict[int, tuple[str, ...]] = field(default_factory=dict)
    checks: list[int] = field(default_factory=list)
    remarks: list[int] = field(default_factory=list)
    details: list[int] = field(default_factory=list)
    available: dict[int, tuple[str, ...]] = field(default_factory=dict)
    spare: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    in_place: list[int] = field(default_factory=list)
    ranks_only: bool = False


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """Return the words of a column's name, in lower case: ``fused_p50 (µs)`` -> fused, p50, us."""
    return tuple(w for w in re.split(r"[^a-z0-9.%/#]+", plain(name[:200]).lower()) if w.strip("./"))


def time_unit(name: str) -> float | None:
    """Return the microseconds of the unit that a column's name states, None for none."""
    found = words(name)
    for word in found:
        first = word.partition("/")[0]
        if first in TO_US and first not in ("s", "sec", "secs", "second", "seconds"):
            return TO_US[first]
    if re.search(r"[\[(]\s*(s|sec|seconds)\s*[\])]", name.lower()) or (
        found and found[-1] in ("s", "sec", "seconds") and set(found) & _TIME_WORDS
    ):
        return 1e6
    return None


def is_timed(name: str) -> bool:
    """Whether a name has a word for a time or a statistic of one: ``latency``, ``p50``."""
    return bool(set(words(name)) & (_TIME_WORDS | set(_STATISTICS)))


def is_derived(name: str) -> bool:
    """Whether a column is no latency of an arm: a speed-up, a bandwidth, a sum, a best, a model."""
    name = _SPREAD.sub("", name)
    derived = any(_DERIVED.fullmatch(word) for word in words(name)) or "%" in name
    return derived or bool(_DIFFERENCE.search(name)) or of_two_arms(name) or is_of_many_calls(name)


def meaning(name: str) -> str:
    """Return what a column holds by its name, "" for a name that says nothing known."""
    joined = _joined(name)
    if time_unit(name) is not None:
        return "time"
    if joined in _BY_NAME:
        return _BY_NAME[joined]
    if joined in LABELS or (joined and set(words(name)) <= set(LABELS)):
        return "label"
    return "bytes" if _BYTES.fullmatch(joined) else ""


def _joined(name: str) -> str:
    return re.sub(r"^#_?(?!wrong)", "", "_".join(words(name)).replace("/", "_").strip("_"))


def looks_like_header(cells: Sequence[str]) -> bool:
    """Whether cells are the header of a table of latencies: names, one of them known."""
    if len(cells) > 5000:
        return False
    names = [plain(cell) for cell in cells]
    if any("{" in name or "=" in name for name in names):
        return False
    if len(names) < 2 or any(re.fullmatch(r"[-+]?\d[\d.,]*", name) for name in names):
        return False
    return any(meaning(name) or set(words(name)) & _TIME_WORDS for name in names)


def read_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], said: Said, unit: str
) -> Columns:
    """Return what the columns of a table hold; ``rows`` are some of its first.

    ``unit`` is that of times whose column and cells state none, "" where nothing says it.
    """
    columns = Columns()
    times: list[Time] = []
    for index, name in enumerate(header):
        if named(name, said.columns) == "-":
            columns.left_out.append(name)
        elif _is_arm(index, name, rows) or not _known(columns, index, name, rows):
            time = _time(index, name, rows, said, unit)
            times += [time] if time else []
            columns.spare += [] if time else [name]
    for held, indices in columns.knowns.items():
        names = MEANINGS.get(held, ())
        order = {name: place for place, name in enumerate(names)}
        indices.sort(key=lambda i: (order.get(_joined(header[i]), len(order)), i))
    columns.times = _one_an_arm(_out_of_place(times, header, columns), columns)
    fused = any(time.label.op.startswith("fused") for time in columns.times)
    if fused:
        columns.times = [
            time._replace(label=time.label._replace(op="ar_then_rmsnorm"))
            if time.label.joined and not time.label.op else time
            for time in columns.times
        ]  # fmt: skip
    return columns


def _is_arm(index: int, name: str, rows: Sequence[Sequence[str]]) -> bool:
    """Whether a column named ``1stage`` or ``graph`` holds times, and not whether it ran so."""
    cells = [row[index] for row in rows if index < len(row)]
    held = meaning(name)
    if held == "timing":
        cells = [cell for cell in cells if microseconds(cell, 1.0) is not None]
    return held in ("one_stage", "timing") and any(truth(cell) is None for cell in cells)


def _known(columns: Columns, index: int, name: str, rows: Sequence[Sequence[str]]) -> bool:
    """Take a column that is no latency and has a known name; return whether it was one."""
    cells = [row[index] for row in rows if index < len(row) and row[index]]
    joined = _joined(name)
    held = meaning(name)
    flag = _flag(joined, cells)
    if flag:
        held = flag
    elif joined in ("metric", "measure") and cells and all(map(cell_statistic, cells)):
        held = "statistic"
    if held in MEANINGS or held == "fused":
        columns.knowns.setdefault(held, []).append(index)
    elif held == "label":
        columns.labels.append(index)
    elif held == "bytes":
        columns.knowns.setdefault("bytes", []).append(index)
        units = [size_unit(word) for word in words(name)[1:]]
        columns.size_units[index] = next((unit for unit in units if unit), None)
    elif _ERR.search(joined) and not _NO_SHARE.search(joined):
        columns.errors[index] = _arm(_ERR.sub("", joined).split("_"))
    elif _AVAILABLE.search(joined):
        columns.available[index] = _arm(_AVAILABLE.sub("", joined).split("_"))
    elif not plain(name) and any(re.search(r"[a-z]", cell.lower()) for cell in cells):
        columns.labels.append(index)
    elif re.fullmatch(r"(?:.*_)?(?:comment|note|remark)s?", joined):
        columns.remarks.append(index)
        columns.spare.append(name)
    elif joined.endswith("detail"):
        columns.details.append(index)
    elif _CHECK.match(joined) and held != "time":
        columns.checks.append(index)
    else:
        return False
    return True


_FUSED = frozenset(("fused", "is_fused", "use_fused", "fuse", "fusion", "enable_fusion"))
_STAGES = frozenset(("stage", "stages", "num_stages", "n_stages", "nstages"))


def _flag(joined: str, cells: Sequence[str]) -> str:
    """Return what a column of yes and no, or of 1 and 2, says of the arm; "" for any other."""
    if not cells:
        return ""
    if joined in _STAGES and {plain(c) for c in cells} <= {"1", "2"}:
        return "one_stage"
    if any(truth(cell) is None for cell in cells):
        return ""
    if joined in _FUSED:
        return "fused"
    label = read_label(joined, Said())
    return "one_stage" if label.algorithm == "1stage" and time_unit(joined) is None else ""


def _time(
    index: int, name: str, rows: Sequence[Sequence[str]], said: Said, unit: str
) -> Time | None:
    """Return a latency column, None for a column that is none."""
    if is_derived(name) and named(name, said.columns) is None:
        return None
    to_us = time_unit(name)
    cells = [row[index] for row in rows if index < len(row)]
    found = words(name)
    label = read_label(name, said)
    timed = is_timed(name)
    silent = bool(cells) and all(is_no_figure(cell) for cell in cells)
    if to_us is None and not silent and not any(microseconds(cell, 1.0) for cell in cells):
        return None  # words
    if to_us is None and any(has_time_unit(cell) for cell in cells):
        to_us = TO_US.get(unit)
    elif to_us is None:
        of_an_arm = label.op or label.algorithm or label.kernel_family or label.side or label.joined
        wide = "world_size" in said_by(name, bare=True)
        if not (timed or of_an_arm or not label.used or ((unit or wide) and _figures(cells))):
            return None
        to_us = TO_US.get(unit)
    says = {k: v for k, v in said_by(name, bare=True).items() if v != SEVERAL and k != "unit"}
    return Time(index, name, to_us, label, _arm(found), says)


def _figures(cells: Sequence[str]) -> bool:
    return any(re.match(r"\W*\d+\.\d", plain(cell)) for cell in cells)


def _arm(found: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a name that tell arms apart."""
    return tuple(
        w for w in found
        if w and w.partition("/")[0] not in TO_US and w not in _STATISTICS and w not in _TIME_WORDS
        and not _TAIL.fullmatch(w)
    )  # fmt: skip


#: Statistics of one arm in the order in which they are taken.
PREFERRED = {"median": 0, "mean": 1, "": 2, "max": 3, "min": 4, "tail": 5}


def statistic(name: str) -> str:
    """Return the statistic that a text names, ``tail`` for a tail or a spread, "" for none."""
    found = words(_SPREAD.sub("", name))
    if any(_TAIL.fullmatch(word) for word in found):
        return "tail"
    return next((_STATISTICS[word] for word in found if word in _STATISTICS), "")


def cell_statistic(text: str) -> str:
    """Return the statistic that a cell names, by a word or as a quantile (``50%``, ``0.99``)."""
    if re.fullmatch(r"(?:0?\.\d{1,4}|\d{1,2}(?:\.\d{1,3})?)%?", text.strip()):
        return "median" if float(text.strip(" %")) in (0.5, 50.0) else "tail"
    return statistic(plain(text))


_IN_PLACE = re.compile(r"(?:^|_)(?:in_?place|ip)(?=_|$)")
_OUT_OF_PLACE = re.compile(r"(?:^|_)(?:out_of_?place|oop)(?=_|$)")


def _out_of_place(times: Sequence[Time], header: Sequence[str], columns: Columns) -> list[Time]:
    """Return the columns of times without those in place, where the same call has both.

    The collective tests of NCCL and RCCL write both under one name, the one in place behind.
    """
    names = [_joined(time.name) for time in times]
    inside = [bool(_IN_PLACE.search(_OUT_OF_PLACE.sub("", name))) for name in names]
    if not any(map(_OUT_OF_PLACE.search, names)) or not any(inside):
        of_tests = any(word.startswith(("busbw", "redop")) for word in map(_joined, header))
        first = [time.arm for time in times]
        inside = [of_tests and arm in first[:at] for at, arm in enumerate(first)]
    columns.in_place = [time.at for time, is_in in zip(times, inside, strict=True) if is_in]
    return [time for time, is_in in zip(times, inside, strict=True) if not is_in]


def _slowest(times: Sequence[Time]) -> list[Time]:
    """Return one column for those of all ranks of one arm."""
    arms: dict[str, list[Time]] = {}
    for time in times:
        arms.setdefault(_OF_RANK.sub("", _joined(time.name)), []).append(time)
    kept = []
    for of_arm in arms.values():
        of_ranks = [time for time in of_arm if _OF_RANK.search(_joined(time.name))]
        if len(of_ranks) < 2 or len(of_ranks) < len(of_arm):
            kept += of_arm
            continue
        first, arm = of_ranks[0], _OF_RANK.sub("", "_".join(of_ranks[0].arm)).split("_")
        says = {**first.says, "rank_reduction": "max"}
        kept.append(first._replace(
            arm=tuple(filter(None, arm)), says=says, ranks=tuple(t.at for t in of_ranks)
        ))  # fmt: skip
    return kept


def _one_an_arm(times: Sequence[Time], columns: Columns) -> list[Time]:
    """Return one column an arm: the median, else the mean, else the maximum over the ranks."""
    arms: dict[tuple[str, ...], list[Time]] = {}
    of_calls = {time.arm for time in times}
    sums = [
        time.name for time in times
        if not _SUMS.isdisjoint(time.arm)
        and tuple(w for w in time.arm if w not in _SUMS) in of_calls
    ]  # fmt: skip
    columns.spare += sums
    for time in _slowest([time for time in times if time.name not in sums]):
        arms.setdefault(time.arm, []).append(time)
    kept = []
    for of_arm in arms.values():
        ordered = sorted(of_arm, key=lambda time: PREFERRED[statistic(time.name)])
        best, rest = ordered[0], ordered[1:]
        kinds = [statistic(time.name) for time in ordered]
        if kinds[0] == "tail":
            columns.spare += [time.name for time in ordered]
            continue
        says = dict(best.says)
        if kinds[0] in ("median", "mean", "min"):
            says["statistic"] = kinds[0]
        elif kinds[:2] == ["max", "min"]:
            says["rank_reduction"] = "max"
            says.pop("statistic", None)
            columns.ranks_only = True
        elif kinds[0] == "max":
            says["statistic"] = "max"
        if len(kinds) > 1 and kinds[0] == kinds[1]:  # two columns of one name: both are read
            kept += [time._replace(says={**time.says, **says}) for time in ordered
                     if statistic(time.name) == kinds[0]]  # fmt: skip
            continue
        columns.spare += [time.name for time in rest]
        others = tuple(
            time._replace(says={**time.says, **({"statistic": kind} if kind else {})})
            for time, kind in zip(rest, kinds[1:], strict=True)
            if kind in ("mean", "")
        )
        kept.append(best._replace(says=says, others=others))
    return sorted(kept, key=lambda time: time.at)
