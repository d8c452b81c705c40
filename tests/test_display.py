"""How results show themselves: HTML in IPython, a line in a terminal, and who knows of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import costmodel as cm
from costmodel.calibration.posterior import Refusal
from costmodel.show.notebook import SHOWN, html


@pytest.fixture(scope="module")
def gfx950():
    return cm.shipped("gfx950")


def in_ipython(*cells):
    """Run cells in a fresh IPython; return (MIME bundle of the last value, modules before it)."""
    code = f"""
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in {cells!r}:
    shell.run_cell(cell).raise_error()
before = sorted(sys.modules)
bundle, _ = shell.display_formatter.format(shell.user_ns["shown"])
print(json.dumps([bundle, before]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_ipython_shows_results_as_html(gfx950):
    bundle, before = in_ipython("import costmodel as cm", "shown = cm.shipped('gfx950')")
    assert f"<strong>calibration {gfx950.id}</strong>" in bundle["text/html"]
    assert bundle["text/plain"] == repr(gfx950)
    # Nothing that only showing needs is there before something is shown.
    assert "jinja2" not in before
    assert "costmodel.show.templating" not in before
    bundle, _ = in_ipython(
        "import costmodel as cm",
        "shown = cm.recommend(cm.shipped('gfx950'), gpu='MI355X')",
    )
    assert "&lt;= 464 KiB" in bundle["text/html"]


def test_outside_ipython_nothing_is_registered_and_results_know_no_html(gfx950):
    code = "import sys, costmodel; print([m for m in sys.modules if m.startswith('costmodel.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for module, name in SHOWN:
        result = getattr(__import__(module, fromlist=[name]), name)
        assert not hasattr(result, "_repr_html_")


def test_html_escapes_and_holds_the_numbers(gfx950, published):
    hostile = "<script>alert(1)</script>"
    refused = replace(gfx950, refusals=(Refusal("MI355X", 8, hostile),))
    text = html("calibration", refused)
    assert refused.id in text
    assert f"{gfx950.values['round_trip_us']:.3g}" in text
    assert "&lt;script&gt;" in text
    text = html("recommendation", cm.recommend(gfx950, gpu="MI355X"))
    assert "&lt;= 464 KiB" in text
    assert "405 KiB to 480 KiB" in text
    judged = cm.validate(published, gfx950, gpu="MI355X", op="fused_ar_rmsnorm")
    text = html("validation", judged)
    assert "passed" in text
    assert f"{judged.of('sglang-128k').mean_pct:.2f} %" in text
    for one in (refused, judged):
        assert "<script" not in html(SHOWN[type(one).__module__, type(one).__name__], one)
