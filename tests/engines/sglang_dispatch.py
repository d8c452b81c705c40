"""Which communicator SGLang takes on AMD GPUs."""

import logging

from sglang.srt.environ import envs
from sglang.srt.utils import get_bool_env_var

logger = logging.getLogger(__name__)


class CustomAllreduce:
    def __init__(self, group):
        self.ordered = _wants_fixed_order()

    def should_custom_ar(self, x):
        if self.ordered:
            return True
        return x.nbytes <= self.max_size


def dispatch_custom_allreduce():
    if envs.SGLANG_USE_1STAGE_ALLREDUCE.is_set():
        logger.debug("1-stage by SGLANG_USE_1STAGE_ALLREDUCE")
    if _wants_fixed_order():
        return CustomAllreduce
    if get_bool_env_var("SGLANG_USE_AITER_AR", default="true"):
        from aiter.dist.device_communicators.custom_all_reduce import CustomAllreduce as Aiter

        return Aiter
    return CustomAllreduce


def _wants_fixed_order():
    if envs.SGLANG_USE_1STAGE_ALLREDUCE.is_set():
        return envs.SGLANG_USE_1STAGE_ALLREDUCE.get()
    return envs.SGLANG_ENABLE_DETERMINISTIC_INFERENCE.get()
