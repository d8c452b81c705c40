"""Public names: all there, each the same thing whenever it is asked for."""

from __future__ import annotations

import ast
import types
from collections import defaultdict
from pathlib import Path

import pytest

import costmodel
from costmodel import figures


@pytest.mark.parametrize("package", [costmodel, figures])
def test_every_public_name_is_there_and_is_no_module(package):
    for name in package.__all__:
        first = getattr(package, name)
        assert not isinstance(first, types.ModuleType), name
        # Importing a submodule sets it on its package: a module named like the name would win now.
        assert getattr(package, name) is first, name
        assert name in dir(package), name


def test_no_two_classes_share_a_name():
    package = Path(costmodel.__file__).parent
    places = defaultdict(list)
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(file.relative_to(package)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_file_is_longer_than_600_lines():
    package = Path(costmodel.__file__).parent
    lines = {str(file): file.read_text().count("\n") for file in package.rglob("*.py")}
    assert {file: count for file, count in lines.items() if count > 600} == {}
