"""Settings that override a rule, in many spellings: audit names them, and a patch leaves them.

Each spelling says the same in another way: a limit and a stage that the environment may set.
"""

from __future__ import annotations

import pytest
from emitted import PROVENANCE, RULES, rule_says

from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.kernel_version import asked_for
from costmodel.engines.reader import NotRecognisedError
from costmodel.engines.source import open_trees
from costmodel.engines.stand_in import decider

STAGE, LIMIT = "AITER_AR_1STAGE", "AITER_AR_1STAGE_MAX_KB"
FORCE = f'    _force = {{"1": True, "0": False}}.get(os.environ.get("{STAGE}", ""))\n'
KB = f'    _kb = int(os.environ.get("{LIMIT}", "-1"))\n'
OWN = "1024 * 1024 // self.world_size"
SET = f"        limit = self._kb if self._kb >= 0 else {OWN}\n"
USE = "        use_1stage = self._force if self._force is not None else (size <= limit)\n"
DEF = "    def fused_allreduce_rmsnorm(self, x, residual, weight, eps):\n"
SOURCE = f"""import os


class CudaCommunicator:
{FORCE}{KB}
{DEF}        size = x.numel() * x.element_size()
{SET}{USE}        ca = self.ca_comm
        if ca is not None and not ca.disabled:
            return ca.custom_fused_ar_rms(x, residual, weight, eps, use_1stage)
        return None
"""

#: What each spelling has in the place of what stands in the source.
SPELLINGS = {
    "as it is": {},
    "limit at module level": {KB: "", "class": f"_kb = int(os.getenv('{LIMIT}', -1))\n\n\nclass",
                              "self._kb": "_kb"},
    "limit of the instance": {KB: f"    def __init__(self):\n    {KB}".replace("_kb", "self._kb")},
    "limit in the function": {KB: "", SET: f"    {KB}        limit = _kb if _kb != -1 else {OWN}\n"},
    "if": {SET: f"        limit = {OWN}\n        if self._kb >= 0:\n            limit = self._kb\n"},
    "none": {', "-1"))': "))", "int(": "(", "self._kb if self._kb >= 0": (
        "int(self._kb) if self._kb is not None")},
    "scaled": {"limit = self._kb": "limit = self._kb * 1024"},
    "other way": {SET: f"        limit = {OWN} if not self._kb >= 0 else self._kb\n"},
    "named in the test": {"self._kb if self._kb": "kb if (kb := self._kb)"},
    "a reading function": {"int(os.environ.get(": "_of(", '"-1"))': '"-1")', "class": (
        "def _of(name, default):\n    return int(os.environ.get(name, default))\n\n\nclass")},
    "inside the comparison": {SET: "", "<= limit": f"<= (self._kb if self._kb >= 0 else {OWN})"},
    "stage first": {USE: "        use_1stage = size <= limit\n", DEF: (
        f"{DEF}        if self._force is not None:\n            return self.ca_comm."
        "custom_fused_ar_rms(x, residual, weight, eps, self._force)\n")},
    "stage by text": {FORCE: f'    _force = os.environ.get("{STAGE}")\n', USE: (
        '        use_1stage = self._force == "1" if self._force in ("0", "1") else size <= limit\n')},
    "default by name": {'"-1"))': 'default="-1"))', '", ""))': '", default=""))'},
    "getenv, default by name": {"environ.get(": "getenv(", '"-1"))': 'default="-1"))'},
    "imported": {"import os": "from os import environ", "os.environ": "environ"},
}  # fmt: skip

#: Where the limit stands in a function of its own, which no patch changes.
APART = {
    "method": {SET: "        limit = self._limit()\n", DEF: (
        f"    def _limit(self):\n        if self._kb >= 0:\n            return self._kb\n"
        f"        return {OWN}\n\n{DEF}")},
    "property": {SET: "        limit = self._limit\n", DEF: (
        f"    @property\n    def _limit(self):\n"
        f"        return self._kb if self._kb >= 0 else {OWN}\n\n{DEF}")},
}  # fmt: skip

CALLS = [
    (n, "bf16", hidden, hidden * tokens, True)
    for n in (2, 4, 8)
    for hidden in (1024, 2880, 7168)
    for tokens in (1, 8, 16, 31, 32, 33, 45, 79, 128)
]


@pytest.fixture
def spelt(tmp_path):
    """Return a function that lays out a tree with the source in a spelling."""

    def write(changes):
        text = SOURCE
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        compile(text, "spelt.py", "exec")
        file = tmp_path / "aiter/dist/device_communicators/communicator_cuda.py"
        file.parent.mkdir(parents=True)
        for name in ("__init__.py", "dist/parallel_state.py"):
            (tmp_path / "aiter" / name).write_text("")
        file.write_text(text)
        return open_trees(tmp_path)[0], text

    return write


def decided(text, environ):
    decide = decider(text, "CudaCommunicator.fused_allreduce_rmsnorm", environ=environ)
    return [decide(*call) for call in CALLS]


def emitted(tree):
    meant = asked_for("0.1.20")
    return engine.patch(tree, RULES["recommended"], PROVENANCE, meant.kernel, running=meant)


@pytest.mark.parametrize("name", SPELLINGS)
def test_both_settings_are_named_and_act_in_the_patched_source(name, spelt):
    tree, text = spelt(SPELLINGS[name])
    (found,) = audit(tree).installed
    assert {o.name.rsplit(".", 1)[-1]: o.replaces for o in found.overrides} == {
        STAGE: "stage", LIMIT: "limit",
    }  # fmt: skip
    assert "bytes <= 512 KiB" in found.rule.words()
    scaled = name == "scaled"
    assert [f.check for f in found.findings] == ([] if scaled else ["kb_against_bytes"])
    made = emitted(tree)
    assert decided(made.patched, {}) == rule_says(made.adapted.rule, CALLS) != decided(text, {})
    for environ in (
        {STAGE: "1"}, {STAGE: "0"}, {LIMIT: "0"}, {LIMIT: "512"}, {LIMIT: "600000"},
        {STAGE: "1", LIMIT: "512"},
    ):  # fmt: skip
        assert decided(made.patched, environ) == decided(text, environ) != decided(text, {})


@pytest.mark.parametrize("name", APART)
def test_a_limit_that_stands_apart_is_read_and_never_patched_over_its_setting(name, spelt):
    tree, _ = spelt(APART[name])
    (found,) = audit(tree).installed
    assert {o.name for o in found.overrides} == {STAGE, LIMIT}
    with pytest.raises(NotRecognisedError, match=f"{LIMIT} would no longer override"):
        emitted(tree)


#: How SGLang reads a variable by a function that it imports.
READERS = {
    "alone": 'get_bool_env_var("{0}") or size <= 131072 and self.world_size > 1',
    "with a default": 'get_bool_env_var("{0}", "false") or (size <= 131072 and self.world_size > 1)',
    "by name": 'get_bool_env_var("{0}", default=False) or (size <= 131072 and self.world_size > 1)',
}


@pytest.mark.parametrize("name", READERS)
def test_a_variable_that_an_imported_function_reads_still_acts(name, tmp_path):
    text = (
        SOURCE.replace(f"{FORCE}{KB}\n", "")
        .replace(SET, "")
        .replace(
            USE, f"        use_1stage = {READERS[name].format('SGLANG_USE_1STAGE_ALLREDUCE')}\n"
        )
    )
    text = text.replace("import os\n", "from sglang.srt.utils import get_bool_env_var\n")
    text = text.replace("CudaCommunicator", "GroupCoordinator")
    file = tmp_path / "sglang/srt/distributed/parallel_state.py"
    file.parent.mkdir(parents=True)
    (tmp_path / "sglang/__init__.py").write_text("")
    file.write_text(text)
    (tree,) = open_trees(tmp_path)
    made = emitted(tree)
    function = "GroupCoordinator.fused_allreduce_rmsnorm"

    def says(source, **environ):
        decide = decider(source, function, environ=environ)
        return [decide(*call) for call in CALLS]

    assert says(made.patched) == rule_says(made.adapted.rule, CALLS) != says(text)
    for value in ("1", "true"):
        assert all(says(made.patched, SGLANG_USE_1STAGE_ALLREDUCE=value))
    assert says(made.patched, SGLANG_USE_1STAGE_ALLREDUCE="0") == says(made.patched)
    assert any("SGLANG_USE_1STAGE_ALLREDUCE still overrides" in note for note in made.told())
