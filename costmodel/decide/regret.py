"""Regret: what a rule costs above the faster algorithm, on measured pairs and over a workload.

The regret of a call is the latency of the algorithm that the rule runs minus that of the faster
one, in microseconds, or in percent of the faster one. On measured pairs both latencies are
measured, and intervals come from the bootstrap over pairs: how far the mean would move, had other
such calls been measured. Over a workload both come from the
calibrated model, and intervals from draws of its posterior; harness constants are those of a
typical benchmark, the same for both algorithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL, Calibration
from ..data import kernels as _kernel
from ..data.workload import Workload
from ..errors import InputError
from ..model.eligibility import eligible
from ..model.shape import FUSED, ONE_STAGE, TWO_STAGE, Shapes
from ..rules.rule import Rule
from .prediction import SEED, latency_us

Array = NDArray[np.float64]
Choice = NDArray[np.bool_]

#: Posterior draws behind a score over a workload, and resamples behind one over pairs.
DRAWS = 256
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A value with its 90 % interval."""

    value: float
    lo: float
    hi: float

    @classmethod
    def of(cls, draws: Array) -> Estimate:
        """Summarise draws by their mean and the 5 and 95 % quantiles."""
        tail = (1 - LEVEL) / 2
        lo, hi = np.quantile(draws, [tail, 1 - tail])
        return cls(float(draws.mean()), float(lo), float(hi))

    def to_dict(self) -> dict[str, float]:
        """Return value, lo and hi."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi}


@dataclass(frozen=True)
class Score:
    """A rule beside another over one workload at one world size, by the calibrated model.

    ``regret_pct`` and ``other_regret_pct`` are mean regrets; ``saved_us`` is what the rule saves a
    call against the other, ``saved_pct`` the same in percentage points of regret. ``differ`` is
    the share of the calls that they decide differently.
    """

    rule: str
    other: str
    world_size: int
    regret_pct: Estimate
    other_regret_pct: Estimate
    saved_pct: Estimate
    saved_us: Estimate
    differ: float


@dataclass(frozen=True)
class ModelledPairs:
    """Both algorithms over a workload at one world size: (draws, n) latencies in us.

    Holds the calls that both kernels take; ``weight`` (n,) sums to 1.
    """

    shapes: Shapes
    weight: Array
    one_us: Array
    two_us: Array
    kernel_version: str

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        workload: Workload,
        world_size: int,
        *,
        gpu: str,
        op: str = FUSED,
        dtype: str = "bf16",
        aiter_version: str = _kernel.LATEST,
        draws: int = DRAWS,
    ) -> ModelledPairs:
        """Evaluate the model on the workload.

        Raises :class:`InputError` when no call of it suits both kernels.
        """
        ran = _kernel.calibrated(calibration.kernel_family, aiter_version)
        every = Shapes.of(workload.tokens, workload.hidden_dim, world_size, op=op, dtype=dtype)
        takes_one, words = eligible(every, ONE_STAGE, ran)
        both = takes_one & eligible(every, TWO_STAGE, ran)[0]
        if not both.any():
            raise InputError(
                f"no call of the workload can run both algorithms: 1-stage needs {words}"
            )
        shapes = Shapes(
            op, dtype, every.tokens[both], every.hidden_dim[both], every.world_size[both]
        )
        values = calibration.draw(draws, SEED)
        values["harness[]"] = 0.0
        one, two = (
            np.broadcast_to(
                latency_us(calibration, shapes, a, gpu=gpu, kernel=ran, values=values),
                (draws, len(shapes)),
            )
            for a in (ONE_STAGE, TWO_STAGE)
        )
        weight = workload.weight[both] / workload.weight[both].sum()
        return cls(shapes, weight, one, two, aiter_version)

    @cached_property
    def _regret_us(self) -> tuple[Array, Array]:
        """Regret of 1-stage and of 2-stage, each (draws, n)."""
        fastest = np.minimum(self.one_us, self.two_us)
        return self.one_us - fastest, self.two_us - fastest

    @cached_property
    def _regret_pct(self) -> tuple[Array, Array]:
        fastest = np.minimum(self.one_us, self.two_us)
        one, two = self._regret_us
        return 100 * one / fastest, 100 * two / fastest

    def use_1stage(self, rule: Rule) -> Choice:
        """Return where a rule runs 1-stage, (n,)."""
        return rule.use_1stage(self.shapes, kernel_version=self.kernel_version)

    def regret_us(self, choice: Choice) -> Array:
        """Return the mean regret a call under a choice in us, (draws,)."""
        return self._mean(self._regret_us, choice)

    def regret_pct(self, choice: Choice) -> Array:
        """Return the mean regret a call under a choice in percent, (draws,)."""
        return self._mean(self._regret_pct, choice)

    def _mean(self, arms: tuple[Array, Array], choice: Choice) -> Array:
        one, two = arms
        return np.asarray(one @ (self.weight * choice) + two @ (self.weight * ~choice))

    def score(self, rule: Rule, other: Rule) -> Score:
        """Score a rule beside another, draw by draw."""
        mine, theirs = self.use_1stage(rule), self.use_1stage(other)
        mine_pct, theirs_pct = self.regret_pct(mine), self.regret_pct(theirs)
        return Score(
            rule=rule.name,
            other=other.name,
            world_size=int(self.shapes.world_size[0]),
            regret_pct=Estimate.of(mine_pct),
            other_regret_pct=Estimate.of(theirs_pct),
            saved_pct=Estimate.of(theirs_pct - mine_pct),
            saved_us=Estimate.of(self.regret_us(theirs) - self.regret_us(mine)),
            differ=float(self.weight[mine != theirs].sum()),
        )


def score(
    calibration: Calibration,
    rule: Rule,
    other: Rule,
    *,
    gpu: str,
    world_size: int,
    workload: Workload | None = None,
    op: str = FUSED,
    dtype: str = "bf16",
    aiter_version: str = _kernel.LATEST,
) -> Score:
    """Score one rule against another over a workload by the calibrated model.

    ``workload`` defaults to captured batch sizes crossed with the hidden sizes of known models.
    To score many rules on one workload make one :class:`ModelledPairs` and use its ``score``.
    Raises :class:`InputError` for a world size that a rule makes no claim for.
    """
    modelled = ModelledPairs.of(
        calibration, workload or known_workload(), world_size,
        gpu=gpu, op=op, dtype=dtype, aiter_version=aiter_version,
    )  # fmt: skip
    return modelled.score(rule, other)


def known_workload() -> Workload:
    """Return captured batch sizes crossed with the hidden sizes of known models."""
    from ..data import llms

    return Workload.of(llms.hidden_dims())


def bootstrap_means(columns: Array, resamples: int = RESAMPLES) -> Array:
    """Return bootstrap draws of the columns' means, (resamples, k), for ``columns`` (n, k).

    Rows are resampled with replacement, the same ones for every column.
    """
    n, k = columns.shape
    rng = np.random.default_rng(SEED)
    out = np.empty((resamples, k))
    for start in range(0, resamples, 64):
        stop = min(start + 64, resamples)
        count = np.empty((stop - start, n))
        for i in range(stop - start):
            count[i] = np.bincount(rng.integers(0, n, n), minlength=n)
        out[start:stop] = count @ columns / n
    return out
