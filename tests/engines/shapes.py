"""Lay the small sources out as the trees of engines: packages, checkouts and wheels."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

SGLANG = "srt/distributed/parallel_state.py"
VLLM_OPS = "_aiter_ops.py"
VLLM_METHOD = "distributed/device_communicators/aiter_custom_all_reduce.py"
AITER = "dist/device_communicators/communicator_cuda.py"


@dataclass(frozen=True)
class Shape:
    """An engine in one shape: its files, and the catalogue's rule that it has."""

    engine: str
    version: str
    files: tuple[tuple[str, str], ...]
    rule: str
    function: str

    def contents(self) -> dict[str, str]:
        """Return the package's files by path inside the package."""
        stated = f'__version__ = "{self.version}"\n'
        out = {"__init__.py": "", "version.py": stated}
        if self.engine == "vllm":
            out["distributed/parallel_state.py"] = ""
        if self.engine == "aiter":
            out["dist/parallel_state.py"] = ""
        return out | {inside: (HERE / name).read_text() for inside, name in self.files}

    def package(self, root: Path) -> Path:
        """Write the package below ``root``; return ``root``, a site-packages directory."""
        for inside, text in self.contents().items():
            file = root / self.engine / inside
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return root

    def checkout(self, root: Path) -> Path:
        """Write a checkout as the project keeps it; return its root."""
        below = root / "python" if self.engine == "sglang" else root
        self.package(below)
        (root / "pyproject.toml").write_text("[project]\n")
        return root

    def wheel(self, root: Path) -> Path:
        """Write a wheel; return its path."""
        path = root / f"{self.engine}-{self.version}-py3-none-any.whl"
        root.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, text in self.contents().items():
                archive.writestr(f"{self.engine}/{inside}", text)
            metadata = f"Metadata-Version: 2.1\nName: {self.engine}\nVersion: {self.version}\n"
            archive.writestr(f"{self.engine}-{self.version}.dist-info/METADATA", metadata)
        return path


_SGLANG = "GroupCoordinator.fused_allreduce_rmsnorm"
_VLLM = "_rocm_aiter_fused_allreduce_rmsnorm_impl"
_METHOD = "AiterCustomAllreduce.use_1stage_fused_ar_rms"
_AITER = "CudaCommunicator.fused_allreduce_rmsnorm"

SHAPES = {
    "sglang_hidden_set": Shape(
        "sglang", "0.5.9", ((SGLANG, "sglang_hidden_set.py"),), "sglang-first", _SGLANG
    ),
    "sglang_bytes": Shape(
        "sglang", "0.5.23", ((SGLANG, "sglang_bytes.py"),), "sglang-128k", _SGLANG
    ),
    "vllm_inline_set": Shape(
        "vllm", "0.21.0", ((VLLM_OPS, "vllm_inline_set.py"),), "vllm-first", _VLLM
    ),
    "vllm_inline": Shape("vllm", "0.28.0", ((VLLM_OPS, "vllm_inline.py"),), "vllm-16bit", _VLLM),
    "vllm_copies": Shape("vllm", "0.25.0", ((VLLM_OPS, "vllm_copies.py"),), "", _VLLM),
    "vllm_method": Shape(
        "vllm",
        "0.33.0",
        ((VLLM_METHOD, "vllm_method.py"), (VLLM_OPS, "vllm_asks.py")),
        "vllm-16bit",
        _METHOD,
    ),
    "aiter_limit": Shape("aiter", "0.1.19", ((AITER, "aiter_limit.py"),), "aiter-per-rank", _AITER),
    "aiter_env_kb": Shape("aiter", "0.1.17", ((AITER, "aiter_env_kb.py"),), "", _AITER),
    "aiter_forced": Shape("aiter", "0.1.18", ((AITER, "aiter_forced.py"),), "", _AITER),
    "aiter_helper": Shape("aiter", "0.1.20", ((AITER, "aiter_helper.py"),), "", _AITER),
}
