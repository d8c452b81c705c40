"""One kernel for every size: what a rule must be where results may not depend on the batch.

A byte cutoff makes the kernel depend on the batch, and with it the order in which the norm sums its
squares: the same token gets other bits in a larger batch. Each of AITER's fused kernels alone does
not (read in ``csrc/include/custom_all_reduce.cuh`` at e404860): the 1-stage takes one token a
workgroup, sums in fp32 in the order of the ranks and norms with as many threads as the hidden size
says; the 2-stage sums in the same order, rounds once, and norms a token a workgroup with a block
that the hidden size sets. Where a row's packs are no multiple of the ranks, though, the 2-stage
leaves the batch's last packs unreduced, so what a token gets depends on its place. Both are
readings of the source; nobody has run them for this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..errors import InputError
from ..model.shape import FUSED, ONE_STAGE, TWO_STAGE
from ..rules.adapt import adapt, kernel_limits
from ..rules.algebra import by_world_size, parts_of
from ..rules.catalogue import ALWAYS_1STAGE, current
from ..rules.condition import Always, Compare, Condition
from ..rules.evidence import CutoffEvidence
from ..rules.rule import Rule
from ..units import PACK_BYTES, kib
from .decision import Cutoff, Decision
from .regret import Arms, Choice, Estimate
from .setting import Setting

if TYPE_CHECKING:
    from .schemas import OneKernelRecord, OneKernelsRecord, PriceRecord

#: What a rule of this kind is called, and the verdict that its evidence has.
NAME = "batch-invariant"
VERDICT = "batch_invariant"


class _Same(Struct, frozen=True):
    """The calls of a workload that only one arm takes: their share of its weight, and what they add
    to the mean call, (draws,).
    """

    share: float
    us: NDArray[np.float64]

    @classmethod
    def of(cls, decision: Decision, n: int) -> _Same:
        setting, load = decision.setting, decision.workload
        calls = setting.shapes(load.tokens, load.hidden_dim, n)
        alone = ~setting.takes_both(calls)
        if not alone.any():
            return cls(0.0, np.zeros(1))
        rest = calls.select(alone)
        one, other = (setting.latency_us(rest, arm, setting.draws) for arm in setting.arms)
        us = np.where(setting.takes(rest, ONE_STAGE), one, other)
        weight = load.weight[alone]
        return cls(float(weight.sum()), us @ weight)


class Price(Struct, frozen=True):
    """What one arm for every size costs beside the recommended rule, over the whole workload.

    ``call_us`` is the mean of a call, ``pct`` that in percent of the calls' time; ``most_us`` is
    the dearest call, ``tokens`` x ``hidden_dim``. Negative where the arm is faster.
    """

    arm: str
    call_us: Estimate
    pct: Estimate
    most_us: Estimate
    tokens: int
    hidden_dim: int

    @classmethod
    def of(cls, arms: Arms, arm: str, choice: Choice, same: _Same) -> Price:
        """Return the price of an arm beside a rule that chooses 1-stage where ``choice`` says.

        ``same`` are the calls that run one arm under any rule.
        """
        mine = arms.one_us if arm == ONE_STAGE else arms.other_us
        theirs = arms.chosen_us(choice)
        more = mine - theirs
        dearest = int(np.argmax(more.mean(axis=0)))
        price = (1 - same.share) * (more @ arms.weight)
        paid = (1 - same.share) * (theirs @ arms.weight) + same.us
        return cls(
            arm=arm,
            call_us=Estimate.of(price),
            pct=Estimate.of(100 * price / paid),
            most_us=Estimate.of(more[:, dearest]),
            tokens=int(arms.shapes.tokens[dearest]),
            hidden_dim=int(arms.shapes.hidden_dim[dearest]),
        )

    def step_us(self, calls_per_step: int) -> Estimate:
        """Return the price of a decode step that makes so many calls."""
        one = self.call_us
        return Estimate(*(calls_per_step * us for us in (one.value, one.lo, one.hi)))

    def to_dict(self, calls_per_step: int | None) -> PriceRecord:
        """Return the price as JSON data."""
        step = None if calls_per_step is None else self.step_us(calls_per_step).to_dict()
        return {
            "arm": self.arm,
            "us_per_call": self.call_us.to_dict(),
            "us_per_step": step,
            "pct": self.pct.to_dict(),
            "most_us_per_call": self.most_us.to_dict(),
            "most_at": {"tokens": self.tokens, "hidden_dim": self.hidden_dim},
        }


class OneKernel(Struct, frozen=True):
    """The kernel for every size at one world size, and why that one.

    ``price`` and ``other`` are what it and the other arm cost for every size; None where there is
    no recommended cutoff to compare with, and where the other arm does not take every size.
    """

    world_size: int
    arm: str
    reason: str
    price: Price | None
    other: Price | None

    def to_dict(self, calls_per_step: int | None) -> OneKernelRecord:
        """Return an entry of ``kernels``."""
        return {
            "world_size": self.world_size,
            "arm": self.arm,
            "reason": self.reason,
            "price": self.price.to_dict(calls_per_step) if self.price else None,
            "other": self.other.to_dict(calls_per_step) if self.other else None,
        }


class OneKernels(Struct, frozen=True):
    """The kernels for every size, one a world size; ``calls_per_step`` None: no model is named."""

    decision: Decision
    kernels: tuple[OneKernel, ...]
    calls_per_step: int | None

    @property
    def rule(self) -> Rule:
        """The rule that runs them; world sizes that were not asked about keep the engine's own."""
        setting = self.decision.setting
        cases: dict[int, Condition] = {
            k.world_size: Always(k.arm == ONE_STAGE) for k in self.kernels
        }
        return Rule(NAME, by_world_size(cases), op=setting.op, otherwise=setting.alternative)

    @property
    def evidence(self) -> dict[int, CutoffEvidence]:
        """What supports the rule: what the kernels do, not how fast they are."""
        return {k.world_size: CutoffEvidence(VERDICT, reason=k.reason) for k in self.kernels}

    def notes(self) -> list[str]:
        """Return what must be known of batch invariance, in sentences."""
        setting = self.decision.setting
        said = [
            "a cutoff makes the kernel, and so the rounding, depend on the batch; one kernel for "
            "every size does not"
        ]
        if setting.op == FUSED:
            said += _fused(self)
        said.append("the price is that of captured decode batches; prefill runs the kernel too")
        most = setting.kernel.custom_max_bytes
        if most is not None:
            said.append(
                f"above {kib(most)} neither runs: keep every batch, prefill included, below it"
            )
        return [*said, "read in the source of the kernels, not verified on a GPU"]

    def to_dict(self) -> OneKernelsRecord:
        """Return ``batch_invariant`` of the ``costmodel/recommend/1`` record."""
        return {
            "kernels": [k.to_dict(self.calls_per_step) for k in self.kernels],
            "calls_per_step": self.calls_per_step,
            "rule": self.rule.to_json(),
            "notes": self.notes(),
        }


def one_kernel(decision: Decision, calls_per_step: int | None = None) -> OneKernels:
    """Return the one kernel for every size at each world size of a decision.

    1-stage where it takes every size, with the guards of the engine that the decision is for; else
    the other arm. ``calls_per_step`` are the fused calls of a decode step.
    """
    kernels = tuple(_kernel(decision, cutoff) for cutoff in decision.cutoffs)
    return OneKernels(decision, kernels, calls_per_step)


def _kernel(decision: Decision, cutoff: Cutoff) -> OneKernel:
    setting, n = decision.setting, cutoff.world_size
    one, other = setting.arms
    against = _sizes_refused(setting, n)
    arm = other if against else one
    price = rest = None
    if cutoff.claimed:
        choice = cutoff.arms.use_1stage(decision.rule)
        same = _Same.of(decision, n)
        price = Price.of(cutoff.arms, arm, choice, same)
        rest = None if against else Price.of(cutoff.arms, other, choice, same)
    why = against or "1-stage takes every size"
    return OneKernel(n, arm, why, price, rest)


def _sizes_refused(setting: Setting, n: int) -> str:
    """Return in words why 1-stage does not take every size at a world size, "" where it does."""
    limits = _of_the_batch(kernel_limits(setting.kernel))
    if limits:
        return f"1-stage of {setting.kernel.title} takes {limits} only, so it cannot run every size"
    if not setting.engine:
        return ""
    always = replace(ALWAYS_1STAGE, op=setting.op)
    installed = current(setting.engine, setting.op).condition
    try:
        kept = adapt(always, installed, setting.kernel).rule.condition.at(n)
    except InputError as error:
        return str(error)
    guards = _of_the_batch(kept)
    if not guards:
        return ""
    return f"{setting.engine} keeps 1-stage to {guards}, so it cannot run every size"


def _of_the_batch(condition: Condition) -> str:
    """Return in words what a condition asks of the batch's size, "" for nothing."""
    asked = (
        part.words()
        for part in parts_of(condition)
        if isinstance(part, Compare) and part.quantity in ("tokens", "bytes", "elements")
    )
    return " and ".join(dict.fromkeys(asked))


def _fused(found: OneKernels) -> list[str]:
    """Say why the kernels that were chosen do not look at the batch, and what else does not."""
    ordered = "sums in the order of the ranks, one rounding, norms a token a workgroup"
    said, cheaper = [], []
    if any(k.arm == ONE_STAGE for k in found.kernels):
        said.append(
            "1-stage: one token a workgroup, sums in fp32 in the order of the ranks, threads by "
            "hidden size alone"
        )
    if any(k.arm == TWO_STAGE for k in found.kernels):
        said.append(f"2-stage: {ordered}")
    for k in found.kernels:
        lost = _unreduced(found.decision, k.world_size)
        if k.arm == TWO_STAGE and lost:
            said.append(
                f"at TP{k.world_size} and hidden {', '.join(map(str, lost))} the 2-stage leaves "
                "the last packs of a batch unreduced: not invariant there"
            )
        if k.price and k.other and k.other.arm == TWO_STAGE and not lost:
            cheaper += [k.world_size] if k.other.call_us.value < k.price.call_us.value else []
    if cheaper:
        said.append(
            f"the 2-stage for every size is cheaper at {', '.join(f'TP{n}' for n in cheaper)} and, "
            f"by its source, as independent of the batch: {ordered}"
        )
    return said


def _unreduced(decision: Decision, n: int) -> list[int]:
    """Return the hidden sizes of the workload whose last packs the 2-stage leaves unreduced."""
    unit = decision.setting.element_bytes
    return [h for h in decision.workload.hidden_dims() if h * unit // PACK_BYTES % n]
