"""CONTRIBUTING.md's examples, done as they stand there in a copy of the project.

Of every section named "Adding ...", ``sh`` blocks run, ``diff`` blocks are applied, and each line of
a ``text`` block has to be in what the ``sh`` block before it printed.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import shell

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("costmodel", "measurements", "tests", "pyproject.toml")
BLOCK = re.compile(r"^```(sh|diff|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (?=Adding )", text, flags=re.MULTILINE)
    return {part.partition("\n")[0]: re.split(r"^## ", part, flags=re.M)[0] for part in parts}


def squeezed(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text)


@pytest.fixture
def project(tmp_path):
    """Return a copy of the project."""
    copy = tmp_path / "project"
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / part)
    return copy


def test_every_kind_of_addition_has_its_example():
    assert list(sections()) == [
        "Adding a source", "Adding a rule", "Adding a statement", "Adding an engine version",
        "Adding an AITER release", "Adding a GPU", "Adding a model",
    ]  # fmt: skip


@pytest.mark.parametrize("section", sections())
def test_the_example_works_as_written(section, project):
    env = shell.environment(project.parent / "bin", project)
    blocks = BLOCK.findall(sections()[section])
    assert [kind for kind, _ in blocks].count("sh") >= 1
    printed = ""
    for kind, block in blocks:
        if kind == "text":
            for line in filter(None, map(str.strip, block.splitlines())):
                assert squeezed(line) in squeezed(printed), f"{line}\n--- is not in\n{printed}"
            continue
        if kind == "diff":
            block = f"patch -p1 <<'END OF DIFF'\n{block}END OF DIFF\n"
        done = shell.run(block, project, env)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        printed = done.stdout
