"""The first rank's loop: which shape next, until enough is known or the time is spent.

It starts from the calibration that is shipped for such kernels on such links and updates it in
closed form (:mod:`..decide.learnt`): of a machine that nobody has measured, also where all its rows
are of one. The other ranks time what they are asked to and tell what they saw.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
from msgspec.structs import replace

from ...calibration.posterior import TYPICAL, Calibration
from ...calibration.shipped import of_kernels
from ...data import hardware, kernels
from ...data.workload import Workload
from ...decide.evidence import MEASURED
from ...decide.learnt import Learnt
from ...decide.setting import Setting
from ...decide.stopping import FEWEST, StoppingLimits, verdict
from ...errors import InputError, one_line
from ...model.choose import for_interconnect, split_over
from ...rules import table
from ..backends.base import LiveShape
from ..repetition import Repetition
from ..run.harness import timed_rounds
from ..run.statistics import CLEAN_PERCENT, NOISY_SHARE, Latency, summarize
from .cache import Cache, this_machine
from .offered import Offered

#: How each arm is repeated at a shape: on a GPU some tens of ms for both.
REPETITION = Repetition(rounds=8, samples=3, calls=8, slots=4, warm_up=1)

#: Most shapes; the regret on contested calls that is small enough is that of ``costmodel tune``.
LIMITS = StoppingLimits(shapes=12)

#: Most shapes that are asked for, those among them that were noisy or refused.
MOST_ASKED = 2 * LIMITS.shapes

#: Verdict of a rule whose latencies were drawn from a model.
REPLAYED = "replayed"


class Here(TypedDict):
    """What a rank is: all ranks must say the same.

    ``world_size`` counts the ranks of the op, of which a process may hold several. A
    ``kernel_version`` of AITER's is a release.
    """

    costmodel: str
    torch: str
    gpu: str
    device: str
    interconnect: str
    world_size: int
    kernel_family: str
    kernel_version: str
    dtype: str
    hidden_sizes: list[int]
    arms: list[str]
    genuine: bool


class Told(TypedDict):
    """What a rank saw at a shape: latency_us (rounds, samples, its ranks) by arm, or a refusal."""

    latency_us: dict[str, list[list[list[float]]]]
    refused: str


class RefusedError(Exception):
    """No rule follows; the message says why."""


#: Has every rank time a shape, (tokens, hidden size); returns what each told.
Ask = Callable[[int, int], Sequence[Told]]


def time_shape(
    offered: Offered, tokens: int, hidden: int, dtype: str, going: Callable[[str], None]
) -> Told:
    """Time both arms at a shape on this rank. What an arm refuses, it must refuse on all ranks.

    ``going`` as in :meth:`.Offered.ready`.
    """
    shape = LiveShape(tokens, hidden, dtype)
    try:
        timed = offered.ready(shape, REPETITION, going)
        taken = timed_rounds(timed, REPETITION, tokens, going)
        return {"latency_us": {arm: us.tolist() for arm, us in taken.items()}, "refused": ""}
    except InputError as error:
        return {"latency_us": {}, "refused": one_line(str(error))}
    finally:
        offered.release()


@dataclass(frozen=True)
class Learner:
    """What the first rank knows; ``until`` is the monotonic time at which measuring ends."""

    here: Here
    until: float

    @property
    def world_size(self) -> int:
        """Ranks of the op."""
        return self.here["world_size"]

    @cached_property
    def fabric(self) -> str:
        """What joins the ranks, as entries of the table say it."""
        return split_over(self.here["interconnect"], self.world_size)

    @cached_property
    def calibration(self) -> Calibration:
        """The shipped calibration to start from; raises :class:`RefusedError` for none."""
        here = self.here
        try:
            return of_kernels(here["gpu"], here["interconnect"], here["kernel_family"])
        except InputError as error:
            raise RefusedError(str(error)) from None

    @cached_property
    def modelled(self) -> str:
        """The fabric by whose model is learnt; raises :class:`RefusedError` for none."""
        shipped = self.calibration  # where there is none, that is the reason
        model = for_interconnect(self.fabric, shipped.kernel_family)
        if model is None:
            raise RefusedError(f"no model of ranks over {self.fabric}")
        return model.fabric

    @property
    def transferred(self) -> str:
        """In words, of which other fabric the calibration is; "" where it is of this one."""
        of = self.calibration.fabric
        return "" if of == self.modelled else f"from a prior of fabric {of}, transferred"

    @cached_property
    def setting(self) -> Setting:
        """The question, of a machine that nobody has measured; raises :class:`RefusedError`."""
        here = self.here
        return Setting(
            replace(self.calibration, fabric=self.modelled), hardware.product(here["gpu"]),
            dtype=here["dtype"], aiter_version=self._release, otherwise=here["arms"][1],
            source=TYPICAL,
        )  # fmt: skip

    @property
    def _release(self) -> str:
        """AITER's release; where other kernels are asked about none plays a part."""
        own = self.here["kernel_family"] != "aiter"
        return kernels.LATEST if own else self.here["kernel_version"].partition("+")[0]

    def cache(self, path: Path) -> Cache:
        """Return the table at a path, asked about this machine; no ``.json`` is a folder."""
        setting, device = self.setting, self.here["device"]
        return Cache(
            path if path.suffix == ".json" else path / table.file_name(device),
            device,
            table.Call(
                setting.arch, self.fabric, self.world_size, setting.op,
                table.TORCH_NAMES[setting.dtype], setting.aiter_version,
                tuple(self.here["hidden_sizes"]),
                this_machine(setting, self.here["kernel_version"], self.here["interconnect"]),
                setting.kernel.family,
            ),
        )  # fmt: skip

    def keep(self, cache: Cache, entry: table.TableEntry) -> None:
        """Keep what was learnt; raise :class:`InputError` where it cannot be, or must not."""
        if not self.here["genuine"]:
            raise InputError("replayed latencies are of no machine")
        shipped = self.calibration
        cache.keep(entry, {"id": shipped.id, "sha256": shipped.sha256})

    def rule(self, ask: Ask) -> table.TableEntry:
        """Measure by ``ask`` and return the rule; raise :class:`RefusedError` for none."""
        here, setting = self.here, self.setting
        for refusal in setting.calibration.refusals:
            if (refusal.gpu, refusal.world_size) == (setting.gpu, self.world_size):
                raise RefusedError(refusal.reason)
        prior = Learnt.nothing(setting, Workload.of(here["hidden_sizes"]), self.world_size)
        learnt = self._learnt(prior, ask)
        if learnt.at.size < FEWEST:
            raise RefusedError(
                f"the budget ended after {learnt.at.size} of at least {FEWEST} pairs"
            )
        if why := learnt.refusal():
            raise RefusedError(f"after {learnt.at.size} pairs {why}")
        return self._entry(setting, learnt)

    def _learnt(self, learnt: Learnt, ask: Ask) -> Learnt:
        """Return what is known when enough is, or the time is spent; refuse a busy machine."""
        history = [learnt.standing()]
        left_out: list[int] = []
        timed = noisy = asked = 0
        longest_s = 0.0
        while verdict(history, LIMITS) is None and asked < MOST_ASKED:
            call = learnt.most_telling(left_out)
            if call is None and learnt.at.size < FEWEST:
                call = learnt.least_known(left_out)
            began = time.monotonic()
            if call is None or began + longest_s >= self.until:
                break
            shapes, asked = learnt.prior.shapes, asked + 1
            told = ask(int(shapes.tokens[call]), int(shapes.hidden_dim[call]))
            longest_s = max(longest_s, time.monotonic() - began)
            pair = self._pair(told)
            unclean = sum(not latency.clean for latency in pair)
            timed, noisy = timed + len(pair), noisy + unclean
            if unclean or not pair:
                left_out.append(call)
                continue
            one, other = pair
            learnt = learnt.measured(call, one.latency_us, other.latency_us)
            history.append(learnt.standing())
        if noisy > NOISY_SHARE * timed:
            raise RefusedError(
                f"the machine is busy: {noisy} of {timed} arms were noisy (A/A, drift or half of "
                f"the interval beyond {CLEAN_PERCENT:g} %)"
            )
        return learnt

    def _pair(self, told: Sequence[Told]) -> list[Latency]:
        """Return both arms' latencies over all ranks, none where all ranks refused the shape."""
        refused = [(rank, each["refused"]) for rank, each in enumerate(told) if each["refused"]]
        if len(refused) == len(told):
            return []
        if refused:
            rank, why = refused[0]
            raise RefusedError(f"rank {rank} refuses what others run: {why}")
        return [
            summarize(np.concatenate([each["latency_us"][arm] for each in told], axis=2))
            for arm in self.here["arms"]
        ]

    def _entry(self, setting: Setting, learnt: Learnt) -> table.TableEntry:
        own = setting.kernel.family != "aiter"
        first, before = (None, None) if own else table.releases_like(setting.kernel)
        best = learnt.best
        return {
            "arch": setting.arch,
            "fabric": self.fabric,  # type: ignore[typeddict-item]
            "world_size": self.world_size,
            "op": setting.op,
            "dtype": table.TORCH_NAMES[setting.dtype],  # type: ignore[typeddict-item]
            "kernel_family": setting.kernel.family,
            "aiter_from": first,
            "aiter_before": before,
            "hidden_dims": self.here["hidden_sizes"],
            "max_bytes": table.MOST_BYTES if learnt.always else best.cell.roundest(),
            "verdict": MEASURED if self.here["genuine"] else REPLAYED,
            "lo": None if learnt.always else float(best.lo.lo),
            "hi": None if learnt.always or best.hi.hi is None else float(best.hi.hi),
            "machine": None,
        }
