"""Patches of engine sources: they apply, and the patched function decides as the rule."""

from __future__ import annotations

import ast
import subprocess

import pytest
from emitted import PROVENANCE, RULES, apply, emit, function_says, random_calls, rule_says, tools
from engines.shapes import AITER, SGLANG, SHAPES, Shape

from costmodel.data import kernels as kernel
from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.diff import Edit, unified
from costmodel.engines.diff import apply as apply_edits
from costmodel.engines.module import Module
from costmodel.engines.reader import NotRecognisedError, read_dispatch
from costmodel.engines.source import open_trees
from costmodel.errors import InputError
from costmodel.model.shape import WORLD_SIZES
from costmodel.rules import catalogue
from costmodel.rules.algebra import ByWorldSize, factors
from costmodel.rules.condition import Compare
from costmodel.rules.evidence import Provenance
from costmodel.rules.rule import Rule

EVERY = [(shape, rule) for shape in SHAPES for rule in RULES]


@pytest.mark.parametrize(("shape", "rule"), EVERY)
def test_the_patched_function_decides_as_the_rule(shape, rule, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    emitted = emit(root, RULES[rule])
    for tool in tools():
        fresh = SHAPES[shape].package(tmp_path / tool)
        apply(emitted.text, fresh, tool)
        patched = (fresh / emitted.file).read_text()
        assert patched == emitted.patched
    # Elsewhere than in vLLM a communicator without a full mesh disables itself.
    calls = [c for c in random_calls(600) if c[4] or "full mesh" in emitted.adapted.rule.words()]
    assert function_says(patched, emitted.function, calls) == rule_says(emitted.adapted.rule, calls)


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_thousand_random_shapes(shape, tmp_path):
    emitted = emit(SHAPES[shape].package(tmp_path), RULES["recommended"])
    calls = [(*c[:4], True) for c in random_calls(10_000, seed=11)]
    said = function_says(emitted.patched, emitted.function, calls)
    assert said == rule_says(emitted.adapted.rule, calls)
    assert 1000 < sum(said) < 9000, "both decisions must be well represented"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_patched_source_reads_back_and_a_second_patch_is_empty(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    emitted = emit(root, RULES["recommended"])
    (root / emitted.file).write_text(emitted.patched)
    (tree,) = open_trees(root)
    installed = audit(tree).rule
    for n in WORLD_SIZES:
        assert installed.cutoff_bytes(n) == emitted.adapted.rule.cutoff_bytes(n)
    again = emit(root, RULES["recommended"])
    assert again.text == ""
    assert "the rule is already in force; the diff is empty" in again.notes


@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_rule_changes(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    (tree,) = open_trees(root)
    emitted = emit(root, RULES["recommended"])
    before = tree.read(emitted.file)
    removed = [
        x for x in emitted.text.splitlines() if x.startswith("-") and not x.startswith("---")
    ]
    assert 1 <= len(removed) <= 6 * (1 + len(emitted.copies))
    assert len(emitted.patched.splitlines()) - len(before.splitlines()) < 24
    ast.parse(emitted.patched)
    added = [x for x in emitted.text.splitlines() if x.startswith("+") and not x.startswith("+++")]
    # An engine's own conditional expression may be long already; nothing much longer is made.
    assert all(len(line) <= 1 + 110 for line in added)


@pytest.mark.parametrize("kind", ["package", "checkout", "wheel"])
@pytest.mark.parametrize("shape", ["sglang_bytes", "vllm_method"])
def test_paths_are_relative_to_the_tree_that_was_given(shape, kind, tmp_path):
    made = SHAPES[shape]
    root = getattr(made, kind)(tmp_path)
    emitted = emit(root, RULES["recommended"])
    package = {"sglang": "python/sglang", "vllm": "vllm"}[made.engine]
    expected = package if kind == "checkout" else made.engine
    assert emitted.file.startswith(f"{expected}/")
    if kind == "wheel":
        root = tmp_path / "unpacked"
        subprocess.run(["unzip", "-q", tmp_path / f"{made.engine}-{made.version}-py3-none-any.whl",
                        "-d", root], check=True)  # fmt: skip
    apply(emitted.text, root, tools()[0])
    assert (root / emitted.file).read_text() == emitted.patched


def test_a_package_directory_itself_may_be_given(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path) / "sglang"
    emitted = emit(root, RULES["recommended"])
    assert emitted.file == SGLANG
    apply(emitted.text, root, tools()[0])


class TestWhatStays:
    def test_world_sizes_without_a_claim_keep_the_engines_cutoff(self, tmp_path):
        emitted = emit(SHAPES["vllm_method"].package(tmp_path), RULES["partly_claimed"])
        assert emitted.adapted.rule.cutoff_bytes(8) == ("<", 128 * 1024)
        assert emitted.adapted.rule.cutoff_bytes(4) == ("<=", 448 * 1024)
        assert "+            return total_bytes <= 448 * 1024" in emitted.text
        assert "128 * 1024" not in "".join(x for x in emitted.text.splitlines() if x[:1] in "+-"), (
            "the line for TP8 must not be touched"
        )
        assert "# TP8: not identified; the cutoff that stood here is kept." in emitted.text

    def test_guards_of_the_kernel_stay(self, tmp_path):
        emitted = emit(SHAPES["vllm_method"].package(tmp_path), RULES["recommended"])
        assert emitted.adapted.rule.max_tokens(512, 2) == 80
        assert any("guards stay: tokens <= 80" in note for note in emitted.notes)

    def test_a_hidden_set_gives_way_to_the_kernels_own_limit(self, tmp_path):
        emitted = emit(SHAPES["sglang_hidden_set"].package(tmp_path), RULES["recommended"])
        assert emitted.adapted.rule.max_tokens(5120, 4) == 44
        assert emitted.adapted.rule.max_tokens(8200, 4) == 0
        assert "hidden_dim in {" not in emitted.patched

    def test_a_hidden_set_of_the_rule_replaces_it(self, tmp_path):
        emitted = emit(SHAPES["vllm_inline_set"].package(tmp_path), RULES["hidden_set"])
        assert "hidden_ok = hidden_dim in {2880, 5120, 7168}" in emitted.patched
        assert emitted.adapted.rule.max_tokens(4096, 4) == 0

    def test_the_exception_of_an_op_goes_with_its_rule(self, tmp_path):
        rule = Rule.from_cutoffs(
            "fp8", {8: 262144}, op="fused_ar_rmsnorm_quant_fp8", status="proposed"
        )
        emitted = emit(SHAPES["sglang_bytes"].package(tmp_path), rule)
        assert emitted.adapted.rule.max_tokens(7168, 8) == 18
        assert "token_num" not in emitted.patched, "what only the exception used goes too"
        calls = [(*c[:4], True) for c in random_calls(2000) if c[2] % 128 == 0]
        assert function_says(emitted.patched, emitted.function, calls) == rule_says(
            emitted.adapted.rule, calls
        )

    def test_the_other_op_is_not_touched(self, tmp_path):
        emitted = emit(SHAPES["vllm_inline"].package(tmp_path), RULES["recommended"])
        other = "_rocm_aiter_fused_allreduce_rmsnorm_quant_per_group_impl"
        module = Module.parse("x.py", emitted.patched)
        assert Compare("bytes", "<", 131072) in factors(
            read_dispatch(module, other).condition.at(8)
        )

    def test_an_override_from_the_environment_stays_in_force(self, tmp_path):
        root = SHAPES["aiter_env_kb"].package(tmp_path)
        text = emit(root, RULES["recommended"]).patched
        source = text[text.index("class CudaCommunicator") :]

        def chosen(environ, elements, world_size):
            class Tensor:
                shape = (elements // 4096, 4096)

                def numel(self):
                    return elements

                def element_size(self):
                    return 2

            class Recorder:
                def custom_fused_ar_rms(self, *args, use_1stage):
                    return use_1stage

            names = {"os": type("os", (), {"environ": environ})}
            exec(source, names)
            communicator = names["CudaCommunicator"](world_size, Recorder())
            return communicator.fused_allreduce_rmsnorm(Tensor(), None, None, 1e-6)

        assert chosen({}, 64 * 4096, 8) is False
        assert chosen({}, 64 * 4096, 2) is True
        assert chosen({}, 28 * 4096, 8) is True
        assert chosen({"AITER_AR_1STAGE_MAX_KB": "600000"}, 64 * 4096, 8) is True
        assert chosen({"AITER_AR_1STAGE_MAX_KB": "512"}, 4096, 2) is False


class TestWhatTheCommentSays:
    def test_calibration_evidence_and_how_to_reproduce(self, tmp_path):
        added = "\n".join(
            line[1:].strip(" #")
            for line in emit(
                SHAPES["sglang_bytes"].package(tmp_path), RULES["partly_claimed"]
            ).text.splitlines()
            if line.startswith("+")
        ).replace("\n", " ")
        assert "calibration gfx950-0123abcd (sha256 0123abcd4567) for MI355X." in added
        assert "TP2: 1-stage at every size." in added
        assert (
            "TP4: 1-stage up to 448 KiB (measured, 90 % interval over machines 380.9 KiB to 527.3 KiB)."
            in added
        )
        assert "TP8: not identified; the cutoff that stood here is kept." in added
        assert "Reproduce: costmodel emit --for sglang --arch gfx950" in added

    def test_it_says_that_the_engine_runs_on_other_gpus_too(self, tmp_path):
        root = SHAPES["sglang_bytes"].package(tmp_path)
        said = "SGLang runs this rule on every GPU; it is calibrated for MI355X"
        assert said in emit(root, RULES["recommended"]).notes
        assert said in emit(root, RULES["recommended"]).text
        emitted = emit(root, catalogue.named("vllm"), Provenance("costmodel emit"))
        assert not any("every GPU" in note for note in emitted.notes)

    def test_a_rule_of_the_field_names_its_source(self, tmp_path):
        found = Provenance("costmodel emit --for vllm --rule vllm-57886")
        root = SHAPES["vllm_method"].package(tmp_path)
        emitted = emit(root, catalogue.named("vllm-57886"), found)
        assert "by the rule 'vllm-57886' (https://github.com/vllm-project/vllm/pull/57886)" in (
            emitted.text.replace("\n+        # ", " ")
        )
        assert "+            return total_bytes < 320 * 1024" in emitted.text
        assert "+            return total_bytes < 192 * 1024" in emitted.text


class TestSourcesAsTheyAre:
    def variant(self, tmp_path, change):
        root = SHAPES["sglang_bytes"].package(tmp_path)
        file = root / "sglang" / SGLANG
        file.write_bytes(change(file.read_text()).encode())
        return root, file

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("carriage returns", lambda t: t.replace("\n", "\r\n")),
            ("no last line end", lambda t: t.rstrip("\n")),
            ("umlauts before the column", lambda t: t.replace("total_bytes", "größe_total")),
            ("a form feed", lambda t: t.replace("    def fused", "\f\n    def fused", 1)),
            ("a name already taken", lambda t: t.replace("total_bytes", "max_bytes")),
            ("its own number of ranks", lambda t: t.replace(
                "ca_comm = self.ca_comm", "ca_comm = self.ca_comm; world_size = self.world_size"
            )),
        ],
    )  # fmt: skip
    def test_unusual_texts(self, name, change, tmp_path):
        root, file = self.variant(tmp_path, change)
        emitted = emit(root, RULES["partly_claimed"])
        done = subprocess.run(
            ["patch", "-p1", "--fuzz=0", "--binary", "-d", str(root)],
            input=emitted.text.encode(), capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert file.read_bytes() == emitted.patched.encode()
        calls = [(*c[:4], True) for c in random_calls(500)]
        assert function_says(emitted.patched, emitted.function, calls) == rule_says(
            emitted.adapted.rule, calls
        )

    def test_the_limit_on_the_left_is_read_and_kept(self, tmp_path):
        root, _ = self.variant(
            tmp_path, lambda t: t.replace("total_bytes <= 128 * 1024", "128 * 1024 >= total_bytes")
        )
        emitted = emit(root, RULES["partly_claimed"])
        assert ".get(self.world_size, 128 * 1024)" in emitted.patched

    @pytest.mark.parametrize(
        ("change", "sought"),
        [
            # Assigned in two places, with something else between them.
            (
                lambda t: t.replace(
                    "use_1stage_ar = total_bytes <= 128 * 1024\n\n",
                    "use_1stage_ar = False\n            log(input_)\n"
                    "            use_1stage_ar = total_bytes <= 128 * 1024\n\n",
                ),
                "one after another",
            ),
            # The number of ranks is nowhere to be had.
            (lambda t: t.replace("world_size", "count"), "the number of ranks"),
        ],
    )
    def test_what_cannot_be_changed_safely_is_refused(self, change, sought, tmp_path):
        root, file = self.variant(tmp_path, change)
        before = file.read_bytes()
        with pytest.raises(NotRecognisedError, match=f"not recognised: looked for .*{sought}"):
            emit(root, RULES["recommended"])
        assert file.read_bytes() == before

    def test_a_rule_that_moved_within_the_package_is_found(self, tmp_path):
        files = (("srt/distributed/dispatch.py", "sglang_hidden_set.py"), (SGLANG, "vllm_asks.py"))
        made = Shape("sglang", "0.6.0", files, "", "")
        root = made.package(tmp_path)
        emitted = emit(root, RULES["recommended"])
        assert emitted.file == "sglang/srt/distributed/dispatch.py"
        (tree,) = open_trees(root)
        assert audit(tree).installed[0].moved

    def test_a_rule_that_is_gone_says_what_was_looked_for(self, tmp_path):
        made = Shape("aiter", "0.2", ((AITER, "vllm_asks.py"),), "", "")
        with pytest.raises(
            NotRecognisedError,
            match=r"no rule recognised in AITER 0.2: looked for CudaCommunicator.fused_allreduce_"
            r"rmsnorm in aiter/dist/device_communicators/communicator_cuda.py",
        ):
            emit(made.package(tmp_path), RULES["recommended"])


def test_a_rule_without_any_claim_is_refused(tmp_path):
    (tree,) = open_trees(SHAPES["sglang_bytes"].package(tmp_path))
    with pytest.raises(InputError, match="claims no world size; there is nothing to emit"):
        engine.patch(tree, Rule("none", ByWorldSize(())), PROVENANCE, kernel.aiter())


class TestDiff:
    def test_edits_count_columns_in_bytes_and_lines_by_line_feeds(self):
        text = 'a = "ü"; b = 1\nc\f = 2\n'
        assert apply_edits(text, [Edit((1, 14), (1, 15), "7")]) == 'a = "ü"; b = 7\nc\f = 2\n'
        assert apply_edits(text, [Edit((2, 0), (2, 0), "x\n")]) == 'a = "ü"; b = 1\nx\nc\f = 2\n'

    def test_a_missing_last_line_end_is_marked(self):
        diff = unified("a\nb", "a\nc", "f.py")
        assert diff.count("\\ No newline at end of file") == 2
        assert unified("same", "same", "f.py") == ""
