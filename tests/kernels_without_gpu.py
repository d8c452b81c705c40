"""Triton kernels without a GPU: compiled ahead of time, and buffers of ranks on the CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

from costmodel.live.backends.base import LiveShape
from costmodel.live.backends.reference import operands
from costmodel.live.backends.triton import kernels
from costmodel.live.backends.triton.launch import registers_of

TARGETS = ("gfx942", "gfx950", "sm_90")


def element_type(dtype: str):
    import triton.language as tl

    return {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}[dtype]


def compiled_for(target: str, kernel, constants: dict, threads: int, registers: int = 0):
    """Compile as the back end launches: the constants that the kernel takes, aligned tables."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    hip = target != "sm_90"
    machine = GPUTarget("hip", target, 64) if hip else GPUTarget("cuda", 90, 32)
    pointers = {
        "table": "*i64", "buffers": "*i64", "out": "*i64", "epochs": "*i32", "epsilon": "fp32",
    }  # fmt: skip
    if constants.get("CLOCK"):
        pointers["stamps"] = "*i64"
    else:
        constants = {**constants, "stamps": None, "CLOCK": 0}
    signature = {
        parameter.name: "constexpr"
        if parameter.is_constexpr or constants.get(parameter.name, 0) is None
        else pointers.get(parameter.name, "i32")
        for parameter in kernel.params
    }
    aligned = [at for at, kind in enumerate(signature.values()) if kind == "*i64"]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={key: value for key, value in constants.items() if key in signature},
        attrs={(at,): [["tt.divisibility", 16]] for at in aligned},
    )
    options = {"num_warps": threads // machine.warp_size}
    if not hip:
        options["maxnreg"] = registers or registers_of(threads)
    try:
        return triton.compile(source, target=machine, options=options)
    except Exception as error:
        if "ld.lld not found" in str(error):
            pytest.skip("this triton needs ROCm's linker to compile for AMD GPUs")
        raise


def spilled(kernel, target: str, tmp_path: Path) -> list[str]:
    """Return what of a compiled kernel's registers went to memory."""
    if target != "sm_90":
        text = kernel.asm["amdgcn"]
        keys = ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
        found = [re.search(rf"\.{key}:\s+(\d+)", text).group(0) for key in keys]
        return [words for words in found if not words.endswith(" 0")]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this triton carries no cuobjdump to read registers with")
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    usage = subprocess.run(
        [tool, "-res-usage", binary], capture_output=True, text=True, check=True
    ).stdout
    return [] if re.search(r"STACK:(\d+)", usage).group(1) == "0" else [usage]


def in_interpreter(file: str, *arguments: str) -> subprocess.Popen:
    """Start a test file as a program in Triton's interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, file, *arguments],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def answer(process: subprocess.Popen):
    """Return what it prints last, JSON."""
    said, wrong = process.communicate(timeout=300)
    if "only 0-dimensional arrays can be converted" in wrong:
        pytest.skip("the interpreter of this triton fails with this numpy (3.6 with 2.4 does)")
    assert process.returncode == 0, wrong[-3000:]
    return json.loads(said.splitlines()[-1])


class Ranks:
    """Buffers of N ranks on the CPU and the pointer table over them."""

    def __init__(self, ranks: int, shape: LiveShape, slot: int = 0) -> None:
        given = operands(shape, ranks, slot, seed=3)
        nan = torch.full_like(given.residual, float("nan"))
        self.given = given
        self.signals = [torch.zeros(kernels.SIGNAL_WORDS, dtype=torch.int32) for _ in range(ranks)]
        self.outputs = [nan.clone() for _ in range(ranks)]
        self.residual_outs = [nan.clone() for _ in range(ranks)]
        self.rows = (
            [given.inputs[rank].clone() for rank in range(ranks)],
            [nan.clone() for _ in range(ranks)],
            [nan.clone() for _ in range(ranks)],
            [torch.full_like(given.residual, -0.0) for _ in range(ranks)],
            self.signals,
            [given.residual.clone() for _ in range(ranks)],
            [given.weight.clone() for _ in range(ranks)],
            self.outputs,
            self.residual_outs,
        )
        assert len(self.rows) == kernels.TABLE_ROWS
        self.table = torch.tensor(
            [[tensor.data_ptr() for tensor in row] for row in self.rows], dtype=torch.int64
        )

    def let_everybody_have_arrived(self) -> None:
        """Move all counters ahead: programs run one after the other and must not wait."""
        for signal in self.signals:
            lines = signal[: kernels.ERROR.value].view(-1, kernels.SIGNAL_LINE.value)
            lines[:, : len(self.signals)] = 1 << 20
