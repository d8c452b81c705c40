"""A stated model in the place of a machine: latencies drawn from a calibration, not measured.

For trying out what stands on top of measuring (``costmodel tune``) where no GPU is: the truth is
one draw of a shipped posterior, its machine's contrasts included, so what should be found is known.
``COSTMODEL_REPLAY`` names GPU and draw (``MI355X:17``); with ``:stepped`` behind, what 1-stage is
compared with goes up and down by steps of size that no term of the model has. Each shape and arm
scatters around it as measurements do. All ranks are in one process; the op is not run, so nothing
of it is verified.

Rows are marked ``suspect`` and the source of every number says that it was replayed.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...calibration.posterior import NOISE_DOF, Values, shipped
from ...data import hardware, kernels
from ...decide.setting import Setting
from ...errors import InputError
from ...model.shape import (
    ALGORITHMS,
    ALL_REDUCE,
    FUSED,
    ONE_STAGE,
    SEPARATE,
    SEPARATE_OPS,
    Shapes,
)
from ..repetition import GRAPH
from .base import PLAIN_STAGES, SEPARATE_ARM, Backend, LiveShape, Outputs, Timed, op_and_algorithm

#: GPU and draw, such as ``MI355X:17``, and perhaps :data:`STEPPED`.
VARIABLE = "COSTMODEL_REPLAY"

#: A truth whose other arms take this share more and less by turns, each for a doubling of
#: bytes. So the arms change places several times, as on one H200 by steps of occupancy.
STEPPED = "stepped"
STEP = 0.15

#: Scatter of log latency between shapes, and between replays of one: as clean runs of the
#: project's own harness on an H200 show (docs/h200-loopback.md), of the order of 1 %.
ROW_NOISE = 0.01
REPLAY_NOISE = 0.004

#: What is replayed, of the fused and the plain op. The place of an arm here seeds its scatter.
REPLAYED = (*ALGORITHMS, SEPARATE_ARM, *PLAIN_STAGES)


def stated() -> str:
    """Return what is replayed, as the variable names it."""
    return os.environ.get(VARIABLE, "")


def stated_truth() -> tuple[str, int, bool]:
    """Return GPU, draw and whether it is stepped, as the variable names them.

    Raises :class:`InputError` where it names no such truth.
    """
    given = stated()
    gpu, draw, bent = [*given.split(":"), "", ""][:3]
    bad = given.count(":") > 2 or bent not in ("", STEPPED)
    if not gpu or not (draw or "0").isdecimal() or bad:
        raise InputError(
            f"back end replay draws from a stated model; name GPU and draw in {VARIABLE}, "
            f"such as MI355X:17 or MI355X:17:{STEPPED} (it is '{given}')"
        )
    hardware.choose(None, gpu)
    return gpu, int(draw or 0), bool(bent)


class ReplayBackend(Backend):
    """Latencies of one posterior draw, with scatter; see the module's docstring."""

    name = "replay"
    kernel_family = "aiter"
    interconnect = "xgmi"
    forced_ops = (FUSED, ALL_REDUCE)
    timings = (GRAPH,)
    genuine = False

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self.local_ranks = tuple(range(world_size))

    def set_up(self) -> None:
        """Draw the truth."""
        gpu, self.draw, self.stepped = stated_truth()
        self.arch, self.gpu = hardware.choose(None, gpu)
        self.setting = Setting(shipped(self.arch), self.gpu)
        self.kernel_version = kernels.aiter().version
        self.truth = truth(self.setting, self.draw)

    def close(self) -> None:
        """Hold nothing."""

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`."""
        if arm not in REPLAYED:
            return f"a replayed model knows {', '.join(REPLAYED)}"
        asked, calls, arm = self._asked(shape, arm)
        return None if asked.takes(calls, arm).all() else asked.limits(arm, calls)

    def prepare(self, shape: LiveShape, slots: int, seed: int) -> None:
        """Keep the shape and the seed of its scatter."""
        self._shape, self._seed = shape, seed

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """Return the arm's latency with this shape's scatter."""
        shape = self._shape
        which = REPLAYED.index(arm)
        random = np.random.default_rng(
            [self._seed, self.draw, self.world_size, shape.tokens, shape.hidden_dim, which]
        )
        asked, call, arm = self._asked(shape, arm)
        quiet = asked.latency_us(call, arm, self.truth)
        if self.stepped and arm != ONE_STAGE:
            quiet = quiet * (1 + STEP * (-1) ** np.floor(np.log2(shape.bytes)))
        latency = float(np.ravel(quiet)[0]) * np.exp(ROW_NOISE * random.standard_t(NOISE_DOF))
        return _ReplayedTruth(latency, random)

    def poison(self) -> None:
        """Nothing is written, so nothing is poisoned."""

    def outputs(self, slot: int) -> list[Outputs]:
        """Return the reference itself: the op is not run."""
        return [self.reference(slot)] * self.world_size

    def reference(self, slot: int) -> Outputs:
        """Return one element in the place of the outputs."""
        import torch

        return Outputs(torch.ones(1, 1), torch.ones(1, 1))

    def release(self) -> None:
        """Hold nothing."""

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`."""
        bent = f"{STEPPED}, " if self.stepped else ""
        said = f"draw {self.draw} of calibration {self.setting.calibration.id}, {bent}not measured"
        return {"gpu": self.gpu, "arch": self.arch, "replayed": said}

    def _asked(self, shape: LiveShape, arm: str) -> tuple[Setting, Shapes, str]:
        """Return the setting that an arm at a shape is asked of, the call, and its arm there."""
        op, algorithm = op_and_algorithm(arm)
        apart = op == SEPARATE
        asked = self.setting.but(dtype=shape.dtype, op=FUSED if apart else op)
        calls = asked.shapes([shape.tokens], [shape.hidden_dim], [self.world_size])
        return asked, calls, SEPARATE_OPS if apart else algorithm


def truth(setting: Setting, draw: int) -> Values:
    """Return one draw of a machine that nobody has measured, as values of shape (1, 1)."""
    drawn = setting.calibration.draw(2, seed=draw)
    return {name: value[:1] for name, value in drawn.items()}


class _ReplayedTruth(Timed):
    """Samples around one latency; all ranks share the one column."""

    def __init__(self, latency_us: float, random: np.random.Generator) -> None:
        self.latency_us, self.random = latency_us, random

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`."""
        scatter = REPLAY_NOISE * self.random.standard_normal((samples, 1))
        return self.latency_us * np.exp(scatter)
