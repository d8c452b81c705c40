import os
from pathlib import Path

_HERE = Path(__file__).parent

AITER_CSRC_DIR = os.path.join(os.environ.get("AITER_META_DIR", str(_HERE.parent)), "csrc")


def get_user_jit_dir():
    return os.environ.get("AITER_JIT_DIR", str(_HERE))
