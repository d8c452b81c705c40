"""vLLM's table of variables."""

import os

VLLM_BATCH_INVARIANT: bool = False

environment_variables = {
    "VLLM_BATCH_INVARIANT": lambda: bool(int(os.getenv("VLLM_BATCH_INVARIANT", "0"))),
}


def known(name):
    if name in environment_variables:
        return environment_variables[name]()
    return None
