"""Patching mutated sources: a patch that can be taken out again, or one line; no traceback."""

from __future__ import annotations

import ast
import os
import random
import re

import pytest
from emitted import PROVENANCE, RULES, emit
from engines.shapes import SGLANG, SHAPES
from test_emit_by_arch import by_arch

from costmodel.data import kernels
from costmodel.engines import applied, patch
from costmodel.engines.audit import audit
from costmodel.engines.consultation import consult
from costmodel.engines.source import open_trees
from costmodel.errors import InputError

WORDS = ["128 * 1024", "None", "(", ")", ":", '"""', "# at most 80 tokens\n", "\t", "\\", "\r",
         "1 << 17", "lambda: 0", "if x:\n", "é", "\x0c", "not ", "self.", "{", "}", "f'{a}'",
         "# Undo (costmodel emit --revert): fused_ar_rmsnorm 1 2 0123abcd 4:abcd\n"]  # fmt: skip

#: Of each shape; COSTMODEL_MUTATIONS asks for more.
ROUNDS = int(os.environ.get("COSTMODEL_MUTATIONS", "60"))


def mutated(text, rng):
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + rng.choice(WORDS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + rng.randint(1, 30) :]
        else:
            lines = text.split("\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i : i + 1] = [lines[j]] if kind == 2 else []
            text = "\n".join(lines)
        if not text:
            return "x"
    return text


@pytest.mark.campaign
@pytest.mark.parametrize("shape", ["sglang_bytes", "vllm_method", "vllm_inline", "aiter_env_kb"])
def test_mutated_sources(shape, tmp_path):
    rng = random.Random(shape)
    root = SHAPES[shape].package(tmp_path)
    file = root / emit(root, RULES["recommended"]).file
    before = file.read_text()
    patched = 0
    for _ in range(ROUNDS):
        text = mutated(before, rng)
        file.write_bytes(text.encode())
        try:
            emitted = emit(root, RULES["partly_claimed"])
        except InputError as error:
            assert "\n" not in str(error)
            continue
        if not emitted.text:
            continue
        patched += 1
        ast.parse(emitted.patched)
        assert applied.original(emitted.patched, "x.py", "fused_ar_rmsnorm") == text
        file.write_bytes(emitted.patched.encode())
        assert emit(root, RULES["partly_claimed"]).text == ""
        assert emit(root, RULES["strict"]).patched.count("Reproduce: ") == 1
    assert patched > ROUNDS // 10


#: What a fork may put after SGLang's limit: a guard of its own, which nothing here can read.
GUARDS = {
    "joined": " and self._ours(input_)",
    "then": "\n            use_1stage_ar = use_1stage_ar and self._ours(input_)",
    "branch": "\n            if not self._ours(input_):\n                use_1stage_ar = False",
    "branch below": "\n        if not self._ours(input_):\n            use_1stage_ar = False",
    "either": " if self._ours(input_) else False",
}


def ways(root):
    """Return what makes each kind of patch for a tree, by name."""
    (tree,) = open_trees(root)
    kernel = kernels.aiter()
    return {
        "rule": lambda: patch.patch(tree, RULES["recommended"], PROVENANCE, kernel),
        "by arch": lambda: by_arch(root),
        "table": lambda: consult(tree, kernel, "costmodel emit --runtime-table --for sglang"),
    }


@pytest.mark.parametrize("guard", GUARDS)
def test_a_forks_guard_that_cannot_be_read_is_never_lost(guard, tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file, limit = root / "sglang" / SGLANG, "use_1stage_ar = total_bytes <= 128 * 1024"
    text = file.read_text()
    assert limit in text
    file.write_text(text.replace(limit, limit + GUARDS[guard], 1))
    for way in ("rule", "by arch"):
        with pytest.raises(InputError):
            ways(root)[way]()
    # The other function, of which nothing is unknown, may ask a table; this one may not.
    patched = ways(root)["table"]().patched[f"sglang/{SGLANG}"]
    body = patched.split("def fused_allreduce_rmsnorm(")[1].split("def fused_allreduce")[0]
    assert "_tuned_max_size(" not in body


@pytest.mark.parametrize(
    ("before", "kept"),
    [("        if world_size == 2:", True), ("        if world_size <= 4:", False)],
)
def test_a_forks_guard_of_a_predicate_is_asked_before_a_table_or_there_is_none(
    before, kept, tmp_path
):
    root = SHAPES["vllm_method"].package(tmp_path)
    (file,) = root.rglob("aiter_custom_all_reduce.py")
    guard = "        if self._ours(inp):\n            return False\n"
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, guard + before))
    for way in ("rule", "by arch"):
        assert guard in ways(root)[way]().patched
    if not kept:
        with pytest.raises(InputError, match=re.escape("self._ours(inp) asks is not known")):
            ways(root)["table"]()
        return
    (patched,) = ways(root)["table"]().patched.values()
    assert patched.index(guard) < patched.index("tuned = _tuned_max_size(")


@pytest.mark.parametrize("way", ["rule", "by arch", "table"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: f"\ufeff{text}", "begins with a byte order mark"),
        (lambda text: text.replace("    ", "\t"), "indented with spaces (these have tabs)"),
    ],
    ids=["byte order mark", "tabs"],
)
def test_what_python_takes_and_no_patch_fits_is_refused_for_what_it_is(change, said, way, tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    file.write_text(change(file.read_text()), encoding="utf-8")
    compile(file.read_bytes(), "engine.py", "exec")
    (tree,) = open_trees(root)
    assert audit(tree).rule.words() == "1-stage when bytes <= 128 KiB"
    with pytest.raises(InputError, match=re.escape(said)):
        ways(root)[way]()
