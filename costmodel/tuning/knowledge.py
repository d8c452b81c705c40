"""What is known of one machine: the calibration with its rows, and the decision that follows.

The machine's rows join the published ones of its fabric, so that few shapes suffice: link rates and
kernel constants are the calibration's, what the machine adds of its own is learnt here. All its
runs count as one source, whatever their world size, since it is one machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec import structs

from ..calibration.estimate import calibrate
from ..calibration.observations import observe
from ..calibration.one_fabric import on_fabric
from ..calibration.posterior import Calibration
from ..data import hardware, kernels, measurement
from ..data.measurement import Measurements
from ..data.workload import Workload
from ..decide.decision import Cutoff, Decision
from ..decide.objective import MEAN
from ..decide.recommendation import as_it_will_run, recommend
from ..decide.setting import Setting, alternative
from ..errors import InputError
from ..live.backends.base import SEPARATE_ARM, arm_of
from ..live.run.schemas import Labels, SampleLine
from ..model.choose import for_interconnect, split_over
from ..model.interface import LatencyModel
from ..model.shape import ALL_REDUCE, FUSED, ONE_STAGE, SEPARATE_OPS, modelled_op

#: Ops between whose stages a tuning can choose: those that back ends force and the model covers.
TUNED = (FUSED, ALL_REDUCE)


def tuned_op(name: str) -> str:
    """Return the op that a name stands for, one of :data:`TUNED`.

    Raises :class:`InputError` for an op that no model covers, and for separate ops.
    """
    op = modelled_op(name)
    if op not in TUNED:
        raise InputError(
            f"{op} is no op to tune: separate ops are what may run where the fused op does not; "
            f"give --op fused --otherwise {SEPARATE_OPS}"
        )
    return op


class UndecidedError(InputError):
    """The machine's rows allow no decision, whatever more is measured; the message says why."""


@dataclass(frozen=True)
class Question:
    """What is to be learnt: the calls that count, for whom, by which objective.

    ``name`` is the source that the machine's rows get. ``workload`` None: known models.
    """

    name: str
    dtype: str
    workload: Workload | None = None
    engine: str = ""
    otherwise: str = ""
    objective: str = MEAN
    op: str = FUSED

    @property
    def arms(self) -> tuple[str, str]:
        """The two arms to choose between: 1-stage, and what runs where it does not."""
        return ONE_STAGE, alternative(self.engine, self.otherwise, self.op)


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a machine: the setting that asks about it, and the decision.

    ``measured`` says whether any row of its own is in the calibration.
    """

    setting: Setting
    decision: Decision
    measured: bool

    def cutoff(self, world_size: int) -> Cutoff:
        """Return the answer for one world size."""
        return self.decision.at(world_size)

    def but(self, cutoffs: Mapping[int, Cutoff]) -> Known:
        """Return what is known with other answers at some world sizes."""
        every = tuple(cutoffs.get(c.world_size, c) for c in self.decision.cutoffs)
        decision = as_it_will_run(structs.replace(self.decision, cutoffs=every))
        return replace(self, decision=decision)


@dataclass(frozen=True)
class TunedMachine:
    """A machine under measurement: what its rows say of it, and what is asked.

    ``replayed``: a stated model stands in for it, so its rows count although they are marked.
    """

    question: Question
    labels: Labels
    published: Measurements = field(default_factory=measurement.published, repr=False)
    _last: list[Any] = field(default_factory=list, repr=False, compare=False)

    @property
    def replayed(self) -> bool:
        """Whether the latencies are drawn from a model instead of measured."""
        return self.labels["genuine"] != "yes"

    @property
    def _family(self) -> str:
        """Whose calibration the machine's rows belong to."""
        return kernels.calibrates(self.labels["kernel_family"])

    @property
    def aiter_version(self) -> str:
        """Whose kernels the decision is about."""
        own = self._family == "aiter"
        return (own and self.labels["kernel_version"]) or kernels.LATEST

    def rows(self, records: Iterable[SampleLine]) -> list[dict[str, Any]]:
        """Return the schema 1 rows of measured shapes, as rows of this machine.

        A shape that was measured twice counts once, as it was measured last: two rows of one call
        would look like two machines. Where the machine's ranks are split over GPUs, rows of a rank
        a GPU may be of the same fabric (:func:`.split_over`).
        """
        fabric = self.labels["interconnect"]
        found: dict[tuple[object, ...], dict[str, Any]] = {}
        for record in records:
            for row in record["rows"]:
                quality = row["quality"]
                if self.replayed:
                    arm = record["arms"].get(arm_of(row["op"], row["algorithm"]))
                    quality = "clean" if arm and arm["clean"] else "noisy"
                key = (row["world_size"], row["op"], row["algorithm"], *_call(row))
                found[key] = {**row, "source": self.question.name, "quality": quality}
                if fabric == split_over(row["interconnect"], row["world_size"]):
                    found[key]["interconnect"] = fabric
        return list(found.values())

    def prior(self, world_sizes: Sequence[int]) -> Known | None:
        """Return what the shipped calibration says before anything is measured, None for nothing.

        That is so where the GPU, or its fabric, is not among those it covers.
        """
        gpu, arch = self.labels["gpu"], self.labels["arch"]
        if self.labels["interconnect"] != "xgmi" or gpu not in hardware.GPUS.get(arch, ()):
            return None
        return self._decide(Setting.shipped(gpu, **self._asked()), world_sizes, measured=False)

    @property
    def model(self) -> LatencyModel | None:
        """The model of what joins the machine's ranks, None where none is."""
        return for_interconnect(self.labels["interconnect"], self.labels["kernel_family"])

    def after(self, rows: Sequence[Mapping[str, Any]], world_sizes: Sequence[int]) -> Known:
        """Return what is known once ``rows`` are measured.

        Rows that cannot be used (noisy ones) leave it at :meth:`prior`. Raises
        :class:`UndecidedError` where the model does not cover the machine.
        """
        model = self.model
        if model is None:
            raise UndecidedError(f"no model of this interconnect ({self.labels['interconnect']})")
        mine = Measurements.from_rows(map(dict, rows))
        # Rows of another world size may be of another fabric: ranks that share their GPUs there.
        own = on_fabric(observe(mine, family=self._family), model.fabric)
        if not len(own):
            if known := self.prior(world_sizes):
                return known
            why = "; ".join(f"{count} rows: {reason}" for reason, count in own.set_aside.items())
            raise UndecidedError(f"the model covers no row of this machine ({why})")
        gpu = self.labels["gpu"]
        calibration = self._calibrated(rows, mine, model.fabric)
        source = self.question.name if calibration.harness_key(self.question.name) else ""
        setting = Setting(calibration, gpu, source=source, **self._asked())
        return self._decide(setting, world_sizes, measured=True)

    def _calibrated(
        self, rows: Sequence[Mapping[str, Any]], mine: Measurements, fabric: str
    ) -> Calibration:
        """Fit the published rows with the machine's; the last fit is kept, which is asked again."""
        if not self._last or self._last[0] != rows:
            table = measurement.concat([self.published, mine])
            seen = on_fabric(observe(table, family=self._family), fabric)
            self._last[:] = [list(rows), calibrate(seen, arch=self.labels["arch"])[0]]
        found: Calibration = self._last[1]
        return found

    def _asked(self) -> dict[str, Any]:
        asked = self.question
        return {
            "op": asked.op,
            "dtype": asked.dtype,
            "aiter_version": self.aiter_version,
            "engine": asked.engine,
            "otherwise": asked.otherwise,
            "objective": asked.objective,
        }

    def _decide(self, setting: Setting, world_sizes: Sequence[int], *, measured: bool) -> Known:
        decision = recommend(setting, self.question.workload, world_sizes=tuple(world_sizes))
        return Known(setting, decision, measured)


def live_arms(op: str, arms: Iterable[str]) -> tuple[str, ...]:
    """Return arms of an op, as a setting names them, as a back end is asked for them."""
    return tuple(SEPARATE_ARM if arm == SEPARATE_OPS else arm_of(op, arm) for arm in arms)


def _call(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["tokens"], row["hidden_dim"], row["dtype"]
