"""The real wheels of SGLang and vLLM, where COSTMODEL_ENGINE_WHEELS names a directory of them.

pip download --no-deps -d wheels sglang==0.5.23 vllm==0.33.0
COSTMODEL_ENGINE_WHEELS=wheels pytest tests/test_emit_wheels.py
"""

from __future__ import annotations

import ast
import contextlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from emitted import PROVENANCE, RULES, apply, emit, function_says, random_calls, rule_says, tools

from costmodel.data.kernels import parse_version
from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.boundary_tests import render
from costmodel.engines.kernel_version import of_tree
from costmodel.engines.reader import NotRecognisedError, find_dispatch
from costmodel.engines.source import open_trees

WHEELS = sorted(Path(os.environ.get("COSTMODEL_ENGINE_WHEELS", "/nonexistent")).glob("*.whl"))

pytestmark = [
    pytest.mark.skipif(not WHEELS, reason="COSTMODEL_ENGINE_WHEELS names no wheels"),
    pytest.mark.campaign,
]

#: Releases whose rule is known from their source; others are patched and read all the same.
KNOWN = {
    ("sglang", "0.5.10"): "sglang-gpt-oss",
    ("sglang", "0.5.10.post1"): "sglang-gpt-oss",
    ("sglang", "0.5.11"): "sglang-128k",
    ("sglang", "0.5.14"): "sglang-128k",
    ("sglang", "0.5.23"): "sglang-128k",
    ("vllm", "0.21.0"): "vllm-first",
    ("vllm", "0.22.1"): "vllm-16bit",
    ("vllm", "0.28.0"): "vllm-16bit",
    ("vllm", "0.33.0"): "vllm-16bit",
}

#: Releases before the fused op, or without a choice in Python.
WITHOUT = ("sglang-0.5.5", "sglang-0.5.6", "sglang-0.5.8", "sglang-0.5.9", "vllm-0.18", "vllm-0.19",
           "vllm-0.20", "amd_aiter")  # fmt: skip


def names(path):
    return path.name.split("-cp3")[0].split("-py3")[0]


@pytest.mark.parametrize("wheel", WHEELS, ids=names)
def test_audit(wheel):
    (tree,) = open_trees(wheel)
    if wheel.name.startswith(WITHOUT):
        with pytest.raises(NotRecognisedError, match="no rule recognised"):
            audit(tree)
        return
    done = audit(tree)
    for one in done.installed:
        print(one.statement())
        assert one.findings == ()
        calls = [c for c in random_calls(2000) if c[2] % 128 == 0]
        said = function_says(tree.read(one.file), one.function, calls)
        assert said == rule_says(one.rule, calls)
    known = KNOWN.get((tree.engine.name, tree.version))
    if known:
        assert done.installed[0].known_as == known


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wheel", WHEELS, ids=names)
def test_patch(wheel, rule, tmp_path):
    if wheel.name.startswith(WITHOUT):
        with pytest.raises(NotRecognisedError):
            emit(wheel, RULES[rule])
        return
    emitted = emit(wheel, RULES[rule])
    for tool in tools():
        root = tmp_path / tool
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(emitted.file, root)
        apply(emitted.text, root, tool)
        patched = (root / emitted.file).read_text(encoding="utf-8")
        assert patched == emitted.patched
        # A second patch changes nothing, and the patch can be taken out exactly.
        with zipfile.ZipFile(wheel) as archive:
            before = archive.read(emitted.file)
            for name in open_trees(wheel)[0].engine.files:
                with contextlib.suppress(KeyError):
                    archive.extract(f"{emitted.file.split('/')[0]}/{name}", root / "again")
        (root / "again" / emitted.file).parent.mkdir(parents=True, exist_ok=True)
        (root / "again" / emitted.file).write_text(patched, encoding="utf-8")
        assert emit(root / "again", RULES[rule]).text == ""
        (tree,) = open_trees(root / "again")
        apply(engine.revert(tree, RULES[rule].op), root / "again", tool)
        assert (root / "again" / emitted.file).read_bytes() == before
    full = "full mesh" in emitted.adapted.rule.words()
    calls = [c if full else (*c[:4], True) for c in random_calls(10_000)]
    assert function_says(patched, emitted.function, calls) == rule_says(emitted.adapted.rule, calls)
    text = render(
        emitted.adapted,
        PROVENANCE,
        open_trees(wheel)[0].engine,
        emitted.file,
        emitted.function,
        patched=patched,
    )
    (tmp_path / "test_rule.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "test_rule.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"COSTMODEL_SOURCE": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("wheel", WHEELS, ids=names)
def test_the_aiter_of_the_release_sets_the_guard(wheel):
    (tree,) = open_trees(wheel)
    if wheel.name.startswith(WITHOUT) or tree.engine.name != "sglang":
        return
    running = of_tree(tree)
    emitted = engine.patch(tree, RULES["recommended"], PROVENANCE, running.kernel, running=running)
    throws = parse_version(tree.version) < parse_version("0.5.18")
    assert emitted.adapted.caps_tokens is throws
    assert running.stated
    (module, dispatch) = find_dispatch(tree, RULES["recommended"].op)
    said = ast.get_source_segment(module.text, dispatch.node)
    patched = emitted.patched[emitted.patched.index(dispatch.node.name) :][: len(said) + 2000]
    assert "Guard with a byte threshold" not in patched
    assert ("is capped at" in patched) is (throws and "is capped at" in said)
