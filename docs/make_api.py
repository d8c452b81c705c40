"""Write ``docs/api.md``, the API reference, from the docstrings. Standard library alone.

    python docs/make_api.py            # write it
    python docs/make_api.py --check    # exit 1 when it is not current

First the names at the top of the package (the table in ``costmodel/__init__.py``), then the modules
in the order of ``docs/design.md``: what a module defines, or what a package exports. Sources are
parsed, not imported, so nothing has to be installed.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "costmodel"
DESIGN = HERE / "design.md"
OUT = HERE / "api.md"

#: Modules of the design that have no reference: the command line explains itself.
LEFT_OUT = {"cli"}

#: Longest signature on one line.
WIDTH = 96

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parse(module: str) -> ast.Module:
    """Return the syntax tree of a dotted module of the package."""
    path = PACKAGE.joinpath(*filter(None, module.split(".")))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules() -> list[str]:
    """Return the modules that the first column of the design's table names, in its order."""
    found = []
    for line in DESIGN.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            found += re.findall(r"`(\w+)`", line.split("|")[1])
    return [m for m in found if m not in LEFT_OUT]


def public_table(tree: ast.Module) -> dict[str, str]:
    """Return name -> module of a ``_PUBLIC`` table, {} where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PUBLIC":
            return dict(ast.literal_eval(node.value))
    return {}


def exports(package: str) -> dict[str, str]:
    """Return name -> submodule of what a package offers: its table, or its ``__all__``."""
    tree = parse(package)
    table = public_table(tree)
    if table:
        return table
    offered: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            offered = list(ast.literal_eval(node.value))
    origin = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }
    return {name: origin[name] for name in sorted(offered) if name in origin}


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """Return the public classes and functions of a module, in the order of the source."""
    return {
        node.name: node
        for node in tree.body
        if isinstance(node, Definition) and not node.name.startswith("_")
    }


def find(module: str, name: str) -> Definition | None:
    """Return the definition of a name, also where the module only passes it on."""
    tree = parse(module)
    found = definitions(tree).get(name)
    if found is not None:
        return found
    is_package = PACKAGE.joinpath(*module.split(".")).is_dir()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in [a.asname or a.name for a in node.names]:
            base = module.split(".")
            up = node.level - 1 if is_package else node.level
            base = base[: len(base) - up] if up else base
            return find(".".join([*base, *([node.module] if node.module else [])]), name)
    return None


def markdown(docstring: str | None) -> str:
    """Return a docstring as Markdown: roles and double backticks become code, tables listings."""
    out = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        if paragraph.startswith(("    ", "===", ">>>")):
            listing = inspect.cleandoc(paragraph)
            if out and out[-1].endswith("\n```"):
                out[-1] = f"{out[-1][:-4]}\n\n{listing}\n```"
            else:
                out.append(f"```text\n{listing}\n```")
            continue
        text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].lstrip('.')}`", paragraph)
        out.append(re.sub(r"::$", ":", text.replace("``", "`")))
    return "\n\n".join(out)


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool = False) -> str:
    """Return a function's call with annotations, a parameter a line when it is long."""
    given = parameters(node.args)
    if method and given and given[0] in ("self", "cls"):
        given = given[1:]
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(given)}){result}"
    if len(line) <= WIDTH:
        return line
    return f"{node.name}(\n" + "".join(f"    {p},\n" for p in given) + f"){result}"


def parameters(given: ast.arguments) -> list[str]:
    """Return the parameters as written, ``*`` included."""
    plain = [*given.posonlyargs, *given.args]
    without = len(plain) - len(given.defaults)
    out = [_parameter(a, None) for a in plain[:without]]
    out += [_parameter(a, d) for a, d in zip(plain[without:], given.defaults, strict=True)]
    if given.vararg:
        out.append(f"*{_parameter(given.vararg, None)}")
    elif given.kwonlyargs:
        out.append("*")
    named = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    out += [_parameter(a, d) for a, d in named]
    if given.kwarg:
        out.append(f"**{_parameter(given.kwarg, None)}")
    return out


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    if default is None:
        return text
    return f"{text}{' = ' if argument.annotation else '='}{ast.unparse(default)}"


def function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the entry of a function, without its heading."""
    return [f"```python\n{signature(node)}\n```", markdown(ast.get_docstring(node))]


def class_(node: ast.ClassDef) -> list[str]:
    """Return the entry of a class: fields of a dataclass, docstring, properties and methods."""
    fields = [
        ast.unparse(n)
        for n in node.body
        if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")
    ]
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    head = [f"class {node.name}{bases}", *(f"    {f}" for f in fields)]
    out = ["```python\n" + "\n".join(head) + "\n```", markdown(ast.get_docstring(node))]
    for n in node.body:
        if not isinstance(n, ast.FunctionDef) or n.name.startswith("_"):
            continue
        marks = [ast.unparse(d) for d in n.decorator_list]
        is_property = any(m.endswith("property") for m in marks)
        shown = n.name if is_property else " ".join(signature(n, method=True).split())
        shown = shown.replace("( ", "(").replace(", )", ")")
        words = " ".join(markdown(ast.get_docstring(n)).split("\n\n")[0].split())
        out.append(f"- `{shown}`: {words}")
    return out


def entry(node: Definition, name: str) -> list[str]:
    """Return heading and text of one definition."""
    body = class_(node) if isinstance(node, ast.ClassDef) else function(node)
    return [f"### {name}", *(b for b in body if b)]


def top() -> list[str]:
    """Return the names at the top of the package, each with its module and first line."""
    tree = parse("")
    out = ["## `import costmodel as cm`", markdown(ast.get_docstring(tree))]
    rows = ["| name | defined in | |", "|---|---|---|"]
    for name, module in public_table(tree).items():
        node = find(module, name)
        first = markdown(ast.get_docstring(node) if node else "").split("\n\n")[0]
        words = " ".join(first.split()).replace("|", "\\|")
        rows.append(f"| `cm.{name}` | [`{module}`](#{anchor(module)}) | {words} |")
    return [*out, "\n".join(rows)]


def anchor(module: str) -> str:
    """Return the anchor that GitHub gives the heading of a module."""
    return "costmodel" + module.split(".")[0]


def module_entry(module: str) -> list[str]:
    """Return the reference of one module or package."""
    tree = parse(module)
    out = [f"## `costmodel.{module}`", markdown(ast.get_docstring(tree))]
    if PACKAGE.joinpath(module).is_dir():
        found = {
            name: node
            for name, sub in exports(module).items()
            if (node := find(f"{module}.{sub}", name)) is not None
        }
    else:
        found = definitions(tree)
    for name, node in found.items():
        out += entry(node, name)
    return out


def render() -> str:
    """Return the whole reference."""
    head = [
        "# API reference",
        "Generated by `python docs/make_api.py` from the docstrings; edit those. Units are in the"
        " names: `_us` microseconds, `_bytes`, `_gbps` (1e9 bytes a second).",
    ]
    parts = [*head, *top()]
    for module in modules():
        parts += module_entry(module)
    text = "\n\n".join(p for p in parts if p)
    # Entries of one list belong together.
    return re.sub(r"(?m)^(- `.*)\n\n(?=- `)", r"\1\n", text) + "\n"


def main() -> int:
    """Write the reference, or with ``--check`` tell whether it is current."""
    text = render()
    if "--check" in sys.argv[1:]:
        current = OUT.is_file() and OUT.read_text(encoding="utf-8") == text
        if not current:
            print("docs/api.md is not current: run python docs/make_api.py", file=sys.stderr)
        return 0 if current else 1
    OUT.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
