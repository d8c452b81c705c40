"""Figures of odd questions in a browser: many releases, long and odd names, intervals without an end."""

from __future__ import annotations

import json

import pytest
from browser import FIGURES, page_of_figures, probed

from costmodel import figures
from costmodel.calibration import posterior as calibrations
from costmodel.data.workload import Workload
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.figures import static

#: Fourteen, of which many differ in nothing.
RELEASES = (
    "0.1.10.post2", "0.1.10.post3", "0.1.11", "0.1.12", "0.1.12.post1", "0.1.13", "0.1.14",
    "0.1.15", "0.1.16", "0.1.17", "0.1.18", "0.1.19", "0.1.19.post1", "0.1.20.post1",
)  # fmt: skip
GPU = "MI<3>00X | `x` & a very long name of a GPU"


def of_a_gpu(name):
    """Return the shipped calibration with another name for MI300X."""
    record = json.loads(calibrations.shipped("gfx942").to_json().replace("MI300X", name))
    record["content_sha256"] = calibrations.content_sha256(record)
    return record


@pytest.mark.campaign
@pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")
def test_labels_of_odd_settings_are_apart_and_whole(tmp_path):
    file = tmp_path / "odd.json"
    file.write_text(json.dumps(of_a_gpu(GPU)))
    odd = recommend(Setting(calibrations.load(file), GPU), Workload.of([2880]))
    plain = recommend(Setting.shipped("MI300X"), Workload.of([4096]))
    # Before 0.1.17 calls end at 80 tokens: cutoffs there have no upper end.
    early = recommend(Setting.shipped("MI355X"), Workload.of([2880]))
    drawn = {
        "releases": figures.cutoff_against_version(plain, versions=RELEASES),
        "no upper end": figures.cutoff_against_version(early),
        "latency": figures.latency_against_bytes(odd, 4, 2880),
        "map": figures.decision_map(odd),
        "rate": figures.cutoff_against_link_rate(odd),
        "other rates": figures.cutoff_against_link_rate(
            recommend(Setting(calibrations.load(file), "MI308X"), Workload.of([2880]))
        ),
    }
    assert "no upper end" in str([t.name for t in drawn["no upper end"].data])
    records = {name: json.loads(figure.to_json()) for name, figure in drawn.items()}
    for record in records.values():
        record["layout"].pop("template")
    named = {n: (f"The figure of {n}, which is odd", r) for n, r in records.items()}
    page = page_of_figures(named, tmp_path / "figures.html")
    for width in (700, 1400):
        seen = probed(page, width, tmp_path, FIGURES)
        assert seen["found"] == []
        assert (seen["errors"], seen["left"], seen["console"]) == ("0", [], [])
