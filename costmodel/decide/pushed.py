"""Arms of the plain op that push their data with flags in it: AITER's LL and LL128 (#5272).

Their kernels are families with calibrations of their own, which stand beside that of AITER's
kernels (:mod:`costmodel.calibration.families`). What a benchmark is said to add to AITER's kernels
holds what their barriers take beyond the model, and these arms have no barrier. So the two can be
compared only as one benchmark measured both, and nothing is carried to another GPU or world size:
what a rank barrier costs differs from one to the other (#5272 spares 8.2 us on MI308X and 3.4 us on
MI355X). Where no benchmark has both, the arms are ``not_identified``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import Coverage, Values
from ..data import kernels, statements
from ..data.workload import captured_batch_sizes
from ..errors import InputError
from ..model.fabric import FULL_MESH
from ..model.shape import (
    ALGORITHMS,
    ALL_REDUCE,
    ONE_STAGE,
    PUSHED,
    SPOKEN,
    WORLD_SIZES,
    Shapes,
)
from .evidence import MEASURED, NOT_IDENTIFIED
from .regret import Arms, BestCutoff, Cell
from .setting import Setting
from .unmodelled import HIDDEN_DIM

if TYPE_CHECKING:
    from .schemas import BesideRecord, MeasureNext, PushedArmRecord, PushedRecord

Array = NDArray[np.float64]


class PushedArm(Struct, frozen=True, dict=True):
    """One arm beside 1-stage, as ``benchmark`` (a harness key of the setting) measured both.

    ``own`` is the arm's own calibration, asked about the same GPU and dtype; ``rows`` what it
    rests on, at ``world_size``.
    """

    arm: str
    world_size: int
    setting: Setting
    own: Setting
    benchmark: str
    rows: Coverage

    @property
    def source(self) -> str:
        """The source that measured both."""
        return self.benchmark.partition("/")[0]

    def _shift(self, values: Values) -> Array:
        """Return what AITER's own arms take in the benchmark beyond values of the setting."""
        return np.asarray(values[f"harness[{self.benchmark}]"] - values["harness[]"])

    @cached_property
    def shift_us(self) -> Array:
        """What AITER's own arms take in the benchmark beyond the setting's draws, (draws, 1)."""
        return self._shift(self.setting.draws)

    def one_stage_us(self, shapes: Shapes) -> Array:
        """Return 1-stage's latencies as the benchmark shows them, like the shapes."""
        return self.setting.latency_us(shapes, ONE_STAGE) + self._shift(self.setting.point)

    def drawn_us(self, shapes: Shapes, *, laboratory: bool = False, every: int = 1) -> Array:
        """Return latencies on your machine, or in the source's ``laboratory``, (draws, n).

        ``every`` takes every so manieth draw.
        """
        drawn = {k: v[::every] if np.ndim(v) else v for k, v in self.own.draws.items()}
        values = self.setting.this_kernel if laboratory else self.setting.draws
        contrast = values[f"contrast[{self.arm}]"][::every]
        if self.setting.machine == self.benchmark:
            contrast = 0.0 * contrast
        return self.own.latency_us(shapes, ONE_STAGE, drawn) + contrast

    def against(self, arms: Arms) -> tuple[BestCutoff, BestCutoff]:
        """Return up to which size the arm spares more than 1-stage: your machine, this kernel."""
        one_us = arms.one_us + self.shift_us
        mine, theirs = (
            Arms(
                arms.shapes, arms.weight, self.drawn_us(arms.shapes, laboratory=laboratory), one_us,
                arms.aiter_version, arms.objective,
            ).best()
            for laboratory in (False, True)
        )  # fmt: skip
        return mine, theirs


class PushedCutoff(Struct, frozen=True):
    """Up to which size one arm is faster than 1-stage, as ``max_bytes`` of a cutoff (``Cell``)."""

    of: PushedArm
    here: BestCutoff
    this_kernel: BestCutoff

    @property
    def max_bytes(self) -> int | None:
        """The cutoff, None where the arm wins throughout or its interval is too wide to claim."""
        return self.here.cell.roundest() if self.here.identified else None

    @property
    def measure_next(self) -> tuple[MeasureNext, ...]:
        """The arm and 1-stage at the captured batches inside the interval, none outside any."""
        setting, (lo, hi) = self.of.setting, (self.here.lo.lo, self.here.hi.hi)
        tokens = captured_batch_sizes()
        size = tokens * HIDDEN_DIM * setting.element_bytes
        inside = tokens[(size > lo) & ((size <= hi) if hi is not None else True)]
        return _latencies(setting, self.of.world_size, (ONE_STAGE, self.of.arm), inside)

    def to_dict(self) -> PushedArmRecord:
        """Return an entry of ``pushed``."""
        return {
            "algorithm": self.of.arm,
            "kernel_family": self.of.own.calibration.kernel_family,
            "rows": self.of.rows.rows,
            "benchmark": self.of.source,
            "max_bytes": self.max_bytes,
            "max_bytes_lo": self.here.lo.lo,
            "max_bytes_hi": self.here.hi.hi,
            "max_bytes_this_kernel_lo": self.this_kernel.lo.lo,
            "max_bytes_this_kernel_hi": self.this_kernel.hi.hi,
            "measure_next": list(self.measure_next),
        }


class Pushed(Struct, frozen=True):
    """The arms that push at one world size: those that rows identify, and what the others lack."""

    cutoffs: tuple[PushedCutoff, ...]
    unidentified: tuple[str, ...]
    reason: str
    measure_next: tuple[MeasureNext, ...]

    @property
    def arms(self) -> tuple[PushedArm, ...]:
        """The arms that rows identify."""
        return tuple(c.of for c in self.cutoffs)

    @property
    def verdict(self) -> str:
        """``measured`` where a benchmark has every arm beside 1-stage, else ``not_identified``."""
        return NOT_IDENTIFIED if self.unidentified else MEASURED

    @property
    def intervals(self) -> dict[str, Cell]:
        """The 90 % interval of each arm's cutoff, by the family of its kernels."""
        return {
            c.of.own.calibration.kernel_family: Cell(c.here.lo.lo, c.here.hi.hi)
            for c in self.cutoffs
        }

    def to_dict(self, surely: BesideRecord | None) -> PushedRecord:
        """Return the ``pushed`` part of a cutoff; ``surely`` is where they win."""
        return {
            "verdict": self.verdict,
            "arms": [c.to_dict() for c in self.cutoffs],
            "surely": surely,
            "not_identified": list(self.unidentified),
            "reason": self.reason,
            "measure_next": list(self.measure_next),
        }


def has_pushed(setting: Setting) -> bool:
    """Whether AITER's main has these arms beside the kernels that the setting asks about."""
    asked = setting.op, setting.kernel.family, setting.calibration.fabric
    if asked != (ALL_REDUCE, "aiter", FULL_MESH):
        return False
    newest = kernels.aiter()
    return all(
        setting.kernel.state(ALL_REDUCE, a) == newest.state(ALL_REDUCE, a) for a in ALGORITHMS
    )


def pushed_arms(setting: Setting, world_size: int) -> tuple[PushedArm, ...]:
    """Return the arms that a benchmark measured beside 1-stage on this GPU at this world size."""
    if not has_pushed(setting):
        return ()
    found = (_arm(setting, world_size, arm) for arm in PUSHED)
    return tuple(arm for arm in found if arm is not None)


def _arm(setting: Setting, world_size: int, arm: str) -> PushedArm | None:
    family = kernels.pushing(setting.kernel.family, arm)
    own = next((c for c in setting.calibration.families if c.kernel_family == family), None)
    where = setting.gpu, world_size, ALL_REDUCE, ONE_STAGE
    rows, theirs = (c and c.measured(*where) for c in (own, setting.calibration))
    if own is None or not rows or not theirs:
        return None
    for source in rows.sources:
        key = setting.calibration.harness_key(source, setting.gpu)
        if source in theirs.sources and key is not None:
            asked = Setting(own, setting.gpu, op=ALL_REDUCE, dtype=setting.dtype, source=source)
            return PushedArm(arm, world_size, setting, asked, key, rows)
    return None


def pushed(setting: Setting, arms: Arms, world_size: int) -> Pushed | None:
    """Return what is known of the arms that push, over a workload; None where there are none."""
    if not has_pushed(setting):
        return None
    known = pushed_arms(setting, world_size)
    lacking = tuple(a for a in PUSHED if a not in {k.arm for k in known})
    return Pushed(
        tuple(PushedCutoff(arm, *arm.against(arms)) for arm in known),
        lacking,
        _lack(setting, lacking) if lacking else "",
        _measure_next(setting, world_size, lacking) if lacking else (),
    )


def identified(setting: Setting, world_sizes: Sequence[int], arm: str) -> dict[int, PushedArm]:
    """Return an arm that pushes at each world size.

    Raises :class:`InputError` for kernels without it, and where no benchmark has it beside 1-stage:
    with what to measure, and with the world sizes at which one has.
    """
    spoken = SPOKEN[arm]
    if setting.op != ALL_REDUCE:
        raise InputError(f"{spoken} is an arm of the plain op, not of {setting.op}: ask --op plain")
    if not has_pushed(setting):
        raise InputError(
            f"{spoken} stands beside the newest kernels of AITER over xGMI alone, not beside "
            f"{setting.kernel.title}"
        )
    every = {n: _arm(setting, n, arm) for n in WORLD_SIZES}
    found = {n: known for n, known in every.items() if known is not None}
    missing = [n for n in world_sizes if n not in found]
    if missing:
        where = " and ".join(f"TP{n}" for n in missing)
        known_at = ", ".join(f"TP{n}" for n in found)
        raise InputError(
            f"{spoken} is not identified at {where}: {_lack(setting, (arm,))}; measure "
            f"{said_to_measure(_measure_next(setting, missing[0], (arm,)))}"
            f"{f' (it is identified at {known_at})' if found else ''}"
        )
    return {n: found[n] for n in world_sizes}


def said_to_measure(latencies: Sequence[MeasureNext]) -> str:
    """Return latencies at one hidden size in words: ``plain_ll at hidden 7168, tokens 16, 32``."""
    arms = dict.fromkeys(f"plain_{m['algorithm']}" for m in latencies)
    tokens = sorted({m["tokens"] for m in latencies})
    return (
        f"{', '.join(arms)} at hidden {latencies[0]['hidden_dim']}, "
        f"tokens {', '.join(map(str, tokens))}"
    )


def _lack(setting: Setting, arms: tuple[str, ...]) -> str:
    """Return why some arms are not identified."""
    names = " and ".join(SPOKEN[a] for a in arms)
    return (
        f"no benchmark in this calibration has {names} beside {SPOKEN[ONE_STAGE]} on "
        f"{setting.gpu} at so many ranks, and what a barrier costs is not carried"
    )


def _measure_next(
    setting: Setting, world_size: int, lacking: tuple[str, ...]
) -> tuple[MeasureNext, ...]:
    """Return the arms and 1-stage at captured batches around where others see them cross."""
    families = {kernels.pushing("aiter", a) for a in PUSHED}
    stated = [s.hi_bytes for s in statements.published() if s.kernel_family in families]
    row = HIDDEN_DIM * setting.element_bytes
    tokens = captured_batch_sizes()
    near = tokens[(tokens * row >= min(stated) // 2) & (tokens * row <= 2 * max(stated))]
    middle: Any = near[[0, near.size // 3, 2 * near.size // 3, -1]]
    return _latencies(setting, world_size, (ONE_STAGE, *lacking), np.unique(middle))


def _latencies(
    setting: Setting, world_size: int, arms: tuple[str, ...], tokens: NDArray[np.int64]
) -> tuple[MeasureNext, ...]:
    return tuple(
        {
            "op": ALL_REDUCE, "algorithm": arm, "world_size": world_size, "tokens": count,
            "hidden_dim": HIDDEN_DIM, "dtype": setting.dtype,
        }
        for arm in arms
        for count in tokens.tolist()
    )  # fmt: skip
