"""Recommend: the byte size up to which 1-stage is used, per world size.

The cutoff minimises the expected regret over a workload (:mod:`.regret`). It has two intervals,
each that of the best cutoff of every posterior draw: on *your machine*, which nobody has measured,
and of *this kernel*, as if measured in the sources' laboratories. Harness constants are the same
for both arms and move no crossover, and the cutoff only by their share of the latencies that regret
is in percent of.

A rule serves every model that the engine runs. So where a workload of one model leaves a range of
cutoffs that decide alike for it, the one is taken that loses least over the hidden sizes of all
known models; and where 1-stage wins throughout a workload of small calls, the cutoff is that of
the known models' larger calls, where these have one: prefill sends them through the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..calibration.posterior import UNREAD_STATE_US, Values
from ..calibration.row_accounts import said_of
from ..data import kernels, llms
from ..data.deployment import Deployment
from ..data.workload import Workload, captured_batch_sizes, snap_tokens
from ..errors import InputError
from ..model.eligibility import check_hidden
from ..model.shape import (
    ALGORITHMS,
    ALL_REDUCE,
    FUSED,
    ONE_STAGE,
    SEPARATE,
    SEPARATE_OPS,
    SPOKEN,
    TWO_STAGE,
    WORLD_SIZES,
)
from ..units import PACK_BYTES, kib
from .adequacy import Adequacy
from .decision import Cutoff, Decision
from .evidence import (
    ALWAYS_ONE_STAGE,
    BY_PHYSICS,
    CLAIMED,
    MEASURED,
    NOT_IDENTIFIED,
    TRANSFERRED,
    ArmEvidence,
    arms_evidence,
    evidence_class,
    physics_decides,
    shortfall,
)
from .objective import Regrets
from .regret import MAX_INTERVAL_RATIO, Added, Arms, BestCutoff, Cell
from .setting import Setting
from .statements import beside

if TYPE_CHECKING:
    from .schemas import MeasureNext

#: Probability with which no cutoff may beat 1-stage throughout for it to be called always 1-stage.
ALWAYS_PROBABILITY = 0.90


def recommend(
    setting: Setting,
    workload: Workload | None = None,
    *,
    world_sizes: Sequence[int] = WORLD_SIZES,
    added_us: Added | None = None,
    deployment: Deployment | None = None,
) -> Decision:
    """Recommend a cutoff per world size for what the setting names.

    ``workload`` is what is weighed (default: :func:`known_workload`, at the batches of the
    ``deployment``); ``added_us`` as in :meth:`Arms.of`. Raises :class:`InputError`
    for kernels without a choice and for a hidden size that the 1-stage kernel rejects.
    """
    missing = setting.lacks(*setting.arms)
    if missing:
        raise InputError(f"{missing}, so there is nothing to choose")
    load = workload or known_workload(setting, deployment)
    rule_words = check_hidden(setting.shapes(1, load.hidden_dim, 2), setting.kernel)
    decision = Decision(
        setting=setting,
        workload=load,
        cutoffs=tuple(_cutoff(setting, load, n, added_us) for n in world_sizes),
        hidden_rule=rule_words,
        hidden_set=tuple(known_hidden_dims(setting)),
    )
    return as_it_will_run(decision)


def as_it_will_run(decision: Decision) -> Decision:
    """Return the decision with the regrets of its engine's rule, where it has one.

    The engine's guards cost too.
    """

    def regrets(c: Cutoff) -> Regrets:
        return c.arms.regrets(c.arms.use_1stage(decision.rule), c.estimate)

    if not decision.setting.engine or not any(c.claimed for c in decision.cutoffs):
        return decision
    cutoffs = tuple(replace(c, regrets=regrets(c)) for c in decision.cutoffs)
    return replace(decision, cutoffs=cutoffs)


def known_workload(setting: Setting, deployment: Deployment | None = None) -> Workload:
    """Return captured batch sizes crossed with :func:`known_hidden_dims`."""
    return (deployment or Deployment()).workload(known_hidden_dims(setting))


def known_hidden_dims(setting: Setting) -> list[int]:
    """Return the hidden sizes of known models that the setting's 1-stage kernel takes."""
    known = np.array(llms.hidden_dims())
    return known[setting.takes(setting.shapes(1, known, 2), ONE_STAGE)].tolist()


def weigh(
    setting: Setting,
    load: Workload,
    n: int,
    *,
    values: Values | None = None,
    added_us: Added | None = None,
) -> tuple[Arms, BestCutoff]:
    """Return both arms over a workload, and the best cutoff, which serves other models too.

    ``values`` and ``added_us`` as in :meth:`Arms.of`.
    """
    arms = Arms.of(setting, load, n, values=values, added_us=added_us)
    best = arms.best()
    others = _of_known_models(setting, best.cell, n, values=values, added_us=added_us)
    if others is None:
        return arms, best
    narrowed = others.best()
    if best.cell.hi is None:
        wide = _beyond(best, narrowed)
        return arms, wide if wide.identified or wide.always >= ALWAYS_PROBABILITY else best
    # Of the cutoffs that the workload cannot tell apart, those that lose least over known models.
    lo, hi = narrowed.cell.lo or best.cell.lo, narrowed.cell.hi or best.cell.hi
    return arms, replace(best, cell=Cell(lo, hi))


def of_this_kernel(
    setting: Setting, arms: Arms, best: BestCutoff, *, added_us: Added | None = None
) -> BestCutoff:
    """Return the best cutoff in the sources' laboratories, of what :func:`weigh` returned."""
    found = arms.in_laboratories(setting).best()
    if found.cell.hi is None and best.cell.hi is not None:
        n = arms.shapes.world_size[0]
        larger = _of_known_models(setting, found.cell, n, added_us=added_us)
        if larger is not None:
            found = _beyond(found, larger.in_laboratories(setting).best())
    # A machine that nobody has measured differs by more than the laboratories did. Where the draws
    # say otherwise, that is their scatter.
    return found if setting.machine else found.within(best)


def _of_known_models(
    setting: Setting, cell: Cell, n: int, *, values: Values | None = None,
    added_us: Added | None = None,
) -> Arms | None:  # fmt: skip
    """Return both arms over known models' calls between a cell's ends, None for no such call."""
    if cell.lo == 0:
        return None
    known = known_workload(setting)
    calls = setting.shapes(known.tokens, known.hidden_dim, n)
    inside = (calls.bytes > cell.lo) & setting.takes_both(calls)
    if cell.hi is not None:
        inside &= calls.bytes <= cell.hi
    if not inside.any():
        return None
    return Arms.of(setting, known.select(inside), n, values=values, added_us=added_us)


def _beyond(best: BestCutoff, larger: BestCutoff) -> BestCutoff:
    """Return the best cutoff of calls that all run 1-stage, and of larger ones beside them."""
    above = best.cell.lo

    def cell(found: Cell) -> Cell:
        return Cell(found.lo or above, found.hi)

    return replace(
        best,
        cell=cell(larger.cell),
        lo=best.lo if best.lo.hi is not None else cell(larger.lo),
        hi=cell(larger.hi),
        always=min(best.always, larger.always),
    )


def _cutoff(setting: Setting, load: Workload, n: int, added_us: Added | None) -> Cutoff:
    """Return the cutoff for one world size."""
    arms, best = weigh(setting, load, n, added_us=added_us)
    this_kernel = of_this_kernel(setting, arms, best, added_us=added_us)
    evidence = arms_evidence(setting, n)
    reason, verdict = _verdict(setting, best, n, evidence)
    point = best.cell.roundest()
    estimate = None if verdict == ALWAYS_ONE_STAGE or best.cell.hi is None else point
    push = None
    if setting.op == ALL_REDUCE and added_us is None:
        from .pushed import pushed  # a question about the fused op starts faster

        push = pushed(setting, arms, n)
    adequacy = Adequacy.of(arms, estimate)
    reason += adequacy.remark()
    asked = load.hidden_dims()
    claimed = verdict in CLAIMED
    unit = setting.element_bytes
    always = verdict == ALWAYS_ONE_STAGE
    tokens = load.token_counts()
    return Cutoff(
        world_size=n,
        max_bytes=point if claimed else None,
        max_bytes_lo=None if always else best.lo.lo,
        max_bytes_hi=None if always else best.hi.hi,
        this_kernel_lo=None if always else this_kernel.lo.lo,
        this_kernel_hi=None if always else this_kernel.hi.hi,
        estimate=estimate,
        cell=every_hidden_cell(setting, point, tokens) if claimed else None,
        verdict=verdict,
        reason=reason,
        evidence=evidence,
        measure_next=()
        if verdict in (MEASURED, ALWAYS_ONE_STAGE)
        else _measure_next(setting, best, point, n, asked),
        regrets=arms.regrets(arms.shapes.bytes <= (best.cell.hi or best.cell.lo), estimate),
        # What a simulation adds to both arms is not known of others.
        beside_three=setting if added_us is None else None,
        pushed=push,
        adequacy=adequacy,
        switch=tuple((h, *snap_tokens(point, h, unit, tokens)) for h in asked) if claimed else (),
        statements=beside(
            setting,
            n,
            Cell(best.lo.lo, best.hi.hi),
            adequacy.smallest,
            push.intervals if push else None,
        ),
        arms=arms,
    )


def every_hidden_cell(
    setting: Setting, max_bytes: int, tokens: NDArray[np.int64] | None = None
) -> Cell:
    """Return the cutoffs that decide as ``max_bytes`` on every captured call the kernel takes.

    Of ``tokens``, and of those that are captured in common: the rule serves them too. A call of t
    tokens has a multiple of 16 t bytes, of any hidden size up to the kernel's limit in packs of 16
    bytes.
    """
    common = captured_batch_sizes()
    step = PACK_BYTES * (common if tokens is None else np.union1d(common, tokens))
    most = setting.kernel.fused_1stage_max_packs if setting.op == FUSED else 1 << 40
    packs = np.minimum(max_bytes // step, most)
    above = step[packs < most] * (packs[packs < most] + 1)
    return Cell(int((step * packs).max()), int(above.min()) - 1 if above.size else None)


def _verdict(
    setting: Setting, best: BestCutoff, n: int, evidence: tuple[ArmEvidence, ArmEvidence]
) -> tuple[str, str]:
    """Return (reason, verdict)."""
    for refusal in setting.calibration.refusals:
        if (refusal.gpu, refusal.world_size) == (setting.gpu, n):
            return refusal.reason, NOT_IDENTIFIED
    by_physics = physics_decides(setting, n)
    without = next((arm for arm in evidence if not arm.rows), None)
    if best.always >= ALWAYS_PROBABILITY and (by_physics or without is None):
        adds = "2-stage adds" if setting.alternative == TWO_STAGE else "separate ops add"
        why = (
            f"{BY_PHYSICS}: with 2 ranks both arms move the same bytes over the one link and "
            f"{adds} a launch; "
        )
        wins = (
            "1-stage throughout is the best rule of the workload in "
            f"{100 * best.always:.0f} % of the posterior"
        )
        return (why + wins if by_physics else wins), ALWAYS_ONE_STAGE
    if without is not None:
        return (
            f"no usable row of {SPOKEN[without.arm]} ({setting.op}) on any GPU in this "
            "calibration: priors alone would decide",
            NOT_IDENTIFIED,
        )
    if lacking := unidentified(best, setting):
        return lacking, NOT_IDENTIFIED
    one, other = evidence
    if one.here and other.here:
        sources = ", ".join(sorted({*one.sources, *other.sources}))
        inferred = sum(c.gpu_inferred for arm in evidence for c in arm.here)
        guess = f", {inferred} of an inferred GPU" if inferred else ""
        measured = (
            f"both arms measured on {setting.gpu} at {n} ranks ({one.count} + {other.count} rows"
            f"{guess}: {sources})"
        )
        lacks = " and ".join(shortfall(evidence))
        reason = f"{measured}, but {lacks}" if lacks else measured
        return reason + _unread(setting), evidence_class(evidence)
    carried = "; ".join(_carried(setting, n, arm) for arm in evidence)
    return carried + _unread(setting), TRANSFERRED


def unidentified(best: BestCutoff, setting: Setting) -> str:
    """Return in words why no cutoff in bytes can be claimed of a best one, "" where it can."""
    if best.hi.lo == 0:
        # The interval is the one cell below the smallest call: no width, but no cutoff either.
        return (
            "1-stage is the faster arm on no call of the workload: run "
            f"{SPOKEN[setting.alternative]} throughout; there is no cutoff to claim"
        )
    if best.identified:
        return ""
    hi = best.hi.hi
    span = f"{kib(best.lo.lo)} to {'no limit' if hi is None else kib(hi)}"
    return (
        f"the 90 % interval of the best cutoff is {span}, more than a factor of "
        f"{MAX_INTERVAL_RATIO:g} wide"
    )


def _unread(setting: Setting) -> str:
    """Say what kernels newer than any that was read are taken for; "" for known ones."""
    if setting.kernel.known:
        return ""
    return (
        f"; the source of {setting.kernel.title} has not been read: taken to be like "
        f"{kernels.LATEST}, with {UNREAD_STATE_US:g} us more uncertainty between the arms"
    )


def _carried(setting: Setting, n: int, arm: ArmEvidence) -> str:
    """Say where an arm's kernel constants come from."""
    spoken = SPOKEN[arm.arm]
    if arm.here:
        return f"{spoken} measured here ({', '.join(arm.sources)})"
    each = (f"{c.gpu} TP{c.world_size} ({', '.join(c.sources)})" for c in arm.elsewhere)
    rows = ", ".join(dict.fromkeys(each))
    here = f"on {setting.gpu} at {n} ranks"
    aside = said_of(
        setting.calibration.data.get("aside", ()),
        gpu=setting.gpu, world_size=n, op=setting.op, algorithm=arm.arm,
    )  # fmt: skip
    none = f"has no usable row {here} ({aside})" if aside else f"never measured {here}"
    return f"{spoken} {none}, carried from {rows}"


def _measure_next(
    setting: Setting, best: BestCutoff, point: int, n: int, asked: list[int]
) -> tuple[MeasureNext, ...]:
    """Name the shapes that would narrow the cutoff: both arms at its ends and middle.

    They are batches that both arms take.
    """
    hidden = 7168 if 7168 in asked else asked[len(asked) // 2]
    unit = setting.element_bytes
    tokens = captured_batch_sizes()
    tokens = tokens[setting.takes_both(setting.shapes(tokens, hidden, n))]
    if not tokens.size:
        return ()
    low, _ = snap_tokens(best.lo.lo, hidden, unit, tokens)
    middle, above = snap_tokens(point, hidden, unit, tokens)
    high = snap_tokens((best.hi.hi or 4 * point) - 1, hidden, unit, tokens)[1]
    batch = sorted({max(int(tokens[0]), b) for b in (low, middle, above, high) if b is not None})
    return tuple(
        {
            "op": op,
            "algorithm": algorithm,
            "world_size": n,
            "tokens": count,
            "hidden_dim": hidden,
            "dtype": setting.dtype,
        }
        for op, algorithm in _measured_as(setting)
        for count in batch
    )


def _measured_as(setting: Setting) -> list[tuple[str, str]]:
    """Return both arms as (op, algorithm) of rows; separate ops have either algorithm."""
    one, other = ((setting.op, arm) for arm in setting.arms)
    if setting.alternative == SEPARATE_OPS:
        return [one, *((SEPARATE, algorithm) for algorithm in ALGORITHMS)]
    return [one, other]
