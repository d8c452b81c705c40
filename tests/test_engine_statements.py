"""What statements do to a limit: each is followed as Python runs it, or nothing is said of it."""

from __future__ import annotations

import pytest
from emitted import PROVENANCE, RULES, apply, random_calls, rule_says, tools
from engines.shapes import AITER
from test_emit_by_arch import BY_ARCH, by_arch, says

from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.boundary_tests import render
from costmodel.engines.kernel_version import asked_for
from costmodel.engines.reader import NotRecognisedError
from costmodel.engines.source import open_trees
from costmodel.engines.stand_in import NoRowsError, decider
from costmodel.model.shape import FUSED
from costmodel.rules.rule import Rule

NAME = "CudaCommunicator.fused_allreduce_rmsnorm"
HEAD = """class CudaCommunicator:
    def __init__(self, world_size):
        self.world_size = world_size

    def fused_allreduce_rmsnorm(self, input_, residual, weight, eps):
        size = input_.numel() * input_.element_size()
"""
TAIL = (
    "        return self.ca_comm.custom_fused_ar_rms(input_, residual, weight, eps, use_1stage)\n"
)
LIMITS = "limits = {2: 896 * 1024, 4: 448 * 1024, 8: 224 * 1024}\n"
ASKED = "use_1stage = size <= limits[self.world_size]\n"

#: Bodies that choose, with the rule that Python runs.
READ = {
    "match": (
        "match self.world_size:\n    case 2:\n        limit = 896 * 1024\n    case 4:\n"
        "        limit = 448 * 1024\n    case _:\n        limit = 224 * 1024\n"
        "use_1stage = size <= limit\n",
        "TP2 bytes <= 896 KiB, TP4 bytes <= 448 KiB, TP8 bytes <= 224 KiB",
    ),
    "match that one size passes by": (
        "limit = 128 * 1024\nmatch self.world_size:\n    case 8:\n        limit = 64 * 1024\n"
        "use_1stage = size <= limit\n",
        "TP2 bytes <= 128 KiB, TP4 bytes <= 128 KiB, TP8 bytes <= 64 KiB",
    ),
    "match that decides": (
        "match self.world_size:\n    case 2:\n        use_1stage = True\n    case 3 | 4:\n"
        "        use_1stage = size < 256 * 1024\n    case n if n <= 8:\n"
        "        use_1stage = size < 128 * 1024\n    case _:\n        use_1stage = False\n",
        "TP2 always, TP4 bytes < 256 KiB, TP8 bytes < 128 KiB",
    ),
    "nested choices": (
        "use_1stage = (\n    True\n    if self.world_size == 2\n    else size < 160 * 1024\n"
        "    if self.world_size == 4\n    else size < 80 * 1024\n)\n",
        "TP2 always, TP4 bytes < 160 KiB, TP8 bytes < 80 KiB",
    ),
    "in KiB": ("use_1stage = size / 1024 <= 128.0 and self.world_size != 6\n", "bytes <= 128 KiB"),
    "a sum of tensors": (
        "summed = input_.add(residual)\nsummed[0] = 1\n"
        "use_1stage = input_.nbytes <= 131072 and self.world_size != 6\n",
        "bytes <= 128 KiB",
    ),
    "between": (
        "use_1stage = 0 < size <= 131072 and self.world_size != 6\n",
        "bytes <= 128 KiB; bytes > 0 KiB",
    ),
}

PREDICATES = {
    "a helper that is given sizes": (
        "use_1stage = fits(input_.shape[0], input_.shape[-1], size)\n",
        "def fits(tokens, hidden, size):\n    if tokens > 80 or hidden not in {512, 4096}:\n"
        "        return False\n    return size <= 1 << 17\n\n\n",
        "bytes <= 128 KiB; tokens <= 80; hidden in {512, 4096}",
    ),
    "a limit that one size has not": (
        "limit = LIMITS.get(self.world_size)\nuse_1stage = limit is None or size < limit\n",
        "LIMITS = {2: None, 4: 256 * 1024, 8: 128 * 1024}\n\n\n",
        "TP2 always, TP4 bytes < 256 KiB, TP8 bytes < 128 KiB",
    ),
    "a predicate with guards": (
        "use_1stage = self._one_stage(input_)\n",
        "class Base:\n    pass\n\n\n",
        "bytes < 128 KiB; tokens <= 80",
    ),
}
ONE_STAGE = """
    def _one_stage(self, inp):
        if inp.numel() // inp.shape[-1] > 80:
            return False
        limit = 128 * 1024
        return inp.numel() * inp.element_size() < limit
"""

#: Bodies in which a limit is changed by a statement that is not followed.
UNKNOWN = {
    "an item set": f"{LIMITS}limits[8] = 64 * 1024\n{ASKED}",
    "an update": f"{LIMITS}limits.update({{8: 64 * 1024}})\n{ASKED}",
    "a size added": (
        "sizes = {512}\nsizes.add(4096)\n"
        "use_1stage = input_.shape[-1] in sizes and self.world_size != 6\n"
    ),
    "an item taken": f"{LIMITS}limits.pop(8)\n{ASKED}",
    "an item set in a loop": f"{LIMITS}for n in limits:\n    limits[n] = 65536\n{ASKED}",
    "a pattern of parts": (
        "limit = 131072\nmatch (self.world_size, 1):\n    case (8, _):\n        limit = 65536\n"
        "use_1stage = size <= limit\n"
    ),
    "a definition": (
        "limit = 131072\ndef limit():\n    return 65536\nuse_1stage = size <= limit\n"
    ),
}


def laid_out(root, body):
    text = HEAD + "".join(f"        {line}\n" for line in body.splitlines()) + TAIL
    compile(text, "body.py", "exec")
    for name in ("__init__.py", "dist/parallel_state.py", AITER):
        file = root / "aiter" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if name == AITER else "")
    return text


@pytest.mark.parametrize("name", READ)
def test_it_is_read_patched_for_one_and_several_archs_and_undone(name, tmp_path):
    body, words = READ[name]
    text = laid_out(tmp_path, body)
    (tree,) = open_trees(tmp_path)
    assert audit(tree).installed[0].rule.words() == f"1-stage when {words}"
    meant = asked_for("0.1.20")
    calls = [c for c in random_calls(300) if c[4]]
    for rule in (RULES["recommended"], RULES["partly_claimed"]):
        made = engine.patch(tree, rule, PROVENANCE, meant.kernel, running=meant)
        wanted = rule_says(made.adapted.rule, calls)
        assert says(made.patched, NAME, calls, None) == wanted != says(text, NAME, calls, None)
    several = by_arch(tmp_path)
    assert says(several.patched, NAME, calls, None) == says(text, NAME, calls, None)
    for name, host in several.gated.hosts.items():
        assert says(several.patched, NAME, calls, host) == rule_says(
            several.gated.at(host).rule, calls
        ), name
    apply(several.text, tmp_path, tools()[0])
    assert by_arch(tmp_path, BY_ARCH).text == ""
    apply(engine.revert(open_trees(tmp_path)[0], FUSED), tmp_path, tools()[0])
    assert (tmp_path / "aiter" / AITER).read_text() == text


@pytest.mark.parametrize("name", PREDICATES)
def test_what_the_choice_asks_beside_it_is_read_and_patched_where_that_is_right(name, tmp_path):
    body, before, words = PREDICATES[name]
    text = before + laid_out(tmp_path, body) + ONE_STAGE * ("predicate" in name)
    file = tmp_path / "aiter" / AITER
    file.write_text(text)
    (tree,) = open_trees(tmp_path)
    assert audit(tree).installed[0].rule.words() == f"1-stage when {words}"
    meant = asked_for("0.1.20")
    calls = [c for c in random_calls(300) if c[4]]
    for rule in (RULES["recommended"], RULES["partly_claimed"]):
        made = engine.patch(tree, rule, PROVENANCE, meant.kernel, running=meant)
        assert says(made.patched, NAME, calls, None) == rule_says(made.adapted.rule, calls)
    several = by_arch(tmp_path)
    assert says(several.patched, NAME, calls, None) == rule_says(
        several.gated.elsewhere.rule, calls
    )


def test_what_stands_inside_a_guard_is_changed_inside_it(tmp_path):
    body = (
        "if self.world_size != 6:\n    use_1stage = (\n        self.forced\n"
        "        if self.forced is not None\n        else size <= 131072\n    )\n"
    )
    text = laid_out(tmp_path, body).replace(
        "    def __init__", "    forced = {'1': True}.get(os.getenv('A', ''))\n\n    def __init__"
    )
    (tmp_path / "aiter" / AITER).write_text(f"import os\n{text}")
    (tree,) = open_trees(tmp_path)
    meant = asked_for("0.1.20")
    made = engine.patch(tree, RULES["recommended"], PROVENANCE, meant.kernel, running=meant)
    guard, limit = (made.patched.index(t) for t in ("if self.world_size != 6", "max_bytes = "))
    assert guard < limit


@pytest.mark.parametrize("form", ["match", "if"])
def test_a_guard_that_cannot_be_read_is_never_lost(form, tmp_path):
    ask = "self.world_size == 8 and self.allows(input_)"
    first = {"match": "match self.world_size:\n    case 8 if self.allows(input_):\n        "}
    other = {"match": "    case _:\n        "}
    laid_out(
        tmp_path,
        f"{first.get(form, f'if {ask}:{chr(10)}    ')}use_1stage = size <= 65536\n"
        f"{other.get(form, f'else:{chr(10)}    ')}use_1stage = size <= 131072\n",
    )
    (tree,) = open_trees(tmp_path)
    assert any("self.allows(input_)" in text for text in audit(tree).installed[0].assumed)
    with pytest.raises(NotRecognisedError):
        by_arch(tmp_path)
    meant = asked_for("0.1.20")
    with pytest.raises(NotRecognisedError):
        engine.patch(tree, RULES["recommended"], PROVENANCE, meant.kernel, running=meant)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_changes_a_limit_unseen_leaves_no_rule_to_state(name, tmp_path):
    laid_out(tmp_path, UNKNOWN[name])
    (tree,) = open_trees(tmp_path)
    with pytest.raises(NotRecognisedError, match="no choice of its own"):
        audit(tree)


def test_a_function_that_goes_by_the_shape_is_asked_about_whole_rows(tmp_path):
    text = laid_out(tmp_path, "use_1stage = size <= 131072 and self.world_size != 6\n").replace(
        "input_.numel() *", "input_.shape[0] * input_.shape[1] *"
    )
    file = tmp_path / "aiter" / AITER
    file.write_text(text)
    decide = decider(text, NAME)
    assert [decide(8, "bf16", 4096, 4096 * tokens) for tokens in (16, 17)] == [True, False]
    with pytest.raises(NoRowsError):
        decide(8, "bf16", 4096, 4096 * 16 + 1)
    viewed = text.replace("input_.shape[0]", "input_.view(-1, input_.shape[-1]).shape[0]")
    assert decider(viewed, NAME)(8, "bf16", 4096, 4096 * 16)
    rule = Rule.from_cutoffs("other", {2: None, 4: 100_000, 8: 50_000})
    meant = asked_for("0.1.20")
    (tree,) = open_trees(tmp_path)
    made = engine.patch(tree, rule, PROVENANCE, meant.kernel, running=meant)
    tests = {"__name__": "emitted"}
    exec(
        render(made.adapted, PROVENANCE, tree.engine, made.file, NAME, str(tmp_path), made.patched),
        tests,
    )
    file.write_text(made.patched)
    assert [tests["differences"](n) for n in (2, 4, 8)] == [[], [], []]
    file.write_text(made.patched.replace("50000", "60000"))
    assert tests["differences"](8)
