"""The recommendation: per world size, the byte size up to which 1-stage is used.

The cutoff minimises the expected regret over a workload: for a cutoff B every call with at most B
bytes runs 1-stage, the others 2-stage, and the regret of a call is what the chosen arm costs above
the faster one, in percent of it, averaged over posterior draws of the parameters. The interval is
that of the best cutoff of each draw. Harness constants are the same for both arms and move no
cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL, Calibration, Coverage, Values
from ..data import kernels as _kernel
from ..data.workload import Workload, snap_tokens
from ..errors import InputError
from ..model.eligibility import eligible
from ..model.shape import FUSED, ONE_STAGE, OPS, SEPARATE, TWO_STAGE, WORLD_SIZES, Shapes
from ..units import KIB, element_bytes, kib
from .prediction import SEED, latency_us

if TYPE_CHECKING:
    from ..rules.rule import Rule

MEASURED = "measured"
TRANSFERRED = "transferred"
NOT_IDENTIFIED = "not_identified"
ALWAYS_ONE_STAGE = "always_1stage"

#: Posterior draws behind a recommendation.
DRAWS = 128

#: A cutoff is claimed only when its 90 % interval spans at most this factor: with a wider one the
#: rules in the field (128 to 448 KiB at 4 ranks, a factor of 3.5) could not be told apart.
MAX_INTERVAL_RATIO = 4.0

#: A single cutoff is called adequate when the best rule per hidden size gains less than this.
ADEQUATE_PCT = 0.5

#: Probability with which 1-stage must win on the whole workload to be called always 1-stage.
ALWAYS_PROBABILITY = 0.90


@dataclass(frozen=True)
class Cutoff:
    """The answer for one world size. Bytes are None where none is claimed."""

    world_size: int
    max_bytes: int | None
    max_bytes_lo: int | None
    max_bytes_hi: int | None
    verdict: str
    reason: str
    measure_next: tuple[dict[str, Any], ...]
    regret_pct: float
    separate_note: str
    adequate: bool
    switch: tuple[tuple[int, int, int | None], ...]

    inclusive: bool = True


@dataclass(frozen=True)
class Recommendation:
    """Cutoffs per world size with the hidden-dim answer, for one GPU, op, dtype and version."""

    arch: str
    gpu: str
    op: str
    dtype: str
    aiter_version: str
    calibration: Calibration
    hidden_rule: str
    hidden_set: tuple[int, ...]
    depends_on_hidden: bool
    cutoffs: tuple[Cutoff, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the ``costmodel/recommend/1`` record."""
        return {
            "schema": "costmodel/recommend/1",
            "arch": self.arch,
            "gpu": self.gpu,
            "op": self.op,
            "dtype": self.dtype,
            "aiter_version": self.aiter_version,
            "calibration": {"id": self.calibration.id, "sha256": self.calibration.sha256},
            "hidden_dims": {
                "rule": self.hidden_rule,
                "set": list(self.hidden_set),
                "depends_on_hidden": self.depends_on_hidden,
            },
            "cutoffs": [
                {
                    "world_size": c.world_size,
                    "max_bytes": c.max_bytes,
                    "inclusive": c.inclusive,
                    "max_bytes_lo": c.max_bytes_lo,
                    "max_bytes_hi": c.max_bytes_hi,
                    "verdict": c.verdict,
                    "reason": c.reason,
                    "measure_next": list(c.measure_next),
                }
                for c in self.cutoffs
            ],
        }

    def _repr_html_(self) -> str:
        from ..show.notebook import recommendation_html

        return recommendation_html(self)

    def rule(self, name: str = "recommended") -> Rule:
        """Return the recommendation as a rule; world sizes without a claim are left out."""
        from ..rules.rule import Rule

        return Rule.from_cutoffs(
            name=name,
            cutoffs={
                c.world_size: c.max_bytes for c in self.cutoffs if c.verdict != NOT_IDENTIFIED
            },
            inclusive=True,
        )


def recommend(
    calibration: Calibration,
    *,
    gpu: str,
    op: str = FUSED,
    dtype: str = "bf16",
    aiter_version: str = _kernel.LATEST,
    hidden_dims: tuple[int, ...] | None = None,
    workload: Workload | None = None,
    world_sizes: tuple[int, ...] = WORLD_SIZES,
) -> Recommendation:
    """Recommend cutoffs for ``op`` on ``gpu``.

    ``hidden_dims`` are those the user asks about (default: the hidden sizes of known models);
    ``workload`` defaults to captured batch sizes crossed with them. Raises :class:`InputError` for
    an unknown op, dtype, GPU or version, and for a hidden size that the 1-stage kernel rejects.
    """
    from ..data import llms

    if op not in OPS:
        raise InputError(f"unknown op '{op}'; the model knows {', '.join(OPS)}")
    found = _kernel.calibrated(calibration.kernel_family, aiter_version)
    if op == FUSED and not found.fused_1stage:
        raise InputError(
            f"AITER {aiter_version} has no 1-stage fused kernel, so there is nothing to choose; "
            "it came with 0.1.10.post3"
        )
    known = tuple(llms.hidden_dims())
    asked = hidden_dims or known
    one_token = Shapes.of(1, asked, 2, op=op, dtype=dtype)
    valid, rule_words = eligible(one_token, ONE_STAGE, found)
    if hidden_dims and not valid.all():
        bad = int(one_token.hidden_dim[~valid][0])
        raise InputError(
            f"hidden size {bad} is rejected by the 1-stage kernel of {found.title}: "
            f"it needs {rule_words}"
        )
    every = Shapes.of(1, known, 2, op=op, dtype=dtype)
    hidden_set = tuple(np.array(known)[eligible(every, ONE_STAGE, found)[0]].tolist())
    valid_dims = tuple(np.array(asked)[valid].tolist())
    load = workload or Workload.of(valid_dims)
    cutoffs, gains = [], []
    for n in world_sizes:
        cutoff, gain = _cutoff(calibration, load, n, gpu, op, dtype, found, valid_dims)
        cutoffs.append(cutoff)
        gains.append(gain)
    return Recommendation(
        arch=next(a for a, g in calibration.gpus if g == gpu),
        gpu=gpu,
        op=op,
        dtype=dtype,
        aiter_version=aiter_version,
        calibration=calibration,
        hidden_rule=rule_words,
        hidden_set=hidden_set,
        depends_on_hidden=bool(max(gains) > ADEQUATE_PCT),
        cutoffs=tuple(cutoffs),
    )


def _cutoff(
    calibration: Calibration,
    load: Workload,
    n: int,
    gpu: str,
    op: str,
    dtype: str,
    found: _kernel.Kernel,
    asked: tuple[int, ...],
) -> tuple[Cutoff, float]:
    """Return the cutoff for one world size and what a rule per hidden size would gain (percent)."""
    shapes = Shapes.of(load.tokens, load.hidden_dim, n, op=op, dtype=dtype)
    both = eligible(shapes, ONE_STAGE, found)[0] & eligible(shapes, TWO_STAGE, found)[0]
    order = np.flatnonzero(both)[np.argsort(shapes.bytes[both], kind="stable")]
    shapes = Shapes(
        op, dtype, *(a[order] for a in (shapes.tokens, shapes.hidden_dim, shapes.world_size))
    )
    weight = load.weight[order] / load.weight[order].sum()
    values = calibration.draw(DRAWS, SEED)
    values["harness[]"] = 0.0
    chosen: dict[str, Any] = {"gpu": gpu, "kernel": found}
    t1 = latency_us(calibration, shapes, ONE_STAGE, values=values, **chosen)
    t2 = latency_us(calibration, shapes, TWO_STAGE, values=values, **chosen)
    choice = best_cutoff(shapes.bytes, t1, t2, weight)
    per_hidden = _gain_per_hidden(shapes, t1, t2, weight, choice.regret_pct)
    reason, verdict = _verdict(calibration, choice, gpu, n, op)
    claimed = verdict in (MEASURED, TRANSFERRED)
    adequate = per_hidden <= ADEQUATE_PCT
    if not adequate:
        reason += (
            f"; one cutoff is not adequate: a cutoff per hidden size would gain "
            f"{per_hidden:.1f} % more"
        )
    unit = element_bytes(dtype)
    max_bytes = choice.bytes if claimed else None
    cutoff = Cutoff(
        world_size=n,
        max_bytes=max_bytes,
        max_bytes_lo=choice.lo if verdict != ALWAYS_ONE_STAGE else None,
        max_bytes_hi=choice.hi if verdict != ALWAYS_ONE_STAGE else None,
        verdict=verdict,
        reason=reason,
        measure_next=_measure_next(choice, verdict, n, op, dtype, asked, calibration, gpu),
        regret_pct=choice.regret_pct,
        separate_note=_separate(calibration, shapes, t1, t2, weight, values, chosen)
        if op == FUSED
        else "",
        adequate=adequate,
        switch=tuple((h, *snap_tokens(max_bytes, h, unit)) for h in asked if max_bytes is not None),
    )
    return cutoff, per_hidden


@dataclass(frozen=True)
class Choice:
    """The regret-minimising cutoff, its interval over draws, and how often 1-stage wins throughout.

    ``bytes`` is the roundest value that decides alike on the workload; None in ``hi`` means that
    the interval is open above.
    """

    bytes: int
    lo: int
    hi: int | None
    regret_pct: float
    always: float
    never: float


def best_cutoff(
    size_bytes: NDArray[np.int64],
    one_stage_us: NDArray[np.float64],
    two_stage_us: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> Choice:
    """Return the byte cutoff with the least expected regret.

    ``size_bytes`` (n,) ascending; latencies (draws, n); ``weight`` (n,) sums to 1.
    """
    fastest = np.minimum(one_stage_us, two_stage_us)
    regret1 = weight * (one_stage_us / fastest - 1.0)
    regret2 = weight * (two_stage_us / fastest - 1.0)
    # Candidate k sends the first k calls to 1-stage; only ends of equal-byte runs are cutoffs.
    zero = np.zeros((len(regret1), 1))
    curve = np.hstack([zero, np.cumsum(regret1 - regret2, axis=1)]) + regret2.sum(1, keepdims=True)
    ends = np.append(np.flatnonzero(np.diff(size_bytes)) + 1, size_bytes.size)
    candidate = np.concatenate([[0], ends])
    curve = curve[:, candidate]
    edges = np.concatenate([[0], size_bytes[ends - 1]])
    best = int(np.argmin(curve.mean(0)))
    per_draw = np.argmin(curve, axis=1)
    last = len(candidate) - 1
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(per_draw, [tail, 1 - tail], method="nearest").astype(int)
    above = int(edges[best + 1]) if best < last else None
    return Choice(
        bytes=_roundest(int(edges[best]), above),
        lo=int(min(edges[lo], edges[best])),
        hi=None if hi == last else int(max(edges[hi], edges[best])),
        regret_pct=max(0.0, 100.0 * float(curve[:, best].mean())),
        always=float(np.mean(per_draw == last)),
        never=float(np.mean(per_draw == 0)),
    )


def _roundest(at_least: int, below: int | None) -> int:
    """Return the roundest byte value in [at_least, below): any of them decides alike."""
    if below is None or at_least == 0:
        return at_least
    for step in (64 * KIB, 32 * KIB, 16 * KIB, 8 * KIB, 4 * KIB, KIB):
        value = -(-at_least // step) * step
        if value < below:
            return value
    return at_least


def _verdict(
    calibration: Calibration, choice: Choice, gpu: str, n: int, op: str
) -> tuple[str, str]:
    """Return (reason, verdict)."""
    refused = next((r for r in calibration.refusals if r.gpu == gpu and r.world_size == n), None)
    one = calibration.measured(gpu, n, op, ONE_STAGE)
    two = calibration.measured(gpu, n, op, TWO_STAGE)
    if refused:
        return refused.reason, NOT_IDENTIFIED
    if choice.always >= ALWAYS_PROBABILITY:
        return (
            f"1-stage wins on every call of the workload in {100 * choice.always:.0f} % of the "
            + (
                "posterior: with 2 ranks both algorithms move the same bytes over the one link and "
                "2-stage adds a launch"
                if n == 2
                else "posterior"
            ),
            ALWAYS_ONE_STAGE,
        )
    span = f"{kib(choice.lo)} to {'no limit' if choice.hi is None else kib(choice.hi)}"
    if choice.hi is None or choice.lo == 0 or choice.hi > MAX_INTERVAL_RATIO * choice.lo:
        return (
            f"the 90 % interval of the best cutoff is {span}, more than a factor of "
            f"{MAX_INTERVAL_RATIO:g} wide",
            NOT_IDENTIFIED,
        )
    if one and two:
        sources = ", ".join(sorted({*one.sources, *two.sources}))
        return (
            f"both arms measured on {gpu} at {n} ranks ({one.rows} + {two.rows} rows: {sources})",
            MEASURED,
        )
    carried = [
        _carried(calibration, gpu, n, op, a, arm) for a, arm in ((ONE_STAGE, one), (TWO_STAGE, two))
    ]
    if not all(carried):
        arm = ONE_STAGE if not carried[0] else TWO_STAGE
        return (
            f"no {arm} row of {op} on any GPU in this calibration: priors alone would decide",
            NOT_IDENTIFIED,
        )
    return "; ".join(carried), TRANSFERRED


def _carried(
    calibration: Calibration, gpu: str, n: int, op: str, algorithm: str, here: Coverage | None
) -> str:
    """Say where an arm's kernel constants come from; "" when it was measured nowhere."""
    if here:
        return f"{algorithm} measured here ({', '.join(here.sources)})"
    refused = {(r.gpu, r.world_size) for r in calibration.refusals}
    elsewhere = [
        c
        for c in calibration.coverage
        if (c.op, c.algorithm) == (op, algorithm) and (c.gpu, c.world_size) not in refused
    ]
    if not elsewhere:
        return ""
    found = ", ".join(f"{c.gpu} TP{c.world_size} ({', '.join(c.sources)})" for c in elsewhere)
    return f"{algorithm} never measured on {gpu} at {n} ranks, carried from {found}"


def _measure_next(
    choice: Choice,
    verdict: str,
    n: int,
    op: str,
    dtype: str,
    asked: tuple[int, ...],
    calibration: Calibration,
    gpu: str,
) -> tuple[dict[str, Any], ...]:
    """Name the shapes that would narrow the cutoff: both arms at its ends and middle."""
    if verdict in (MEASURED, ALWAYS_ONE_STAGE):
        return ()
    hidden = 7168 if 7168 in asked else asked[len(asked) // 2]
    unit = element_bytes(dtype)
    low, _ = snap_tokens(choice.lo, hidden, unit)
    middle, above = snap_tokens(choice.bytes, hidden, unit)
    high = snap_tokens((choice.hi or 4 * choice.bytes) - 1, hidden, unit)[1]
    batch = sorted({max(1, b) for b in (low, middle, above, high) if b is not None})
    return tuple(
        {
            "op": op,
            "algorithm": algorithm,
            "world_size": n,
            "tokens": tokens,
            "hidden_dim": hidden,
            "dtype": dtype,
        }
        for algorithm in (ONE_STAGE, TWO_STAGE)
        for tokens in batch
    )


def _gain_per_hidden(
    shapes: Shapes,
    t1: NDArray[np.float64],
    t2: NDArray[np.float64],
    weight: NDArray[np.float64],
    single_pct: float,
) -> float:
    """Return by how many points of regret (percent) a cutoff per hidden size beats one cutoff."""
    fastest = np.minimum(t1, t2)
    regret1, regret2 = (weight * ((t / fastest).mean(0) - 1.0) for t in (t1, t2))
    total = 0.0
    for hidden in np.unique(shapes.hidden_dim):
        # Ascending bytes, no two alike: every place is a possible cutoff, the first sends none.
        mine = shapes.hidden_dim == hidden
        gained = np.cumsum(regret1[mine] - regret2[mine])
        total += regret2[mine].sum() + min(0.0, float(gained.min()))
    return max(0.0, single_pct - 100.0 * total)


def _separate(
    calibration: Calibration,
    shapes: Shapes,
    t1: NDArray[np.float64],
    t2: NDArray[np.float64],
    weight: NDArray[np.float64],
    values: Values,
    chosen: dict[str, Any],
) -> str:
    """Say where separate ops (all-reduce, then RMSNorm) beat both fused arms, if anywhere.

    A call counts when the better separate arm is faster in at least 90 % of the draws; every
    eighth draw is enough for that.
    """
    some = {k: v[::8] if np.ndim(v) else v for k, v in values.items()}
    apart = Shapes(SEPARATE, shapes.dtype, shapes.tokens, shapes.hidden_dim, shapes.world_size)
    third = np.minimum(
        latency_us(calibration, apart, ONE_STAGE, values=some, **chosen),
        latency_us(calibration, apart, TWO_STAGE, values=some, **chosen),
    )
    fused = np.minimum(t1[::8], t2[::8])
    surely = np.mean(third < fused, axis=0) >= LEVEL
    if not surely.any():
        return "separate ops: nowhere faster than the better fused arm with 90 % probability"
    at = shapes.bytes[surely]
    n = int(shapes.world_size[0])
    here = [c for c in calibration.coverage if c.op == SEPARATE and c.world_size == n]
    here = [c for c in here if c.gpu == chosen["gpu"]]
    basis = "measured here" if here else f"never measured on {chosen['gpu']} at {n} ranks"
    gain = 100 * np.median(1 - third[:, surely] / fused[:, surely], axis=0)
    return (
        f"separate ops (all-reduce, then RMSNorm; {basis}) are faster than both fused arms with "
        f"90 % probability on {100 * weight[surely].sum():.0f} % of the calls ({kib(at.min())} to "
        f"{kib(at.max())}), by {gain.min():.0f} to {gain.max():.0f} %"
    )


def recommended_rule(
    arch: str | None = None,
    gpu: str | None = None,
    *,
    calibration: Calibration | None = None,
    **options: Any,
) -> tuple[Rule, Recommendation]:
    """Return the recommended rule with the recommendation behind it."""
    from ..calibration.posterior import shipped
    from ..data.hardware import choose

    arch, gpu = choose(arch, gpu)
    found = recommend(calibration or shipped(arch), gpu=gpu, **options)
    return found.rule(), found
