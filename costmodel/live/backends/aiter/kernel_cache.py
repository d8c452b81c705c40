"""AITER's compiled all-reduce module: is it older than the sources that it should be built from?

AITER builds a module on first use and then loads what it finds: after an update of the sources in
place it runs the old kernels without a word, until ``AITER_REBUILD=1`` (``aiter/jit/core.py``).
"""

from __future__ import annotations

import importlib
from datetime import datetime, timezone
from pathlib import Path

#: The module with the kernels, and its sources below ``csrc`` (``optCompilerConfig.json``).
MODULE = "module_custom_all_reduce.so"
SOURCES = (
    "include/custom_all_reduce.cuh",
    "kernels/custom_all_reduce.cu",
    "pybind/custom_all_reduce_pybind.cu",
)

#: An installer may write sources after the modules that came with them, within this time.
UNPACKING_S = 600.0


def stale() -> str:
    """Return in a sentence that the cached module is older than its source, "" where it is not.

    "" too where either cannot be found: a module that is not there yet is built when it is used.
    """
    try:
        core = importlib.import_module("aiter.jit.core")
        built = Path(core.get_user_jit_dir(), MODULE)
        sources = [Path(core.AITER_CSRC_DIR, source) for source in SOURCES]
        when = built.stat().st_mtime
        changed, source = max((s.stat().st_mtime, s) for s in sources if s.is_file())
    except (ImportError, AttributeError, OSError, ValueError):
        return ""
    if changed - when <= UNPACKING_S:
        return ""
    return (
        f"AITER's compiled {built.name} ({_day(when)}) is older than its source {source.name} "
        f"({_day(changed)}), so the installed kernels would not run; set AITER_REBUILD=1 once"
    )


def _day(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
