"""SGLang's table of variables."""

from sglang.srt.utils import EnvBool


class Envs:
    SGLANG_USE_1STAGE_ALLREDUCE = EnvBool(False)
    SGLANG_ENABLE_DETERMINISTIC_INFERENCE = EnvBool(False)
