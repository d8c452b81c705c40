"""How results show themselves: HTML in IPython, a line in a terminal, and who knows of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from msgspec.structs import replace

import costmodel as cm
from costmodel.calibration.one_fabric import on_fabric
from costmodel.calibration.posterior import Refusal
from costmodel.data import llms
from costmodel.model.fabric import FULL_MESH
from costmodel.report.case import gather
from costmodel.show.notebook import SHOWN, html
from costmodel.units import kib


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
        "shown = cm.recommend(cm.Setting.shipped('MI355X'))",
    )
    assert "&lt;= 360 KiB" in bundle["text/html"]


def test_outside_ipython_nothing_is_registered_and_results_know_no_html(gfx950):
    code = "import sys, costmodel; print([m for m in sys.modules if m.startswith('costmodel.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for module, name in SHOWN:
        result = getattr(__import__(module, fromlist=[name]), name)
        assert not hasattr(result, "_repr_html_")


def test_every_result_fits_a_screen_as_text(gfx950, published):
    observations = on_fabric(cm.observe(published), FULL_MESH)
    calibration, fit = cm.calibrate(observations, arch="gfx950")
    setting = cm.Setting.shipped("MI355X", engine="sglang")
    study = cm.Study(setting, ranks=4)
    case = gather(setting, llms.find("gpt-oss-120b"))
    said = [
        (published, f"{len(published)} rows of"),
        (observations, f"{len(observations)} of {len(published)} rows"),
        (fit, f"{len(observations)} rows"),
        (calibration, f"{calibration.id}: MI350X, MI355X over full_mesh"),
        (study.simulate("1stage", 32), "1stage, 32 tokens x 7168 on 4 x MI355X"),
        (cm.cutoff_map(study, [("skew", [0, 5])]), "2 cutoffs over skew 0, 5"),
        (case, "SGLang on MI355X, gpt-oss-120b, TP2, TP4, TP8"),
        (setting, gfx950.id),
    ]
    for result, words in said:
        assert words in repr(result)
        assert len(repr(result)) < 400


def test_html_escapes_and_holds_the_numbers(gfx950, published):
    hostile = "<script>alert(1)</script>"
    setting = cm.Setting.shipped("MI355X")
    decision = cm.recommend(setting)
    refused = replace(gfx950, refusals=(Refusal("MI355X", 8, hostile),))
    text = html("calibration", refused)
    assert refused.id in text
    assert f"{gfx950.values['round_trip_us']:.3g}" in text
    assert "&lt;script&gt;" in text
    text = html("decision", decision)
    for cutoff in decision.cutoffs[1:]:
        assert f"&lt;= {kib(cutoff.max_bytes)}" in text
        assert f"{kib(cutoff.max_bytes_lo)} to {kib(cutoff.max_bytes_hi)}" in text
    judged = cm.validate(published, setting, every_gpu=False, op="fused_ar_rmsnorm")
    text = html("validation", judged)
    assert "passed" in text
    assert f"{judged.of('sglang-128k').mean_pct:.2f} %" in text
    for one in (refused, judged):
        assert "<script" not in html(SHOWN[type(one).__module__, type(one).__name__], one)
