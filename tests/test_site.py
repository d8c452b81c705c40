"""The documentation site: it builds without a warning, holds every module, and needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import costmodel
from costmodel.cli.main import COMMANDS

for needed in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(needed, reason="the site needs the docs extra")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {p.relative_to(out).as_posix(): p.read_text("utf-8") for p in out.rglob("*.html")}


def test_every_module_has_its_place(site):
    package = ROOT / "costmodel"
    modules = [p for p in package.glob("*/**/*.py") if p.stem != "__init__"]
    assert len(modules) > 100
    for path in modules:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        page = site[f"reference/{path.relative_to(package).parts[0]}.html"]
        assert f'id="{name}"' in page, name


def test_public_names_and_commands_are_listed(site):
    for name in costmodel.__all__:
        if name != "__version__":
            assert f"cm.{name}</code></a>" in site["reference/index.html"], name
    for name in COMMANDS:
        assert f"Usage: costmodel {name}" in site["commands.html"], name


def test_docstrings_read_as_markdown(site):
    text = re.sub(r"<[^>]+>", "", " ".join(v for k, v in site.items() if k.startswith("reference")))
    assert re.findall(r":(?:mod|func|class|meth|data):", text) == []
    assert "Expected maximum of N standard normals." in text  # a constant's #: comment


def test_nothing_is_loaded_from_a_network(site):
    for name, page in site.items():
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"([^\"]+)\"", page)
        assert [url for url in loaded if re.match(r"(?:https?:)?//", url)] == [], name


def test_links_between_pages_of_the_repository_lead_to_pages(site):
    assert 'href="design.html"' in site["index.html"]
    assert 'href="measurements.html"' in site["measuring.html"]
    assert "](" not in re.sub(r"<pre.*?</pre>|<code.*?</code>", "", site["index.html"], flags=re.S)
