"""Ops by name, and the answers about those that no model covers."""

from __future__ import annotations

import pytest
from command import costmodel
from engines.shapes import AITER, SHAPES

from costmodel.data import measurement
from costmodel.data.ops import chosen, vocabulary
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.files import json_text
from costmodel.model.shape import FP8, FP8_PER_TOKEN, MHC, MXFP4, OPS, Shapes, op_key, read_op
from costmodel.rules.catalogue import catalogue, named
from costmodel.rules.rule import Rule

UNMODELLED = (FP8, FP8_PER_TOKEN, MXFP4, MHC)


def run(*args):
    return costmodel(*args)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "op"),
        [
            ("fp8", FP8),
            ("per-group fp8", FP8),
            ("FP8_per_group", FP8),
            ("fp8-per-token", FP8_PER_TOKEN),
            ("per token fp8", FP8_PER_TOKEN),
            ("MXFP4", MXFP4),
            ("mHC", MHC),
            ("fused-ar-mhc", MHC),
            ("all-reduce", "all_reduce"),
            ("fused", "fused_ar_rmsnorm"),
            ("separate", "ar_then_rmsnorm"),
        ],
    )
    def test_people_and_programs_name_ops_alike(self, name, op):
        assert read_op(name) == op

    def test_every_name_stands_for_one_op(self):
        spelled = [word for op in chosen() for word in (op.name, *op.names)]
        assert len(spelled) == len(set(spelled))
        assert all(op_key(word) in vocabulary() for word in spelled)

    def test_a_phase_of_a_kernel_is_a_row_and_no_question(self):
        assert "reduce_scatter_phase" in measurement.VOCABULARY["op"]
        with pytest.raises(InputError, match="unknown op 'reduce_scatter_phase'"):
            read_op("reduce_scatter_phase")

    def test_rules_and_rows_speak_of_known_ops_only(self):
        assert {rule.op for rule in catalogue()} <= {op.name for op in chosen()}
        assert set(measurement.published().op.tolist()) <= set(vocabulary())

    @pytest.mark.parametrize(
        ("engine", "op", "rule"),
        [
            ("sglang", FP8, "sglang-fp8"),
            ("vllm", FP8, "vllm-fp8"),
            ("aiter", FP8, "aiter-fp8"),
            ("aiter", FP8_PER_TOKEN, "aiter-fp8-per-token"),
            ("aiter", MXFP4, "aiter-mxfp4"),
            ("aiter", MHC, "aiter-mhc"),
        ],
    )
    def test_each_op_has_its_engines_own_rule(self, engine, op, rule):
        assert named(engine, op=op).name == rule


class TestWithoutAModel:
    @pytest.mark.parametrize("op", UNMODELLED)
    def test_a_setting_names_the_rows_and_what_to_measure(self, op):
        with pytest.raises(InputError) as refused:
            Setting.shipped("MI355X", op=op)
        said = str(refused.value)
        assert said.startswith("not_identified: ")
        assert "MI355X" in said
        assert "measure 1-stage and 2-stage" in said
        assert "\n" not in said
        table = measurement.published()
        for source in set(table.source[table.op == op].tolist()):
            assert f"rows of {source}" in said

    def test_the_shapes_are_those_around_the_shipped_cutoffs(self):
        # 128 KiB is 9 tokens of hidden 7168 in bf16 and a part of the tenth.
        with pytest.raises(InputError, match=r"TP2, TP4, TP8: tokens 5, 9, 10, 20$"):
            Setting.shipped("MI355X", op=FP8_PER_TOKEN)

    def test_shapes_of_such_an_op_never_reach_a_model(self):
        for op in UNMODELLED:
            with pytest.raises(InputError, match="no model covers"):
                Shapes.of(8, 4096, 8, op=op)
        assert all(Shapes.of(8, 4096, 8, op=op).op == op for op in OPS)

    @pytest.mark.parametrize(
        "command",
        [
            "recommend --gpu MI355X",
            "predict --gpu MI355X --tp 4 --hidden 4096 --tokens 8",
            "explain --gpu MI355X --tp 4 --hidden 4096 --tokens 8",
            "worth --model gpt-oss-120b --tp 8 --from sglang",
            "plan --arch gfx942 --shapes 2",
            "validate --arch gfx950 --published",
            "validate --arch gfx950 --published --accuracy-only",
            "simulate --arch gfx950 --ranks 8 --tokens 32 --hidden 7168",
            "emit --for aiter --arch gfx950",
        ],
    )
    def test_every_command_takes_the_op_and_refuses_in_one_line(self, command):
        done = run(*command.split(), "--op", "mxfp4")
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"costmodel: error: not_identified: no model covers {TITLE}")

    def test_a_rule_of_the_field_needs_no_model(self):
        done = run("emit", "--for", "json", "--rule", "aiter", "--op", "mhc")
        assert done.returncode == 0
        assert '"op": "fused_ar_mhc"' in done.stdout
        assert "aiter-mhc" in run("rules", "--op", "mhc").stdout


TWO_GATES = """
class CudaCommunicator:
    def fused_allreduce_rmsnorm_mxfp4_quant(self, input_, res_inp_, weight_, eps):
        hidden = input_.shape[-1]
        total_bytes = input_.numel() * input_.element_size()
        can_1stage = hidden <= 16384 and input_.numel() // hidden <= 4
        can_2stage = hidden <= 8192 and total_bytes <= 512 * 1024
        if can_1stage or can_2stage:
            return self.ca_comm.fused_ar_rms_mxfp4(input_, use_1stage=can_1stage)
        return None
"""


class TestNotWritten:
    """Rules that no engine's Python holds in one place are refused with the reason."""

    @pytest.fixture
    def aiter(self, tmp_path):
        root = SHAPES["aiter_limit"].package(tmp_path / "site")
        (root / "aiter" / AITER).write_text(TWO_GATES)
        return root

    def emit(self, op, rule, *options):
        done = run("emit", "--for", "aiter", "--op", op, "--rule", rule, *options)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        return line

    def test_mxfp4_has_two_gates(self, aiter, tmp_path):
        rule = tmp_path / "mine.json"
        mine = Rule.from_cutoffs("mine", {2: None, 4: 30_000, 8: 10_000}, op=MXFP4)
        rule.write_text(json_text(mine.to_json()))
        for said in (self.emit("mxfp4", rule, "--source", aiter), self.emit("mxfp4", rule)):
            assert "two gates decide there" in said
            assert "change the gates by hand" in said

    def test_mhc_is_chosen_in_native_code(self, aiter):
        for options in (("--source", aiter), ()):
            said = self.emit("mhc", "aiter-mhc", *options)
            assert "kSplitMinBytes in csrc/kernels/fused_ar_mhc_post.cu" in said
            assert "build AITER again" in said


TITLE = vocabulary()[MXFP4].title
