"""``costmodel plot``: the figures of a report by their names."""

from __future__ import annotations

import base64
import gzip
import json
import re

import pytest
from reports import run


@pytest.mark.parametrize("name", ["latency-tp4", "worth", "regret"])
def test_plot_draws_the_figure_of_the_report(plain, tmp_path, name):
    text = (plain[0] / "report.html").read_text()
    (packed,) = re.findall(r'id="data">([A-Za-z0-9+/=]+)<', text)
    shown = json.loads(gzip.decompress(base64.b64decode(packed)))["figures"][name]
    out = tmp_path / "figure.json"
    target = ("--arch", "gfx950", "--model", "gpt-oss-120b", "--for", "sglang")
    done = run("plot", name, *target, "--out", out)
    assert done.returncode == 0, done.stderr
    drawn = json.loads(out.read_text())
    drawn["layout"].pop("template")
    assert drawn == shown
    again = run("plot", name, *target, "--out", out)
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_plot_names_its_figures_and_refuses_others(tmp_path):
    target = ("--arch", "gfx950", "--model", "gpt-oss-120b", "--for", "atom")
    listed = run("plot", *target)
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^latency-tp4 +Latency of both algorithms against bytes", listed.stdout, re.M)
    wrong = run("plot", "latncy-tp4", *target, "--out", tmp_path / "a.json")
    assert wrong.returncode == 2
    assert "did you mean latency-tp4" in wrong.stderr
    assert "cannot draw to '.pdf'" in run("plot", "worth", *target, "--out", "a.pdf").stderr
    assert "give --out" in run("plot", "worth", *target).stderr
    assert list(tmp_path.iterdir()) == []
