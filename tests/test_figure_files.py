"""Figures as files: which kinds, how wide, what is missing without a browser, and README's own."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from costmodel import figures
from costmodel.decide.explanation import explain
from costmodel.figures import static


def one_call(setting, tokens=32, hidden=7168, n=4):
    return explain(setting, setting.shapes(tokens, hidden, n))


def test_a_missing_browser_is_one_line_that_helps(mi355x, tmp_path, monkeypatch):
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    with pytest.raises(static.NoBrowserError) as caught:
        static.write_images({tmp_path / "a.png": figures.terms_of_call(one_call(mi355x))})
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "nothing") in message
    assert "apt-get install chromium" in message
    assert not list(tmp_path.iterdir())


def test_other_kinds_of_file_are_refused(mi355x, tmp_path):
    with pytest.raises(static.InputError, match=r"cannot draw to '\.pdf'"):
        static.write_images({tmp_path / "a.pdf": figures.terms_of_call(one_call(mi355x))})


@pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")
def test_static_files_are_drawn_at_the_width_of_a_pull_request(mi355x, tmp_path):
    pytest.importorskip("kaleido")
    png, svg = tmp_path / "a.png", tmp_path / "b.svg"
    figure = figures.terms_of_call(one_call(mi355x))
    static.write_images({png: figure, svg: figure})
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (1800, 2 * figure.layout.height)
    text = svg.read_text()
    assert 'width="900"' in text
    assert ">second</tspan>" in text
    assert figure.layout.width is None


def test_plotly_is_imported_only_when_a_figure_is_made():
    code = (
        "import importlib, pkgutil, sys;"
        "import costmodel.figures, costmodel.report, costmodel.decide.explanation, costmodel.show.notebook;"
        "modules = [p.__name__ + '.' + m.name for p in (costmodel.figures, costmodel.report)"
        "           for m in pkgutil.iter_modules(p.__path__)];"
        "assert len(modules) > 10, modules;"
        "[importlib.import_module(m) for m in modules];"
        "print([m for m in ('plotly', 'scipy', 'kaleido', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_of_the_documents_are_there_and_fit_a_page():
    root = Path(__file__).resolve().parent.parent
    drawn = {p.name: p.read_bytes() for p in (root / "docs" / "images").glob("*.png")}
    for name, data in drawn.items():
        assert data[:8] == b"\x89PNG\r\n\x1a\n", name
        assert struct.unpack(">I", data[16:20])[0] == 1350, name
    # Each is shown somewhere, and nothing is shown that is not there.
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    linked = {n for p in pages for n in re.findall(r"images/([\w-]+\.png)", p.read_text())}
    assert linked == set(drawn)
