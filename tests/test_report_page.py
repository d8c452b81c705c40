"""The report's page: one file, in a real browser at every width and theme, printed, explored."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
from browser import printed, probed
from msgspec.structs import replace
from reports import Tags

from costmodel.calibration import posterior as calibrations
from costmodel.data import hardware, llms
from costmodel.data.workload import Workload
from costmodel.decide.explanation import explain
from costmodel.decide.setting import Setting
from costmodel.figures import static
from costmodel.report import page
from costmodel.report.case import gather
from costmodel.report.explorer import explored
from costmodel.report.pictures import shown_of
from costmodel.report.text import context

needs_browser = pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")


def test_page_is_one_file_of_less_than_3_mb(plain):
    file = plain[0] / "report.html"
    assert file.stat().st_size < 3e6
    tags = Tags()
    tags.feed(file.read_text())
    assert not [v for _, a in tags.found for n, v in a if n in ("src", "srcset", "data")]
    links = [dict(a).get("href", "") for t, a in tags.found if t == "a"]
    assert links
    assert all(link.startswith("https://") or link == "#main" for link in links)
    assert not [t for t, _ in tags.found if t in ("link", "iframe", "object", "img")]


def test_a_page_on_all_gpus_stays_below_3_mb():
    cases = [
        gather(setting(gpu, "sglang"), GPT_OSS) for gpus in hardware.GPUS.values() for gpu in gpus
    ]
    given = context(cases, "costmodel report", "out", shown=shown_of(cases))
    assert len(page.render(given, explored(cases))) < 3e6


@needs_browser
@pytest.mark.parametrize("width", [700, 1400])
def test_page_works_offline_in_a_browser_at_any_width_and_theme(plain, tmp_path, width):
    seen = probed(plain[0] / "report.html", width, tmp_path)
    assert seen["console"] == []
    # No overflow, no label on another, none cut off, no picture without words; in both themes.
    assert seen["found"] == []
    assert seen["errors"] == "0"
    assert seen["left"] == []
    wanted = re.findall(r'data-figure="([a-z0-9-]+)"', (plain[0] / "report.html").read_text())
    assert len(wanted) >= 14
    assert seen["figures"] == str(len(wanted) + 1)
    assert re.search(r"Run [12]-stage: faster with .* probability", seen["answer"])


@needs_browser
def test_on_paper_figures_share_sheets(plain, tmp_path):
    page_text = (plain[0] / "report.html").read_text()
    figures = page_text.count("data-figure=")
    whole = printed(plain[0] / "report.html", tmp_path / "whole.pdf")
    # Beside the first three, which have a sheet each, two stand on most.
    file = tmp_path / "without.html"
    file.write_text(page_text.replace('<section id="figures"', '<section id="figures" class="off"')
                    .replace("</style>", ".off { display: none !important; }</style>"))  # fmt: skip
    without = printed(file, tmp_path / "without.pdf")
    assert 4 <= without < whole
    assert whole - without <= 0.75 * (figures - 3)


ODD = {
    # Nothing but physics; no cutoff to move; small calls, whose axes begin early.
    "2 ranks": lambda: gather(setting("MI355X", "sglang"), GPT_OSS, world_sizes=(2,)),
    # Kernels that take a few hidden sizes: nothing to explore, a release without an upper end.
    "0.1.12": lambda: gather(setting("MI300X", "sglang", aiter_version="0.1.12"), GPT_OSS),
    # A small model with a long name, separate ops where 1-stage does not run.
    "hidden 512": lambda: gather(
        setting("MI300X", "vllm", otherwise="separate"),
        replace(GPT_OSS, name="very-long-name-of-a-model " * 9, hidden_size=512),
    ),
    # Rows of another machine and fabric, with calls smaller than any of the model's.
    "H200": lambda: gather(
        Setting(calibrations.load(PAIR / "calibration.json"), "H200", engine="sglang"),
        GPT_OSS, measurements=[PAIR / "calibration.csv"],
    ),
}  # fmt: skip
GPT_OSS = llms.find("gpt-oss-120b")
PAIR = Path(__file__).parent.parent / "measurements" / "h200-pair" / "second"


def setting(gpu, engine, **more):
    return Setting.shipped(gpu, engine=engine, **more)


@pytest.mark.campaign
@needs_browser
@pytest.mark.parametrize("name", ODD)
def test_pages_of_odd_questions_are_as_good(name, tmp_path):
    case = ODD[name]()
    given = context([case], "costmodel report", "out", shown=shown_of([case]))
    file = tmp_path / "odd.html"
    file.write_text(page.render(given, explored([case])))
    seen = probed(file, 700, tmp_path)
    assert seen["found"] == []
    assert (seen["errors"], seen["left"], seen["console"]) == ("0", [], [])
    names = re.findall(r'data-figure="([a-z0-9-]+)"', file.read_text())
    assert ("skew" in names) == (name in ("0.1.12", "hidden 512"))
    # Where kernels take too little there is no part to explore, and no error.
    assert bool(seen["answer"]) == (name != "0.1.12")


def test_the_explorer_has_the_numbers_of_explain(plain):
    """Every world size and arm, at batches on both sides of the cutoff."""
    text = (plain[0] / "report.html").read_text()
    (packed,) = re.findall(r'id="data">([A-Za-z0-9+/=]+)<', text)
    data = json.loads(gzip.decompress(base64.b64decode(packed)))
    shown = data["explorer"]["MI355X"]
    setting = Setting.shipped("MI355X", engine="sglang")
    for n, tokens in ((4, 32), (4, 96), (8, 16), (8, 64), (2, 128)):
        told = explain(setting, setting.shapes(tokens, 2880, n), Workload.of([2880]))
        call, i = shown["calls"][str(n)]["2880"], shown["batch"].index(tokens)

        def at(values, i=i):
            return values[i] if isinstance(values, list) else values

        assert at(call["margin"]) == pytest.approx(told.margin_us.value, abs=0.006)
        assert at(call["lo"]) == pytest.approx(told.margin_us.lo, abs=0.006)
        assert at(call["hi"]) == pytest.approx(told.margin_us.hi, abs=0.006)
        wins = at(call["wins"])
        one = told.choice == "1stage"
        assert (wins if one else 1 - wins) == pytest.approx(told.probability, abs=6e-4)
        assert call["choice"][i] == ("1" if one else "2")
        for key, name in (("1", "1stage"), ("2", "2stage")):
            for term, value in told.arms[name].terms.items():
                assert at(call["terms"][key].get(term, 0.0)) == pytest.approx(
                    value.value, abs=0.006
                )
