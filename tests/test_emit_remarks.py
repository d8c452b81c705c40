"""Comments and docstrings of the engine that a patch makes untrue, and those that stay true."""

from __future__ import annotations

import pytest
from emitted import PROVENANCE, RULES, emit
from engines.shapes import SGLANG, SHAPES, VLLM_METHOD, VLLM_OPS, Shape

from costmodel.data import kernels
from costmodel.engines import patch as engine
from costmodel.engines.source import open_trees
from costmodel.rules import catalogue
from costmodel.rules.rule import Rule

COMMENTED = Shape("sglang", "0.5.14", ((SGLANG, "sglang_commented.py"),), "", "")


def patched(root, rule, version):
    (tree,) = open_trees(root)
    return engine.patch(tree, rule, PROVENANCE, kernels.aiter(version)).patched


def engines_own(text):
    """Return a patched source without what the patch says itself, as one line."""
    lines, ours = [], False
    for line in text.splitlines():
        ours = ours or "# 1-stage or 2-stage by" in line
        if not ours:
            lines.append(line.strip().strip("# "))
        ours = ours and line.lstrip().startswith("#")
    return " ".join(lines)


@pytest.mark.parametrize("version", ["0.1.16", "0.1.19.post1"])
def test_what_is_untrue_goes_and_what_is_true_stays(version, tmp_path):
    said = engines_own(patched(COMMENTED.package(tmp_path), RULES["recommended"], version))
    assert "byte threshold" not in said
    assert "128 KiB" not in said
    assert "9 tokens at hidden 7168" not in said
    assert "1) A set variable wins." in said
    assert "AITER's launcher itself looks at the hidden size." in said
    assert "Not every communicator has the op." in said
    assert "64 MiB is the largest input that the op takes." in said
    assert "Returns None where the communicator cannot run it." in said
    assert "Fused op of the custom communicator. 1-stage when TP2 always, TP4 bytes" in said
    # The cap is the old kernels': it is true as long as they run.
    assert ("at most 80 tokens in all" in said) == (version == "0.1.16")


def test_a_rule_that_keeps_the_cutoff_keeps_the_words(tmp_path):
    rule = Rule.from_cutoffs("same", dict.fromkeys((2, 4, 8), 128 * 1024), hidden_dims={2880})
    said = engines_own(patched(COMMENTED.package(tmp_path), rule, "0.1.19.post1"))
    assert "Runs 1-stage up to 128 KiB, else 2-stage." in said
    assert "A byte threshold keeps prefill away from it." in said


@pytest.mark.parametrize(
    ("comment", "stays"),
    [
        ("# 128 KB at most, whatever the ranks.", False),
        ("# The limit is 131072 bytes.", False),
        ("# Beyond 1 << 17 the 2-stage kernel wins.", False),
        ("# Small payloads only.", False),
        ("# Follows AITER's own heuristic.", False),
        ("# Keep in step with the cutoff of the plain op.", False),
        ("# 2 ranks never run 1-stage above it.", False),
        ("# Below the threshold latency counts.", False),
        ("# 18 tokens of hidden size 3584 still fit.", False),
        ("# noqa: the limit is 128 KiB", True),
        ("# The flag is read once, when the module loads.", True),
        ("# The stream must be capturing here.", True),
        ("# Inputs of 64 MiB and more never come here.", True),
        ("# 16 bytes are one pack.", True),
        ("# Cheap, e.g. it reads no tensor.", True),
        ("# Only tiny inputs, e.g. up to 128 KiB.", False),
        ("# TODO(me): measure 160 KiB.", True),
    ],
)
def test_sentences_at_the_choice(comment, stays, tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    at = "            use_1stage_ar = total_bytes <= 128 * 1024\n\n"
    assert at in file.read_text()
    file.write_text(file.read_text().replace(at, f"            {comment}\n{at}"))
    text = emit(root, RULES["recommended"]).patched
    assert (comment in text) is stays


@pytest.mark.parametrize(
    ("comment", "stays"),
    [("# 128 KiB, whatever the ranks.", False), ("# TP8 takes up to 128 KiB.", True),
     ("# TP4 takes up to 128 KiB.", False)],
)  # fmt: skip
def test_a_cutoff_that_only_some_ranks_keep(comment, stays, tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    at = "            use_1stage_ar = total_bytes <= 128 * 1024\n\n"
    file.write_text(file.read_text().replace(at, f"            {comment}\n{at}"))
    assert (comment in emit(root, RULES["partly_claimed"]).patched) is stays


def test_the_same_words_elsewhere_stay(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    file = root / "sglang" / SGLANG
    elsewhere = "        # A byte threshold of its own keeps large inputs out.\n"
    text = file.read_text().replace("        ca_comm = self.ca_comm\n", f"{elsewhere}        ca_comm = self.ca_comm\n", 1)  # fmt: skip
    file.write_text(text)
    assert elsewhere in emit(root, RULES["recommended"]).patched


def test_the_predicates_docstring_states_the_rule(tmp_path):
    root = SHAPES["vllm_method"].package(tmp_path)
    file = root / "vllm" / VLLM_METHOD
    old = '"""Rows of 16-byte packs, at most 1024 packs a row, at most 80 tokens."""'
    new = (
        '"""Whether the kernel runs in one stage.\n\n'
        "        Mirrors the launcher: at most 80 tokens, and the byte cap of the plain\n"
        "        one-stage op for this TP. Outside it two stages run.\n"
        '        """'
    )
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    said = " ".join(emit(root, catalogue.named("vllm-57886")).patched.split())
    assert "byte cap" not in said
    assert "Whether the kernel runs in one stage." in said
    assert "1-stage when TP2 always, TP4 bytes < 320 KiB, TP8 bytes < 192 KiB;" in said
    assert "Outside it two stages run." in said


def test_a_copy_that_says_it_is_the_same_is_put_right(tmp_path):
    root = SHAPES["vllm_inline"].package(tmp_path)
    file = root / "vllm" / VLLM_OPS
    head = "group: int\n) -> tuple[torch.Tensor, torch.Tensor]:\n"
    doc = '    """Quantising op.\n\n    Same eligibility as ``_rocm_aiter_fused_allreduce_rmsnorm_impl``.\n    """\n'
    assert head in file.read_text()
    file.write_text(file.read_text().replace(head, head + doc))
    text = emit(root, RULES["recommended"]).patched
    assert "Same eligibility" not in text
    assert "Quantising op." in text
    assert "1-stage by a rule of its own: TP2 always, TP4 bytes < 256 KiB" in text
