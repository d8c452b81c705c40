"""Damaged and hostile trees: the short form of benchmarks/hostile_trees.py, as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from emitted import PROVENANCE, RULES, emit
from engines.shapes import SGLANG, SHAPES

from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.module import Module
from costmodel.engines.source import open_trees
from costmodel.errors import InputError

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "hostile_trees.py"


def test_none_of_200_ends_in_a_traceback_or_beyond_the_limits():
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--count", "200", "--seed", "3"], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 inputs, 0 wrong" in done.stdout
    assert "patched" in done.stdout
    assert "refused in words" in done.stdout


def test_a_number_of_more_digits_than_python_writes_is_refused():
    with pytest.raises(InputError, match=r"a.py: a number of more than 3500 digits"):
        Module.parse("a.py", f"x = 0x{'f' * 4000}")
    assert Module.parse("a.py", f"x = 0x{'f' * 60}").functions is not None


def test_a_mark_of_an_unknown_op_is_a_patch_that_nothing_undoes(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    patched = emit(root, RULES["recommended"]).patched
    file.write_text(patched.replace("revert): fused_ar_rmsnorm ", "revert): fused_ar_rmsnorn "))
    (tree,) = open_trees(root)
    assert audit(tree).installed
    with pytest.raises(InputError, match="without a mark that undoes it"):
        emit(root, RULES["strict"])
    with pytest.raises(InputError, match="no patch of costmodel"):
        engine.revert(tree, RULES["recommended"].op)
    assert PROVENANCE.command in patched


@pytest.mark.parametrize("ends", ["\r", "\r\n\r", "mixed"])
def test_no_patch_is_made_where_python_and_patch_count_lines_differently(tmp_path, ends):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    text = file.read_text()
    changed = text.replace("\n", "\r# ", 1) if ends == "mixed" else text.replace("\n", ends)
    file.write_bytes(changed.encode())
    (tree,) = open_trees(root)
    assert audit(tree).installed  # reading needs no lines
    with pytest.raises(InputError, match=r"parallel_state.py:\d+: a carriage return without"):
        emit(root, RULES["recommended"])
    file.write_bytes(text.replace("\n", "\r\n").encode())
    assert emit(root, RULES["recommended"]).text
