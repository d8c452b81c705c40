"""What decides beside the rule: found in a tree by name, with its default and the lines."""

from __future__ import annotations

import json
import re

import pytest
from command import costmodel
from engines.shapes import AITER, SGLANG, SHAPES, VLLM_METHOD, VLLM_OPS, Shape

from costmodel.engines.gate_lines import fold, in_native_text, in_python
from costmodel.engines.gates import known, read_gates
from costmodel.engines.module import Module
from costmodel.engines.source import open_trees

SGLANG_TREE = Shape(
    "sglang",
    "0.5.17",
    (
        (SGLANG, "sglang_bytes.py"),
        ("srt/environ.py", "sglang_environ.py"),
        ("srt/server_args.py", "sglang_args.py"),
        ("srt/layers/communicator.py", "sglang_layers.py"),
        ("srt/distributed/device_communicators/custom_all_reduce.py", "sglang_dispatch.py"),
    ),
    "sglang-128k",
    "GroupCoordinator.fused_allreduce_rmsnorm",
)
VLLM_TREE = Shape(
    "vllm",
    "0.33.0",
    (
        (VLLM_METHOD, "vllm_method.py"),
        (VLLM_OPS, "vllm_asks.py"),
        ("envs.py", "vllm_envs.py"),
        ("config/vllm.py", "vllm_config.py"),
    ),
    "vllm-16bit",
    "AiterCustomAllreduce.use_1stage_fused_ar_rms",
)
AITER_TREE = Shape(
    "aiter",
    "0.1.20",
    (
        (AITER, "aiter_gated.py"),
        ("dist/device_communicators/custom_all_reduce.py", "aiter_sizes.py"),
    ),
    "",
    "CudaCommunicator.fused_allreduce_rmsnorm",
)


def gates_of(path):
    (tree,) = open_trees(path)
    return read_gates(tree)


def gate(path, name):
    return next(g for g in gates_of(path).present if g.name == name)


def lines(places):
    """Return the places as (file's name, function, text)."""
    return [(p.file.rsplit("/", 1)[-1], p.function.rpartition(".")[2], p.text) for p in places]


def source(text, names, functions="", *, limit=False):
    module = Module.parse("x.py", text)
    return in_python(module, re.compile(names), re.compile(functions), limit=limit)


class TestSglang:
    @pytest.fixture
    def root(self, tmp_path):
        root = SGLANG_TREE.package(tmp_path)
        rule = root / "sglang" / SGLANG
        asks = 'if not hasattr(ca_comm, "custom_fused_ar_rms"):\n            return None\n        '
        rule.write_text(rule.read_text().replace("if envs.", f"{asks}if envs.", 1))
        return root

    def test_the_three_gates_stand_each_with_the_line_that_decides(self, root):
        flag = gate(root, "--enable-aiter-allreduce-fusion")
        assert flag.default == "False"
        assert (
            "communicator.py", "apply_aiter_all_reduce_fusion", "args.enable_aiter_allreduce_fusion"
        ) in lines(flag.decides)  # fmt: skip
        method = gate(root, "communicator without the fused method")
        (asked,) = method.decides
        assert asked.text == "not hasattr(ca_comm, 'custom_fused_ar_rms')"
        text = (root / asked.file).read_text().splitlines()
        assert "hasattr" in text[asked.line - 1]
        variable = gate(root, "SGLANG_USE_1STAGE_ALLREDUCE, communicator")
        assert (
            "custom_all_reduce.py",
            "dispatch_custom_allreduce",
            "_wants_fixed_order()",
        ) in lines(variable.decides)

    def test_deterministic_inference_takes_the_flag_back(self, root):
        flag = gate(root, "--enable-aiter-allreduce-fusion")
        assert (
            "server_args.py", "_handle_deterministic_inference",
            "self.enable_aiter_allreduce_fusion = False",
        ) in lines(flag.decides)  # fmt: skip
        chosen = gate(root, "SGLANG_ENABLE_DETERMINISTIC_INFERENCE")
        assert chosen.default == "False"
        assert "one kernel at every size" in chosen.does

    def test_a_test_that_only_chooses_a_message_decides_nothing(self, root):
        variable = gate(root, "SGLANG_USE_1STAGE_ALLREDUCE, communicator")
        logged = [p for p in variable.decides if p.function == "dispatch_custom_allreduce"]
        assert [p.text for p in logged] == ["_wants_fixed_order()"]

    def test_a_default_that_is_true_is_told(self, root):
        assert gate(root, "SGLANG_USE_AITER_AR").default == "true"

    def test_the_limit_is_a_size_with_its_line(self, root):
        limit = gate(root, "size limits")
        assert limit.default == "64 MiB"
        assert "apply_aiter_all_reduce_fusion" in {p.function for p in limit.decides}

    def test_what_a_release_lacks_is_named_and_not_invented(self, tmp_path):
        bare = gates_of(SHAPES["sglang_hidden_set"].package(tmp_path))
        assert "--enable-aiter-allreduce-fusion" in bare.absent
        assert "SGLANG_DISABLE_FUSED_AR_QUANT" in bare.absent


class TestVllm:
    def test_batch_invariance_turns_the_pass_off(self, tmp_path):
        found = gate(VLLM_TREE.package(tmp_path), "VLLM_BATCH_INVARIANT, fusion")
        assert lines(found.decides) == [
            ("vllm.py", "enable_allreduce_rms_fusion", "envs.VLLM_BATCH_INVARIANT")
        ]
        assert found.default == "False"

    def test_a_release_that_reads_it_elsewhere_only_has_no_line_that_decides(self, tmp_path):
        root = VLLM_TREE.package(tmp_path)
        config = root / "vllm/config/vllm.py"
        text = config.read_text()
        start, end = text.index("    if envs"), text.index("    return cfg")
        config.write_text(text[:start] + text[end:])
        found = gate(root, "VLLM_BATCH_INVARIANT, fusion")
        assert found.decides == ()
        assert {p.file for p in found.reads} == {"vllm/envs.py"}
        said = run(root).stdout
        assert "no line about the fused op hangs on it here; it stands at" in said

    def test_optimisation_levels_stand_as_they_set_the_pass(self, tmp_path):
        found = gate(VLLM_TREE.package(tmp_path), "pass_config.fuse_allreduce_rms")
        assert [p.text for p in found.decides] == [
            "'fuse_allreduce_rms': False",
            "'fuse_allreduce_rms': enable_allreduce_rms_fusion",
        ]


class TestAiter:
    @pytest.fixture
    def root(self, tmp_path):
        return AITER_TREE.package(tmp_path)

    def test_the_override_is_followed_into_every_op_that_reads_it(self, root):
        found = gate(root, "AITER_AR_1STAGE")
        by_function = {p.function.rpartition(".")[2] for p in found.decides}
        assert by_function == {"fused_allreduce_rmsnorm", "fused_allreduce_rmsnorm_quant"}
        assert "self._forced is not None" in {p.text for p in found.decides}

    def test_what_the_kernel_returns_does_not_hang_on_the_override(self, root):
        found = gate(root, "AITER_AR_1STAGE")
        assert "result is not None" not in {p.text for p in found.decides}

    def test_sizes_are_followed_through_a_constant_a_function_and_an_attribute(self, root):
        most = gate(root, "AITER_CUSTOM_AR_MAX_SIZE")
        assert most.default == "64 MiB"
        assert [p.text for p in most.decides] == ["x.nbytes <= self.most"]
        least = gate(root, "AITER_CUSTOM_AR_MIN_SIZE")
        assert least.default == "0"
        assert [p.text for p in least.decides] == ["x.nbytes <= self.least"]

    def test_quick_reduce_stands_where_it_comes_before_the_2_stage(self, root):
        found = gate(root, "AITER_QUICK_REDUCE_QUANTIZATION")
        assert lines(found.decides) == [
            (
                "communicator_cuda.py", "fused_allreduce_rmsnorm",
                "self.quick.should_quick_allreduce_rmsnorm(x, residual)",
            )
        ]  # fmt: skip

    def test_kernels_that_dispatch_for_themselves(self, tmp_path):
        root = AITER_TREE.checkout(tmp_path)
        (root / "csrc/include").mkdir(parents=True)
        (root / "csrc/kernels").mkdir()
        (root / "csrc/include/custom_all_reduce.cuh").write_text(
            "// allreduce_ll128 is spoken of here only\n"
            "if(bytes <= kLL) { allreduce_ll<T>(stream, in, out); }\n"
        )
        (root / "csrc/kernels/fused_ar_mhc_post.cu").write_text(
            "constexpr int64_t kSplitMinBytes = 256 << 10;\n"
            "if(world >= 4 && bytes > kSplitMinBytes) { split(); }\n"
        )
        assert [p.line for p in gate(root, "LL and LL128").decides] == [2]
        split = gate(root, "fused all-reduce + mHC, split")
        assert split.default == "256 KiB"
        assert [p.line for p in split.decides] == [1, 2]


class TestLines:
    @pytest.mark.parametrize(
        "text",
        [
            "if os.environ.get('X_Y') == '1':\n    fuse()",
            "if 'X_Y' in os.environ:\n    fuse()",
            "on = os.environ['X_Y'] == '1'\nif on:\n    fuse()",
            "on = bool(int(os.getenv('X_Y', '0')))\nif not on:\n    fuse()",
            "while env_flag('X_Y'):\n    fuse()",
            "fuse() if read_env('X_Y') else None",
            "assert not cfg.X_Y",
        ],
    )
    def test_ways_to_read_a_variable(self, text):
        body = text.replace("\n", "\n    ")
        found = source(f"def f(cfg):\n    {body}\n", "X_Y", "f")
        assert len(found.decides) == 1, found

    def test_a_name_inside_another_name_or_a_docstring_is_none(self):
        found = source(
            'def f():\n    "X_Y decides"\n    if env_flag("X_YZ"):\n        g()\n', "X_Y"
        )
        assert not found.reads
        assert not found.decides

    def test_functions_apart_from_the_op_do_not_count(self):
        text = "def fused(a):\n    if a.x:\n        g()\ndef other(a):\n    if a.x:\n        g()\n"
        assert [p.function for p in source(text, "x", "fused").decides] == ["fused"]

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("8 * 1024 * 8192", 64 << 20), ("64 << 20", 64 << 20), ("int(MOST / 2)", 32 << 20),
            ("cls.MOST // 2", 32 << 20), ("1 << 10000000000", None), ("7 // 0", None),
            ("2 ** 99", None), ("9" * 30, None), ("True", None), ("x + 1", None),
        ],
    )  # fmt: skip
    def test_figures_are_folded_and_huge_ones_left(self, text, size):
        node = Module.parse("x", text).tree.body[0].value
        assert fold(node, {"MOST": 64 << 20}) == size

    def test_native_text_with_a_figure_that_is_none(self):
        found = in_native_text(
            "x.cu", "int kSplit = 1 << 99;\nint kSplit = 08;\n", re.compile("kSplit")
        )
        assert found.default == ""


def run(path, *more):
    return costmodel("audit", path, *more)


class TestCommand:
    def test_json_has_every_gate_with_its_lines(self, tmp_path):
        root = SGLANG_TREE.package(tmp_path)
        record = json.loads(run(root, "--format", "json").stdout)
        assert [g["name"] for g in record["gates"]] == [g.name for g in gates_of(root).present]
        for one in record["gates"]:
            for place in (*one["reads"], *one["decides"]):
                assert 1 <= place["line"] <= len((root / place["file"]).read_text().splitlines())

    def test_text_tells_them_beside_the_rule(self, tmp_path):
        said = run(SGLANG_TREE.wheel(tmp_path)).stdout
        assert "beside the rule, what decides whether the fused op runs and which kernel:" in said
        assert "SGLANG_USE_AITER_AR (default true): false takes SGLang's own" in said
        assert "not in this tree: " in said

    def test_a_file_that_does_not_parse_holds_no_gate(self, tmp_path):
        root = SGLANG_TREE.package(tmp_path)
        (root / "sglang/srt/layers/layernorm.py").write_text(
            "def enable_aiter_allreduce_fusion(:\n"
        )
        assert run(root).returncode == 0

    def test_another_ops_rule_is_compared_when_asked_for(self, tmp_path):
        root = SGLANG_TREE.package(tmp_path)
        done = run(root, "--op", "fp8", "--against", "aiter", "--gpu", "MI355X", "--format", "json")
        assert done.returncode == 0
        assert "not_identified" in done.stderr
        record = json.loads(done.stdout)
        assert record["rules"][0]["op"] == "fused_ar_rmsnorm_quant_fp8"
        assert record["against"]["name"] == "aiter-fp8"
        assert record["regret"] == []

    def test_an_op_that_cannot_be_scored_fails_a_limit(self, tmp_path):
        root = SGLANG_TREE.package(tmp_path)
        done = run(root, "--op", "fp8", "--gpu", "MI355X", "--fail-above", "2")
        assert done.returncode == 2
        assert done.stderr.startswith("costmodel: error: not_identified")


@pytest.mark.parametrize("engine", ["sglang", "vllm", "aiter"])
def test_every_fact_has_a_source_and_says_what_it_does(engine):
    facts = known(engine)
    assert len({f.name for f in facts}) == len(facts) > 5
    assert all(f.source.startswith("https://github.com/") and f.does for f in facts)
