"""What a change of rule is worth: microseconds saved in one decode step.

A decode step makes as many fused calls as the engine fuses in the model
(:mod:`~costmodel.data.engine_calls`), so it saves calls x (latency under the old rule - latency
under the new one); nothing where model, engine or deployment leave no call. Both latencies are the
calibrated model's; the interval comes from draws of its posterior. Harness constants are the same
for both algorithms and cancel; a batch size on which both rules run the same algorithm is worth
exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.deployment import Deployment
from ..data.engine_calls import FusedCalls, fused_calls
from ..data.histogram import BatchHistogram
from ..data.llms import LLM
from ..errors import InputError
from ..rules.rule import Rule
from .evidence import arms_evidence, evidence_class
from .regret import Arms, Estimate
from .setting import Setting

if TYPE_CHECKING:
    import pandas as pd

    from .schemas import BatchWorthRecord, MeanWorth, WorthOnGpu, Worths


class BatchWorth(Struct, frozen=True):
    """One captured batch size: the algorithms of both rules and the us that a step saves.

    ``batch`` are sequences, ``tokens`` what they bring to the step. The interval of ``saved_us``
    is for your machine, that of ``this_kernel_us`` for the sources' laboratories.
    """

    batch: int
    tokens: int
    bytes: int
    old: str
    new: str
    saved_us: Estimate
    this_kernel_us: Estimate

    def to_dict(self) -> BatchWorthRecord:
        """Return an entry of ``batches`` in ``costmodel/worth/1``."""
        return {
            "batch": self.batch,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "from": self.old,
            "to": self.new,
            "us_per_step": self.saved_us.value,
            "us_per_step_lo": self.saved_us.lo,
            "us_per_step_hi": self.saved_us.hi,
        }


class Worth(Struct, frozen=True):
    """What changing from rule ``old`` to ``new`` saves on one GPU; negative where it costs.

    ``calls`` are the fused calls of a step in ``deployment``, and where that number comes from.
    ``mean_us`` is the mean over ``histogram``, ``evidence`` is the class of what both
    arms' latencies rest on (:func:`.evidence_class`). ``batches`` is empty where the model makes no
    call that both arms take.
    """

    setting: Setting
    llm: LLM
    world_size: int
    old: Rule
    new: Rule
    deployment: Deployment
    calls: FusedCalls
    histogram: BatchHistogram
    batches: tuple[BatchWorth, ...]
    mean_us: Estimate
    evidence: str

    @property
    def changed(self) -> tuple[BatchWorth, ...]:
        """The captured batch sizes on which the rules run different algorithms."""
        return tuple(b for b in self.batches if b.old != b.new)

    @property
    def met(self) -> bool:
        """Whether the histogram holds a batch on which the rules run different algorithms."""
        steps = set(self.histogram.batch[self.histogram.share > 0].tolist())
        return any(b.batch in steps for b in self.changed)

    @property
    def decided(self) -> bool:
        """Whether the 90 % interval of the mean saving does not include zero."""
        return self.mean_us.lo > 0 or self.mean_us.hi < 0

    @property
    def step_pct(self) -> Estimate | None:
        """The mean saving in percent of a decode step, where its time is given."""
        if self.deployment.step_ms is None:
            return None
        scale = 100 / (1000 * self.deployment.step_ms)
        mean = self.mean_us
        return Estimate(mean.value * scale, mean.lo * scale, mean.hi * scale)

    def _mean(self) -> MeanWorth:
        mean: MeanWorth = {
            "us_per_step": self.mean_us.value,
            "us_per_step_lo": self.mean_us.lo,
            "us_per_step_hi": self.mean_us.hi,
        }
        if (share := self.step_pct) is not None:
            mean["pct_of_step"] = share.value
            mean["pct_of_step_lo"] = share.lo
            mean["pct_of_step_hi"] = share.hi
        return mean

    def to_dict(self) -> WorthOnGpu:
        """Return the part of the ``costmodel/worth/1`` record that is about this GPU."""
        about = self.setting.about()
        return {
            "gpu": about["gpu"],
            "arch": about["arch"],
            "calibration": about["calibration"],
            "evidence": self.evidence,
            "from": {"rule": self.old.name, "words": self.old.words()},
            "to": {"rule": self.new.name, "words": self.new.words()},
            "batches": [b.to_dict() for b in self.batches],
            "over_histogram": self._mean(),
            "decided": self.decided,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a row per captured batch size as a pandas data frame."""
        import pandas as pd

        return pd.DataFrame([b.to_dict() for b in self.batches])

    def __repr__(self) -> str:
        mean = self.mean_us
        return (
            f"Worth({self.setting.gpu} TP{self.world_size}, {self.old.name} -> {self.new.name}: "
            f"{mean.value:+.1f} us a step, {mean.lo:+.1f} to {mean.hi:+.1f})"
        )


def worth(
    setting: Setting,
    llm: LLM,
    world_size: int,
    old: Rule,
    new: Rule,
    *,
    histogram: BatchHistogram | None = None,
    deployment: Deployment | None = None,
) -> Worth:
    """Return what changing from ``old`` to ``new`` saves a decode step of ``llm``.

    ``deployment`` says whose fused calls are counted and at which batch sizes (default: every block
    that could be fused), ``histogram`` defaults to every captured batch size alike. Where the
    1-stage kernel does not take a batch, both rules run the other arm of the setting. Where there
    is no fused call, the answer is 0. Raises :class:`InputError` when no batch can run both arms of
    calls that are made, for a rule of another op, for one without a claim for ``world_size``, and
    for a decode step shorter than its fused calls.
    """
    for rule in (old, new):
        rule.check_op(setting.op)
    served = deployment or Deployment()
    calls = fused_calls(llm, served)
    weights = histogram or BatchHistogram.alike(served)
    batches = _batches(setting, llm, world_size, (old, new), served, calls)
    saved = np.zeros((1, 0)) if batches is None else batches[0]
    share = np.zeros(saved.shape[1])
    if batches is not None:
        share[np.searchsorted(served.batches, weights.batch)] = weights.share
    return Worth(
        setting=setting,
        llm=llm,
        world_size=world_size,
        old=old,
        new=new,
        deployment=served,
        calls=calls,
        histogram=weights,
        batches=() if batches is None else batches[1],
        mean_us=Estimate.of(saved @ share),
        evidence=evidence_class(arms_evidence(setting, world_size)),
    )


def record(worths: Sequence[Worth]) -> Worths:
    """Return the worth of one change on several GPUs as ``costmodel/worth/1``."""
    first = worths[0]
    llm, calls, served = first.llm, first.calls, first.deployment
    found: Worths = {
        "schema": "costmodel/worth/1",
        "model": {
            "name": llm.name,
            "hidden_size": llm.hidden_size,
            "num_layers": llm.num_layers,
            "calls_per_step": calls.per_step,
            "source": llm.source,
            "blocks_per_step": llm.blocks,
            "op": llm.op,
            "calls": calls.to_dict(),
        },
        "world_size": first.world_size,
        "dtype": first.setting.dtype,
        "aiter_version": first.setting.aiter_version,
        "histogram": first.histogram.name or None,
        "gpus": [w.to_dict() for w in worths],
    }
    if served != Deployment(engine=served.engine):
        found["deployment"] = served.to_dict()
    return found


def _batches(
    setting: Setting,
    llm: LLM,
    world_size: int,
    rules: tuple[Rule, Rule],
    served: Deployment,
    calls: FusedCalls,
) -> tuple[NDArray[np.float64], tuple[BatchWorth, ...]] | None:
    """Return what each captured batch saves, (draws, n), and as records.

    None where no call is made and none could run both arms.
    """
    batch, tokens = served.batches, served.tokens
    try:
        arms = Arms.of(setting, served.workload([llm.hidden_size]), world_size)
    except InputError as error:
        if not calls.per_step:
            return None
        raise InputError(f"{llm.name}: {error}") from None
    _check_step(setting, arms, served, calls)
    use = [arms.use_1stage(rule) for rule in rules]
    saved, there = np.zeros((2, len(arms.one_us), batch.size))
    one = np.zeros((2, batch.size), np.bool_)
    at = np.searchsorted(tokens, arms.shapes.tokens)
    for out, where in ((saved, arms), (there, arms.in_laboratories(setting))):
        before, after = (where.chosen_us(u) for u in use)
        out[:, at] = calls.per_step * (before - after)
    one[:, at] = use
    row_bytes = llm.hidden_size * setting.element_bytes
    names = np.where(one, *setting.arms).tolist()
    estimates = zip(Estimate.of_each(saved), Estimate.of_each(there), strict=True)
    return saved, tuple(
        BatchWorth(
            b,
            t,
            t * row_bytes,
            names[0][i],
            names[1][i],
            *both,
        )
        for i, (b, t, both) in enumerate(
            zip(batch.tolist(), tokens.tolist(), estimates, strict=True)
        )
    )


def _check_step(setting: Setting, arms: Arms, served: Deployment, calls: FusedCalls) -> None:
    """Refuse a step that is over before its fused calls are: a time in seconds, most likely.

    They take at least the smallest batch's, of the fastest draw, without what a benchmark adds.
    """
    if served.step_ms is None:
        return
    least_us = calls.per_step * float(np.min(arms.fastest_us - setting.draws["harness[]"]))
    if 1000 * served.step_ms < least_us:
        raise InputError(
            f"a decode step of {served.step_ms:g} ms: its {calls.per_step} fused calls alone take "
            f"{least_us / 1000:.2g} ms or more; give milliseconds"
        )
