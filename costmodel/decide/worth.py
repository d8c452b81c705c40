"""What a change of rule is worth: microseconds saved in one decode step.

A decode step calls the fused op twice a layer, so a step saves calls x (latency under the old rule
- latency under the new one). Both latencies are the calibrated model's; the interval comes from
draws of its posterior. Harness constants are the same for both algorithms and cancel; a batch size
on which both rules run the same algorithm is worth exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.histogram import BatchHistogram
from ..data.llms import LLM
from ..data.workload import Workload, captured_batch_sizes
from ..errors import InputError
from ..rules.rule import Rule
from .evidence import arms_evidence, evidence_class
from .regret import Arms, Estimate
from .setting import Setting

if TYPE_CHECKING:
    import pandas as pd

    from .schemas import BatchWorthRecord, WorthOnGpu


@dataclass(frozen=True)
class BatchWorth:
    """One captured batch size: the algorithms of both rules and the us that a step saves."""

    batch: int
    bytes: int
    old: str
    new: str
    saved_us: Estimate

    def to_dict(self) -> BatchWorthRecord:
        """Return an entry of ``batches`` in ``costmodel/worth/1``."""
        return {
            "batch": self.batch,
            "bytes": self.bytes,
            "from": self.old,
            "to": self.new,
            "us_per_step": self.saved_us.value,
            "us_per_step_lo": self.saved_us.lo,
            "us_per_step_hi": self.saved_us.hi,
        }


@dataclass(frozen=True)
class Worth:
    """What changing from rule ``old`` to ``new`` saves on one GPU; negative where it costs.

    ``mean_us`` is the mean over ``histogram``, ``evidence`` is the class of what both
    arms' latencies rest on (:func:`.evidence_class`).
    """

    setting: Setting
    llm: LLM
    world_size: int
    old: Rule
    new: Rule
    histogram: BatchHistogram
    batches: tuple[BatchWorth, ...]
    mean_us: Estimate
    evidence: str

    @property
    def changed(self) -> tuple[BatchWorth, ...]:
        """The captured batch sizes on which the rules run different algorithms."""
        return tuple(b for b in self.batches if b.old != b.new)

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
            "over_histogram": {
                "us_per_step": self.mean_us.value,
                "us_per_step_lo": self.mean_us.lo,
                "us_per_step_hi": self.mean_us.hi,
            },
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
) -> Worth:
    """Return what changing from ``old`` to ``new`` saves a decode step of ``llm``.

    ``histogram`` defaults to every captured batch size alike. Where the 1-stage kernel does not
    take a batch, both rules run the other arm of the setting. Raises :class:`InputError` when no
    batch can run both arms, for a rule without a claim for ``world_size``, and for a model that
    makes no fused call.
    """
    if not llm.calls_per_step:
        raise InputError(f"{llm.name} makes no fused all-reduce + RMSNorm call: {llm.note}")
    weights = histogram or BatchHistogram.alike()
    batch = captured_batch_sizes()
    try:
        arms = Arms.of(setting, Workload.of([llm.hidden_size], batch), world_size)
    except InputError as error:
        raise InputError(f"{llm.name}, hidden size {llm.hidden_size}: {error}") from None
    use = [arms.use_1stage(rule) for rule in (old, new)]
    before, after = (arms.chosen_us(u) for u in use)
    saved = np.zeros((len(before), batch.size))
    one = np.zeros((2, batch.size), np.bool_)
    at = np.searchsorted(batch, arms.shapes.tokens)
    saved[:, at] = llm.calls_per_step * (before - after)
    one[:, at] = use
    share = np.zeros(batch.size)
    share[np.searchsorted(batch, weights.batch)] = weights.share
    row_bytes = llm.hidden_size * setting.element_bytes
    names = np.where(one, *setting.arms).tolist()
    return Worth(
        setting=setting,
        llm=llm,
        world_size=world_size,
        old=old,
        new=new,
        histogram=weights,
        batches=tuple(
            BatchWorth(b, b * row_bytes, names[0][i], names[1][i], Estimate.of(saved[:, i]))
            for i, b in enumerate(batch.tolist())
        ),
        mean_us=Estimate.of(saved @ share),
        evidence=evidence_class(arms_evidence(setting, world_size)),
    )
