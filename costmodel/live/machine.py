"""What this machine has: Python, the packages, GPUs and the links between them.

Everything is looked at without being changed. torch and triton are imported in a process of their
own, and only where they are installed, so that a broken one ends that process and not this. What
cannot be read counts as absent; nothing here raises.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from .. import __version__
from ..data.hardware import GPUS
from ..data.kernels import LATEST, parse_version
from ..errors import InputError
from .kfd import NODES, xgmi_pairs
from .kfd import gpus as kfd_gpus

#: What a check can end with: there and usable; not there; there, but not what is needed; a remark.
OK, MISSING, WRONG, NOTE = "ok", "missing", "wrong", "note"

#: What this project may be installed as; on PyPI the first name is another project's.
DISTRIBUTIONS = ("costmodel", "xgmi-costmodel")

#: The file by which AITER is told from the PyPI project ``aiter``, an async iterator library.
AITER_FILE = Path("dist", "device_communicators", "custom_all_reduce.py")

#: Seconds after which a probe is given up.
PATIENCE_S = 120.0

_TORCH = """
import json, torch
cuda = torch.cuda
gpus = [cuda.get_device_properties(i) for i in range(cuda.device_count())] * cuda.is_available()
print(json.dumps({
    "version": torch.__version__, "hip": torch.version.hip, "cuda": torch.version.cuda,
    "gpus": [{"name": g.name, "arch": getattr(g, "gcnArchName", "").split(":")[0]} for g in gpus],
    "peers": [[i, k] for i in range(len(gpus)) for k in range(i + 1, len(gpus))
              if cuda.can_device_access_peer(i, k)],
}))
"""

_TRITON = """
import json, triton
try:
    target = triton.runtime.driver.active.get_current_target()
    driver = f"{target.backend} {target.arch}"
except Exception:
    driver = ""
print(json.dumps({"version": triton.__version__, "driver": driver}))
"""


class Details(TypedDict, total=False):
    """What a program may want of a check, where there is more than words."""

    details: dict[str, Any]


class CheckRecord(Details):
    """One check: ``status`` is ok, missing, wrong or note; ``advice`` is what to do."""

    name: str
    status: str
    seen: str
    advice: str


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    ``status`` is :data:`OK`, :data:`MISSING`, :data:`WRONG` or :data:`NOTE`; ``seen`` says in words
    what is there, ``advice`` what to install or do, "" where nothing is; ``details`` are for
    programs.
    """

    name: str
    status: str
    seen: str
    advice: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> CheckRecord:
        """Return the check as JSON data."""
        record: CheckRecord = {
            "name": self.name, "status": self.status, "seen": self.seen, "advice": self.advice,
        }  # fmt: skip
        if self.details:
            record["details"] = self.details
        return record


@dataclass(frozen=True)
class Ability:
    """Something that costmodel can do here, or what it lacks to do so."""

    what: str
    lacks: tuple[str, ...] = ()


def abilities(checks: Sequence[Check]) -> tuple[Ability, ...]:
    """Return what the back ends of ``costmodel measure`` would find here."""
    by = {check.name: check for check in checks}
    torch, aiter = by["torch"], by["aiter"]
    gpus = len(torch.details.get("gpus", []))
    no_torch = () if torch.status == OK else ("torch",)
    no_triton = () if by["triton"].status in (OK, NOTE) else ("triton",)
    no_aiter = () if aiter.status in (OK, NOTE) else ("AITER",)
    no_gpu = () if gpus else ("a GPU that torch sees",)
    no_peers = () if gpus > 1 and torch.details.get("hip") else ("2 or more AMD GPUs under ROCm",)
    return (
        Ability("recommend, predict, explain, emit and whatever else needs no GPU"),
        Ability("measure --backend gloo (the CPU: tries the harness out)", no_torch),
        Ability("measure --backend triton (ranks on one GPU)", no_torch + no_triton + no_gpu),
        Ability("measure --backend aiter (AITER's kernels)", no_torch + no_aiter + no_peers),
    )


def look(kfd: Path = NODES, path: Sequence[str] | None = None) -> tuple[Check, ...]:
    """Look at everything; ``path`` is where packages are sought (default: ``sys.path``)."""
    where = list(sys.path if path is None else path)
    torch = _torch(where)
    gpus = _gpus(torch, kfd)
    return (
        _python(),
        _costmodel(),
        _namesake(where),
        torch,
        _triton(where),
        _aiter(where),
        gpus,
        _links(torch, kfd),
    )


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", OK, f"{version} at {sys.executable}")


def _costmodel() -> Check:
    here = Path(__file__).resolve().parent.parent
    own = [d for d in _distributions() if _is_ours(d)]
    installed = ", ".join(f"{d.metadata['Name']} {d.version}" for d in own)
    seen = f"{__version__} at {here}" + (f", installed as {installed}" if own else "")
    if any(d.version != __version__ for d in own):
        return Check("costmodel", NOTE, seen, "the installed version is another; install it again")
    return Check("costmodel", OK if own else NOTE, seen, "" if own else "not installed, only found")


def _namesake(path: Sequence[str]) -> Check:
    """Look for another project called costmodel, such as the Flask application of that name."""
    here = Path(__file__).resolve().parent.parent
    foreign = [d for d in _distributions() if not _is_ours(d)]
    packages = _providers("costmodel", path)
    others = [p for p in packages if p != here]
    details = {
        "distributions": [f"{d.metadata['Name']} {d.version}" for d in foreign],
        "imported": str(packages[0]) if packages else "",
        "others": list(map(str, others)),
    }
    if foreign:
        d = foreign[0]
        return Check(
            "other costmodel", WRONG,
            f"{d.metadata['Name']} {d.version} is another project ('{d.metadata['Summary']}')",
            f"pip uninstall {d.metadata['Name']}, then install this project again", details,
        )  # fmt: skip
    if others and packages[0] != here:
        return Check(
            "other costmodel", WRONG, f"'import costmodel' gives {packages[0]}, not {here}",
            "take it off the path", details,
        )  # fmt: skip
    if others:
        return Check("other costmodel", NOTE, f"also at {others[0]}, not used", "", details)
    return Check("other costmodel", OK, "none", "", details)


def _torch(path: Sequence[str]) -> Check:
    advice = "pip install torch (for AMD GPUs a ROCm build, see pytorch.org)"
    if not _providers("torch", path):
        return Check("torch", MISSING, "not installed", advice)
    probe = _probe(_TORCH)
    if "error" in probe:
        return Check("torch", WRONG, f"import torch fails: {probe['error']}", advice)
    build = next((f"{k} {probe[k]}" for k in ("hip", "cuda") if probe[k]), "CPU only")
    seen = f"{probe['version']} ({build}), {len(probe['gpus'])} GPUs"
    return Check("torch", OK, seen, "", probe)


def _triton(path: Sequence[str]) -> Check:
    advice = "pip install triton (Linux)"
    if not _providers("triton", path):
        return Check("triton", MISSING, "not installed", advice)
    probe = _probe(_TRITON)
    if "error" in probe:
        return Check("triton", WRONG, f"import triton fails: {probe['error']}", advice)
    if not probe["driver"]:
        return Check("triton", NOTE, f"{probe['version']}, no GPU driver for it", "", probe)
    return Check("triton", OK, f"{probe['version']} ({probe['driver']})", "", probe)


def _aiter(path: Sequence[str]) -> Check:
    advice = "use a ROCm container that carries it, or build it from github.com/ROCm/aiter"
    packages = _providers("aiter", path)
    if not packages:
        return Check("aiter", MISSING, "not installed", advice)
    where = packages[0]
    if not (where / AITER_FILE).is_file():
        try:
            about = metadata.metadata("aiter")
            what = f"version {about['Version']}, '{about['Summary']}'"
        except metadata.PackageNotFoundError:
            what = "of no known project"
        return Check(
            "aiter", WRONG, f"{where} is not AITER but another library ({what})",
            f"pip uninstall aiter; {advice}",
        )  # fmt: skip
    version = next(filter(None, map(_version, ("amd-aiter", "aiter"))), "")
    try:
        newer = bool(version) and parse_version(version) > parse_version(LATEST)
    except InputError:  # a build from a commit
        newer = False
    seen = f"{version or 'of unknown version'} at {where}"
    if newer:
        return Check(
            "aiter", NOTE, seen, f"newer than {LATEST}, the newest whose kernels are known"
        )
    return Check("aiter", OK, seen, "", {"version": version})


def _gpus(torch: Check, kfd: Path) -> Check:
    """Return the GPUs that torch sees, else those that a driver names."""
    gpus = torch.details.get("gpus") or _driver_gpus(kfd) or _nvidia_gpus()
    if not gpus:
        return Check("GPUs", MISSING, "none seen", "predicting needs none; measuring does")
    names = [g["name"] or g["arch"] for g in gpus]
    seen = ", ".join(f"{names.count(n)} x {n}" for n in dict.fromkeys(names))
    if not torch.details.get("gpus"):
        return Check(
            "GPUs", NOTE, f"{seen}; torch sees none of them",
            "install a torch built for them (ROCm or CUDA)", {"gpus": gpus},
        )  # fmt: skip
    known = {g for group in GPUS.values() for g in group}
    calibrated = {g for g in known if any(g in n.upper() for n in names)}
    note = "" if calibrated else "no shipped calibration is of this GPU; calibrate can make one"
    return Check("GPUs", OK, seen, note, {"gpus": gpus, "calibrated": sorted(calibrated)})


def _links(torch: Check, kfd: Path) -> Check:
    """Return how the GPUs are joined: xGMI as amdkfd says, NVLink as nvidia-smi says."""
    peers = {(i, k) for i, k in torch.details.get("peers", [])}
    for kind, joined, count in (
        ("xGMI", xgmi_pairs(kfd), len(kfd_gpus(kfd))),
        ("NVLink", _nvlink_pairs(), len(_nvidia_gpus())),
        ("peer access", peers, len(torch.details.get("gpus", []))),
    ):
        pairs = count * (count - 1) // 2
        if not joined:
            continue
        details = {"kind": kind, "pairs": sorted(map(list, joined))}
        if len(joined) == pairs:
            seen = f"{kind} between all of {count} GPUs"
            return Check("links", OK, seen, "", details)
        seen = f"{kind} between {len(joined)} of {pairs} pairs of GPUs"
        return Check("links", NOTE, seen, "the kernels need every pair joined", details)
    return Check("links", NOTE, "none seen between GPUs")


def _driver_gpus(kfd: Path) -> list[dict[str, str]]:
    """Return the GPUs that amdkfd names, with the product of those whose PCI id is known."""
    return [{"name": g.card.gpu if g.card else "", "arch": g.arch} for g in kfd_gpus(kfd)]


def _nvidia_gpus() -> list[dict[str, str]]:
    lines = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return [{"name": line.strip(), "arch": ""} for line in lines if line.strip()]


def _nvlink_pairs() -> set[tuple[int, int]]:
    """Read the matrix of ``nvidia-smi topo -m``, where ``NV18`` is 18 NVLinks to that GPU."""
    pairs = set()
    for line in _output("nvidia-smi", "topo", "-m").splitlines():
        name, *cells = line.split() or [""]
        if name.startswith("GPU") and name[3:].isdecimal():
            here = int(name[3:])
            pairs |= {
                (here, there)
                for there, cell in enumerate(cells)
                if there > here and cell.startswith("NV") and cell[2:].isdecimal()
            }
    return pairs


def _distributions() -> list[metadata.Distribution]:
    """Return the installed distributions of this project's names, and of its namesake's."""
    return [d for name in DISTRIBUTIONS for d in metadata.distributions(name=name)]


def _is_ours(distribution: metadata.Distribution) -> bool:
    return any(e.value.startswith("costmodel.cli.") for e in distribution.entry_points)


def _providers(name: str, path: Sequence[str]) -> list[Path]:
    """Return the packages of a name in the order in which Python would take them."""
    places: dict[Path, None] = {}
    for entry in path:
        package, module = (Path(entry or os.getcwd(), n) for n in (name, f"{name}.py"))
        # A script of that name, as pip installs it, is neither.
        if (package / "__init__.py").is_file():
            places[package.resolve()] = None
        elif module.is_file():
            places[module.resolve()] = None
    return list(places)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@cache
def _probe(code: str) -> dict[str, Any]:
    """Run code that prints JSON in a Python of its own; ``error`` says in a line what it met.

    It takes seconds, and is done once: what is installed stays while a process runs.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {PATIENCE_S:.0f} s"}
    except OSError as error:
        return {"error": str(error)}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"error": last}
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": "it printed no answer"}
    return answer


def _output(*command: str) -> str:
    """Return what a command prints, "" if it is not there, fails or takes too long."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout
