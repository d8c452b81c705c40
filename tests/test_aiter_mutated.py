"""Every assumption about AITER, changed alone in a tree: the comparison notices each.

The tree is the stand-in's, with all variables read somewhere. A change is made in its syntax: a
name, a default, an argument, an early return, a call.
"""

import ast
import shutil
from pathlib import Path

import pytest

from costmodel.data.kernels import parse_version
from costmodel.live.backends.aiter import assumptions as known
from costmodel.live.backends.aiter import kernel_source
from costmodel.live.backends.aiter.compare import compare
from tests.test_aiter_compare import NEW, SOURCES, STANDINS
from tests.test_aiter_standin import NOT_PLAYED

FUNCTIONS = {**known.FUNCTIONS, **known.METHODS, **known.MHC_OPS}
#: Where the stand-in defines what the class of AITER has itself.
ELSEWHERE = {
    name: "aiter.dist.device_communicators.other_ops" for name in known.METHODS if "quant" in name
}
READS = known.READERS[-1]  # rocm_version, which the stand-in has not


def file_of(module):
    path = Path(*module.split("."))
    return path / "__init__.py" if (STANDINS / path).is_dir() else path.with_suffix(".py")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Return what makes a copy of the base tree, with one file's syntax changed."""
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(STANDINS / "aiter", base / "aiter")
    for places, text in ((kernel_source.PLACES, NEW), *SOURCES.items()):
        (base / places[0]).parent.mkdir(parents=True, exist_ok=True)
        (base / places[0]).write_text(text)
    at_import = [v for v in known.VARIABLES if v.name in NOT_PLAYED and v.when == known.AT_IMPORT]
    called = [v for v in known.VARIABLES if v.name in NOT_PLAYED and v.when == known.IN_A_CALL]
    lines = [f"{v.name.lower()} = os.environ.get('{v.name}')" for v in at_import]
    lines += ["def read():", *(f"    os.environ.get('{v.name}')" for v in called)]
    (base / file_of(READS)).write_text("\n".join(["import os", *lines, ""]))
    assert compare(base, "0.1.18").differences == ()

    def differing(modules, change):
        paths = [base / file_of(module) for module in modules.split()]
        texts = {path: path.read_text() for path in paths if path.exists()}
        changed = 0
        for path, text in texts.items():
            parsed = ast.parse(text)
            changed += bool(change(parsed))
            path.write_text(ast.unparse(ast.fix_missing_locations(parsed)))
        assert changed, "nothing was changed"
        try:
            return [f"{f.what}: {f.found}" for f in compare(base, "0.1.18").differences]
        finally:
            for path, text in texts.items():
                path.write_text(text)

    return differing


def defined(parsed, name):
    """Return the definition of a function, or of a method in its class (or one that joins it)."""
    owner, _, own = name.rpartition(".")
    classes = [n for n in ast.walk(parsed) if isinstance(n, ast.ClassDef) and n.name == owner]
    inside = (classes or [parsed])[0]
    nodes = [n for n in ast.walk(inside) if isinstance(n, ast.FunctionDef) and n.name == own]
    return nodes[:1]


def module_of(key, function):
    return ELSEWHERE.get(key, function.module)


@pytest.mark.parametrize("key", FUNCTIONS)
def test_a_function_that_is_gone(trees, key):
    wanted = FUNCTIONS[key]

    def change(parsed):
        (node,) = defined(parsed, wanted.name)
        node.name = "another"
        return True

    found = trees(module_of(key, wanted), change)
    assert f"{wanted.module}.{wanted.name}: is not there" in found


PLACES = [(key, place) for key, f in FUNCTIONS.items() for place in range(len(f.positional))]


@pytest.mark.parametrize(("key", "place"), PLACES)
def test_an_argument_by_place_that_means_something_else(trees, key, place):
    wanted = FUNCTIONS[key]

    def change(parsed):
        (node,) = defined(parsed, wanted.name)
        node.args.args[place + ("." in wanted.name)].arg = "other"
        return True

    found = trees(module_of(key, wanted), change)
    assert any(
        line.startswith(f"{wanted.module}.{wanted.name}: ")
        and f"argument {place + 1} is other, not {wanted.positional[place]}" in line
        for line in found
    ), found


KEYWORDS = [(key, name) for key, f in FUNCTIONS.items() for name in f.keywords]


@pytest.mark.parametrize(("key", "name"), KEYWORDS)
def test_an_argument_by_name_that_is_gone(trees, key, name):
    wanted = FUNCTIONS[key]

    def change(parsed):
        (node,) = defined(parsed, wanted.name)
        (argument,) = [a for a in node.args.args if a.arg == name]
        argument.arg = "other"
        return True

    found = trees(module_of(key, wanted), change)
    assert any(f"has no {name}" in line for line in found), found


LEFT_OUT = [(key, name) for key, f in FUNCTIONS.items() for name in f.left_out]


@pytest.mark.parametrize(("key", "name"), LEFT_OUT)
def test_a_default_that_is_another(trees, key, name):
    """Where the stand-in plays the argument; others came with other releases."""
    wanted = FUNCTIONS[key]

    def change(parsed):
        (node,) = defined(parsed, wanted.name)
        arguments = node.args.args
        names = [a.arg for a in arguments]
        if name not in names:  # it came later, or went: it is added with another default
            arguments.append(ast.arg(name))
            node.args.defaults.append(ast.Constant("other"))
        else:
            at = names.index(name) - len(arguments) + len(node.args.defaults)
            node.args.defaults[at] = ast.Constant("other")
        return True

    found = trees(module_of(key, wanted), change)
    assert any(f"{name} is 'other' where it is left out, not" in line for line in found), found


@pytest.mark.parametrize("wanted", known.ATTRIBUTES, ids=lambda a: a.name)
def test_an_attribute_that_is_gone_or_may_be_missing(trees, wanted):
    def renamed(parsed):
        changed = 0
        for node in ast.walk(parsed):
            if isinstance(node, ast.Attribute) and node.attr == wanted.name:
                node.attr, changed = "another", changed + 1
        return changed

    found = trees(wanted.module, renamed)
    assert f"{wanted.owner}.{wanted.name}: is set nowhere in the class" in found

    def returns_early(parsed):
        for node in ast.walk(parsed):
            if isinstance(node, ast.ClassDef) and node.name == wanted.owner:
                (made,) = defined(node, "__init__")
                made.body.insert(0, ast.parse("if nothing:\n    pass").body[0])
                made.body[0].body = [ast.Return(None)]
                return True
        return False

    found = trees(wanted.module, returns_early)
    line = f"{wanted.owner}.{wanted.name}: may be missing: the constructor can return before"
    assert any(said.startswith(line) for said in found) is wanted.always


@pytest.mark.parametrize("wanted", known.CALLS, ids=lambda c: f"{c.name}-{c.any_of[0]}")
def test_a_call_that_is_no_longer_made(trees, wanted):
    def change(parsed):
        changed = 0
        for made in defined(parsed, wanted.name):
            for node in ast.walk(made):
                if isinstance(node, ast.Call):
                    function = node.func
                    if getattr(function, "attr", None) in wanted.any_of:
                        function.attr, changed = "another", changed + 1
                    elif getattr(function, "id", None) in wanted.any_of:
                        function.id, changed = "another", changed + 1
        return changed

    found = trees(wanted.module, change)
    assert any(line.startswith(f"{wanted.name}: {wanted.means}: it calls no ") for line in found)


LATER = {v.name for v in known.VARIABLES if parse_version(v.since) > parse_version("0.1.18")}


@pytest.mark.parametrize("variable", known.VARIABLES, ids=lambda v: v.name)
def test_a_variable_that_is_not_read_or_too_early(trees, variable):
    def lets_go(parsed):
        changed = 0
        for node in ast.walk(parsed):
            if isinstance(node, ast.Constant) and node.value == variable.name:
                node.value, changed = "", changed + 1
        return changed

    def reads(parsed):
        parsed.body.append(ast.parse(f"NEW = os.environ.get('{variable.name}')").body[0])
        return True

    if variable.name in LATER:
        found = trees(known.PARALLEL_STATE, reads)
        said = f"is read before {variable.since}"
    else:
        found = trees(" ".join(known.READERS), lets_go)
        said = f"is not read, though it is from {variable.since} on"
    assert found == [f"variable {variable.name}: {said}"]


@pytest.mark.parametrize(
    "name",
    ["AITER_NEW", "HIP_NEW", "PYTORCH_NEW_CONF"],
)
def test_a_variable_that_nobody_knew(trees, name):
    def change(parsed):
        parsed.body.append(ast.parse(f"NEW = os.environ.get('{name}')").body[0])
        return True

    found = trees(known.PARALLEL_STATE, change)
    assert found == [f"variable {name}: is read, and the adapter does not know it"]
