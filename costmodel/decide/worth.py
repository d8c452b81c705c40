"""What a change of rule is worth: microseconds saved in one decode step.

A decode step calls the fused op twice a layer, so a step saves calls x (latency under the old rule
- latency under the new one). Both latencies are the calibrated model's; the interval comes from
draws of its posterior. Harness constants are the same for both algorithms and cancel; a batch size
on which both rules run the same algorithm is worth exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration.posterior import Calibration
from ..data import kernels as _kernel
from ..data.histogram import BatchHistogram
from ..data.llms import LLM
from ..data.workload import Workload, captured_batch_sizes
from ..errors import InputError
from ..model.shape import FUSED, ONE_STAGE, TWO_STAGE
from ..rules.rule import Rule
from ..units import element_bytes, kib
from .recommendation import MEASURED, NOT_IDENTIFIED, TRANSFERRED, recommend
from .regret import Estimate, ModelledPairs

SCHEMA = "costmodel/worth/1"


@dataclass(frozen=True)
class BatchWorth:
    """One captured batch size: the algorithms of both rules and the us that a step saves."""

    batch: int
    bytes: int
    old: str
    new: str
    saved_us: Estimate

    def to_dict(self) -> dict[str, Any]:
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

    ``mean_us`` is the mean over ``histogram``, ``evidence`` is ``measured`` when both algorithms
    were measured on this GPU at this world size, else ``transferred``.
    """

    llm: LLM
    world_size: int
    gpu: str
    dtype: str
    aiter_version: str
    calibration: Calibration
    old: Rule
    new: Rule
    histogram: BatchHistogram
    batches: tuple[BatchWorth, ...]
    mean_us: Estimate
    evidence: str

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the ``costmodel/worth/1`` record that is about this GPU."""
        return {
            "gpu": self.gpu,
            "arch": next(a for a, g in self.calibration.gpus if g == self.gpu),
            "calibration": {"id": self.calibration.id, "sha256": self.calibration.sha256},
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


def worth(
    calibration: Calibration,
    llm: LLM,
    world_size: int,
    old: Rule,
    new: Rule,
    *,
    gpu: str,
    dtype: str | None = None,
    aiter_version: str = _kernel.LATEST,
    histogram: BatchHistogram | None = None,
) -> Worth:
    """Return what changing from ``old`` to ``new`` saves a decode step of ``llm``.

    ``dtype`` defaults to the model's; ``histogram`` to every captured batch size alike. Where the
    1-stage kernel does not take a batch, both rules run 2-stage. Raises :class:`InputError` when
    no batch can run both algorithms, and for a rule without a claim for ``world_size``.
    """
    dtype = dtype or llm.dtype
    histogram = histogram or BatchHistogram.alike()
    batch = captured_batch_sizes()
    try:
        model = ModelledPairs.of(
            calibration, Workload.of([llm.hidden_size], batch), world_size,
            gpu=gpu, dtype=dtype, aiter_version=aiter_version,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{llm.name}, hidden size {llm.hidden_size}: {error}") from None
    use = []
    for rule in (old, new):
        try:
            use.append(model.use_1stage(rule))
        except InputError as error:
            raise InputError(f"rule {rule.name}: {error}") from None
    before, after = (np.where(u, model.one_us, model.two_us) for u in use)
    saved = np.zeros((len(before), batch.size))
    one = np.zeros((2, batch.size), np.bool_)
    at = np.searchsorted(batch, model.shapes.tokens)
    saved[:, at] = llm.calls_per_step * (before - after)
    one[:, at] = use
    share = np.zeros(batch.size)
    share[np.searchsorted(batch, histogram.batch)] = histogram.share
    row_bytes = llm.hidden_size * element_bytes(dtype)
    names = np.where(one, ONE_STAGE, TWO_STAGE).tolist()
    arms = [calibration.measured(gpu, world_size, FUSED, a) for a in (ONE_STAGE, TWO_STAGE)]
    return Worth(
        llm=llm,
        world_size=world_size,
        gpu=gpu,
        dtype=dtype,
        aiter_version=aiter_version,
        calibration=calibration,
        old=old,
        new=new,
        histogram=histogram,
        batches=tuple(
            BatchWorth(b, b * row_bytes, names[0][i], names[1][i], Estimate.of(saved[:, i]))
            for i, b in enumerate(batch.tolist())
        ),
        mean_us=Estimate.of(saved @ share),
        evidence=MEASURED if all(arms) else TRANSFERRED,
    )


def recommended_at(
    calibration: Calibration, gpu: str, world_size: int, dtype: str, aiter_version: str
) -> Rule:
    """Return the recommended rule of one world size.

    Raises :class:`InputError`, with the reason and the interval, where it makes no claim.
    """
    found = recommend(
        calibration, gpu=gpu, dtype=dtype, aiter_version=aiter_version, world_sizes=(world_size,)
    )
    (cutoff,) = found.cutoffs
    if cutoff.verdict == NOT_IDENTIFIED:
        ends = [None if b is None else kib(b) for b in (cutoff.max_bytes_lo, cutoff.max_bytes_hi)]
        raise InputError(
            f"no recommendation for {gpu} at TP{world_size}, so no worth: {cutoff.reason} "
            f"(90 % interval of the cutoff {ends[0] or '0'} to {ends[1] or 'no limit'}); name "
            "another rule with --to"
        )
    return found.rule()
