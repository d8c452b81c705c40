"""Numbers that the figures of a report's page draw are those that the commands print as JSON."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re

import numpy as np
import pytest
from reports import run

TARGET = ("--arch", "gfx950", "--model", "gpt-oss-120b", "--for", "sglang")
RANKS = (2, 4, 8)


def as_json(*args):
    done = run(*args, "--format", "json", browser=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def drawn(plain):
    """Return the figures as the page holds them, by name."""
    (packed,) = re.findall(r'id="data">([A-Za-z0-9+/=]+)<', (plain[0] / "report.html").read_text())
    return json.loads(gzip.decompress(base64.b64decode(packed)))["figures"]


@pytest.fixture(scope="module")
def recommended():
    return {c["world_size"]: c for c in as_json("recommend", *TARGET)["cutoffs"]}


def numbers(array):
    """Return an array of a figure, which plotly packs."""
    if isinstance(array, dict):
        shape = [int(n) for n in array.get("shape", "-1").split(",")]
        return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]).reshape(shape)
    return np.array(array, float)


def ends(cutoff, kind=""):
    return [cutoff[f"max_bytes_{kind}{end}"] for end in ("lo", "hi")]


@pytest.mark.parametrize("n", [4, 8])
def test_cutoffs_in_the_latency_figure_are_those_of_recommend(drawn, recommended, n):
    c, figure = recommended[n], drawn[f"latency-tp{n}"]
    lanes = {t["name"]: t for t in figure["data"] if t.get("yaxis") == "y"}
    found = {name.partition(":")[0]: t for name, t in lanes.items() if name.startswith("90 %")}
    assert numbers(found["90 %, your machine"]["x"]).tolist() == ends(c)
    assert numbers(found["90 %, this kernel"]["x"]).tolist() == ends(c, "this_kernel_")
    (mark,) = (t for name, t in lanes.items() if re.fullmatch(r"recommended \d+ KiB", name))
    assert numbers(mark["x"]).tolist() == [c["max_bytes"]]
    # In words: the legend, and the text for whoever cannot see the figure.
    said = " ".join(lanes)
    for lo, hi in (ends(c), ends(c, "this_kernel_")):
        assert f"{lo // 1024} KiB to {round(hi / 1024)} KiB" in said


@pytest.mark.parametrize("n", [4, 2])
def test_bars_of_the_worth_figure_are_those_of_worth(drawn, plain, n):
    figure = drawn["worth"]
    titles = [a["text"] for a in figure["layout"]["annotations"]]
    # Two ranks, which physics decides, come last; 8, which are not decided, stay as they are.
    assert [t.split(" ")[0] for t in titles] == ["TP4", "TP2"]
    row = [4, 2].index(n)
    axis = f"y{row + 1}" if row else "y"
    (bars,) = (t for t in figure["data"] if t["type"] == "bar" and t["yaxis"] == axis)
    (said,) = as_json(
        "worth", "--gpu", "MI355X", "--tp", n, "--from", "sglang", "--model", "gpt-oss-120b",
        "--to", plain[0] / "rule.json", "--for", "sglang",
    )["gpus"]  # fmt: skip
    changed = {str(b["batch"]): b for b in said["batches"] if b["from"] != b["to"]}
    assert list(bars["x"]) == list(changed)
    y, more = numbers(bars["y"]), numbers(bars["customdata"])
    for i, b in enumerate(changed.values()):
        assert y[i] == pytest.approx(b["us_per_step"], abs=1e-3)
        assert more[i, :2] == pytest.approx([b["us_per_step_lo"], b["us_per_step_hi"]], abs=0.006)
        error = bars["error_y"]
        assert y[i] + numbers(error["array"])[i] == pytest.approx(b["us_per_step_hi"], abs=0.002)
        assert y[i] - numbers(error["arrayminus"])[i] == pytest.approx(
            b["us_per_step_lo"], abs=0.002
        )
    mean = said["over_histogram"]
    digits = "+.0f" if mean["us_per_step"] >= 100 else "+.1f"
    us, lo, hi = (f"{mean[f'us_per_step{end}']:{digits}}" for end in ("", "_lo", "_hi"))
    assert f"mean {us} ({lo} to {hi}) us a step" in titles[row]


def test_the_plan_figure_is_that_of_plan(drawn, recommended):
    figure = drawn["plan"]
    said = as_json("plan", *TARGET, "--shapes", 6)
    lanes = figure["layout"]["yaxis"]["ticktext"]
    open_ones = [c for c in said["cutoffs"] if c["world_size"] > 2]
    place = 0
    for c in open_ones:
        n = c["world_size"]
        assert lanes[place] == f"<b>TP{n} before</b>, regret {c['before']['regret_pct']:.2f} %"
        assert lanes[place + 1] == f"after the plan, regret {c['after']['regret_pct']:.2f} %"
        bars = {
            t["name"]: numbers(t["x"]).tolist() for t in figure["data"]
            if t["mode"] == "lines" and numbers(t["y"])[0] in (-place, -place - 1)
        }  # fmt: skip
        assert bars["90 %, your machine"] == ends(c["before"]) == ends(recommended[n])
        assert bars["90 %, your machine, expected"] == ends(c["after"])
        assert bars["90 %, this kernel"] == ends(recommended[n], "this_kernel_")
        place += 3 if any(s["world_size"] == n for s in said["shapes"]) else 2
    sizes = [x for t in figure["data"] if "text" in t["mode"] for x in numbers(t["x"])]
    shapes = {(s["world_size"], s["bytes"]) for s in said["shapes"] if s["world_size"] > 2}
    assert sorted(sizes) == sorted(size for _, size in shapes)


@pytest.mark.parametrize("n", [4, 8])
def test_the_waterfall_has_the_terms_of_explain(drawn, n):
    figure = drawn[f"call-tp{n}"]
    title = figure["layout"]["title"]["text"]
    tokens = int(re.match(r"(\d+) tokens", title)[1])
    said = as_json("explain", *TARGET, "--tp", n, "--tokens", tokens)
    one, two = (said["arms"][a]["latency_us"] for a in ("1stage", "2stage"))
    (bars,) = figure["data"]
    y = numbers(bars["y"])
    assert y[[0, -1]] == pytest.approx([one, two], abs=1e-3)
    assert f"takes {abs(said['margin_us']['value']):.1f} us more" in title
    terms = {a: {k: v["value"] for k, v in said["arms"][a]["terms"].items()} for a in said["arms"]}
    change = {
        name: terms["2stage"].get(name, 0) - terms["1stage"].get(name, 0)
        for name in {*terms["1stage"], *terms["2stage"]}
    }
    wanted = sorted(us for us in change.values() if abs(us) >= 0.005)
    assert sorted(y[1:-1]) == pytest.approx(wanted, abs=1e-3)


def test_the_regret_figure_has_the_regret_of_recommend(drawn, recommended):
    figure = drawn["regret"]
    names = [re.sub("<.*?>", "", t) for t in figure["layout"]["yaxis"]["ticktext"]]
    at = names.index("recommended")
    for n in RANKS:
        mean, worst = (t for t in figure["data"] if t["name"] == f"TP{n}")
        shown = [numbers(t["customdata"])[at, 0] for t in (mean, worst)]
        c = recommended[n]
        assert shown[0] == pytest.approx(c["regret_pct"], abs=1e-6)
        assert shown[1] == pytest.approx(c["worst_regret_pct"], abs=1e-6)


@pytest.mark.parametrize("name", ["link-rate", "skew", "version"])
def test_where_nothing_is_varied_a_sweep_has_the_intervals_of_recommend(drawn, recommended, name):
    for n in (4, 8):
        (curve,) = (t for t in drawn[name]["data"] if t.get("name") == f"TP{n}" and "text" in t)
        ends_kib = numbers(curve["customdata"])
        c = recommended[n]
        wanted = np.array([*ends(c), *ends(c, "this_kernel_")]) / 1024
        if name == "link-rate":
            shown = np.abs(ends_kib - wanted).sum(axis=1).min()
            assert shown < 400, "the fitted rate lies between two of the sweep's"
            continue
        assert ends_kib[-1 if name == "version" else 0] == pytest.approx(wanted)


def test_what_stands_beside_the_table_is_what_recommend_prints(plain, recommended):
    text = html.unescape((plain[0] / "report.md").read_text())
    for n, c in recommended.items():
        for window in c["three_way"]:
            if window["algorithm"] == "separate":
                size = f"{window['from_bytes'] // 1024} KiB to {window['to_bytes'] // 1024} KiB"
                assert f"TP{n} {size}" in text
        if not c["two_arms_enough"]:
            assert f"{c['two_arms_loss_pct']:.1f} % at TP{n}" in text
        rows = sum(len(e["rows"]) and sum(r["rows"] for r in e["rows"]) for e in c["evidence"])
        if c["verdict"] == "measured_elsewhere":
            assert f"TP{n} measured elsewhere ({rows} MI355X latencies, 1-stage's with " in text


def test_the_curve_in_text_has_the_latencies_of_explain(plain):
    text = (plain[0] / "report.md").read_text()
    sketch = text.split("```text\n", 1)[1].split("```", 1)[0]
    said = as_json("explain", *TARGET, "--tp", 4, "--all")
    by_tokens = {c["tokens"]: c for c in said["calls"]}
    rows = re.findall(r"^ *(\d+) tokens .*?([+-][\d.]+) % +[+-]+ +(\S+)$", sketch, re.M)
    assert len(rows) == 12
    for tokens, slower, runs in rows:
        call = by_tokens[int(tokens)]
        one, two = (call["latency_us"][a] for a in ("1stage", "2stage"))
        assert float(slower) == pytest.approx(100 * (two / one - 1), abs=0.051)
        assert runs == call["choice"].replace("stage", "-stage")
