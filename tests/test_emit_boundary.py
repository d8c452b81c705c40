"""Boundary test files: they pass on the patched function, and on nothing else."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
from emitted import PROVENANCE, RULES, emit
from engines.shapes import SHAPES

from costmodel.engines.boundary_tests import render
from costmodel.engines.call_sites import serving_engine
from costmodel.model.shape import WORLD_SIZES
from costmodel.rules.algebra import parts_of
from costmodel.rules.boundary import cases, hidden_classes
from costmodel.rules.catalogue import named
from costmodel.rules.rule import Rule


def patched(shape, rule, tmp_path):
    """Return (root of the patched tree, test file, emitted)."""
    made = SHAPES[shape]
    root = made.package(tmp_path / "site")
    emitted = emit(root, RULES[rule])
    (root / emitted.file).write_text(emitted.patched)
    text = render(
        emitted.adapted,
        PROVENANCE,
        serving_engine(made.engine),
        emitted.file,
        emitted.function,
        str(root),
    )
    file = tmp_path / "test_boundary.py"
    file.write_text(text)
    return root, file, emitted


def failures(file, monkeypatch, root):
    """Import the test file and return what its cases find wrong, per world size."""
    monkeypatch.setenv("COSTMODEL_SOURCE", str(root))
    spec = importlib.util.spec_from_file_location("emitted_boundary", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {n: module.differences(n) for n in WORLD_SIZES}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["recommended", "hidden_set", "strict"])
def test_it_passes_on_the_patched_function_and_fails_on_the_old_one(
    shape, rule, tmp_path, monkeypatch
):
    root, file, _ = patched(shape, rule, tmp_path)
    assert failures(file, monkeypatch, root) == {2: [], 4: [], 8: []}
    SHAPES[shape].package(root)
    assert any(failures(file, monkeypatch, root).values())


@pytest.mark.parametrize(
    ("shape", "old", "new"),
    [
        ("vllm_method", "<= 448 * 1024", "< 448 * 1024"),
        ("vllm_method", "<= 448 * 1024", "<= 448 * 1024 + 1"),
        ("vllm_method", "<= 448 * 1024", "<= 448 * 1024 - 1"),
        ("vllm_method", "<= 224 * 1024", "<= 224 * 1000"),
        ("vllm_method", "> 80", "> 81"),
        ("vllm_method", "> 1024", "> 1025"),
        ("vllm_method", "torch.bfloat16, torch.float16", "torch.bfloat16, torch.float32"),
        ("vllm_method", "if not ca.fully_connected:", "if False:"),
        ("sglang_bytes", "self.world_size == 2 or", "self.world_size == 4 or"),
        ("sglang_bytes", "total_bytes <= max_bytes", "total_bytes < max_bytes"),
        ("sglang_bytes", "4: 448 * 1024", "4: 447 * 1024"),
        ("sglang_bytes", "input_.element_size()", "2"),
    ],
)
def test_a_slip_of_one_element_is_caught(shape, old, new, tmp_path, monkeypatch):
    root, file, emitted = patched(shape, "recommended", tmp_path)
    source = root / emitted.file
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))
    # 448 KiB + 1 byte is no other number of 2-byte elements: only that slip may pass.
    found = any(failures(file, monkeypatch, root).values())
    assert found == (new != "<= 448 * 1024 + 1")


def test_every_cutoff_is_probed_one_element_below_at_and_above():
    rule = RULES["recommended"]
    for n, cutoff in ((4, 458752), (8, 229376)):
        for dtype, size in (("bf16", 2), ("fp16", 2), ("fp32", 4)):
            found = [c for c in cases(rule) if (c.world_size, c.dtype) == (n, dtype)]
            assert found
            for one in found:
                at = dict(one.decisions)
                assert [at[cutoff // size + d] for d in (-1, 0, 1)] == [True, True, False]


def test_every_world_size_dtype_and_hidden_class_is_there():
    rule = named("vllm")
    found = cases(rule)
    assert {c.world_size for c in found} == set(WORLD_SIZES)
    assert {c.dtype for c in found} == {"bf16", "fp16", "fp32"}
    assert {c.fully_connected for c in found} == {True, False}
    hidden = {c.hidden_dim for c in found if c.dtype == "bf16"}
    assert {8184, 8192, 8200, 2884} <= hidden, "both sides of 1024 packs, and half a pack"
    assert any(80 * 2880 in dict(c.decisions) for c in found)
    in_set = hidden_classes(named("sglang-first").condition, "bf16")
    assert {512, 1024, 2048, 4096, 520} <= set(in_set)
    assert list(parts_of(rule.condition))


def test_it_runs_as_a_script_and_under_pytest_without_the_project(tmp_path):
    root, file, _ = patched("sglang_bytes", "recommended", tmp_path)
    script = subprocess.run(
        [sys.executable, "-S", "-I", file], capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr
    assert re.fullmatch(r"\d+ groups of boundary cases: all as the rule\n", script.stdout)
    SHAPES["sglang_bytes"].package(root)
    script = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert script.returncode == 1
    assert "TP4 mesh=True bf16 hidden=2880" in script.stdout
    under = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert "2 failed, 1 passed" in under.stdout or "3 failed" in under.stdout, under.stdout


def test_it_says_where_the_rule_comes_from(tmp_path):
    _, file, _ = patched("sglang_bytes", "recommended", tmp_path)
    text = file.read_text()
    assert "calibration gfx950-0123abcd" in text
    assert "Reproduce: costmodel emit --for sglang --arch gfx950" in text
    assert "import costmodel" not in text
    assert "import torch" not in text


def test_the_environment_names_another_tree(tmp_path, monkeypatch):
    root, file, _ = patched("sglang_bytes", "recommended", tmp_path)
    assert not any(failures(file, monkeypatch, root).values())
    other = SHAPES["sglang_bytes"].package(tmp_path / "other")
    assert any(failures(file, monkeypatch, other).values())


def test_without_a_tree_the_installed_package_is_meant(tmp_path, monkeypatch):
    made = SHAPES["vllm_method"]
    root = made.package(tmp_path / "site")
    emitted = emit(root, RULES["recommended"])
    (root / emitted.file).write_text(emitted.patched)
    text = render(
        emitted.adapted, PROVENANCE, serving_engine("vllm"), emitted.file, emitted.function
    )
    file = tmp_path / "test_boundary.py"
    file.write_text(text)
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-I", file], capture_output=True, text=True, check=False, env={}
    )
    assert "set COSTMODEL_SOURCE" in done.stderr


def test_a_rule_by_tokens_alone_has_its_boundaries_too():
    rule = Rule("tokens", named("aiter-mxfp4").condition)
    four = [c for c in cases(rule) if c.world_size == 4 and c.hidden_dim == 7168]
    at = dict(four[0].decisions)
    assert at[4 * 7168] is True
    assert at[5 * 7168] is False
