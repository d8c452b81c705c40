"""Choices in other spellings: each is read as Python runs it, and so is the patch, or refused."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
from emitted import PROVENANCE, RULES, apply, rule_says, tools
from engines.shapes import AITER

from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.boundary_tests import render
from costmodel.engines.kernel_version import asked_for
from costmodel.engines.reader import NotRecognisedError
from costmodel.engines.source import open_trees
from costmodel.engines.stand_in import decider
from costmodel.model.shape import FUSED, WORLD_SIZES

SIZE = "size = input_.numel() * input_.element_size()\n"
LIMITS = "((2, 896 * 1024), (4, 448 * 1024), (8, 224 * 1024))"

#: Calls around every limit that stands below, 16 bytes to both sides.
CALLS = [
    (n, "bf16", 8, (kib * 1024 + more) // 2, True)
    for n in WORLD_SIZES
    for kib in (16, 64, 96, 125, 127, 128, 129, 224, 225, 320, 448, 896)
    for more in (-16, 0, 16)
]

#: Bodies of the function, with what stands above the class and in it.
READ = {
    "a loop that logs": ("for name in self.names:\n    print(name)\n", "", "names = ()"),
    "a loop over limits": (
        f"one = False\nfor n, limit in {LIMITS}:\n    if self.world_size == n:\n"
        "        one = size <= limit\n        break\n",
        "",
        "",
    ),
    "a loop that passes turns by": (
        "one = False\nfor n in (2, 4, 8):\n    if n != self.world_size:\n        continue\n"
        "    one = size <= 1792 * 1024 // n\n",
        "",
        "",
    ),
    "a loop with an else": (
        "for n, limit in ((2, 896 * 1024), (4, 448 * 1024)):\n    if self.world_size == n:\n        break\n"
        "else:\n    limit = 224 * 1024\none = size <= limit\n",
        "",
        "",
    ),
    "a loop that doubles": (
        "limit = 1024\nwhile limit < 128 * 1024:\n    limit *= 2\none = size <= limit\n",
        "",
        "",
    ),
    "any of a generator": (
        f"one = any(self.world_size == n and size <= limit for n, limit in {LIMITS})\n",
        "",
        "",
    ),
    "all of a list": ("one = all([size <= 128 * 1024, input_.shape[-1] <= 8192])\n", "", ""),
    "the next of a generator": (
        f"limit = next(b for n, b in {LIMITS} if n >= self.world_size)\none = size <= limit\n",
        "",
        "",
    ),
    "a table that is made": (
        "limits = {n: 1792 * 1024 // n for n in (2, 4, 8)}\n"
        "one = size <= limits[self.world_size]\n",
        "",
        "",
    ),
    "a lambda of the module": ("one = fits(input_)\n", "fits = lambda x: x.nbytes <= 131072", ""),
    "a lambda that sees a local": ("one = (lambda n: size <= n)(128 * 1024)\n", "", ""),
    "lambdas by the ranks": (
        "rules = {2: lambda b: True, 4: lambda b: b < 1 << 17, 8: lambda b: b < 1 << 16}\n"
        "one = rules[self.world_size](size)\n",
        "",
        "",
    ),
    "a function inside": (
        "def fits():\n    return size <= 128 * 1024\n\none = fits()\n",
        "",
        "",
    ),
    "a coroutine": ("await self.lock()\none = size <= 128 * 1024\n", "", "async def lock(self): 0"),
    "a branch on the size": (
        "if size > 128 * 1024:\n    one = False\nelse:\n    one = True\n",
        "",
        "",
    ),
    "a shift": ("one = size >> 10 <= 128\n", "", ""),
    "a whole number of KiB": ("one = int(size / 1024) <= 128\n", "", ""),
    "a float at the limit": ("one = size / 1e6 < 0.128\n", "", ""),
    "conditions by &": ("one = (size <= 1 << 17) & (input_.shape[-1] <= 8192)\n", "", ""),
    "a key that is put together": (
        "one = size <= {'tp2': 917504, 'tp4': 458752}.get(f'tp{self.world_size}', 65536)\n",
        "",
        "",
    ),
    "a text as key": (
        "one = size <= {'2': 917504, '4': 458752}.get(str(self.world_size), 65536)\n",
        "",
        "",
    ),
    "a name that says ranks": (
        "one = size <= self.limit_for_world_size(self.world_size)\n",
        "",
        "def limit_for_world_size(self, n):\n    return 1792 * 1024 // n",
    ),
    "a static method": (
        "one = self.fits(input_, self.world_size)\n",
        "",
        "@staticmethod\ndef fits(x, n):\n    return x.nbytes <= {2: 896 << 10}.get(n, 64 << 10)",
    ),
    "the ranks by getattr": (
        "n = getattr(self, 'world_size', 8)\none = size <= {2: 917504}.get(n, 65536)\n",
        "",
        "",
    ),
    "a limit that is multiplied": ("limit = 64 * 1024\nlimit *= 2\none = size <= limit\n", "", ""),
    "a limit that a loop adds up": (
        "limit = 0\nfor kib in (64, 64):\n    limit += kib * 1024\none = size <= limit\n",
        "",
        "",
    ),
    "a lambda that sees what a local holds later": (
        "limit = 1\nfits = lambda: size <= limit\nlimit = 131072\none = fits()\n",
        "",
        "",
    ),
    "an os of another name": (
        "one = size <= int(_os.getenv('AITER_AR_1STAGE_MAX_KB', 131072))\n",
        "import os as _os",
        "",
    ),
}

#: What holds another value than it seems to, or may: nothing is said of it.
NOT_READ = {
    "a constant that a method sets": (
        "one = size <= self.most\n",
        "",
        "most = 131072\n\ndef halve(self):\n    self.most = 65536",
    ),
    "a constant that a function sets": (
        "one = size <= LIMIT\n",
        "LIMIT = 131072\n\n\ndef halve():\n    global LIMIT\n    LIMIT = 65536",
        "",
    ),
    "a constant that an import hides": (
        "one = size <= LIMIT\n",
        "LIMIT = 131072\nfrom aiter.limits import LIMIT",
        "",
    ),
    "a constant that an import inside hides": (
        "from aiter.limits import LIMIT\none = size <= LIMIT\n",
        "LIMIT = 131072",
        "",
    ),
    "a constant that is set by its text": (
        "one = size <= LIMIT\n",
        "LIMIT = 131072\nglobals()['LIMIT'] = 65536",
        "",
    ),
    "a local that a function inside sets": (
        "one = size <= 131072\n\ndef off():\n    nonlocal one\n    one = False\n\noff()\n",
        "",
        "",
    ),
    "a helper of another name": (
        "one = fits(input_)\n",
        "def fits(x):\n    return x.nbytes <= 131072\n\n\nfits = print",
        "",
    ),
    "a helper that is bound anew": (
        "one = one_stage(input_)\n",
        "def one_stage(x):\n    return x.nbytes <= 131072\n\n\none_stage = print",
        "",
    ),
    "a helper that a decorator changes": (
        "one = self.one_stage(input_)\n",
        "",
        "@inverted\ndef one_stage(self, x):\n    return x.nbytes <= 131072",
    ),
    "arguments in a dictionary": (
        "one = fits(size, **{'limit': 131072})\n",
        "def fits(n, limit=65536):\n    return n <= limit",
        "",
    ),
    "a key that is not known": (
        "one = size <= {'small': 65536}.get(self.mode, 131072)\n",
        "",
        "",
    ),
    "a lambda with a default by name": (
        "limit = 131072\nfits = lambda n, most=limit: n <= most\nlimit = 1\none = fits(size)\n",
        "",
        "",
    ),
    "a generator that is used up": (
        "left = (n for n in (1, 131072))\nnext(left)\none = size <= next(left)\n",
        "",
        "",
    ),
    "the largest by another measure": (
        "one = size <= max((65536, 131072), key=lambda n: -n)\n",
        "",
        "",
    ),
    "an any of the module's own": (
        "one = any([size <= 131072])\n",
        "def any(found):\n    return not found[0]",
        "",
    ),
    "an any that is another name's": (
        "one = any([size <= 131072])\n",
        "def no(found):\n    return not found[0]\n\n\nany = no",
        "",
    ),
    "a max of the function's own": (
        "max = min\none = size <= max(65536, 131072)\n",
        "",
        "",
    ),
    "an int that the module writes anew": (
        "one = size <= int(65536)\n",
        "def int(number):\n    return 2 * number",
        "",
    ),
    "an any of the function's own": (
        "any = all\none = any([size <= 131072, size <= 65536])\n",
        "",
        "",
    ),
    "a loop that may turn it off": (
        "one = size <= 131072\nfor q in self.queues:\n    if q:\n        one = False\n",
        "",
        "",
    ),
}


def source(body: str, above: str, inside: str) -> str:
    """Return a file of AITER with a choice ``one``."""
    if not re.search(r"\bone = ", body):
        body += "one = size <= 128 * 1024\n"
    inner = f"def __init__(self, world_size):\n    self.world_size = world_size\n\n{inside}\n"
    kind = "async def" if "await" in body else "def"
    return (
        f"{above}\n\n\nclass CudaCommunicator:\n{_indented(inner, 4)}\n"
        f"    {kind} fused_allreduce_rmsnorm(self, input_, residual, weight, eps):\n"
        f"{_indented(SIZE + body, 8)}"
        "        return self.ca_comm.custom_fused_ar_rms(input_, residual, use_1stage=one)\n"
    )


def _indented(text: str, by: int) -> str:
    return re.sub(r"^(?=.)", " " * by, text, flags=re.MULTILINE)


class Rows:
    """A tensor of bf16, as far as the sources below ask."""

    def __init__(self, hidden: int, elements: int) -> None:
        self.shape = (elements // hidden, hidden)
        self.nbytes = 2 * elements

    def numel(self) -> int:
        return self.nbytes // 2

    def element_size(self) -> int:
        return 2


def run(text: str) -> list[bool]:
    """Return what a source decides at every call when Python runs it."""
    names: dict[str, object] = {"__name__": "run"}
    exec(compile(text, "source.py", "exec"), names)
    out = []
    for n, _, hidden, elements, _ in CALLS:
        made = names["CudaCommunicator"](n)  # type: ignore[operator]
        made.ca_comm = SimpleNamespace(custom_fused_ar_rms=lambda *a, use_1stage: use_1stage)
        x = Rows(hidden, elements)
        got = made.fused_allreduce_rmsnorm(x, x, None, 1e-6)
        out.append(bool(asyncio.run(got) if asyncio.iscoroutine(got) else got))
    return out


def laid_out(root, text):
    for name in ("__init__.py", "dist/parallel_state.py", AITER):
        file = root / "aiter" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if name == AITER else "")
    (tree,) = open_trees(root)
    return tree


@pytest.mark.parametrize("name", READ)
def test_it_is_read_and_patched_as_python_runs_it(name, tmp_path):
    text = source(*READ[name])
    tree = laid_out(tmp_path, text)
    assert rule_says(audit(tree).installed[0].rule, CALLS) == run(text)
    meant = asked_for("0.1.20")
    for rule in (RULES["recommended"], RULES["partly_claimed"], RULES["one_cutoff"]):
        made = engine.patch(tree, rule, PROVENANCE, meant.kernel, running=meant)
        assert run(made.patched) == rule_says(made.adapted.rule, CALLS)
        tests: dict[str, object] = {"__name__": "emitted"}
        exec(
            render(
                made.adapted, PROVENANCE, tree.engine, made.file, made.function, str(tmp_path),
                made.patched,
            ),
            tests,
        )  # fmt: skip
        apply(made.text, tmp_path, tools()[0])
        assert [tests["differences"](n) for n in WORLD_SIZES] == [[], [], []]  # type: ignore[operator]
        assert engine.patch(tree, rule, PROVENANCE, meant.kernel, running=meant).text == ""
        apply(engine.revert(tree, FUSED), tmp_path, tools()[0])
        assert (tmp_path / "aiter" / AITER).read_text() == text


@pytest.mark.parametrize("name", NOT_READ)
def test_what_may_hold_another_value_leaves_no_rule_to_state(name, tmp_path):
    tree = laid_out(tmp_path, source(*NOT_READ[name]))
    with pytest.raises(NotRecognisedError):
        audit(tree)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "for limit in self.limits:\n    self.ca_comm.f(input_, use_1stage=size <= limit)\n",
            r"communicator_cuda.py:12: the choice stands in a statement that is not followed: "
            r"for limit in self.limits:",
        ),
        (
            "limit = 1\nwhile True:\n    limit += 1\none = size <= limit\n",
            r"communicator_cuda.py:13: a loop that is not followed to its end: while True:",
        ),
    ],
)
def test_a_loop_that_is_not_followed_is_named_with_its_line(body, said, tmp_path):
    tree = laid_out(tmp_path, source(body, "", ""))
    with pytest.raises(NotRecognisedError, match=said):
        audit(tree)


@pytest.mark.parametrize(
    ("body", "lost"),
    [
        (
            "if size <= 131072:\n    one = True\n    self.count = 1\nelse:\n    one = False\n",
            "self.count = ...",
        ),
        (
            "if size <= 131072:\n    one = True\n    self.note(one)\nelse:\n    one = False\n",
            "self.note(one)",
        ),
        (
            "if (n := size) <= 131072:\n    one = True\nelse:\n    one = False\nself.last = n\n",
            "a choice beside which n is set",
        ),
    ],
)
def test_a_patch_that_would_lose_something_else_is_refused(body, lost, tmp_path):
    tree = laid_out(tmp_path, source(body, "", ""))
    audit(tree)
    meant = asked_for("0.1.20")
    with pytest.raises(NotRecognisedError, match=re.escape(lost)):
        engine.patch(tree, RULES["one_cutoff"], PROVENANCE, meant.kernel, running=meant)


def test_a_choice_that_is_returned_from_a_loop_is_read_and_not_patched(tmp_path):
    asked = (
        "def one_stage(self, x):\n    for n, kib in ((2, 896), (4, 448), (8, 224)):\n"
        "        if self.world_size == n:\n            return x.nbytes <= kib * 1024\n"
        "    return False"
    )
    text = source("one = self.one_stage(input_)\n", "", asked)
    tree = laid_out(tmp_path, text)
    assert rule_says(audit(tree).installed[0].rule, CALLS) == run(text)
    meant = asked_for("0.1.20")
    with pytest.raises(NotRecognisedError, match="not returned from inside a loop"):
        engine.patch(tree, RULES["recommended"], PROVENANCE, meant.kernel, running=meant)


def test_what_a_guard_says_beside_what_cannot_be_read_is_part_of_the_rule(tmp_path):
    asked = (
        "def one_stage(self, x):\n    if x.shape[-1] > 8192 or self.is_odd(x):\n"
        "        return False\n    return x.nbytes <= 131072"
    )
    tree = laid_out(tmp_path, source("one = self.one_stage(input_)\n", "", asked))
    found = audit(tree).installed[0].rule
    assert found.words() == "1-stage when bytes <= 128 KiB; hidden <= 8192"


def test_a_fallback_that_names_its_stage_is_not_taken_for_the_choice(tmp_path):
    fallback = "if self.is_slow(input_):\n    return self.ca_comm.f(input_, use_1stage=False)\n"
    text = source(f"{fallback}one = size <= 128 * 1024\n", "", "def is_slow(self, x): ...")
    again = text.replace("is_slow(input_)", "queue.slow")
    wanted = [elements <= 65536 for _, _, _, elements, _ in CALLS]
    for one in (again, again.replace("if self", "if not self")):
        decide = decider(one, "CudaCommunicator.fused_allreduce_rmsnorm")
        assert [decide(*call) for call in CALLS] == wanted
    both = "if size <= 131072:\n    return self.f(input_, use_1stage=True)\none = False\n"
    decide = decider(source(both, "", ""), "CudaCommunicator.fused_allreduce_rmsnorm")
    assert [decide(*call) for call in CALLS] == wanted


def test_a_dead_function_of_a_telling_name_is_not_taken_for_the_choice(tmp_path):
    dead = "def old_use_1stage(x):\n    return x.nbytes <= 131072"
    tree = laid_out(tmp_path, source("one = self.ask(input_)\n", dead, ""))
    with pytest.raises(NotRecognisedError):
        audit(tree)


def test_a_helper_with_a_guard_that_cannot_be_read_is_not_replaced(tmp_path):
    helper = "def fits(n):\n    return allowed() and n <= 131072"
    tree = laid_out(tmp_path, source("one = fits(size)\n", helper, ""))
    assert audit(tree).installed[0].assumed == ("allowed()",)
    meant = asked_for("0.1.20")
    with pytest.raises(NotRecognisedError, match=r"allowed\(\)"):
        engine.patch(tree, RULES["recommended"], PROVENANCE, meant.kernel, running=meant)
