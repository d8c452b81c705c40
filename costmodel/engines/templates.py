"""The shape of each engine's choice, for snippets where no source is at hand.

Written for this project after the engines' newest forms; only names that a snippet must share
with its surroundings are theirs. What stands between the marks is the snippet.
"""

from __future__ import annotations

from msgspec import Struct

from .call_sites import ServingEngine

BEGIN = "# >>>"
END = "# <<<"


class Template(Struct, frozen=True):
    """A small source, the function in it that chooses, and what the snippet replaces."""

    text: str
    function: str
    replaces: str


_SGLANG = """
class GroupCoordinator:
    def __init__(self, world_size, ca_comm):
        self.world_size = world_size
        self.ca_comm = ca_comm

    def fused_allreduce_rmsnorm(self, input_, residual_inp_, weight_, eps):
        # >>>
        if envs.SGLANG_USE_1STAGE_ALLREDUCE.is_set():
            use_1stage_ar = envs.SGLANG_USE_1STAGE_ALLREDUCE.get()
        else:
            total_bytes = input_.numel() * input_.element_size()
            use_1stage_ar = total_bytes <= 128 * 1024
        # <<<
        return self.ca_comm.custom_fused_ar_rms(
            input_, residual_inp_, weight_, eps, use_1stage_ar
        )
"""

_VLLM = '''
class AiterCustomAllreduce:
    # >>>
    def use_1stage_fused_ar_rms(self, inp: torch.Tensor) -> bool:
        """Whether AITER's fused all-reduce + RMSNorm runs as its 1-stage kernel."""
        hidden_dim = inp.shape[-1]
        if inp.numel() // hidden_dim > 80:
            return False
        if inp.dtype not in (torch.bfloat16, torch.float16):
            return False
        pack_size = 16 // inp.element_size()
        if hidden_dim % pack_size != 0 or hidden_dim // pack_size > 1024:
            return False
        world_size = self._impl.world_size
        if world_size > 2 and not self._impl.fully_connected:
            return False
        total_bytes = inp.numel() * inp.element_size()
        if world_size == 2:
            return True
        if world_size <= 4:
            return total_bytes < 256 * 1024
        if world_size <= 8:
            return total_bytes < 128 * 1024
        return False
    # <<<
'''

_AITER = """
class CudaCommunicator:
    def fused_allreduce_rmsnorm(self, input_, res_inp_, weight_, eps):
        # >>>
        hidden_dim = input_.shape[-1]
        total_bytes = input_.numel() * input_.element_size()
        total_bytes_limit = 128 * 7168 * 2 // self.world_size
        pack_size = 16 // input_.element_size()
        use_1stage = total_bytes <= total_bytes_limit and hidden_dim // pack_size <= 1024
        # <<<
        return self.ca_comm.custom_fused_ar_rms(
            input_, res_inp_, weight_, eps, use_1stage=use_1stage
        )
"""

_TEMPLATES = {
    "sglang": Template(
        _SGLANG,
        "GroupCoordinator.fused_allreduce_rmsnorm",
        "in place of the statements that set use_1stage_ar",
    ),
    "vllm": Template(
        _VLLM, "AiterCustomAllreduce.use_1stage_fused_ar_rms", "in place of the method"
    ),
    "aiter": Template(
        _AITER,
        "CudaCommunicator.fused_allreduce_rmsnorm",
        "in place of the statements that set the stage",
    ),
}


def of(engine: ServingEngine) -> Template:
    """Return the template of an engine."""
    return _TEMPLATES[engine.name]
