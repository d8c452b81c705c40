"""Public names: all there, each the same thing whenever it is asked for."""

from __future__ import annotations

import types

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
