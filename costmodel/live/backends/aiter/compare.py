"""Hold what the adapter assumes against a tree of AITER, which is read and never imported.

::

    python -m costmodel.live.backends.aiter.compare TREE [VERSION]

TREE is a checkout, an installed package or a wheel; VERSION is its release where the tree does not
say. It prints what differs from :mod:`.assumptions` and from the facts of that release
(:class:`~costmodel.data.kernels.Kernel`), and what could not be read. Exit code 0: nothing differs,
1: something does, 2: no such tree.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ....data.kernels import Kernel, of_row, parse_version
from ....engines import kernel_version
from ....engines.call_sites import serving_engine
from ....engines.module import Function as Definition
from ....engines.module import Module, constant_of, instance_values
from ....engines.source import Tree, open_tree
from ....errors import InputError
from ....model.shape import ONE_STAGE
from . import arms, assumptions, kernel_source, mhc
from .assumptions import AT_IMPORT, CUSTOM_ALL_REDUCE, IN_A_CALL, WORLD_SIZES

#: What a variable looks like that can change what AITER runs.
_VARIABLE = r"(?:AITER|HIP|CUDA|PYTORCH|HSA|NCCL|RCCL|ROCR)_[A-Z0-9_]+"


@dataclass(frozen=True)
class Finding:
    """One assumption that was looked at: "" where it holds, else what is there instead.

    ``read`` is False where the tree does not say it in a form that can be read.
    """

    what: str
    found: str = ""
    read: bool = True


@dataclass(frozen=True)
class TreeComparison:
    """A tree beside the assumptions; ``version`` is the release whose facts were taken."""

    version: str
    findings: tuple[Finding, ...]

    @property
    def differences(self) -> tuple[Finding, ...]:
        """The assumptions that do not hold."""
        return tuple(f for f in self.findings if f.read and f.found)

    @property
    def unread(self) -> tuple[Finding, ...]:
        """The assumptions that could not be compared."""
        return tuple(f for f in self.findings if not f.read)

    def __str__(self) -> str:
        lines = [
            f"AITER {self.version}: {len(self.findings) - len(self.unread)} assumptions compared, "
            f"{len(self.differences)} differ, {len(self.unread)} could not be read"
        ]
        lines += [f"differs: {f.what}: {f.found}" for f in self.differences]
        lines += [f"not read: {f.what}: {f.found}" for f in self.unread]
        return "\n".join(lines)


def compare(path: str | Path, version: str = "") -> TreeComparison:
    """Compare the tree at ``path``; raise :class:`InputError` where there is none."""
    tree = open_tree(path, serving_engine("aiter"))
    stated = version or kernel_version.of_tree(tree).stated
    stated = "" if " " in stated else stated  # a guess in words, for development branches
    kernel = of_row("aiter", "", f"aiter {stated.removeprefix('v')}", "")
    assert kernel is not None
    sources = _Sources(tree)
    findings = [
        *_functions(sources, kernel),
        *_attributes(sources, kernel),
        *_calls(sources),
        *_variables(sources, kernel),
        *_groups(sources, kernel),
        *_python_limits(sources, kernel),
        *kernel_limits(sources.header(kernel_source.PLACES), kernel),
        *_other_limits(sources, kernel),
    ]
    return TreeComparison(stated or f"{kernel.version} (the newest known)", tuple(findings))


@lru_cache(maxsize=256)
def _nodes(node: ast.AST) -> tuple[ast.AST, ...]:
    """Return a node of a parsed file and all below it: most assumptions ask the same ones."""
    return tuple(ast.walk(node))


class _Sources:
    """The modules of a tree, parsed once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._modules: dict[str, Module | None] = {}

    def module(self, dotted: str) -> Module | None:
        """Return a module or package by its dotted name, None where the tree has none."""
        if dotted not in self._modules:
            self._modules[dotted] = None
            inside = "/".join(dotted.split(".")[1:])
            for file in (f"{inside}.py" if inside else "", f"{inside}/__init__.py".lstrip("/")):
                text = self.tree.read(self.tree.name(file)) if file else None
                if text is not None:
                    self._modules[dotted] = Module.parse(file, text)
                    break
        return self._modules[dotted]

    def function(self, dotted: str, name: str, depth: int = 4) -> Definition | None:
        """Return a function by module and name, through imports and the bases of its class."""
        module = self.module(dotted)
        if module is None:
            return None
        found = module.function(name)
        definition = found[0] if found else None
        if definition is not None or not depth:
            return definition
        owner, dot, method = name.rpartition(".")
        here = self.class_of(dotted, owner) if dot else None
        for base in here.bases if here else ():
            if isinstance(base, ast.Name):
                inherited = self.function(dotted, f"{base.id}.{method}", depth - 1)
                definition = definition or inherited
        for node in _nodes(module.tree):
            if isinstance(node, ast.ImportFrom):
                names = {alias.asname or alias.name: alias.name for alias in node.names}
                wanted = (owner or name) if "*" in names else names.get(owner or name)
                if wanted:
                    inside = f"{wanted}.{method}" if dot else wanted
                    source = self._absolute(dotted, node)
                    definition = self.function(source, inside, depth - 1) or definition
        return definition

    def class_of(self, dotted: str, name: str) -> ast.ClassDef | None:
        """Return a class of a module, None where there is none."""
        module = self.module(dotted)
        nodes = _nodes(module.tree) if module else ()
        return next((n for n in nodes if isinstance(n, ast.ClassDef) and n.name == name), None)

    def header(self, places: Sequence[str]) -> str | None:
        """Return a header of the kernels, None where the tree does not carry it."""
        home = PurePosixPath(self.tree.inside).parent if self.tree.inside else PurePosixPath("..")
        for name in places:
            text = self.tree.read((home / name).as_posix())
            if text is not None:
                return text
        return None

    def _absolute(self, dotted: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = dotted.split(".")
        inside = "/".join(package[1:])
        is_package = self.tree.read(self.tree.name(f"{inside}/__init__.py".lstrip("/"))) is not None
        up = node.level - (1 if is_package else 0)
        base = package[: len(package) - up]
        return ".".join([*base, *([node.module] if node.module else [])])


def _functions(sources: _Sources, kernel: Kernel) -> Iterator[Finding]:
    every = (assumptions.FUNCTIONS, assumptions.METHODS, assumptions.MHC_OPS)
    for wanted in (function for group in every for function in group.values()):
        what = f"{wanted.module}.{wanted.name}"
        definition = sources.function(wanted.module, wanted.name)
        early = wanted.since and parse_version(wanted.since) > parse_version(kernel.version)
        if definition is None:
            yield Finding(what, "" if early else "is not there")
            continue
        yield Finding(what, "; ".join(_misfits(wanted, definition)))


def _misfits(wanted: assumptions.Function, definition: Definition) -> Iterator[str]:
    """Give what keeps a definition from being called as the adapter calls it."""
    given = definition.args
    places = [a.arg for a in (*given.posonlyargs, *given.args)]
    defaults = dict(zip(reversed(places), map(ast.unparse, reversed(given.defaults)), strict=False))
    names = [a.arg for a in given.kwonlyargs]
    defaults |= {
        name: ast.unparse(value)
        for name, value in zip(names, given.kw_defaults, strict=True)
        if value is not None
    }
    if "." in wanted.name:
        places = places[1:]
    for place, name in enumerate(wanted.positional):
        if place >= len(places):
            yield f"takes {len(places)} arguments by place, not {len(wanted.positional)}"
            break
        if places[place] not in name.split("|"):
            yield f"argument {place + 1} is {places[place]}, not {name}"
    taken = set(places[: len(wanted.positional)])
    for name in wanted.keywords:
        if name not in (*places, *names):
            yield f"has no {name}"
    for name in (*places, *names):
        if name in taken or name in wanted.keywords:
            continue
        if name not in defaults:
            yield f"needs {name}"
        elif name not in wanted.left_out:
            yield f"has a new {name}={defaults[name]}, which is left out"
        elif defaults[name] != wanted.left_out[name]:
            yield f"{name} is {defaults[name]} where it is left out, not {wanted.left_out[name]}"


def _attributes(sources: _Sources, kernel: Kernel) -> Iterator[Finding]:
    for wanted in assumptions.ATTRIBUTES:
        what = f"{wanted.owner}.{wanted.name}"
        owner = sources.class_of(wanted.module, wanted.owner)
        if owner is None:
            yield Finding(what, f"{wanted.module} has no class {wanted.owner}")
            continue
        lines = [
            n.lineno
            for n in _nodes(owner)
            if isinstance(n, ast.Attribute)
            and isinstance(n.ctx, ast.Store)
            and n.attr == wanted.name
        ]
        early = wanted.since and parse_version(wanted.since) > parse_version(kernel.version)
        if not lines:
            yield Finding(what, "" if early else "is set nowhere in the class")
        elif wanted.always and min(lines) > _first_return(owner):
            yield Finding(what, "may be missing: the constructor can return before it is set")
        else:
            yield Finding(what)


def _first_return(owner: ast.ClassDef) -> float:
    """Return the line of the first ``return`` of the constructor, infinity where it has none."""
    lines = [
        node.lineno
        for function in owner.body
        if isinstance(function, Definition) and function.name == "__init__"
        for node in _nodes(function)
        if isinstance(node, ast.Return)
    ]
    return min(lines, default=float("inf"))


def _calls(sources: _Sources) -> Iterator[Finding]:
    for wanted in assumptions.CALLS:
        what = f"{wanted.name}: {wanted.means}"
        definition = sources.function(wanted.module, wanted.name)
        if definition is None:
            yield Finding(what, f"{wanted.module} has no {wanted.name}")
            continue
        called = {
            getattr(node.func, "attr", getattr(node.func, "id", ""))
            for node in _nodes(definition)
            if isinstance(node, ast.Call)
        }
        hit = called.intersection(wanted.any_of)
        yield Finding(what, "" if hit else f"it calls no {' and no '.join(wanted.any_of)}")


def _variables(sources: _Sources, kernel: Kernel) -> Iterator[Finding]:
    found: dict[str, set[str]] = {}
    for dotted in assumptions.READERS:
        module = sources.module(dotted)
        if module is None:
            continue
        inside = {
            inner
            for node in _nodes(module.tree)
            if isinstance(node, Definition)
            for inner in _nodes(node)
        }
        for node in _nodes(module.tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(_VARIABLE, node.value, re.ASCII)
            ):
                when = IN_A_CALL if node in inside else AT_IMPORT
                found.setdefault(node.value, set()).add(when)
    known = {variable.name: variable for variable in assumptions.VARIABLES}
    for name in sorted({*found, *known}):
        what = f"variable {name}"
        variable = known.get(name)
        if variable is None:
            yield Finding(what, "is read, and the adapter does not know it")
        elif parse_version(variable.since) > parse_version(kernel.version):
            early = name in found
            yield Finding(what, f"is read before {variable.since}" if early else "")
        elif name not in found:
            yield Finding(what, f"is not read, though it is from {variable.since} on")
        elif variable.when == AT_IMPORT and AT_IMPORT not in found[name]:
            yield Finding(what, "is no longer read at import but in a call")
        else:
            yield Finding(what)


def _groups(sources: _Sources, kernel: Kernel) -> Iterator[Finding]:
    """Look at how ranks are grouped, and whether they can be grouped anew."""
    state = assumptions.PARALLEL_STATE
    make = sources.function(state, "initialize_model_parallel")
    clear = sources.function(state, "destroy_model_parallel")
    what = "neighbouring ranks form a tensor-parallel group, all others such groups too"
    if make is None or clear is None:
        yield Finding(what, f"{state} has no initialize_model_parallel that could be read")
        return
    layouts = [
        [ast.unparse(argument) for argument in node.args]
        for node in ast.walk(make)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "reshape"
        and "arange" in ast.unparse(node.func.value)
    ]
    fits = layouts and (layouts[0][0], layouts[0][-1]) == ("-1", "tensor_model_parallel_size")
    yield Finding(what, "" if fits else f"ranks are laid out as {layouts}")
    wanted = {
        node.test.left.id
        for node in ast.walk(make)
        if isinstance(node, ast.Assert)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.ops[0], ast.Is)
        and isinstance(node.test.left, ast.Name)
    }
    cleared = {
        target.id
        for node in ast.walk(clear)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "None"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    stay = ", ".join(sorted(wanted - cleared))
    if parse_version(kernel.version) < parse_version(assumptions.REGROUPS):
        yield Finding("groups cannot be made anew", "" if stay else "all are cleared")
    else:
        yield Finding("groups can be made anew", f"{stay} stay" if stay else "")


def _other_limits(sources: _Sources, kernel: Kernel) -> Iterator[Finding]:
    """Compare limits of ops that the facts of kernels do not hold."""
    mixes = parse_version(kernel.version) >= parse_version(assumptions.MHC_OPS[ONE_STAGE].since)
    blocks = (mhc.BLOCKS, mhc.BLOCKS_A_ROW)
    places: tuple[str, ...]
    read: Callable[[str], object]
    for what, wanted, places, read in (
        (
            "fused mHC 1-stage, most packs a row",
            mhc.ONE_STAGE_MAX_PACKS if mixes else None,
            kernel_source.PLACES,
            kernel_source.mhc_max_packs,
        ),
        (
            "fused mHC, types",
            mhc.DTYPES if mixes else None,
            kernel_source.MHC_PLACES,
            kernel_source.mhc_dtypes,
        ),
        (
            "fused mHC 2-stage, blocks of a row, each with an arch that has none, and the fewest",
            blocks if mixes else None,
            kernel_source.MHC_KERNEL_PLACES,
            kernel_source.mhc_blocks,
        ),
        (
            "plain all-reduce on gfx1250, most bytes pushed",
            arms.pushed_bytes(kernel) or None,
            kernel_source.GFX1250_PLACES,
            kernel_source.pushed_bytes,
        ),
    ):
        text = sources.header(places)
        found = read(text) if text is not None else None
        if wanted is None:
            yield Finding(f"no {what}", "" if found is None else f"is {found}")
        elif text is None:
            yield Finding(
                f"{what} {wanted}", "the tree does not carry the kernels' source", read=False
            )
        elif found is None:
            yield Finding(f"{what} {wanted}", "in no form that can be read", read=False)
        else:
            yield Finding(f"{what} {wanted}", "" if found == wanted else f"is {found}")


def _python_limits(sources: _Sources, kernel: Kernel) -> Iterator[Finding]:
    owner = sources.class_of(CUSTOM_ALL_REDUCE, "CustomAllreduce")
    module = sources.module(CUSTOM_ALL_REDUCE)
    if owner is None or module is None:
        return
    sizes = constant_of(owner, "_SUPPORTED_WORLD_SIZES")
    what = f"world sizes {', '.join(map(str, WORLD_SIZES))}"
    try:
        supported = ast.literal_eval(sizes) if sizes is not None else ()
        lacking = [str(n) for n in WORLD_SIZES if n not in supported]
        yield Finding(what, f"no {', '.join(lacking)}" if lacking else "")
    except (ValueError, TypeError):
        yield Finding(what, "in no form that can be read", read=False)
    most = _largest_input(sources, module, owner)
    what = f"largest input {kernel.custom_max_bytes} bytes"
    if most is None:
        yield Finding(what, "in no form that can be read", read=False)
    else:
        yield Finding(what, "" if most == kernel.custom_max_bytes else f"is {int(most)} bytes")


def _largest_input(sources: _Sources, module: Module, owner: ast.ClassDef) -> float | None:
    """Return the first upper bound of ``should_custom_ar`` with no variable set, None if unread."""
    for method in ("_fits_custom_ar_size", "should_custom_ar"):
        definition = sources.function(CUSTOM_ALL_REDUCE, f"CustomAllreduce.{method}")
        bounds = [
            node.value.comparators[0]
            for node in ast.walk(definition or ast.Module([], []))
            if isinstance(node, ast.Return)
            and isinstance(node.value, ast.Compare)
            and isinstance(node.value.ops[0], ast.LtE)
        ]
        bounds.sort(key=lambda node: node.lineno)
        if bounds:
            try:
                return _Value(module, owner).of(bounds[0])
            except _NotRead:
                return None
    return None


class _NotRead(Exception):
    """An expression that is no plain arithmetic of constants and defaults."""


#: What arithmetic is followed.
_OPERATIONS = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b, ast.FloorDiv: lambda a, b: a // b,
    ast.LShift: lambda a, b: int(a) << min(int(b), 64),
}  # fmt: skip


class _Value:
    """Numbers of a class: constants, what its constructor sets with all defaults, arithmetic."""

    def __init__(self, module: Module, owner: ast.ClassDef) -> None:
        self.module, self.attributes = module, instance_values(owner)
        found = module.function(f"{owner.name}.__init__")
        self.defaults: dict[str, ast.expr] = {}
        if found:
            given = found[0].args
            names = [a.arg for a in (*given.posonlyargs, *given.args)]
            self.defaults = dict(zip(reversed(names), reversed(given.defaults), strict=False))

    def of(self, node: ast.expr | None, depth: int = 12) -> float:
        """Return the number that an expression is; raise :class:`_NotRead` for anything else."""
        try:
            return self._of(node, depth)
        except (ArithmeticError, TypeError, ValueError):
            raise _NotRead from None

    def _of(self, node: ast.expr | None, depth: int) -> float:
        if node is None or not depth:
            raise _NotRead
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            left, right = self._of(node.left, depth - 1), self._of(node.right, depth - 1)
            return _OPERATIONS[type(node.op)](left, right)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            return self._of(self.attributes.get(node.attr), depth - 1)
        if isinstance(node, ast.Name):
            constant = constant_of(self.module.tree, node.id)
            return self._of(self.defaults.get(node.id) or constant, depth - 1)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            # the settings are read first: with none set, the first return is taken
            found = self.module.function(node.func.id)
            returns = [n for n in ast.walk(found[0]) if isinstance(n, ast.Return)] if found else []
            returns.sort(key=lambda n: n.lineno)
            return self._of(returns[0].value if returns else None, depth - 1)
        raise _NotRead


def kernel_limits(text: str | None, kernel: Kernel) -> Iterator[Finding]:
    """Compare the limits that a kernel header states with those of the facts."""
    read = kernel_source.read(text) if text is not None else {}
    for name, said in kernel_source.LIMITS.items():
        wanted = getattr(kernel, name)
        what = f"{said} {wanted}"
        if name == "fused_1stage_max_packs" and read.get("fused_1stage_hidden_dims"):
            continue  # the listed sizes decide
        if text is None:
            yield Finding(what, "the tree does not carry the kernels' source", read=False)
        elif name not in read:
            yield Finding(what, "in no form that can be read", read=False)
        else:
            yield Finding(what, "" if read[name] == wanted else f"is {read[name]}")


def main(arguments: Sequence[str]) -> int:
    """Compare the tree that the arguments name, print, and return the exit code."""
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print(f"usage: python -m {__spec__.name if __spec__ else __name__} TREE [VERSION]")
        return 2
    try:
        comparison = compare(*arguments)
    except InputError as error:
        print(f"costmodel: error: {error}", file=sys.stderr)
        return 2
    print(comparison)
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
