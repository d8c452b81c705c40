"""A rule that stands more than once in a tree: audit and emit name each, none is patched unsaid."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from zipfile import ZipFile

import pytest
from click.testing import CliRunner
from emitted import PROVENANCE, RULES, apply, emit, function_says, random_calls, rule_says, tools
from engines.shapes import AITER, HERE, SGLANG, SHAPES

from costmodel.cli import audit as cli_audit
from costmodel.data import kernels
from costmodel.engines import consultation
from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.boundary_tests import render
from costmodel.engines.module import Module, constant_of
from costmodel.engines.reader import NotRecognisedError, find_dispatch
from costmodel.engines.source import open_trees
from costmodel.model.shape import FUSED

SOURCE = (HERE / "sglang_bytes.py").read_text()
METHOD = SOURCE[
    SOURCE.index("    def fused_allreduce_rmsnorm(") : SOURCE.index(
        "    def fused_allreduce_rmsnorm_quant_per_group"
    )
]
NAME = "GroupCoordinator.fused_allreduce_rmsnorm"
OTHER = METHOD.replace("128 * 1024", "256 * 1024")
STUB = "    def fused_allreduce_rmsnorm(self, input_, use_1stage=None):\n        raise TypeError\n"
HEAD, CLASS = SOURCE[: SOURCE.index("class Group")], SOURCE[SOURCE.index("class Group") :]


def sglang(root, text, more=()):
    """Return a tree of SGLang with such a source, and other files."""
    SHAPES["sglang_bytes"].package(root)
    for name, content in ((f"sglang/{SGLANG}", text), *more):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def said(root):
    """Return what audit prints of a tree, in one line."""
    done = CliRunner().invoke(cli_audit.command, [str(root)], standalone_mode=False)
    assert done.exception is None
    return " ".join(done.stdout.split())


def decides_as_the_rule(emitted):
    calls = random_calls(500)
    for function in (emitted.function, *emitted.copies):
        decided = function_says(emitted.patched, function, calls)
        assert decided == rule_says(emitted.adapted.rule, calls)


def branches(first, second):
    """Return a source with a class in both branches of a test."""
    ways = [textwrap.indent(one, "    ") for one in (first, second)]
    return f"{HEAD}if is_hip():\n{ways[0]}else:\n{ways[1]}"


def test_the_later_of_two_definitions_is_in_force(tmp_path):
    root = sglang(tmp_path, SOURCE.replace(METHOD, METHOD + OTHER))
    (tree,) = open_trees(root)
    assert "256 KiB" in audit(tree).installed[0].statement()
    assert f"never in force: {NAME} (sglang/{SGLANG}:15)" in said(root)
    emitted = emit(root, RULES["recommended"])
    hidden = "is never in force: a later definition of the same name hides it"
    assert hidden in " ".join(emitted.text.split())
    assert f"not patched: {NAME} (sglang/{SGLANG}:15)" in " ".join(emitted.told())
    assert METHOD in emitted.patched
    decides_as_the_rule(emitted)


@pytest.mark.parametrize("form", ["branches", "try", "methods"])
def test_definitions_of_which_either_may_run_are_refused_with_both_rules(form, tmp_path):
    text = {
        "branches": branches(CLASS, CLASS.replace("128 * 1024", "256 * 1024")),
        "try": branches(CLASS, CLASS.replace("128 * 1024", "256 * 1024"))
        .replace("if is_hip():", "try:")
        .replace("else:\nclass", "except ImportError:\nclass")
        .replace("\nelse:\n    class", "\nexcept ImportError:\n    class"),
        "methods": SOURCE.replace(
            METHOD, f"{METHOD}    if is_hip():\n\n{textwrap.indent(OTHER, '    ')}"
        ),
    }[form]
    ast.parse(text)
    root = sglang(tmp_path, text)
    (tree,) = open_trees(root)
    for ask in (
        lambda: audit(tree),
        lambda: emit(root, RULES["recommended"]),
        lambda: consultation.consult(tree, kernels.aiter(), "costmodel emit"),
    ):
        with pytest.raises(NotRecognisedError) as refused:
            ask()
        assert f"{NAME} is defined 2 times with a rule" in str(refused.value)
        assert "bytes <= 128 KiB; line" in str(refused.value).replace("256", "128")
        assert {"256 KiB" in str(refused.value), "128 KiB" in str(refused.value)} == {True}


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("stub", [STUB, STUB.replace("use_1stage=None", "*more")])
def test_a_stub_of_another_platform_is_no_second_rule(stub, order, tmp_path):
    other = CLASS.replace(METHOD, stub)
    root = sglang(tmp_path, branches(*[(CLASS, other), (other, CLASS)][order]))
    emitted = emit(root, RULES["recommended"])
    assert ast.parse(emitted.patched)
    assert stub.strip() in textwrap.dedent(emitted.patched.replace("\n    ", "\n"))
    decides_as_the_rule(emitted)
    file = tmp_path / "test_rule.py"
    apply(emitted.text, root, tools()[0])
    sglang_engine = open_trees(root)[0].engine
    file.write_text(
        render(
            emitted.adapted,
            PROVENANCE,
            sglang_engine,
            emitted.file,
            emitted.function,
            str(root),
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout


def test_a_class_beside_it_with_the_same_rule_is_patched_alike(tmp_path):
    beside = f"\n\nclass HipCoordinator(GroupCoordinator):\n{METHOD}"
    root = sglang(tmp_path, SOURCE + beside)
    emitted = emit(root, RULES["recommended"])
    assert emitted.copies == ("HipCoordinator.fused_allreduce_rmsnorm",)
    decides_as_the_rule(emitted)
    assert "chooses too: HipCoordinator.fused_allreduce_rmsnorm" in said(root)
    apply(emitted.text, root, tools()[0])
    assert emit(root, RULES["recommended"]).text == ""
    second = emit(root, RULES["strict"])
    assert second.copies == emitted.copies
    apply(second.text, root, tools()[0])
    decides_as_the_rule(second)
    (tree,) = open_trees(root)
    apply(engine.revert(tree, FUSED), root, tools()[0])
    assert (root / "sglang" / SGLANG).read_text() == SOURCE + beside


def test_a_class_beside_it_with_a_rule_of_its_own_is_named(tmp_path):
    root = sglang(tmp_path, f"{SOURCE}\n\nclass HipCoordinator(GroupCoordinator):\n{OTHER}")
    emitted = emit(root, RULES["recommended"])
    assert emitted.copies == ()
    name = f"HipCoordinator.fused_allreduce_rmsnorm (sglang/{SGLANG}:66)"
    assert f"not patched: {name}" in " ".join(emitted.told())
    assert f"chooses too: {name}, {FUSED}: 1-stage when bytes <= 256 KiB" in said(root)


def test_another_file_with_the_rule_is_named(tmp_path):
    copy = "sglang/srt/distributed/parallel_state_hip.py"
    root = sglang(tmp_path, SOURCE, [(copy, SOURCE)])
    emitted = emit(root, RULES["recommended"])
    assert emitted.copies == ()
    assert f"not patched: {NAME} ({copy}:15)" in " ".join(emitted.told())
    assert f"chooses too: {NAME} ({copy}:15)" in said(root)


def packages(tmp_path, kind):
    """Return a tree that has a second package of an engine, and how that is named."""
    root = sglang(tmp_path / "tree", SOURCE)
    if kind == "wheel":
        wheel = SHAPES["aiter_limit"].wheel(tmp_path / "wheels")
        with ZipFile(wheel, "a") as archive:
            for name, text in SHAPES["aiter_limit"].contents().items():
                archive.writestr(f"bundled/aiter/{name}", text)
        return wheel, "AITER in bundled/aiter"
    below = {
        "build": ("sglang_bytes", "build/lib", "SGLang in build/lib/sglang"),
        "checkout": ("sglang_hidden_set", "python", "SGLang in python/sglang"),
        "vendored": ("aiter_limit", "sglang/_vendor", "AITER in sglang/_vendor/aiter"),
    }[kind]
    SHAPES[below[0]].package(root / below[1])
    return root, below[2]


@pytest.mark.parametrize("kind", ["build", "checkout", "vendored", "wheel"])
def test_a_second_package_below_the_path_is_named(kind, tmp_path):
    root, named = packages(tmp_path, kind)
    (tree,) = open_trees(root)
    assert tree.elsewhere() == (named,)
    assert f"not read, below the same path: {named}" in said(root)
    said_of_it = " ".join(emit(root, RULES["recommended"]).text.split())
    assert f"not patched, below the same path: {named}" in said_of_it
    consulted = consultation.consult(tree, kernels.aiter(), "costmodel emit")
    assert consulted.elsewhere == (named,)


def test_engines_side_by_side_are_read_and_not_elsewhere(tmp_path):
    for shape in ("sglang_bytes", "vllm_inline", "aiter_limit"):
        SHAPES[shape].package(tmp_path)
    (tmp_path / "aiter" / "again").symlink_to(tmp_path)
    trees = open_trees(tmp_path)
    assert [tree.engine.name for tree in trees] == ["sglang", "vllm", "aiter"]
    assert [tree.elsewhere() for tree in trees] == [()] * 3


def test_of_two_functions_that_moved_both_are_named(tmp_path):
    root = SHAPES["aiter_limit"].package(tmp_path)
    text = (root / "aiter" / AITER).read_text()
    (root / "aiter" / AITER).write_text("")
    for name in ("one.py", "two.py"):
        (root / "aiter" / name).write_text(text.replace("CudaCommunicator", "Communicator"))
    (tree,) = open_trees(root)
    with pytest.raises(NotRecognisedError, match="2 functions choose") as refused:
        find_dispatch(tree, FUSED)
    assert "(aiter/one.py:13)" in str(refused.value)
    assert "(aiter/two.py:13)" in str(refused.value)
    (root / "aiter" / "two.py").unlink()
    assert find_dispatch(tree, FUSED)[0].name == "aiter/one.py"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A = 1", "1"),
        ("A = 1\nA = 2", "2"),
        ("A: int\nA = 3", "3"),
        ("A = 1\nif x:\n    A = 2", None),
        ("if x:\n    A = 1\nelse:\n    A = 1", "1"),
        ("if x:\n    A = 1\nelif y:\n    A = 2\nelse:\n    A = 1", None),
        ("try:\n    A = int(y)\nexcept ValueError:\n    A = -1", "int(y)"),
        ("A = 1\nA += 1", None),
        ("A = 1\nwith x:\n    A = 2", "2"),
        ("A = {2: 1}\nA[4] = 2", None),
        ("A = {2: 1}\nif x:\n    A.update({4: 2})", None),
        ("A = {2: 1}\nA |= x", None),
        ("A = {2: 1}\nB = A.pop(2)", None),
        ("A = 1\nfor A in x:\n    pass", None),
        ("A = 1\nmatch x:\n    case 1:\n        A = 2", None),
        ("A = [1]\n\n\ndef f():\n    A.append(2)", "[1]"),
        ("A = 1\nA, B = 2, 3", None),
        ("B = 1", None),
    ],
)
def test_what_a_constant_holds_is_what_was_set_last(text, value):
    found = constant_of(Module.parse("x.py", text).tree, "A")
    assert (None if found is None else ast.unparse(found)) == value


def test_a_limit_that_is_set_twice_is_not_read_as_the_first(tmp_path):
    limit = "LIMIT = 64 * 1024\nLIMIT = 96 * 1024\n\n\nclass Group"
    text = SOURCE.replace("class Group", limit).replace("<= 128 * 1024\n\n", "<= LIMIT\n\n")
    root = sglang(tmp_path, text)
    (tree,) = open_trees(root)
    assert "bytes <= 96 KiB" in audit(tree).installed[0].statement()
    (root / "sglang" / SGLANG).write_text(text.replace("LIMIT = 96", "if x:\n    LIMIT = 96"))
    with pytest.raises(NotRecognisedError):
        audit(tree)
