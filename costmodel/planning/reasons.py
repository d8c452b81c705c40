"""Why a shape is in the plan, in words: what is new about it, and what it tells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import NORMAL_HALF_WIDTH
from ..decide.evidence import ArmEvidence
from ..decide.setting import Setting
from ..model.parameters import meaning
from ..model.shape import SPOKEN
from .candidates import Candidates
from .coordinates import Posterior
from .value import RegretSurface

Array = NDArray[np.float64]

#: Parameters named at most, and the share of what a shape tells that each must have.
NAMED = 2
SHARE = 0.15


def reasons(
    setting: Setting,
    posterior: Posterior,
    surfaces: tuple[RegretSurface, ...],
    candidates: Candidates,
    shapes: list[list[int]],
) -> list[str]:
    """Return a line per shape of the plan; ``shapes`` lists each one's measurements, in order."""
    named: set[tuple[int, str]] = set()
    before: list[int] = []
    lines = []
    for measurements in shapes:
        n = int(candidates.world_size[measurements[0] // 2])
        new = [a for m in measurements if (n, a := candidates.arm(m)) not in named]
        named |= {(n, a) for a in new}
        parts = [
            _novelty(setting, n, new),
            _precision(candidates, before, measurements),
            _told(posterior, surfaces, candidates, before, measurements),
        ]
        lines.append("; ".join(p for p in parts if p))
        before += measurements
    return lines


def _novelty(setting: Setting, n: int, arms: list[str]) -> str:
    """Say which arms the calibration has no row of: on the whole arch, or on this GPU."""
    gpus = {g for a, g in setting.calibration.gpus if a == setting.arch}
    nowhere, not_here = [], []
    for arm in arms:
        evidence = ArmEvidence.of(setting, n, arm)
        if not any(c.gpu in gpus for c in (*evidence.here, *evidence.elsewhere)):
            nowhere.append(SPOKEN[arm])
        elif not evidence.here:
            not_here.append(SPOKEN[arm])
    parts = [f"no {' or '.join(nowhere)} row of any {setting.arch} is known"] if nowhere else []
    if not_here:
        parts.append(f"no {' or '.join(not_here)} row of {setting.gpu} at {n} ranks is known")
    return ", ".join(parts)


def _precision(candidates: Candidates, before: list[int], measurements: list[int]) -> str:
    """Say how well the outcome is known beforehand, and how well afterwards (90 %, us).

    Of two arms the difference counts: the benchmark's own constant is in both.
    """
    signs = (1.0,) if len(measurements) == 1 else (-1.0, 1.0)
    scale = np.array(signs) * candidates.latency_us[measurements]
    row = scale @ candidates.rows[measurements]
    known = float(np.sqrt(row @ candidates.left_unknown(before) @ row))
    scatter = float(np.sqrt(candidates.noise_variance * np.sum(scale**2)))
    *_, last = arms = [candidates.arm(m) for m in measurements]
    both = f"{SPOKEN[last]} less {SPOKEN[arms[0]]}"
    what = both if len(arms) == 2 else SPOKEN[last]
    given = "" if not before else " after those above"
    return (
        f"{what} is known to +-{NORMAL_HALF_WIDTH * known:.1f} us{given}, this measures it to "
        f"+-{NORMAL_HALF_WIDTH * scatter:.1f}"
    )


def _told(
    posterior: Posterior,
    surfaces: tuple[RegretSurface, ...],
    candidates: Candidates,
    before: list[int],
    measurements: list[int],
) -> str:
    """Name the parameters through which the measurements narrow the decisions.

    The variance of a decision's main combination u = b' x of the parameters x falls by b' D b,
    with D what measuring takes off their covariance; parameter j's part of that is b_j (D b)_j.
    Decisions weigh by what can be gained.
    """
    taken = candidates.left_unknown(before) - candidates.left_unknown([*before, *measurements])
    taken = posterior.root @ taken[:-1, :-1] @ posterior.root.T
    part = np.zeros(len(posterior.names))
    for s in surfaces:
        b = np.linalg.solve(posterior.root.T, s.direction[0])
        part += max(s.before - s.perfect, 0.0) * b * (taken @ b)
    total = float(part[part > 0].sum())
    share: dict[str, float] = {}
    for name, value in zip(posterior.names, part.tolist(), strict=True):
        words = meaning(name)
        share[words] = share.get(words, 0.0) + value / max(total, 1e-30)
    best = sorted(share, key=lambda words: -share[words])[:NAMED]
    told = [words for words in best if share[words] >= SHARE]
    return f"narrows the {' and the '.join(told)}" if told else ""
