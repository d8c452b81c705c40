"""A patch over a patch, the rule in force, and taking a patch out again."""

from __future__ import annotations

import subprocess

import pytest
from command import costmodel
from emitted import PROVENANCE, RULES, apply, emit
from engines.shapes import AITER, SGLANG, SHAPES, VLLM_OPS
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import kernels as kernel
from costmodel.engines import applied
from costmodel.engines import patch as engine
from costmodel.engines.source import open_trees
from costmodel.errors import InputError
from costmodel.rules import catalogue
from costmodel.rules.rule import Rule

FUSED = "fused_ar_rmsnorm"


def put(root, emitted):
    """Apply an emitted patch; return the file it changed."""
    apply(emitted.text, root, "patch")
    file = root / emitted.file
    assert file.read_text() == emitted.patched
    return file


def revert(root, op=FUSED):
    (tree,) = open_trees(root)
    apply(engine.revert(tree, op), root, "patch")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_a_patch_over_a_patch_is_the_patch_alone(shape, rule, tmp_path):
    root = SHAPES[shape].package(tmp_path / "twice")
    before = {f: f.read_bytes() for f in root.rglob("*.py")}
    put(root, emit(root, RULES["strict" if rule != "strict" else "one_cutoff"]))
    alone = emit(SHAPES[shape].package(tmp_path / "once"), RULES[rule])
    file = put(root, emit(root, RULES[rule]))
    assert file.read_text() == alone.patched
    assert file.read_text().count("Reproduce: ") == 1
    assert emit(root, RULES[rule]).text == ""
    revert(root)
    assert {f: f.read_bytes() for f in root.rglob("*.py")} == before


def test_a_rule_that_is_always_one_kernel_is_replaced_too(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    before = (root / "sglang" / SGLANG).read_bytes()
    always = Rule.from_cutoffs("always", {2: None, 4: None, 8: None})
    put(root, emit(root, always))
    assert emit(root, always).text == ""
    put(root, emit(root, RULES["recommended"]))
    revert(root)
    assert (root / "sglang" / SGLANG).read_bytes() == before


def test_patches_of_two_ops_in_one_file_stand_side_by_side(tmp_path):
    op = "fused_ar_rmsnorm_quant_fp8"
    fp8 = Rule.from_cutoffs("fp8", {8: 262144}, op=op, status="proposed")
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    before = file.read_bytes()
    put(root, emit(root, RULES["recommended"]))
    put(root, emit(root, fp8))
    put(root, emit(root, RULES["strict"]))
    assert emit(root, fp8).text == ""
    revert(root)
    assert b"262144" in file.read_bytes() or b"256 * 1024" in file.read_bytes()
    revert(root, op)
    assert file.read_bytes() == before


def test_line_ends_of_windows_come_back(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    before = file.read_bytes()
    emitted = emit(root, RULES["recommended"])
    file.write_bytes(emitted.patched.encode())
    (tree,) = open_trees(root)
    done = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "--binary", "-d", str(root)],
        input=engine.revert(tree, FUSED).encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("4: 448 * 1024", "4: 449 * 1024"),
        lambda t: t.replace("or total_bytes <= max_bytes", "or  total_bytes <= max_bytes"),
        lambda t: t.replace("# TP8", "# TP9"),
        lambda t: "\n".join(line[:-3] if "Undo (" in line else line for line in t.split("\n")),
    ],
)
def test_lines_changed_since_are_refused_by_file_and_line(change, tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = put(root, emit(root, RULES["recommended"]))
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    (tree,) = open_trees(root)
    said = r"parallel_state\.py:\d+: the lines of the patch that is applied here were changed since"
    with pytest.raises(InputError, match=said):
        engine.revert(tree, FUSED)
    with pytest.raises(InputError, match=said):
        emit(root, RULES["strict"])
    assert file.read_text() == changed


def test_a_patch_without_a_mark_is_not_stacked_on(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = put(root, emit(root, RULES["recommended"]))
    (mark,) = applied.marks(file.read_text())
    lines = file.read_text().split("\n")
    del lines[mark.first : mark.end]
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"parallel_state\.py:\d+: a patch of an older costmodel"):
        emit(root, RULES["strict"])


def test_lines_elsewhere_may_change(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    before = file.read_text()
    put(root, emit(root, RULES["recommended"]))
    file.write_text("# moved\n" + file.read_text() + "# more\n")
    revert(root)
    assert file.read_text() == "# moved\n" + before + "# more\n"


def test_without_a_patch_there_is_nothing_to_take_out(tmp_path):
    (tree,) = open_trees(SHAPES["vllm_method"].package(tmp_path))
    with pytest.raises(InputError, match="no patch of costmodel for fused_ar_rmsnorm is applied"):
        engine.revert(tree, FUSED)


_LINES = st.lists(st.sampled_from(["    a = 1\n", "    b = 2\n", "    ü\n", "\n", "  # Undo\n"]))


@settings(max_examples=300, deadline=None)
@given(_LINES, _LINES, st.data())
def test_any_change_is_undone_exactly(old, new, data):
    at = data.draw(st.integers(0, len(new)))
    before = "".join(old)
    after = "".join([*new[:at], "    # Reproduce: it\n", *new[at:]])
    text = applied.marked(before, after, FUSED, "# Reproduce: it")
    assert applied.original(text, "x.py", FUSED) == before
    assert applied.original(text, "x.py", "all_reduce") is None


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789abcdef \n#!~", max_size=200))
def test_a_mark_of_anybody_else_ends_in_words(rest):
    text = f"    # Undo (costmodel emit --revert): {FUSED} {rest}\nx = 1\n"
    try:
        assert applied.original(text, "x.py", FUSED) is None
    except InputError as error:
        assert str(error).startswith("x.py:1: ")


def emit_command(*args, cwd):
    return costmodel("emit", *args, cwd=cwd)


def test_the_command_replaces_says_when_in_force_and_takes_out(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path / "site")
    file = root / "sglang" / SGLANG
    before = file.read_bytes()
    asked = ["--for", "sglang", "--source", "site"]
    for rule in ("vllm-57886", "aiter"):
        done = emit_command(*asked, "--rule", rule, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        apply(done.stdout, root, "patch")
    again = emit_command(
        *asked, "--rule", "aiter", "--out", "x.patch", "--tests", "t.py", cwd=tmp_path
    )
    assert again.returncode == 0
    assert again.stdout == ""
    assert len(again.stderr.strip().splitlines()) == 1
    assert "the rule is already in force" in again.stderr
    assert not (tmp_path / "x.patch").exists()
    assert not (tmp_path / "t.py").exists()
    done = emit_command(*asked, "--revert", "--out", "back.patch", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    apply((tmp_path / "back.patch").read_text(), root, "patch")
    assert file.read_bytes() == before
    done = emit_command(*asked, "--revert", cwd=tmp_path)
    assert done.returncode == 2
    assert "no patch of costmodel" in done.stderr
    done = emit_command("--for", "env", "--revert", cwd=tmp_path)
    assert done.returncode == 2
    assert "--revert goes with --for sglang, vllm, aiter and needs --source" in done.stderr


def test_the_provenance_is_no_part_of_what_is_in_force(tmp_path):
    root = SHAPES["vllm_method"].package(tmp_path)
    put(root, emit(root, catalogue.named("vllm-57886"), PROVENANCE))
    other = engine.Provenance("costmodel emit --for vllm --rule mine.json")
    assert emit(root, catalogue.named("vllm-57886"), other).text == ""


def test_a_rule_is_in_force_where_the_kernel_itself_asks_the_rest(tmp_path):
    root = SHAPES["aiter_limit"].package(tmp_path)
    file = root / "aiter" / AITER
    file.write_text("""
class CudaCommunicator:
    def fused_allreduce_rmsnorm(self, input_, res_inp_, weight_, eps):
        total_bytes = input_.numel() * input_.element_size()
        use_1stage = total_bytes <= 128 * 7168 * 2 // self.world_size
        return self.ca_comm.custom_fused_ar_rms(input_, use_1stage=use_1stage)
""")
    # AITER's source has no test of packs, its kernel has.
    assert "hidden / pack" in catalogue.named("aiter-per-rank").words()
    assert emit(root, catalogue.named("aiter-per-rank")).text == ""
    file.write_text(file.read_text().replace("128 * 7168", "127 * 7168"))
    assert emit(root, catalogue.named("aiter-per-rank")).text
    # Above the cap an old kernel throws: a rule without its guard is not in force.
    capped = Rule.from_cutoffs("capped", {n: 127 * 7168 * 2 // n for n in (2, 4, 8)})
    (tree,) = open_trees(root)
    old = engine.patch(tree, capped, PROVENANCE, kernel.aiter("0.1.14"))
    assert "<= 80" in old.patched
    assert engine.patch(tree, capped, PROVENANCE, kernel.aiter()).text == ""


def test_many_lines_that_are_alike_are_no_long_work(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    text = "\n" * 20_000 + file.read_text() + "\n" * 20_000
    file.write_text(text)
    emitted = emit(root, RULES["recommended"])
    assert applied.original(emitted.patched, emitted.file, FUSED) == text
    root = SHAPES["vllm_copies"].package(tmp_path / "between")
    file = root / "vllm" / VLLM_OPS
    text = file.read_text().replace("\n\n\n", "\n" * 3000)
    file.write_text(text)
    emitted = emit(root, RULES["recommended"])
    assert applied.original(emitted.patched, emitted.file, FUSED) == text
