"""FlashInfer's fused all-reduce + RMSNorm (https://github.com/flashinfer-ai/flashinfer).

One process a GPU, under torchrun, NVIDIA only. FlashInfer carries TensorRT-LLM's kernels in sources
and compiles them at first use, which takes nvcc and minutes. Arms: ``1stage`` forces its one-shot,
``2stage`` its two-shot, ``auto`` leaves the choice to it; ``plain_1stage`` and ``plain_2stage`` are
the all-reduces alone.

- The one-shot pushes its input into every peer's buffer and finds arrivals by a sentinel in the
  data: three buffers take turns, and there is no barrier. The two-shot copies its input into shared
  memory, and has a barrier before its reduce and one before the norm. Both start from plain memory.
- Peers' memory comes by CUDA IPC; FlashInfer's other way asks for multicast, which stays off.
- Programmatic dependent launch is off: with it the calls of a replay overlap, and their mean is no
  longer the latency of a call. Sums are in fp32.

Read in FlashInfer 0.6.4 (``comm/trtllm_ar.py``, ``trtllm_allreduce_fusion.cuh``); 0.5.3 and 0.7.4
have the same functions. Seen to run on two H200 over NVLink.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ....data.kernels import at_date
from ....errors import InputError, first_line
from ....model.eligibility import eligible
from ....model.shape import ALL_REDUCE, FUSED, ONE_STAGE, SPOKEN, TWO_STAGE, Shapes
from ..base import AUTO, EPSILON, PLAIN_STAGES, LiveShape, Timed, op_and_algorithm
from ..one_rank import OneRankBackend, RankArm

#: The family of its kernels in rows and facts.
FAMILY = "flashinfer"

#: What it runs, beside the plain op's stages.
FUSED_ARMS = (ONE_STAGE, TWO_STAGE, AUTO)

#: ``use_oneshot`` by algorithm.
_USE_ONESHOT = {ONE_STAGE: True, TWO_STAGE: False, AUTO: None}


class FlashInferBackend(OneRankBackend):
    """One-shot and two-shot, fused with add + RMSNorm or alone."""

    name = "flashinfer"
    kernel_family = FAMILY
    forced_ops = (FUSED, ALL_REDUCE)
    #: nvcc takes two minutes for its kernels on a fast machine.
    start_up_patience = 6.0

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self._comm: Any = None
        self._workspace: _Workspace | None = None

    # -- ranks ------------------------------------------------------------------------------------

    def _join(self) -> None:
        """See :meth:`OneRankBackend._join`."""
        if find_spec("flashinfer") is None:
            raise InputError(
                "back end flashinfer needs FlashInfer, which is not installed; "
                "pip install flashinfer-python"
            )
        import torch

        self._claim(overlap=False)
        torch.zeros(1, device=self._device.kind)  # its import looks for CUDA's runtime in memory
        try:
            import flashinfer.comm as comm

            self.kernel_version = f"FlashInfer {flashinfer_version()}"
        except Exception as error:  # its import needs half a dozen libraries, and a GPU
            raise InputError(f"import flashinfer.comm fails: {first_line(error)}") from None
        self._comm = comm

    def _start(self) -> None:
        """Compile the kernels, on all ranks."""
        self.attempt(self._compile, "; FlashInfer compiles its kernels with nvcc at first use")

    def _compile(self) -> None:
        self._comm.trtllm_ar.get_trtllm_comm_module()

    def close(self) -> None:
        """Free everything; leave the group of the ranks."""
        self.release()
        if self._workspace is not None:
            self._workspace.close()
            self._workspace = None
        super().close()

    # -- one shape --------------------------------------------------------------------------------

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`; the limits of FlashInfer's kernels are facts."""
        if arm not in (*FUSED_ARMS, *PLAIN_STAGES):
            return f"flashinfer runs {', '.join((*FUSED_ARMS, *PLAIN_STAGES))}"
        op, stage = op_and_algorithm(arm)
        call = Shapes.of(shape.tokens, shape.hidden_dim, self.world_size, op=op, dtype=shape.dtype)
        stage = ONE_STAGE if stage == AUTO else stage
        takes, words = eligible(call, stage, at_date(FAMILY, ""))
        if not takes.all():
            return f"FlashInfer's {SPOKEN[stage]} takes {words}"
        if stage == TWO_STAGE and shape.tokens <= self.world_size:
            return f"FlashInfer's 2-stage takes {self.world_size + 1} tokens at least"
        return None

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """See :meth:`Backend.capture`. Shares memory, and runs every call once."""
        assert self._shape is not None
        timed = FlashInferArm(self, arm, calls)
        self.attempt(timed.allocate)
        self._share(self._shape)
        self.attempt(timed.bind)
        self.ready(timed, timing)
        return timed

    def _share(self, shape: LiveShape) -> None:
        """Make the workspace hold calls of this shape; all ranks come here."""
        wide = shape.dtype == "fp32"
        if self._workspace is None or not self._workspace.holds(shape, wide):
            if self._workspace is not None:
                self._workspace.close()
            self._workspace = _Workspace(self._comm, self._memory.group, shape, wide)

    @property
    def pointers(self) -> Any:
        """The device's table of what the ranks share."""
        assert self._workspace is not None
        return self._workspace.pointers

    # -- records ----------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`."""
        return {
            **super().environment(),
            "ranks": "one a GPU, CUDA IPC",
            "programmatic dependent launch": "off",
        }


class _Workspace:
    """What FlashInfer shares between the ranks: buffers, flags and three turns of sentinels.

    It has to be as large as a call, and fp32 has sentinels of its own.
    """

    def __init__(self, comm: Any, group: Any, shape: LiveShape, wide: bool) -> None:
        import torch.distributed as dist

        self._comm, self._group = comm, group
        self._elements, self._wide = shape.tokens * shape.hidden_dim, wide
        with _quiet():
            made = comm.trtllm_create_ipc_workspace_for_all_reduce_fusion(
                dist.get_rank(group), dist.get_world_size(group), shape.tokens, shape.hidden_dim,
                use_fp32_lamport=wide, group=group,
            )  # fmt: skip
        self._handles, self.pointers = made[:2]

    def holds(self, shape: LiveShape, wide: bool) -> bool:
        """Whether calls of a shape fit."""
        return wide == self._wide and shape.tokens * shape.hidden_dim <= self._elements

    def close(self) -> None:
        """Give the memory back, with all ranks."""
        with _quiet():
            self._comm.trtllm_destroy_ipc_workspace_for_all_reduce_fusion(
                self._handles, group=self._group
            )


class FlashInferArm(RankArm):
    """The calls of one arm; ``sums`` is where an all-reduce alone writes them, one a slot."""

    def __init__(self, backend: FlashInferBackend, arm: str, calls: int) -> None:
        super().__init__(backend, calls)
        self._backend = backend
        self._op, self._stage = op_and_algorithm(arm)
        self.normed = self._op == FUSED
        self._issues: list[Callable[[], None]] = []
        self.sums: Any = None

    def allocate(self) -> None:
        """Take this rank's own memory."""
        import torch

        self.sums = None if self.normed else torch.empty_like(self._backend._given)

    def bind(self) -> None:
        """Make the call of every slot."""
        self._issues = [self._call(slot) for slot in range(len(self._backend._slots))]

    def _call(self, place: int) -> Callable[[], None]:
        backend = self._backend
        given, slot = backend._given[place], backend._slots[place]
        pattern = backend._comm.AllReduceFusionPattern
        tokens, hidden_dim = given.shape
        written: dict[str, Any] = (
            {
                "pattern_code": pattern.kARResidualRMSNorm,
                "allreduce_out": None,
                "residual_in": slot.residual,
                "residual_out": slot.residual_out,
                "norm_out": slot.output,
                "rms_gamma": slot.weight,
                "rms_eps": EPSILON,
            }
            if self._op != ALL_REDUCE
            else {
                "pattern_code": pattern.kAllReduce,
                "allreduce_out": self.sums[place],
                "residual_in": None,
                "residual_out": None,
                "norm_out": None,
                "rms_gamma": None,
                "rms_eps": None,
            }
        )

        def call() -> None:
            backend._comm.trtllm_allreduce_fusion(
                allreduce_in=given,
                world_size=backend.world_size,
                world_rank=backend.local_ranks[0],
                token_num=tokens,
                hidden_dim=hidden_dim,
                workspace_ptrs=backend.pointers,
                launch_with_pdl=False,
                trigger_completion_at_end=True,
                fp32_acc=True,
                use_oneshot=_USE_ONESHOT[self._stage],
                quant_out=None,
                scale_out=None,
                scale_factor=None,
                layout_code=None,
                **written,
            )

        return call

    def lead(self) -> None:
        """Issue what goes untimed ahead of a replay: the first call, which waits for every rank."""
        with _quiet():
            self._issues[0]()

    def issue(self) -> None:
        """Issue the timed calls."""
        with _quiet():
            for call in range(self._calls):
                self._issues[call % len(self._issues)]()

    def summed(self, slot: int) -> Any:
        """See :meth:`RankArm.summed`."""
        return self.sums[slot]

    def poison(self) -> None:
        """See :meth:`RankArm.poison`."""
        if self.sums is not None:
            self.sums.fill_(float("nan"))

    def close(self) -> None:
        """See :meth:`Timed.close`."""
        super().close()
        self._issues, self.sums = [], None


def flashinfer_version() -> str:
    """Return FlashInfer's version, as it says itself."""
    import flashinfer

    return str(flashinfer.__version__)


@contextlib.contextmanager
def _quiet() -> Any:
    """Leave out what FlashInfer prints of its buffers, and that these functions have successors."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
