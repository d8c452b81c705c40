"""How a model is served: the one record that calls, captured batch sizes and workload come from.

A decode step runs a batch of sequences. With speculative decoding each brings ``1 + draft_tokens``
tokens. Engines capture graphs at fixed batch sizes and pad a batch up to the next; those sizes are
the engine's own default list, or given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..errors import InputError, nearest
from .workload import Workload, captured_batch_sizes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .schemas import DeploymentRecord

#: Engines whose fused calls a step are known (:mod:`.engine_calls`), by their titles.
ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "atom": "ATOM", "aiter": "AITER"}

#: How experts are spread: their output is all-reduced, or tokens go to them all-to-all.
EXPERT_PARALLEL = ("all-reduce", "all-to-all")

#: Most draft tokens and the largest batch that are taken.
MOST_DRAFTS, LARGEST_BATCH = 63, 1 << 16

#: Largest batch of an engine's default list here. vLLM: ``config/vllm.py:_set_cudagraph_sizes`` of
#: the wheel 0.33.0. SGLang goes on in steps of 32 up to a batch that fits the GPU's memory.
DEFAULT_MOST = 512

#: A release of an engine as its tag or its distribution writes it.
_RELEASE = r"(?i)v?\d+(\.\d+)*([.+-]?[a-z]\w*)*"


class Deployment(Struct, frozen=True):
    """How an engine serves the model; the default is any engine, with nothing out of the common.

    ``engine`` is whose fused calls are counted ("": every block that could be), ``release`` its
    release ("": that in which ``facts/engine_calls.csv`` was read). ``captured`` are batch sizes
    given as the engine takes them: tokens in vLLM, sequences elsewhere; () takes the sizes that
    engines have in common, ``own_captured`` the engine's own default list. ``step_ms`` is what a
    decode step takes.
    """

    engine: str = ""
    release: str = ""
    dp_attention: bool = False
    expert_parallel: str = ""
    draft_tokens: int = 0
    captured: tuple[int, ...] = ()
    own_captured: bool = False
    step_ms: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in ("", *ENGINES):
            near = nearest(self.engine, list(ENGINES))
            raise InputError(f"unknown engine '{self.engine}'{near}; one of {', '.join(ENGINES)}")
        if self.release and not re.fullmatch(_RELEASE, self.release):
            raise InputError(
                f"engine release '{self.release}' is not understood; write it as 0.5.23 or v0.33.0"
            )
        if self.expert_parallel not in ("", *EXPERT_PARALLEL):
            raise InputError(
                f"expert parallelism is '{self.expert_parallel}'; one of "
                f"{', '.join(EXPERT_PARALLEL)}"
            )
        if not 0 <= self.draft_tokens <= MOST_DRAFTS:
            raise InputError(f"{self.draft_tokens} draft tokens; 0 to {MOST_DRAFTS} are taken")
        wrong = [n for n in self.captured if not 1 <= n <= LARGEST_BATCH]
        if wrong:
            raise InputError(f"captured size {wrong[0]}; 1 to {LARGEST_BATCH} are taken")
        if self.step_ms is not None and not 0 < self.step_ms < float("inf"):
            raise InputError(f"a decode step of {self.step_ms} ms; give one above 0")

    @property
    def title(self) -> str:
        """The engine as people write it; "" for none."""
        return ENGINES.get(self.engine, "")

    @property
    def is_common(self) -> bool:
        """Whether batches and tokens are those without any of these options."""
        return not (self.captured or self.own_captured or self.draft_tokens)

    @property
    def tokens_each(self) -> int:
        """Tokens that a sequence brings to a decode step."""
        return 1 + self.draft_tokens

    @property
    def batches(self) -> NDArray[np.int64]:
        """Captured batch sizes in sequences, ascending, (n,)."""
        if self.captured:
            sizes = np.unique(np.array(self.captured, np.int64))
        elif self.own_captured and self.engine == "sglang":
            sizes = _sglang_sizes(bool(self.draft_tokens))
        else:
            sizes = captured_batch_sizes()
        if self.engine != "vllm" or not self.draft_tokens:
            return sizes
        # vLLM captures tokens, rounded up to whole sequences within the largest size
        # (config/compilation.py: adjust_cudagraph_sizes_for_spec_decode).
        whole = np.unique(-(-sizes // self.tokens_each))
        whole = whole[whole * self.tokens_each <= sizes[-1]]
        if not whole.size:
            raise InputError(
                f"no captured size holds a sequence of {self.tokens_each} tokens; the largest is "
                f"{sizes[-1]}"
            )
        return whole

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of a decode step at each of :attr:`batches`, (n,)."""
        return self.batches * self.tokens_each

    def padded(self, batch: int) -> int | None:
        """Return the captured batch size that a batch is padded to; None above the largest."""
        above = self.batches[self.batches >= batch]
        return int(above[0]) if batch >= 1 and above.size else None

    def workload(self, hidden_dims: Iterable[int]) -> Workload:
        """Return the calls that are weighed: every captured step crossed with the hidden sizes."""
        return Workload.of(hidden_dims, self.tokens.tolist())

    def to_dict(self) -> DeploymentRecord:
        """Return ``deployment`` of ``costmodel/worth/1``."""
        return {
            "engine": self.engine,
            "release": self.release,
            "dp_attention": self.dp_attention,
            "expert_parallel": self.expert_parallel,
            "draft_tokens": self.draft_tokens,
            "captured": self.batches.tolist(),
            "step_ms": self.step_ms,
        }

    def words(self) -> str:
        """Say what is out of the common; "" for nothing."""
        parts = [
            "data-parallel attention" if self.dp_attention else "",
            f"expert parallelism ({self.expert_parallel})" if self.expert_parallel else "",
            f"{self.draft_tokens} draft tokens: {self.tokens_each} tokens a sequence"
            if self.draft_tokens
            else "",
            "captured sizes as given" if self.captured else "",
            f"{self.title}'s own captured sizes" if self.own_captured else "",
        ]
        return ", ".join(filter(None, parts))


def _sglang_sizes(speculative: bool) -> NDArray[np.int64]:
    """Return SGLang's default list up to :data:`DEFAULT_MOST` sequences.

    ``arg_groups/cuda_graph_hook.py: generate_decode_cuda_graph_batch_sizes`` of the wheel 0.5.23;
    the list with speculative decoding has smaller steps.
    """
    if speculative:
        spans = [(1, 9, 1), (10, 33, 2), (40, 65, 4), (72, 257, 8), (272, DEFAULT_MOST + 1, 16)]
        return np.concatenate([np.arange(*span) for span in spans])
    spans = [(16, 257, 8), (272, DEFAULT_MOST + 1, 16)]
    return np.concatenate([[1, 2, 4, 8, 12], *(np.arange(*span) for span in spans)])
