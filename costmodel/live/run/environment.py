"""The environment record: what a reader needs to judge or repeat a run, as far as it is readable.

Host names and user names are left out, so that the record can stand in a pull request.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from ...files import without_escapes
from .schemas import Commit, EnvironmentRecord

#: Libraries whose versions can move a latency.
LIBRARIES = (
    "costmodel", "torch", "triton", "numpy", "aiter", "amd-aiter", "sglang", "vllm", "flashinfer",
)  # fmt: skip

#: Environment variables that change what the libraries do.
VARIABLES = (
    "AITER_",
    "CUDA_",
    "ENABLE_CK",
    "FLYDSL_",
    "GPU_MAX_HW_QUEUES",
    "HIP_",
    "HSA_",
    "NCCL_",
    "PYTORCH_",
    "RCCL_",
    "ROCR_",
    "TORCH_",
)

#: The environment as this process was given it: libraries set variables of their own (AITER sets
#: HIP_VISIBLE_DEVICES), and those are not the user's.
_GIVEN = dict(os.environ)

#: Commands that print what the machine is, by the key of the record that holds their output.
COMMANDS = {
    "nvidia_gpus": (
        "nvidia-smi",
        "--query-gpu=index,name,driver_version,vbios_version,pstate,clocks.sm,clocks.max.sm,"
        "clocks.mem,clocks.max.mem,power.limit,temperature.gpu,mig.mode.current",
        "--format=csv",
    ),
    "nvidia_topology": ("nvidia-smi", "topo", "-m"),
    "amd_versions": ("amd-smi", "version"),
    "amd_gpus": ("rocm-smi", "--showproductname", "--showdriverversion", "--showvbios"),
    "amd_clocks": ("rocm-smi", "--showclocks", "--showperflevel", "--showcomputepartition"),
    "amd_topology": ("rocm-smi", "--showtopo"),
}


def now() -> str:
    """Return the time in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def read_machine(backend_environment: dict[str, Any]) -> EnvironmentRecord:
    """Return the environment record as JSON values; a thing that cannot be read is absent."""
    machine: EnvironmentRecord = {
        "schema": "costmodel/environment/1",
        "when": now(),
        "backend": backend_environment,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "libraries": libraries(),
        "variables": _relevant(_GIVEN),
    }
    own = {k: v for k, v in _relevant(dict(os.environ)).items() if _GIVEN.get(k) != v}
    if own:
        machine["variables_set_by_libraries"] = own
    for key, command in COMMANDS.items():
        output = _output(*command)
        if output:
            machine[key] = output  # type: ignore[literal-required]
    driver = amdgpu_driver()
    if driver:
        machine["amdgpu_driver"] = driver
    git = git_state()
    if git:
        machine["git"] = git
    return machine


def amdgpu_driver() -> str:
    """Return the version of the amdgpu driver, "" where there is none or it says none."""
    return _first_line("/sys/module/amdgpu/version")


def gpu_driver() -> str:
    """Return the version of the GPUs' driver, AMD's or NVIDIA's, "" where none says one."""
    return amdgpu_driver() or _first_line("/sys/module/nvidia/version")


def _relevant(variables: dict[str, str]) -> dict[str, str]:
    return {n: value for n, value in sorted(variables.items()) if n.startswith(VARIABLES)}


def disagreement(ranks: Sequence[Mapping[str, Any]]) -> str:
    """Return in words the first thing that ranks say differently, "" for nothing."""
    for key in dict.fromkeys(key for rank in ranks for key in rank):
        said = [rank.get(key, "none") for rank in ranks]
        for rank, value in enumerate(said):
            if value != said[0]:
                what = f"ranks disagree on {key.replace('_', ' ')}"
                return f"{what}: rank 0 has {said[0]}, rank {rank} has {value}"
    return ""


def libraries() -> dict[str, str]:
    """Return the versions of those of :data:`LIBRARIES` that are installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None:
        versions["torch"] = str(torch.__version__)  # a subclass of str
        for name in ("cuda", "hip"):
            if getattr(torch.version, name, None):
                versions[name] = getattr(torch.version, name)
    return versions


def git_state() -> Commit | None:
    """Return commit and cleanliness of the checkout that this package lies in, None outside one."""
    here = str(Path(__file__).resolve().parent)
    commit = _output("git", "-C", here, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", here, "status", "--porcelain", "--", here)
    return {"commit": commit, "changed": bool(changed)}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        return ""


def _output(*command: str) -> str:
    """Return what a command prints, "" if it is not there, fails or takes too long."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    # nvidia-smi underlines in a pipe too; a reader of the record refuses what cannot be printed.
    plain = without_escapes(done.stdout)
    return "".join(c for c in plain if c.isprintable() or c in "\n\t").strip()
