"""Damaged and hostile trees: the short form of benchmarks/hostile_trees.py, as a process."""

from __future__ import annotations

import ast
import contextlib
import re
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from emitted import PROVENANCE, RULES, emit
from engines.shapes import SGLANG, SHAPES, VLLM_OPS

from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.gate_lines import in_python
from costmodel.engines.module import Module
from costmodel.engines.source import open_trees
from costmodel.errors import InputError

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "hostile_trees.py"


@pytest.mark.campaign
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


def last_return(text, line):
    """Put a line before the return of the function that chooses."""
    first, _, rest = text.rpartition("    return ")
    return f"{first}    {line}\n    return {rest}"


#: Sources on which reading or patching took minutes.
SLOW = {
    "a word of 500 kB": lambda text: last_return(text, f"x = '{'y' * 500_000}'"),
    "a name of 400 kB": lambda text: f"def {'aiter' * 80_000}(): pass\n{text}",
    "60,000 sentences": lambda text: text.replace(
        "    token_ok =", f"    # {'128 KiB guard (TP2, TP4). ' * 60_000}\n    token_ok =", 1
    ),
    "60,000 hidden sizes": lambda text: text.replace(
        "    token_ok =", f"    # {'8 tokens at hidden 4096 ' * 60_000}\n    token_ok =", 1
    ),
    "200,000 blank lines": lambda text: "\n" * 200_000 + text,
}


@pytest.mark.parametrize("what", SLOW)
def test_what_is_long_is_read_and_patched_in_bounded_time(what, tmp_path):
    root = SHAPES["vllm_copies"].package(tmp_path)
    file = root / "vllm" / VLLM_OPS
    file.write_text(SLOW[what](file.read_text()))

    def within_20_s():
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    for command in ("audit", "emit --for vllm --arch gfx942 --source"):
        done = subprocess.run(
            [sys.executable, "-m", "costmodel", *command.split(), str(root)], capture_output=True,
            text=True, check=False, preexec_fn=within_20_s,
        )  # fmt: skip
        assert done.returncode in (0, 1, 2), f"{done.returncode} {done.stderr[-400:]}"
        assert done.stdout or "not recognised" in done.stderr


def test_a_line_that_is_nested_too_deeply_to_be_written_is_shown_as_such(request):
    request.addfinalizer(partial(sys.setrecursionlimit, sys.getrecursionlimit()))
    sys.setrecursionlimit(1000)  # libraries of other tests raise it
    deep = " + ".join(["A"] * 400)
    module = Module.parse("a.py", f"def f():\n    if {deep}:\n        g()\n    return not A\n")
    found = in_python(module, re.compile("A"), re.compile("f"), limit=False)
    assert [(place.line, place.text) for place in found.decides] == [(2, "..."), (4, "not A")]


def test_a_sum_of_many_terms_and_a_chain_of_many_branches_are_read(tmp_path):
    terms = " + ".join(["1"] * 2000)
    module = Module.parse("a.py", f"def f(n):\n    if n > {terms} or n > 1 << 21:\n        g()\n")
    found = in_python(module, re.compile(""), re.compile("f"), limit=True)
    assert [(place.line, place.text[-7:]) for place in found.decides] == [(2, "1 << 21")]
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    chain = "".join(f"elif a{i}:\n    x = {i}\n" for i in range(2000))[2:]
    file.write_text(f"{file.read_text()}\n{chain}")
    (tree,) = open_trees(root)
    assert audit(tree).installed
    assert emit(root, RULES["recommended"]).text


def test_a_chain_of_many_branches_inside_the_choice_is_read(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    lines = file.read_text().split("\n")
    found = ast.walk(ast.parse("\n".join(lines)))
    choice = next(f for f in found if getattr(f, "name", "") == "fused_allreduce_rmsnorm")
    first = choice.body[1]
    pad = " " * first.col_offset
    chain = [f"{pad}{'el' if i else ''}if odd == {i}:\n{pad}    x = {i}" for i in range(2000)]
    lines[first.lineno - 1 : first.lineno - 1] = [f"{pad}odd = 1", *chain]
    file.write_text("\n".join(lines))
    (tree,) = open_trees(root)
    assert audit(tree).installed
    assert emit(root, RULES["recommended"]).text


def test_a_hidden_set_with_a_number_that_is_none_is_not_read_as_one(tmp_path):
    for odd in ("1e400", "2880.5"):
        root = SHAPES["sglang_hidden_set"].package(tmp_path / odd)
        file = root / "sglang" / SGLANG
        text = file.read_text()
        assert "    512,\n" in text
        file.write_text(text.replace("    512,\n", f"    {odd},\n", 1))
        (tree,) = open_trees(root)
        with contextlib.suppress(InputError):
            assert "2880" not in audit(tree).installed[0].rule.words()


def test_a_name_inside_a_wheel_is_said_in_printable_letters(tmp_path):
    wheel = SHAPES["vllm_inline"].wheel(tmp_path)
    data = wheel.read_bytes()
    at = data.rindex(b"vllm-0.28.0.dist-info/METADATA")
    wheel.write_bytes(data[:at] + b"\x7f" + data[at + 1 :])
    with pytest.raises(InputError) as refused:
        open_trees(wheel)
    assert str(refused.value).isprintable()
    assert "unreadable" in str(refused.value)
