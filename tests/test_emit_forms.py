"""Snippets, AITER's environment, JSON and table."""

from __future__ import annotations

import ast
import json
import subprocess

import pytest
from emitted import PROVENANCE, RULES, function_says, random_calls, rule_says

from costmodel.data import kernels as kernel
from costmodel.engines import environment, templates
from costmodel.engines import patch as engine
from costmodel.engines.call_sites import SERVING_ENGINES, serving_engine
from costmodel.engines.module import Module
from costmodel.engines.reader import read_dispatch
from costmodel.errors import InputError
from costmodel.rules import ENGINES, catalogue
from costmodel.rules.adapt import validity
from costmodel.rules.boundary import first_difference
from costmodel.rules.evidence import Provenance
from costmodel.rules.rule import Rule
from costmodel.show.rule import rule_table

NEWEST = kernel.aiter()


def test_every_engine_with_rules_has_call_sites_and_a_template():
    assert tuple(e.name for e in SERVING_ENGINES) == ENGINES
    for one in SERVING_ENGINES:
        assert catalogue.current(one.name).engine == one.name
        assert one.call_sites[0].op == "fused_ar_rmsnorm"
        assert templates.of(one).function == one.call_sites[0].function


class TestSnippet:
    @pytest.mark.parametrize("name", ENGINES)
    @pytest.mark.parametrize("rule", RULES)
    def test_it_decides_as_the_rule(self, name, rule):
        emitted = engine.snippet(serving_engine(name), RULES[rule], PROVENANCE, NEWEST)
        ast.parse(emitted.text)
        mesh = name == "vllm"
        calls = [c for c in random_calls(500) if mesh or c[4]]
        assert function_says(emitted.patched, emitted.function, calls) == rule_says(
            emitted.adapted.rule, calls
        )

    def test_it_says_where_it_belongs_and_where_it_comes_from(self):
        text = engine.snippet(
            serving_engine("sglang"), RULES["partly_claimed"], PROVENANCE, NEWEST
        ).text
        assert text.startswith("# SGLang, python/sglang/srt/distributed/parallel_state.py\n")
        assert "GroupCoordinator.fused_allreduce_rmsnorm" in text
        assert "calibration gfx950-0123abcd" in text
        assert "TP8: not identified; the cutoff that stood here is kept." in text
        assert "max_bytes = {4: 448 * 1024}.get(self.world_size, 128 * 1024)" in text

    @pytest.mark.parametrize("name", ENGINES)
    def test_the_template_has_the_engines_present_rule(self, name):
        template = templates.of(serving_engine(name))
        found = read_dispatch(
            Module.parse("template.py", template.text), template.function
        ).condition
        assert first_difference(Rule("", found), catalogue.named(name)) is None

    def test_the_engines_own_rule_is_its_own_form(self):
        text = engine.snippet(
            serving_engine("vllm"), catalogue.named("vllm"), PROVENANCE, NEWEST
        ).text
        assert "return total_bytes < 256 * 1024" in text
        assert "return total_bytes < 128 * 1024" in text

    def test_an_old_kernel_brings_its_token_cap(self):
        old = kernel.aiter("0.1.14")
        rule = Rule.from_cutoffs("r", {2: None}, requires=validity(old))
        emitted = engine.snippet(serving_engine("sglang"), rule, PROVENANCE, old)
        assert "input_.numel() // input_.shape[-1] <= 80" in emitted.text


class TestEnvironment:
    def values(self, text, tp):
        """Run the script in sh and return what it exports."""
        show = 'echo "${AITER_AR_1STAGE-unset} ${AITER_AR_1STAGE_MAX_KB-unset}"'
        done = subprocess.run(
            ["sh", "-eu"], input=f"{text}\n{show}\n", capture_output=True, text=True, check=False,
            env={"TP": str(tp), "AITER_AR_1STAGE": "1", "AITER_AR_1STAGE_MAX_KB": "7"},
        )  # fmt: skip
        return done.stdout.split(), done.stderr

    def test_it_exports_bytes_per_world_size(self):
        text = environment.script(RULES["partly_claimed"], PROVENANCE, NEWEST)
        assert self.values(text, 2)[0] == ["1", "unset"]
        assert self.values(text, 4)[0] == ["unset", "458752"]
        assert self.values(text, 8)[0] == ["unset", "unset"], "no claim leaves AITER's own rule"
        assert "no rule for TP=3" in self.values(text, 3)[1]

    def test_below_is_one_byte_less_than_up_to(self):
        text = environment.script(catalogue.named("vllm"), PROVENANCE, NEWEST)
        assert self.values(text, 4)[0] == ["unset", str(256 * 1024 - 1)]
        assert "The variables cannot say: 16-bit dtype;" in text

    def test_it_warns_about_the_unit(self):
        text = " ".join(
            environment.script(RULES["recommended"], PROVENANCE, NEWEST).replace("# ", "").split()
        )
        assert (
            "compares AITER_AR_1STAGE_MAX_KB with BYTES, in spite of its name: 512 would mean 512 "
            "bytes and turn 1-stage off"
        ) in text
        assert "Reproduce: costmodel emit" in text

    def test_always_2stage_forces_it(self):
        text = environment.script(catalogue.ALWAYS_2STAGE, PROVENANCE, NEWEST)
        assert self.values(text, 8)[0] == ["0", "unset"]

    def test_what_it_cannot_say_is_refused(self):
        with pytest.raises(InputError, match=r"AITER 0.1.16 does not read AITER_AR_1STAGE_MAX_KB"):
            environment.script(RULES["recommended"], PROVENANCE, kernel.aiter("0.1.16"))
        with pytest.raises(InputError, match="by tokens and hidden size at TP2"):
            environment.script(catalogue.named("aiter-mxfp4"), PROVENANCE, NEWEST)


class TestJsonAndTable:
    def test_json_reads_back_with_its_provenance(self, tmp_path):
        file = tmp_path / "rule.json"
        file.write_text(json.dumps(RULES["partly_claimed"].to_json(PROVENANCE)))
        assert catalogue.load(file) == RULES["partly_claimed"]
        found = json.loads(file.read_text())["provenance"]
        assert found["calibration"] == {"id": "gfx950-0123abcd", "sha256": "0123abcd4567ef89"}
        assert found["evidence"]["8"]["verdict"] == "not_identified"

    def test_table(self):
        lines = rule_table(RULES["partly_claimed"], PROVENANCE).splitlines()
        rows = {line.split()[0]: line for line in lines if line.startswith("TP")}
        assert "every size" in rows["TP2"]
        assert "no limit" in rows["TP2"]
        assert rows["TP4"].split()[1:7] == ["<=", "448", "KiB", "79", "56", "44"]
        assert "measured, 90 % interval over machines" in rows["TP4"]
        assert "no claim" in rows["TP8"]
        assert "not identified" in rows["TP8"]

    def test_the_table_of_a_rule_of_the_field_has_no_evidence(self):
        text = rule_table(catalogue.named("vllm"), Provenance("costmodel emit"))
        assert "evidence" not in text
        assert "18" in text.split("TP4")[-1]


@pytest.mark.parametrize("name", ENGINES)
def test_a_rule_that_always_decides_alike_has_a_snippet(name):
    always, never = (
        engine.snippet(serving_engine(name), rule, PROVENANCE, kernel.aiter()).text
        for rule in (catalogue.ALWAYS_1STAGE, catalogue.ALWAYS_2STAGE)
    )
    assert "1-stage at every size" in always
    assert "1-stage at every size" not in never
