"""Patching mutated sources: a patch that can be taken out again, or one line; no traceback."""

from __future__ import annotations

import ast
import os
import random

import pytest
from emitted import RULES, emit
from engines.shapes import SHAPES

from costmodel.engines import applied
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
