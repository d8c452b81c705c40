"""What must not happen whatever others write: each line of docs/threats.md has its test here."""

from __future__ import annotations

import tracemalloc
import zipfile

import pytest
from engines.shapes import SHAPES

from costmodel.engines.source import open_trees
from costmodel.errors import InputError


def read_all(path):
    return [tree.read(name) for tree in open_trees(path) for name in tree.engine.files]


def test_a_wheel_that_unpacks_to_a_thousand_times_its_size_is_refused_in_little_memory(tmp_path):
    """The command line's limit is far below what a file of a wheel may unpack to."""
    root = SHAPES["sglang_bytes"].package(tmp_path / "site")
    small = [p for p in sorted(root.rglob("*")) if p.is_file()]
    wheel = tmp_path / "sglang-0.5.23-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in small:
            name = file.relative_to(root).as_posix()
            archive.writestr(name, bytes(48 << 20) if name.endswith(".py") else file.read_bytes())
    assert wheel.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="larger than 4 MiB; a source file is smaller"):
            read_all(wheel)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
