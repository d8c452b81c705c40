"""Audits: what is read is what the function does; units; comparison and exit codes."""

from __future__ import annotations

import json

import pytest
from command import costmodel
from emitted import RULES, function_says, random_calls, rule_says
from engines.shapes import AITER, HERE, SGLANG, SHAPES, VLLM_OPS, Shape
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import kernels
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.engines import symbols
from costmodel.engines.audit import audit, known_as
from costmodel.engines.evaluation import NoChoiceError
from costmodel.engines.module import Module
from costmodel.engines.reader import NotRecognisedError, read_dispatch
from costmodel.engines.source import open_trees
from costmodel.engines.unit_checks import check
from costmodel.model.shape import WORLD_SIZES
from costmodel.rules import catalogue
from costmodel.rules.condition import Always, Compare, Member
from costmodel.rules.rule import Rule

FUNCTION = "GroupCoordinator.fused_allreduce_rmsnorm"


def audited(root, **how):
    (tree,) = open_trees(root)
    return audit(tree, **how)


def run(*args, cwd=None):
    return costmodel("audit", *args, cwd=cwd)


def function(body: str, extra: str = "") -> Module:
    """Return a module with one SGLang-like function of this body, which sets use_1stage."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    return Module.parse(
        "x.py",
        f"{extra}\nclass GroupCoordinator:\n"
        f"    def fused_allreduce_rmsnorm(self, x, residual, weight, eps):\n{lines}\n"
        f"        return self.ca_comm.custom_fused_ar_rms(x, residual, use_1stage=use_1stage)\n",
    )


def condition(body: str, extra: str = ""):
    return read_dispatch(function(body, extra), FUNCTION).condition


class TestReading:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_what_is_read_is_what_the_function_does(self, shape, tmp_path):
        found = audited(SHAPES[shape].package(tmp_path)).installed
        (tree,) = open_trees(tmp_path)
        for one in found:
            calls = [c for c in random_calls(1500) if c[2] % 128 == 0]
            text = tree.read(one.file)
            assert function_says(text, one.function, calls) == rule_says(one.rule, calls)

    @pytest.mark.parametrize(
        ("version", "bytes_limit", "name"),
        [
            # As AITER's source has it: what its kernel does not take, the kernel refuses.
            ("0.1.20", "128 * 7168 * 2 // self.world_size", "aiter-per-rank"),
            ("0.1.11", "128 * 1024", "aiter-128k"),
            ("0.1.14", "128 * 1024", "aiter-128k"),
        ],
    )
    def test_limits_that_the_kernel_checks_tell_no_rules_apart(
        self, version, bytes_limit, name, tmp_path
    ):
        root = SHAPES["aiter_limit"].package(tmp_path)
        file = root / "aiter" / AITER
        (root / "aiter" / "version.py").write_text(f'__version__ = "{version}"\n')
        body = f"""
class CudaCommunicator:
    def fused_allreduce_rmsnorm(self, input_, res_inp_, weight_, eps):
        total_bytes = input_.numel() * input_.element_size()
        use_1stage = total_bytes <= {bytes_limit}
        return self.ca_comm.custom_fused_ar_rms(input_, use_1stage=use_1stage)
"""
        file.write_text(body)
        (one,) = audited(root).installed
        assert one.known_as == name

    @pytest.mark.parametrize("shape", [s for s in SHAPES if SHAPES[s].rule])
    def test_the_rule_of_the_field_is_recognised(self, shape, tmp_path):
        made = SHAPES[shape]
        (one, *_) = audited(made.package(tmp_path)).installed
        assert one.known_as == made.rule
        assert one.function == made.function

    @pytest.mark.parametrize(
        ("shape", "line"),
        [
            (
                "sglang_hidden_set",
                "SGLang 0.5.9, sglang/srt/distributed/parallel_state.py:{}: fused_ar_rmsnorm: "
                "1-stage when bytes <= 128 KiB; hidden in {{512, 1024, 2048, 4096}}",
            ),
            (
                "vllm_method",
                "vLLM 0.33.0, vllm/distributed/device_communicators/aiter_custom_all_reduce.py:{}: "
                "fused_ar_rmsnorm: 1-stage when TP2 always, TP4 bytes < 256 KiB, TP8 bytes < 128 "
                "KiB; tokens <= 80; 16-bit dtype; hidden % pack == 0; hidden / pack <= 1024; "
                "TP4, TP8 full mesh",
            ),
            (
                "aiter_limit",
                "AITER 0.1.19, aiter/dist/device_communicators/communicator_cuda.py:{}: "
                "fused_ar_rmsnorm: 1-stage when TP2 bytes <= 896 KiB, TP4 bytes <= 448 KiB, TP8 "
                "bytes <= 224 KiB; hidden / pack <= 1024",
            ),
        ],
    )
    def test_the_statement_is_one_line_with_units(self, shape, line, tmp_path):
        (one, *_) = audited(SHAPES[shape].package(tmp_path)).installed
        assert one.statement() == line.format(one.line)
        text = (tmp_path / one.file).read_text().splitlines()
        assert "1024" in text[one.line - 1] or "limit" in text[one.line - 1]

    def test_ops_with_rules_of_their_own_are_told_too(self, tmp_path):
        found = audited(SHAPES["sglang_bytes"].package(tmp_path)).installed
        assert [one.known_as for one in found] == ["sglang-128k", "sglang-fp8"]
        assert found[1].rule.op == "fused_ar_rmsnorm_quant_fp8"

    def test_settings_that_override_are_named(self, tmp_path):
        for shape, names in (
            (
                "sglang_hidden_set",
                ("SGLANG_USE_1STAGE_ALLREDUCE", "SGLANG_ENABLE_DETERMINISTIC_INFERENCE"),
            ),
            ("aiter_env_kb", ("AITER_AR_1STAGE_MAX_KB",)),
            ("aiter_forced", ("AITER_AR_1STAGE",)),
        ):
            (one, *_) = audited(SHAPES[shape].package(tmp_path / shape)).installed
            assert tuple(o.name for o in one.overrides) == names

    @pytest.mark.parametrize(
        ("body", "cutoffs"),
        [
            ("use_1stage = x.nbytes <= 128 * 1024", (131072,) * 3),
            ("use_1stage = x.numel() * x.dtype.itemsize < 1 << 17", (131071,) * 3),
            ("use_1stage = 1 << 17 >= x.nbytes", (131072,) * 3),
            ("use_1stage = not x.nbytes > 2**17", (131072,) * 3),
            ("use_1stage = x.nbytes // 1024 <= 128", (132095,) * 3),
            ("use_1stage = x.nbytes / 1024 <= 128", (131072,) * 3),
            ("use_1stage = x.nbytes <= LIMIT[self.world_size]", (10, 20, 30)),
            ("use_1stage = x.nbytes <= LIMIT.get(self.world_size, 7)", (10, 20, 30)),
            ("m, h = x.shape\nuse_1stage = m * h * x.element_size() <= 64", (64,) * 3),
            ("limit = 64\nlimit *= 2\nuse_1stage = x.nbytes <= limit", (128,) * 3),
            ("use_1stage = x.nbytes <= min(99, 128 * 1024)", (99,) * 3),
            ("use_1stage = x.nbytes <= (64 if self.world_size > 4 else 32)", (32, 32, 64)),
            ("n = self.world_size\nuse_1stage = x.nbytes <= 4096 // n", (2048, 1024, 512)),
            ("if x.nbytes > 64:\n    use_1stage = False\nelse:\n    use_1stage = True", (64,) * 3),
            (
                "use_1stage = True\nif x.nbytes > 64:\n    use_1stage = False",
                (64,) * 3,
            ),
            ("with lock:\n    use_1stage = x.nbytes <= 64", (64,) * 3),
            ("use_1stage = x.nbytes <= int(os.getenv('A_B', '64'))", (64,) * 3),
        ],
    )
    def test_ways_to_write_a_cutoff(self, body, cutoffs):
        found = Rule("", condition(body, "LIMIT = {2: 10, 4: 20, 8: 30}"))
        for n, cutoff in zip(WORLD_SIZES, cutoffs, strict=True):
            op, value = found.cutoff_bytes(n)
            assert value - (op == "<") == cutoff

    def test_quantities_are_told_apart_by_what_they_are_not_by_their_names(self):
        def one(expression):
            return condition(f"bytes_ = {expression}\nuse_1stage = bytes_ <= 4096").at(8)

        assert one("x.numel()") == Compare("elements", "<=", 4096)
        assert one("x.numel() // x.shape[-1]") == Compare("tokens", "<=", 4096)
        assert one("x.size(0)") == Compare("tokens", "<=", 4096)
        assert one("x.shape[0] * x.shape[1] * x.itemsize") == Compare("bytes", "<=", 4096)
        assert one("x.nbytes // x.element_size()") == Compare("elements", "<=", 4096)

    def test_dtypes_and_sets(self):
        found = condition(
            "use_1stage = x.nbytes <= 64 and x.dtype == torch.bfloat16 and x.shape[-1] not in SET",
            "SET = frozenset({512, 1024})",
        ).at(8)
        assert set(found.parts) == {
            Compare("bytes", "<=", 64),
            Member("dtype", ("bf16",)),
            Member("hidden_dim", (512, 1024), False),
        }

    def test_what_cannot_be_read_is_said(self):
        found = read_dispatch(function("use_1stage = self.warm and x.nbytes <= 64"), FUNCTION)
        assert found.condition.at(8) == Compare("bytes", "<=", 64)
        assert found.assumed == ("self.warm",)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("use_1stage = self.choose()", "makes no choice of its own"),
            ("use_1stage = True", "chooses by no size"),
            ("for n in self.limits:\n    use_1stage = x.nbytes <= n", "makes no choice of its own"),
        ],
    )
    def test_no_choice_is_no_rule(self, body, message):
        with pytest.raises(NoChoiceError, match=message):
            condition(body)

    def test_endless_branching_is_given_up(self):
        many = "\n".join(f"if self.a{i}:\n    b{i} = 1" for i in range(12))
        with pytest.raises(NoChoiceError, match="too many branches"):
            condition(f"{many}\nuse_1stage = x.nbytes <= 64")

    @settings(deadline=None, max_examples=40)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["tokens", "hidden", "size"]),
                st.sampled_from(["<", "<=", ">", ">="]),
                st.sampled_from([8, 80, 2880, 4096, 65536, 229376]),
                st.sampled_from(["return True", "return False", "return size <= 131072"]),
                st.sampled_from([2, 4, 8]),
            ),
            max_size=5,
        )
    )
    def test_random_predicates_are_read_as_they_run(self, steps):
        lines = ["hidden = x.shape[-1]", "tokens = x.numel() // hidden", "size = x.nbytes"]
        for name, op, value, action, ranks in steps:
            lines.append(f"if {name} {op} {value} and self.world_size >= {ranks}:")
            lines.append(f"    {action}")
        lines.append("return size < 262144")
        body = "\n".join(f"        {line}" for line in lines)
        text = f"class A:\n    def use_1stage(self, x):\n{body}\n"
        calls = random_calls(120)
        try:
            found = Rule("", read_dispatch(Module.parse("x.py", text), "A.use_1stage").condition)
        except NoChoiceError:
            # Conditions that cover everything (tokens < 8, else tokens >= 8) leave no choice.
            assert len(set(function_says(text, "A.use_1stage", calls))) == 1
            return
        assert function_says(text, "A.use_1stage", calls) == rule_says(found, calls)


def test_a_rule_alike_everywhere_comes_before_one_alike_on_what_the_kernel_takes():
    gpt_oss = catalogue.named("sglang-gpt-oss")
    # AITER before 0.1.12 takes four hidden sizes, and 2880 is none of them.
    assert known_as(gpt_oss, kernels.aiter("0.1.11.post1")) == "sglang-gpt-oss"
    assert known_as(gpt_oss, kernels.aiter()) == "sglang-gpt-oss"


class TestSymbols:
    def test_names_carry_their_unit(self):
        assert [symbols.kilo_of(n) for n in ("MAX_KB", "max_kib", "AITER_AR_1STAGE_MAX_KB")] == [
            1,
            1,
            1,
        ]
        assert [symbols.kilo_of(n) for n in ("limit_mb", "kbuckets", "rankb", "bytes")] == [
            2,
            0,
            0,
            0,
        ]

    def test_a_floor_division_is_not_rounded_away(self):
        kib = symbols.arithmetic("//", symbols.BYTES, symbols.number(1024))
        assert symbols.comparison("<=", kib, symbols.number(128)) == Compare(
            "bytes", "<", 129 * 1024
        )
        assert symbols.comparison(">", kib, symbols.number(128)) == Compare(
            "bytes", ">=", 129 * 1024
        )
        assert symbols.comparison("<", kib, symbols.number(128)) == Compare(
            "bytes", "<", 128 * 1024
        )

    def test_unlimited(self):
        assert symbols.comparison("<=", symbols.BYTES, symbols.number(float("inf"))) == Always()


class TestUnitChecks:
    def findings(self, body, extra=""):
        module = function(body, extra)
        return [(f.check, f.text) for f in check(module, read_dispatch(module, FUNCTION))]

    def test_a_name_in_kb_compared_with_bytes(self, tmp_path):
        (one, *_) = audited(SHAPES["aiter_env_kb"].package(tmp_path)).installed
        (finding,) = one.findings
        assert finding.check == "kb_against_bytes"
        assert finding.text == (
            "AITER_AR_1STAGE_MAX_KB says KB but is compared with bytes: 512 there means 512 bytes, "
            "which turns 1-stage off"
        )
        found = self.findings("use_1stage = x.nbytes <= MAX_KB", "MAX_KB = 448")
        assert [c for c, _ in found] == ["kb_against_bytes"]

    def test_kb_times_1024_is_right(self):
        assert self.findings("use_1stage = x.nbytes <= MAX_KB * 1024", "MAX_KB = 448") == []
        assert self.findings("use_1stage = x.nbytes <= MAX_MB * 1024 * 1024", "MAX_MB = 4") == []
        assert self.findings("use_1stage = x.nbytes // 1024 <= MAX_KB", "MAX_KB = 448") == []
        assert self.findings("use_1stage = x.nbytes <= MAX_MB * 1024", "MAX_MB = 4") != []

    def test_bytes_over_1024_compared_with_bytes(self):
        found = self.findings("use_1stage = x.nbytes // 1024 <= MAX_BYTES", "MAX_BYTES = 131072")
        assert [c for c, _ in found] == ["kb_against_bytes"]

    def test_elements_compared_with_bytes(self):
        found = self.findings("total_bytes = x.numel()\nuse_1stage = total_bytes <= 1000")
        assert found[0][0] == "elements"
        assert "total_bytes says bytes" in found[0][1]
        found = self.findings("use_1stage = x.numel() <= 128 * 1024")
        assert "128 x 1024 looks like bytes" in found[0][1]
        assert self.findings("use_1stage = x.numel() <= 100_000") == []

    @pytest.mark.parametrize(
        ("comment", "op", "found"),
        [
            ("at most 128 KiB", "<", True),
            ("up to 128 KiB", "<", True),
            ("at most 128 KiB", "<=", False),
            ("below 128 KiB", "<=", True),
            ("below 128 KiB", "<", False),
            ("the limit is measured", "<", False),
        ],
    )
    def test_a_comment_that_says_otherwise(self, comment, op, found):
        beside = f"use_1stage = x.nbytes {op} 128 * 1024  # {comment}"
        above = f"# 1-stage {comment}\nuse_1stage = x.nbytes {op} 128 * 1024"
        for body in (beside, above):
            assert [c for c, _ in self.findings(body)] == (["at_most"] if found else [])
        refused = {"<": ">=", "<=": ">"}[op]
        body = f"use_1stage = True\n# {comment}\nif x.nbytes {refused} 128 * 1024:\n"
        body += "    use_1stage = False"
        assert [c for c, _ in self.findings(body)] == (["at_most"] if found else [])

    def test_all_three_in_one_function(self):
        text = (HERE / "wrong_units.py").read_text()
        module = Module.parse("wrong_units.py", text)
        found = check(module, read_dispatch(module, FUNCTION))
        assert {f.check for f in found} == {"elements", "at_most", "kb_against_bytes"}
        lines = text.splitlines()
        assert all("<" in lines[f.line - 1] for f in found)

    @pytest.mark.parametrize("shape", [s for s in SHAPES if s != "aiter_env_kb"])
    def test_engines_in_order_have_no_findings(self, shape, tmp_path):
        assert [
            i.findings for i in audited(SHAPES[shape].package(tmp_path)).installed if i.findings
        ] == []


class TestComparison:
    def test_against_a_rule_as_it_would_stand_there(self, tmp_path):
        root = SHAPES["vllm_method"].package(tmp_path)
        done = audited(root, against=RULES["partly_claimed"])
        assert done.against.rule.cutoff_bytes(4) == ("<=", 458752)
        assert done.against.rule.cutoff_bytes(8) == ("<", 131072)
        record = done.to_dict((2880, 7168), "bf16", None)
        four = record["comparison"][1]
        assert four["installed"] == {"sizes": "< 256 KiB", "compare": "<", "bytes": 262144}
        assert four["max_tokens"]["7168"] == {"installed": 18, "against": 32}
        assert record["schema"] == "costmodel/audit/1"
        assert record["loses_pct"] is None

    def test_scores_are_those_of_the_decision_at_claimed_world_sizes_only(self, tmp_path):
        root = SHAPES["sglang_bytes"].package(tmp_path)
        decision = recommend(Setting.shipped("MI355X"), world_sizes=(4, 8))
        found = audited(root, against=Rule.from_cutoffs("r", {4: 458752}), decision=decision)
        assert found.against.unclaimed == (2, 8)
        assert list(found.scores) == [4]
        score = found.scores[4]
        mine, installed = (decision.at(4).arms.shapes.bytes <= limit for limit in (458752, 131072))
        arms = decision.at(4).arms
        assert score.regret_pct.value == pytest.approx(arms.regret_pct(mine).mean())
        assert score.other_regret_pct.value == pytest.approx(arms.regret_pct(installed).mean())
        assert found.loses_pct == score.saved_pct.value

    def test_without_a_rule_the_decision_s_is_compared(self, tmp_path):
        root = SHAPES["sglang_bytes"].package(tmp_path)
        decision = recommend(Setting.shipped("MI355X"), world_sizes=(4, 8))
        found = audited(root, decision=decision)
        assert sorted(found.scores) == [4, 8]
        for n in (4, 8):
            assert found.against.rule.cutoff_bytes(n) == ("<=", decision.at(n).max_bytes)


class TestCommand:
    def test_it_states_the_rule(self, tmp_path):
        done = run(SHAPES["sglang_hidden_set"].wheel(tmp_path))
        assert done.returncode == 0, done.stderr
        first = done.stdout.splitlines()[0]
        assert first.startswith("SGLang 0.5.9, sglang/srt/distributed/parallel_state.py:")
        assert first.endswith("1-stage when bytes <= 128 KiB; hidden in {512, 1024, 2048, 4096}")
        assert "the same as rule 'sglang-first'" in done.stdout

    def test_it_compares_with_the_recommendation_and_fails_above(self, tmp_path):
        root = SHAPES["sglang_bytes"].checkout(tmp_path)
        args = (root, "--gpu", "mi355x", "--model", "gpt-oss-120b")
        done = run(*args, "--format", "json", "--fail-above", "0.0001")
        assert done.returncode == 1, done.stderr
        record = json.loads(done.stdout)
        assert record["kind"] == "checkout"
        assert record["passed"] is False
        assert record["loses_pct"] > 0.5, "128 KiB at TP4 loses where 448 KiB is right"
        by_size = {r["world_size"]: r for r in record["regret"]}
        four = by_size[4]
        assert four["loses_pct"]["lo"] <= four["loses_pct"]["value"] <= four["loses_pct"]["hi"]
        assert four["installed_pct"]["value"] > four["against_pct"]["value"]
        assert "loses" in done.stderr
        done = run(*args, "--fail-above", "90")
        assert done.returncode == 0
        assert "us of 71 calls a decode step in SGLang" in done.stdout

    def test_against_a_rule_of_the_field(self, tmp_path):
        root = SHAPES["sglang_bytes"].package(tmp_path)
        done = run(root, "--against", "aiter-per-rank", "--hidden", "7168")
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines() if line.startswith("TP4")]
        assert rows == [
            ["TP4", "installed", "<=", "128", "KiB", "9"],
            ["TP4", "aiter-per-rank", "<=", "448", "KiB", "32"],
        ]

    def test_a_site_packages_directory_may_hold_several(self, tmp_path):
        SHAPES["sglang_bytes"].package(tmp_path)
        SHAPES["vllm_method"].package(tmp_path)
        Shape("aiter", "0.1.9", ((AITER, "vllm_asks.py"),), "", "").package(tmp_path)
        done = run(tmp_path)
        assert done.returncode == 0, done.stderr
        assert "SGLang 0.5.23" in done.stdout
        assert "vLLM 0.33.0" in done.stdout
        assert "no rule recognised in AITER 0.1.9" in done.stderr
        record = json.loads(run(tmp_path, "--format", "json").stdout)
        assert [one["engine"] for one in record["audits"]] == ["sglang", "vllm"]

    def test_sources_are_never_run(self, tmp_path):
        root = SHAPES["sglang_bytes"].package(tmp_path)
        for file in (root / "sglang" / "__init__.py", root / "sglang" / SGLANG):
            file.write_text(f"raise SystemExit('imported')\n{file.read_text()}")
        assert run(root, cwd=root).returncode == 0

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: p / "nowhere", "no such file or directory"),
            (lambda p: p, "not an SGLang, vLLM or AITER tree; looked for the packages of sglang/srt"),
            (lambda p: write(p / "a.whl", b"PK nonsense"), "a.whl: not a readable wheel"),
            (lambda p: write(p / "a.txt", b""), "not a directory and not a .whl file"),
            (lambda p: broken(p, b"x = (\n"), "parallel_state.py:1: not valid Python"),
            (lambda p: broken(p, b"x = '\xff'\n"), "parallel_state.py: not UTF-8 text"),
            (lambda p: broken(p, b"x = 1\x00\n"), "not valid Python"),
            (lambda p: namesake(p), "PyPI's async-iterator library, not AMD's AITER"),
            (lambda p: broken(p, b"class GroupCoordinator: pass\n"),
             "no rule recognised in SGLang 0.5.23: looked for GroupCoordinator.fused_allreduce_rms"),
            (lambda p: broken(p, b"class GroupCoordinator: pass\n"),
             "no file of it names AITER's fused op: this release has none"),
        ],
    )  # fmt: skip
    def test_bad_input_is_one_line(self, make, message, tmp_path):
        done = run(make(tmp_path))
        assert done.returncode == 2, done.stdout
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("costmodel: error: ")
        assert message in line

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--fail-above", "1"], "--fail-above needs --arch, --gpu or --calibration"),
            (["--against", "vlm"], "unknown rule 'vlm' (did you mean vllm"),
            (["--arch", "gfx950", "--tp", "6"], "--tp takes 2, 4 or 8"),
            (["--model", "gpt-oss-12b"], "(did you mean gpt-oss-120b"),
        ],
    )
    def test_bad_options_are_one_line(self, args, message, tmp_path):
        done = run(SHAPES["sglang_bytes"].package(tmp_path), *args)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert message in line


def write(path, data):
    path.write_bytes(data)
    return path


def broken(path, data):
    root = SHAPES["sglang_bytes"].package(path)
    (root / "sglang" / SGLANG).write_bytes(data)
    return root


def namesake(path):
    (path / "aiter").mkdir()
    write(path / "aiter" / "__init__.py", b"")
    return path


def test_a_tree_whose_op_only_asks_is_not_taken_for_a_rule(tmp_path):
    made = Shape("vllm", "0.34", ((VLLM_OPS, "vllm_asks.py"),), "", "")
    with pytest.raises(NotRecognisedError, match="makes no choice of its own"):
        audited(made.package(tmp_path))


def test_the_field_reads_back_from_the_patched_engine(tmp_path):
    """A rule of the field, emitted into an engine and audited there, is known by its name."""
    from emitted import emit

    root = SHAPES["vllm_method"].package(tmp_path)
    emitted = emit(root, catalogue.named("vllm-57886"))
    (root / emitted.file).write_text(emitted.patched)
    assert audited(root).installed[0].known_as == "vllm-57886"


def test_a_rule_of_another_op_is_no_comparison(tmp_path):
    site = SHAPES["sglang_bytes"].package(tmp_path)
    done = costmodel("audit", site, "--gpu", "MI355X", "--against", "aiter-plain")
    assert done.returncode == 2
    assert "rule 'aiter-plain' is for op 'all_reduce'" in done.stderr
