"""What the rows say about a fit: what was measured, what contradicts, what the model misses."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.words import Words
from ..model.shape import FUSED, ONE_STAGE, SEPARATE, TWO_STAGE
from .fit import Fit
from .observations import Group, Observations
from .posterior import NORMAL_HALF_WIDTH, Coverage, HiddenEffectRecord, Refusal, SourceRows

Array = NDArray[np.float64]


class HiddenEffect(Struct, frozen=True):
    """Does hidden size matter beyond bytes? Slope of the residual per doubling of hidden_dim."""

    rows: int
    pct_per_doubling: float
    lo: float
    hi: float

    def to_dict(self) -> HiddenEffectRecord:
        """Return the effect rounded, for a calibration file."""
        return {
            "rows": self.rows,
            "pct_per_doubling": round(self.pct_per_doubling, 4),
            "lo": round(self.lo, 4),
            "hi": round(self.hi, 4),
        }


def arms(found: Fit) -> NDArray[np.int64]:
    """Return an index per row: rows of one arm share harness, GPU, world size, op, algorithm."""
    table, algorithm = found.problem.observations.table, found.problem.observations.algorithm
    keys = [
        "|".join(map(str, key))
        for key in zip(
            found.problem.observations.harness,
            table.gpu,
            table.world_size,
            table.op,
            algorithm,
            table.kernel_version,
            strict=True,
        )
    ]
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def coverage(observations: Observations) -> tuple[Coverage, ...]:
    """Return what was measured, one record per GPU, world size, op and algorithm."""
    table = observations.table
    kinds: dict[tuple[str, int, str, str], list[Group]] = {}
    for g in observations.groups:
        for n in np.unique(table.world_size[g.rows]).tolist():
            kinds.setdefault((g.gpu, int(n), g.shapes.op, g.algorithm), []).append(g)
    paired = _paired(observations)
    found = []
    for (gpu, n, op, algorithm), groups in sorted(kinds.items(), key=lambda kind: kind[0]):
        rows = np.concatenate([g.rows[table.world_size[g.rows] == n] for g in groups])
        size, hidden = observations.size_bytes[rows], table.hidden_dim[rows]
        found.append(
            Coverage(
                gpu,
                n,
                op,
                algorithm,
                float(size.min()),
                float(size.max()),
                rows.size,
                tuple(sorted(set(table.source[rows].tolist()))),
                hidden_dims=tuple(sorted({int(h) for h in hidden[~np.isnan(hidden)].tolist()})),
                dtypes=tuple(sorted({g.shapes.dtype for g in groups})),
                states=tuple(sorted({g.state for g in groups})),
                pairs=len({observations.place[i] for i in rows[paired[rows]].tolist()}),
                gpu_inferred=int((table.gpu_evidence[rows] == "inferred").sum()),
            )
        )
    return tuple(found)


def _paired(observations: Observations) -> NDArray[np.bool_]:
    """Return which rows have their counterpart at the same place.

    That of 2-stage and of separate ops is the op's own 1-stage, that of 1-stage is 2-stage.
    """
    ops, algorithms = observations.table.op.tolist(), observations.algorithm.tolist()
    arms = list(zip(observations.place, ops, algorithms, strict=True))
    known = set(arms)
    found = []
    for place, op, algorithm in arms:
        other = TWO_STAGE if algorithm == ONE_STAGE and op != SEPARATE else ONE_STAGE
        found.append((place, FUSED if op == SEPARATE else op, other) in known)
    return np.array(found, np.bool_)


def source_rows(observations: Observations) -> tuple[SourceRows, ...]:
    """Return what each benchmark measured, one record per harness key."""
    table = observations.table

    def said(column: Words) -> str:
        return " or ".join(word for word in column.used if word)

    records = []
    for key in observations.harness.used:
        rows = table.select(observations.harness == key)
        records.append(
            SourceRows(
                key,
                rows.source[0],
                rows.gpu.used,
                rows.op.used,
                tuple(sorted({int(n) for n in rows.world_size})),
                len(rows),
                said(rows.timing),
                said(rows.statistic),
                said(rows.rank_reduction),
            )
        )
    return tuple(records)


def hidden_effect(found: Fit) -> HiddenEffect | None:
    """Regress residuals on log2(hidden_dim) inside arms that have several hidden sizes.

    The model knows hidden_dim only through bytes, turns and workgroups, so a slope is an effect
    that it misses. 90 % interval by the usual least-squares formula.
    """
    table = found.problem.observations.table
    keep = ~np.isnan(table.hidden_dim)
    arm = arms(found)
    x, y = [], []
    groups = 0
    for a in np.unique(arm[keep]):
        mine = keep & (arm == a)
        hidden = np.log2(table.hidden_dim[mine])
        if np.unique(hidden).size < 3:
            continue
        # Residuals at like bytes: take out a smooth trend in log bytes first.
        size = np.log2(found.problem.observations.size_bytes[mine])
        design = np.column_stack([np.ones_like(size), size, size**2])
        project = design @ np.linalg.pinv(design)
        x.append(hidden - project @ hidden)
        residual = -found.log_residual[mine]
        y.append(residual - project @ residual)
        groups += 3
    if not x:
        return None
    a, b = np.concatenate(x), np.concatenate(y)
    square = float(a @ a)
    slope = float(a @ b) / square
    free = max(1, a.size - groups - 1)
    se = float(np.sqrt(np.sum((b - slope * a) ** 2) / free / square))
    half = NORMAL_HALF_WIDTH * se
    return HiddenEffect(a.size, 100 * slope, 100 * (slope - half), 100 * (slope + half))


#: A world size whose rows scatter by more than this around the model contradict each other: the
#: published clean tables scatter by 1 to 4 %.
MAX_SCATTER = 0.12


def refusals(found: Fit, *, unclean: bool = False) -> tuple[Refusal, ...]:
    """Return the GPUs and world sizes whose fused rows are too inconsistent to read a cutoff from.

    The measure is the root mean square of the log residuals (at least four rows); the reason names
    the rows that disagree most and by how much. ``unclean`` rows are refused whatever they say.
    """
    table = found.problem.observations.table
    out = []
    pairs = zip(table.gpu, table.world_size, strict=True)
    for gpu, n in sorted({(str(g), int(n)) for g, n in pairs}):
        mine = np.flatnonzero((table.gpu == gpu) & (table.world_size == n) & (table.op == FUSED))
        if not mine.size:
            continue
        quality = ", ".join(sorted(set(table.quality[mine].tolist())))
        unfit = f"no clean row ({quality}); " if unclean else ""
        residual = -found.log_residual[mine]
        scatter = float(np.sqrt(np.mean(residual**2)))
        if mine.size < 4 or scatter <= MAX_SCATTER:
            if unclean:
                out.append(Refusal(gpu, n, unfit.rstrip("; ")))
            continue
        worst = mine[np.argsort(-np.abs(residual))[:3]]
        named = "; ".join(
            f"{found.problem.observations.algorithm[i]} at {table.tokens[i]:.0f} tokens is "
            f"{table.latency_us[i]:.2f} us, {table.latency_us[i] - found.predicted[i]:+.1f} us "
            f"from the model ({table.where(i)})"
            for i in worst
        )
        out.append(
            Refusal(
                gpu,
                n,
                f"{unfit}rows scatter by {100 * scatter:.0f} % around any smooth latency "
                f"(limit {100 * MAX_SCATTER:.0f} %): {named}",
            )
        )
    return tuple(out)
