"""A shell in which ``costmodel``, ``python`` and ``torchrun`` are those of this interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "python": "",
    "pytest": "-m pytest -p no:cacheprovider",
    "costmodel": "-m costmodel",
    "torchrun": "-m torch.distributed.run",
}


def environment(folder: Path, package: Path) -> dict[str, str]:
    """Return an environment whose commands, written to ``folder``, run the costmodel below ``package``."""
    folder.mkdir()
    for name, module in COMMANDS.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(package),
        "COLUMNS": "250",
        "OMP_NUM_THREADS": "1",
    }


def run(script: str, cwd: Path, env: dict[str, str], timeout: float = 300):
    """Run a script of shell commands to its first failure."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=cwd, env=env,
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
