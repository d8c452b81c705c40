"""The description before the diff: what is measured, who is concerned, how to check."""

from __future__ import annotations

import pytest
from emitted import (
    PROVENANCE,
    RULES,
    apply,
    emit,
    function_says,
    random_calls,
    rule_says,
    tools,
)
from engines.shapes import AITER, SGLANG, SHAPES, VLLM_METHOD, VLLM_OPS, Shape
from msgspec.structs import replace

from costmodel.data import kernels
from costmodel.engines import environment
from costmodel.engines import patch as engine
from costmodel.engines.consumers import consumers
from costmodel.engines.reader import find_dispatch
from costmodel.engines.source import open_trees
from costmodel.errors import InputError
from costmodel.model.shape import FP8
from costmodel.rules import catalogue
from costmodel.rules.evidence import Provenance
from costmodel.rules.rule import Rule

GEMMA = "model_executor/layers/fused_allreduce_gemma_rms_norm.py"
GATED = Shape(
    "vllm",
    "0.30.0",
    ((VLLM_METHOD, "vllm_method.py"), (VLLM_OPS, "vllm_asks.py"), (GEMMA, "vllm_gate.py")),
    "",
    "",
)


def described(emitted):
    """Return the description as one line."""
    return " ".join(emitted.text.split("\n--- a/")[0].split())


def concerned(root):
    (tree,) = open_trees(root)
    return {c.function: c for c in consumers(tree, *find_dispatch(tree, "fused_ar_rmsnorm"))}


def test_it_stands_before_the_diff_and_no_line_of_it_looks_like_one(tmp_path):
    for shape in SHAPES:
        text = emit(SHAPES[shape].package(tmp_path / shape), RULES["recommended"]).text
        before = text.split("\n--- a/")[0].splitlines()
        assert len(before) > 10
        assert not [x for x in before if x.lstrip().startswith(("-", "+", "@@", "*** ", "diff "))]


def test_it_says_what_is_measured_and_what_is_not(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    said = described(emit(root, RULES["partly_claimed"]))
    assert "what is measured: TP2 by physics" in said
    assert "TP4 measured (both arms on MI355X)" in said
    assert "TP8 no claim" in said
    said = described(emit(root, catalogue.named("vllm-57886"), Provenance("costmodel emit")))
    assert "taken as it stands (https://github.com/vllm-project/vllm/pull/57886)" in said
    assert "nothing was measured for this patch" in said


def test_it_gives_one_command_that_measures_around_the_cutoff(tmp_path):
    said = described(emit(SHAPES["sglang_bytes"].package(tmp_path), RULES["recommended"]))
    # 224 KiB are 16 tokens of 14 KiB.
    assert (
        "torchrun --nproc-per-node=8 -m costmodel measure --backend aiter --hidden 7168 --tokens "
        "8,16,20,32 --out run && costmodel validate --gpu MI355X --measurements "
        "run/measurements.csv"
    ) in said


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (RULES["recommended"], "not batch-invariant at TP4, TP8:"),
        (RULES["one_cutoff"], "not batch-invariant at TP2, TP4, TP8:"),
        (Rule.from_cutoffs("always", dict.fromkeys((2, 4, 8))), "takes one kernel for every size"),
    ],
)
def test_it_says_what_the_rule_does_to_batch_invariance(rule, named, tmp_path):
    emitted = emit(SHAPES["sglang_bytes"].package(tmp_path), rule)
    assert named in described(emitted)
    assert ("1-stage alone is: one workgroup sums a token" in described(emitted)) is (
        rule.name != "always"
    )


FP8_COPY = "_rocm_aiter_fused_allreduce_rmsnorm_quant_per_group_impl"


BF16_COPY = "_rocm_aiter_fused_allreduce_rmsnorm_quant_per_group_with_bf16_norm_impl"


def test_copies_of_the_rule_are_patched_alike(tmp_path):
    root = SHAPES["vllm_copies"].package(tmp_path)
    one = concerned(root)[FP8_COPY]
    assert (one.op, one.otherwise) == ("per-group fp8", "2stage")
    emitted = emit(root, RULES["recommended"])
    assert emitted.copies == (FP8_COPY, BF16_COPY)
    assert f"patched alike, per-group fp8: {FP8_COPY} (vllm/_aiter_ops.py:" in described(emitted)
    assert "none is known for per-group fp8 alone" in described(emitted)
    assert any("2 with a copy of it, patched alike" in note for note in emitted.notes)
    assert "Mirrors the logic of ``_rocm" in emitted.patched
    assert "Larger messages" not in emitted.patched
    calls = [(*call[:4], True) for call in random_calls(2000)]
    for function in (emitted.function, *emitted.copies):
        said = function_says(emitted.patched, function, calls)
        assert said == rule_says(emitted.adapted.rule, calls)


def test_a_copy_that_is_not_patched_is_not_in_force(tmp_path):
    root = SHAPES["vllm_copies"].package(tmp_path)
    emitted = emit(root, RULES["recommended"])
    before = (root / emitted.file).read_text()
    (root / emitted.file).write_text(emitted.patched)
    assert emit(root, RULES["recommended"]).text == ""
    one, _, _ = emitted.patched.partition("def _rocm_aiter_fused_allreduce_rmsnorm_quant")
    _, mark, rest = before.partition("def _rocm_aiter_fused_allreduce_rmsnorm_quant")
    (root / emitted.file).write_text(one + mark + rest)
    with pytest.raises(InputError, match="were changed since"):
        emit(root, RULES["recommended"])


def test_what_another_op_is_emitted_for_goes_to_its_own_variants(tmp_path):
    root = SHAPES["vllm_copies"].package(tmp_path)
    emitted = emit(root, replace(RULES["recommended"], op=FP8))
    assert (emitted.function, emitted.copies) == (FP8_COPY, (BF16_COPY,))


def test_a_patch_inside_a_patch_is_taken_out_first(tmp_path):
    root = SHAPES["vllm_copies"].package(tmp_path)
    file = root / emit(root, RULES["recommended"]).file
    before = file.read_text()
    file.write_text(emit(root, RULES["recommended"]).patched)
    file.write_text(emit(root, replace(RULES["strict"], op=FP8)).patched)
    (tree,) = open_trees(root)
    with pytest.raises(InputError, match=f"take out that of {FP8} first"):
        engine.revert(tree, RULES["recommended"].op)
    apply(engine.revert(tree, FP8), root, tools()[0])
    apply(engine.revert(tree, RULES["recommended"].op), root, tools()[0])
    assert file.read_text() == before


def test_a_rule_that_is_no_copy_is_listed_with_its_own(tmp_path):
    root = SHAPES["vllm_inline"].package(tmp_path)
    emitted = emit(root, RULES["recommended"])
    assert emitted.copies == ()
    assert f"not patched, per-group fp8: {FP8_COPY} (vllm/_aiter_ops.py:" in described(emitted)
    assert "keeps its rule: 1-stage when TP2 always, TP4 bytes < 256 KiB" in described(emitted)
    assert any("other functions that choose: 1 with its own" in note for note in emitted.notes)
    # A limit alone is each op's own, though it be the same.
    root = SHAPES["sglang_bytes"].package(tmp_path / "limit")
    file = root / "sglang" / SGLANG
    name = "    def fused_allreduce_rmsnorm"
    text = file.read_text()
    file.write_text(text + text[text.index(name) :].replace(name, f"{name}_quant"))
    emitted = emit(root, RULES["recommended"])
    assert emitted.copies == ()
    assert "not patched, fp8: GroupCoordinator.fused_allreduce_rmsnorm_quant" in described(emitted)


def test_users_of_the_predicate_are_listed_with_their_alternative(tmp_path):
    root = GATED.package(tmp_path)
    found = concerned(root)
    assert found["_rocm_aiter_fused_allreduce_rmsnorm_impl"].otherwise == "2stage"
    gemma = found["fused_allreduce_gemma_rms_norm"]
    assert (gemma.op, gemma.otherwise, gemma.asks) == ("Gemma norm", "separate", True)
    assert "_can_use_fused" not in found
    said = described(emit(root, RULES["recommended"]))
    assert "patched with it, Gemma norm: fused_allreduce_gemma_rms_norm (vllm/model_exec" in said
    assert "else separate ops. The cutoffs are against 2-stage; for those against separate" in said
    (tree,) = open_trees(root)
    other = Rule.from_cutoffs("separate", {2: None, 4: 221184, 8: 163840})
    said = described(
        engine.patch(
            tree, RULES["recommended"], PROVENANCE, kernels.aiter(), against_separate=lambda: other
        )
    )
    assert "against separate ops costmodel recommends 1-stage TP2 every size, TP4 <= 216" in said


def test_who_falls_back_to_the_patched_op_is_no_user_of_its_rule(tmp_path):
    root = SHAPES["aiter_limit"].package(tmp_path)
    file = root / "aiter" / AITER
    more = """
    def fused_allreduce_rmsnorm_quant(self, input_, res_inp_, weight_, eps):
        total_bytes = input_.numel() * input_.element_size()
        use_1stage = total_bytes <= 128 * 1024
        if self.ca_comm is None:
            return quantized(self.fused_allreduce_rmsnorm(input_, res_inp_, weight_, eps))
        return self.ca_comm.fused_quant(input_, res_inp_, weight_, use_1stage=use_1stage)

    def fused_ar(self, input_, use_1stage):
        return self.ca_comm.fused(input_, use_1stage=use_1stage)

    def experts(self, input_):
        use_1stage = input_.shape[0] <= 16
        return fused_moe(input_, use_1stage=use_1stage)
"""
    file.write_text(file.read_text() + more)
    found = concerned(root)
    assert list(found) == ["CudaCommunicator.fused_allreduce_rmsnorm_quant"]
    (one,) = found.values()
    assert (one.asks, one.op, one.own.words()) == (False, "fp8", "bytes <= 128 KiB")


def test_quick_reduce_before_the_kernel_is_named(tmp_path):
    root = GATED.package(tmp_path)
    file = root / "vllm" / VLLM_OPS
    at = "    result = aiter_ar.aiter_ca"
    before = "    if not use_1stage:\n        if on:\n            return qr_all_reduce(input_)\n"
    assert at in file.read_text()
    file.write_text(file.read_text().replace(at, before + at))
    said = described(emit(root, RULES["recommended"]))
    assert "else QuickReduce where that is on, else 2-stage" in said


def test_a_copy_in_sglang_is_the_quantising_op(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    said = described(emit(root, RULES["recommended"]))
    name = "GroupCoordinator.fused_allreduce_rmsnorm_quant_per_group"
    assert f"not patched, per-group fp8: {name}" in said


def test_the_variable_that_forces_every_fused_op_is_named_so():
    text = environment.script(catalogue.named("aiter"), Provenance("x"), kernels.aiter())
    said = " ".join(text.replace("#", " ").split())
    assert "AITER_AR_1STAGE forces the fused fp8 and MXFP4 ops too" in said
