"""docs/api.md is what docs/make_api.py makes of the docstrings, and has what the package offers."""

import importlib.util
import re
from pathlib import Path

import pytest

import costmodel

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def make_api():
    spec = importlib.util.spec_from_file_location("_make_api", DOCS / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_is_current(make_api):
    written = (DOCS / "api.md").read_text(encoding="utf-8")
    assert written == make_api.render(), "run python docs/make_api.py"


def test_every_public_name_has_a_line_with_words(make_api):
    text = make_api.render()
    for name in costmodel._PUBLIC:
        assert re.search(rf"^\| `cm\.{name}` \| .* \| \S.* \|$", text, re.MULTILINE), name


def test_links_lead_to_headings(make_api):
    text = make_api.render()
    anchors = {re.sub(r"[^\w -]", "", h).lower() for h in re.findall(r"^## (.*)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_every_module_of_the_design_is_there(make_api):
    assert len(make_api.modules()) > 25
    text = make_api.render()
    for module in make_api.modules():
        assert f"\n## `costmodel.{module}`\n" in text


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return ``a`` of :class:`Rule`.", "Return `a` of `Rule`."),
        ("A::\n\n    x = 1\n\n    y = 2\n\nB.", "A:\n\n```text\nx = 1\n\ny = 2\n```\n\nB."),
        (None, ""),
    ],
)
def test_docstrings_become_markdown(make_api, docstring, expected):
    assert make_api.markdown(docstring) == expected


def test_signatures_are_those_of_the_source(make_api):
    import ast

    short = ast.parse("def f(a: int, *, b: str = 'x', **how: int) -> None: ...").body[0]
    assert make_api.signature(short) == "f(a: int, *, b: str = 'x', **how: int) -> None"
    long = ast.parse(f"def f(self, {', '.join(f'name_{i}: int' for i in range(9))}): ...").body[0]
    assert make_api.signature(long, method=True).startswith("f(\n    name_0: int,\n")
