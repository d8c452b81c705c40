"""``costmodel report``: numbers, escaping, the page in a real browser, and what it refuses."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
import shlex
from html.parser import HTMLParser

import pytest
from browser import dom, probed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from reports import cells, first_screen, run

from costmodel.calibration import posterior as calibrations
from costmodel.data import llms
from costmodel.data.deployment import Deployment
from costmodel.data.measurement import published as published_rows
from costmodel.data.workload import Workload
from costmodel.decide.explanation import choices, explain
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Estimate
from costmodel.decide.setting import Setting
from costmodel.decide.worth import worth
from costmodel.errors import InputError
from costmodel.figures import static
from costmodel.report import directory, markdown, page
from costmodel.report.case import gather
from costmodel.report.commands import check_command
from costmodel.report.text import context
from costmodel.rules import catalogue
from costmodel.show.words import arm, percent, size_interval, up_to

HOSTILE = (
    "x<i>y</i></script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'> | **b** "
    "[l](javascript:window.pwned=1) @someone #12 `c` https://evil.example"
)

needs_browser = pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")


def refused(*args):
    done = run("report", *args, browser=False)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("costmodel: error: ")
    return lines[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return a report, with pictures where there is a browser, and what the command said."""
    out = tmp_path_factory.mktemp("plain") / "report"
    done = run(
        "report", "--arch", "gfx950", "--model", "gpt-oss-120b", "--for", "sglang", "--out", out
    )
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def vllm():
    """Return what a report for vLLM on MI300X rests on."""
    return gather(Setting.shipped("MI300X", engine="vllm"), llms.find("gpt-oss-120b"))


@pytest.fixture(scope="module")
def sglang():
    """Return what a report for SGLang on MI355X, which proposes a change, rests on."""
    return gather(Setting.shipped("MI355X", engine="sglang"), llms.find("gpt-oss-120b"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Return a report whose calibration, measurements and model carry hostile text.

    Written without a browser; the second value is what the command said.
    """
    directory = tmp_path_factory.mktemp("hostile")
    record = json.loads(calibrations.shipped("gfx950").to_json())

    def renamed(value):
        if isinstance(value, dict):
            return {renamed(k): renamed(v) for k, v in value.items()}
        if isinstance(value, list):
            return [renamed(v) for v in value]
        return value.replace("aiter-3458-mi355x", HOSTILE) if isinstance(value, str) else value

    record = renamed(record)
    record["refusals"] = [{"gpu": "MI355X", "world_size": 8, "reason": HOSTILE}]
    record["content_sha256"] = calibrations.content_sha256(record)
    calibration = directory / "calibration.json"
    calibration.write_text(json.dumps(record))
    rows = []
    for algorithm, us in (("1stage", (8.1, 9.9, 22.0)), ("2stage", (12.0, 12.9, 19.0))):
        for tokens, latency in zip((4, 16, 64), us, strict=True):
            rows.append(
                ["\"" + HOSTILE.replace('"', '""') + "\"", "javascript:alert(1)", "2026-09-01",
                 "MI355X", "stated", "gfx950", "xgmi", 4, "fused_ar_rmsnorm", algorithm, "aiter",
                 "0.1.19", tokens, 7168, "bf16", tokens * 7168 * 2, latency, "median", "max",
                 "graph", "clean"]
            )  # fmt: skip
    from costmodel.data.measurement import COLUMNS

    table = directory / "mine.csv"
    table.write_text("\n".join([",".join(COLUMNS), *(",".join(map(str, r)) for r in rows)]) + "\n")
    config = directory / "config.json"
    config.write_text(
        json.dumps({"_name_or_path": HOSTILE, "hidden_size": 2880, "num_hidden_layers": 36})
    )
    out = directory / "report"
    done = run(
        "report", "--calibration", calibration, "--config", config, "--for", "sglang",
        "--measurements", table, "--out", out, "--tp", "4,8", browser=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, done


def in_markdown(case):
    """Return a case as Markdown, without figures."""
    return markdown.render(context([case], "costmodel report", "out"))


def tags_of_page(case, explorer):
    """Return the tags of a case's page, without figures."""
    tags = Tags()
    tags.feed(page.render(context([case], "costmodel report", "out"), explorer))
    return tags.found


def test_tables_hold_the_models_numbers(plain):
    text = (plain[0] / "report.md").read_text()
    setting = Setting.shipped("MI355X", engine="sglang")
    gfx950 = setting.calibration
    llm = llms.find("gpt-oss-120b")
    found = recommend(setting, Workload.of([llm.hidden_size]))
    old = catalogue.current("sglang")
    served = Deployment(engine="sglang")
    head, *rows = cells(text, "- **Check on your GPUs")
    assert head[:3] == ["ranks", "1-stage before", "1-stage after"]
    # Two ranks, which physics decides, come last.
    assert [row[0] for row in rows] == ["TP4", "TP8", "TP2"]
    for row in rows:
        n = int(row[0].removeprefix("TP"))
        cutoff = found.at(n)
        assert row[1] == "<= 128 KiB"
        after = "every size" if n == 2 else f"<= {cutoff.max_bytes // 1024} KiB"
        assert row[2].strip("*") == after
        assert row[3] == size_interval(cutoff.max_bytes_lo, cutoff.max_bytes_hi)
        assert row[4] == size_interval(cutoff.this_kernel_lo, cutoff.this_kernel_hi)
        e = worth(setting, llm, n, old, found.rule, deployment=served).mean_us
        assert row[5] == f"{e.value:.1f} ({e.lo:.1f} to {e.hi:.1f})"
        assert row[6].startswith("by physics" if n == 2 else cutoff.verdict.split("_")[0])
        # A change that is not decided stands in no bold letters.
        assert row[2].startswith("**") == ("not decided" not in row[6])
    _, *rows = cells(text, "<details><summary>Regret")
    for row in rows:
        arms = found.at(int(row[0].removeprefix("TP"))).arms
        score = arms.score(found.rule, old)
        assert row[1] == percent(score.other_regret_pct)
        assert row[2] == percent(score.regret_pct)
        assert row[3] == percent(score.saved_pct)
    assert f"`{gfx950.sha256}`" in text
    assert f"`{gfx950.data['sha256']}`" in text
    assert "nothing was run" in text
    assert "TP8: transferred" in text
    assert "this is agreement, not a test on unseen data" in text


@pytest.mark.parametrize(
    ("gpu", "engine"),
    [("MI355X", "sglang"), ("MI300X", "sglang"), ("MI300X", "vllm"), ("MI355X", "aiter")],
)
def test_the_first_screen_is_short_and_says_it_all(gpu, engine):
    case = gather(Setting.shipped(gpu, engine=engine), llms.find("gpt-oss-120b"))
    text = in_markdown(case)
    first = first_screen(text)
    head = first.splitlines()[0]
    if not case.proposes:
        assert head == f"# {case.engine.title} on {gpu}: nothing should change"
        assert "**Why:**" in first
        # It stops after the reasons.
        assert "<details>" not in text
        assert "## " not in text
        assert len(text.split()) < 450
        return
    for label in ("Change", "For whom", "Wins", "How sure", "Not known", "Check on your GPUs"):
        assert f"- **{label}:**" in first
    for w in case.headline:
        e = w.worth.mean_us
        assert (
            f"{w.tp} {e.value:.1f} us a decode step (mean; 90 %: {e.lo:.1f} to {e.hi:.1f})" in first
        )
        assert f"{percent(w.contested.saved_pct, '.1f')} on contested calls" in first
        assert f"{up_to(w.new_sizes)} at {w.tp}" in first
    # Two ranks, which physics decides, are no headline: they come last wherever they stand.
    (two,) = [w for w in case.by_world_size if w.world_size == 2]
    for line in (line for line in first.splitlines() if "TP2" in line):
        others = [line.find(w.tp) for w in case.headline if w.tp in line]
        assert all(at < line.find("TP2") for at in others), line
    assert f"{two.worth.mean_us.value:.1f} us" in first


def test_now_is_said_in_no_sense(plain):
    text = (plain[0] / "report.md").read_text()
    assert not re.search(r"\b[Nn]ow\b", text.split("```sh")[0])
    page_text = re.sub(
        r'(?s)<script.*?</script>|<[^>]*>|aria-label="[^"]*"',
        " ",
        (plain[0] / "report.html").read_text(),
    )
    assert not re.search(r"\b[Nn]ow\b", page_text)


def test_nothing_in_the_text_hangs_on_a_path(plain):
    out, _ = plain
    text = (out / "report.md").read_text()
    assert "![" not in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    # The curve stands as text, with the batches at which the choice turns over.
    sketch = text.split("```text\n", 1)[1].split("```", 1)[0]
    setting = Setting.shipped("MI355X", engine="sglang")
    found = recommend(setting, Workload.of([2880]))
    told = choices(setting, 2880, 4, decision=found)
    by_tokens = dict(zip(told.calls.tokens.tolist(), range(len(told.calls)), strict=True))
    rows = re.findall(r"^ *(\d+) tokens +(\S+ KiB) +([+-][\d.]+) % +[+-]+ +(\S+)$", sketch, re.M)
    assert len(rows) == 12
    assert {r[3] for r in rows} == {"1-stage", "2-stage"}
    for tokens, size, slower, runs in rows:
        i = by_tokens[int(tokens)]
        one, two = (told.latency_us[a][i] for a in setting.arms)
        assert size == f"{told.calls.bytes[i] / 1024:.0f} KiB"
        assert float(slower) == pytest.approx(100 * (two / one - 1), abs=0.051)
        assert runs == arm(str(told.choice[i]))


@pytest.mark.parametrize(
    ("project", "headings"),
    [
        ("sglang", ["Motivation", "Modifications", "Accuracy Tests", "Speed Tests and Profiling"]),
        ("vllm", ["Purpose", "Test Plan", "Test Result"]),
        ("aiter", ["Motivation", "Change", "Benchmark", "Accuracy", "How to test"]),
        ("atom", ["Motivation", "Change", "Benchmark", "Accuracy", "How to test"]),
    ],
)
def test_the_text_has_the_headings_of_the_project(sglang, project, headings):
    text = markdown.render(context([sglang], "costmodel report", "out", project=project))
    assert re.findall(r"^## (.+)$", text, re.M) == [*headings, "What it rests on"]
    # All parts, whatever their order.
    for part in ("SGLang chooses between", "outputs agree to rounding", "Worth: us saved",
                 "costmodel plan", "Sources of the calibration"):  # fmt: skip
        assert text.count(part) == 1, part


def test_a_list_of_archs_makes_one_report_with_a_rule_of_each(tmp_path):
    out = tmp_path / "both"
    asked = ["--model", "gpt-oss-120b", "--for", "sglang", "--tp", "4"]
    done = run("report", "--arch", "gfx942,gfx950", *asked, "--out", str(out))
    assert done.returncode == 0, done.stderr
    text = (out / "report.md").read_text()
    assert "MI300X TP4" in text
    assert "MI355X TP4" in text
    for arch in ("gfx942", "gfx950"):
        rule = json.loads((out / f"rule-{arch}.json").read_text())
        said = json.loads(run("recommend", "--arch", arch, *asked, "--format", "json").stdout)
        assert str(said["cutoffs"][0]["max_bytes"]) in json.dumps(rule)


def test_two_gpus_in_one_report(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/browser")
    llm = llms.find("gpt-oss-120b")
    cases = [
        gather(Setting.shipped(gpu, engine="sglang"), llm, world_sizes=(4, 8))
        for gpu in ("MI355X", "MI300X")
    ]
    written = directory.write(cases, tmp_path / "r", command="costmodel report --arch a,b")
    assert written.files == (
        "report.html", "report.md", "rule-gfx942.json", "rule-gfx950.json",
    )  # fmt: skip
    text = (tmp_path / "r" / "report.md").read_text()
    _, *rows = cells(text, "- **Check on your GPUs")
    assert [r[0] for r in rows] == ["MI355X TP4", "MI355X TP8", "MI300X TP4", "MI300X TP8"]
    assert text.startswith(
        "# SGLang on MI355X and MI300X: 1-stage up to 360 KiB at MI355X TP4; MI300X: nothing\n"
    )
    assert "rule-gfx942.json" in text
    html_text = (tmp_path / "r" / "report.html").read_text()
    assert 'data-figure="mi300x-latency-tp8"' in html_text
    assert catalogue.load(tmp_path / "r" / "rule-gfx942.json").cutoff_bytes(4) is not None


def test_the_provenance_table_counts_every_row(plain):
    text = (plain[0] / "report.md").read_text()
    rows = cells(text, "<details><summary>Sources of the calibration")[1:]
    table = published_rows()
    for row in rows:
        name, url = re.fullmatch(r"\[(.+)\]\((.+)\)", row[0]).groups()
        gpu, stated = re.fullmatch(r"(\S+) \((.+)\)", row[1]).groups()
        mine = table.select((table.source == name) & (table.gpu == gpu))
        assert int(row[3]) + int(row[4]) == len(mine), name
        assert set(mine.gpu_evidence.tolist()) == set(stated.split(", "))
        assert url in mine.url.tolist()
    calibration = calibrations.shipped("gfx950")
    assert {row[0][1:].split("]")[0] for row in rows} == set(calibration.data["sources"])


def test_the_commands_it_names_give_its_numbers(plain):
    out, _ = plain
    text = (out / "report.md").read_text()
    block = text.split("Commands and inputs", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [c[1] for c in commands] == [
        "recommend", "emit", "worth", "worth", "worth", "validate", "report",
    ]  # fmt: skip
    for command in commands:
        if command[1] in ("recommend", "validate", "report"):
            assert command[command.index("--for") + 1] == "sglang", command
    by_tp = {c[c.index("--tp") + 1]: c for c in commands if c[1] == "worth"}
    done = run(*by_tp["8"][1:], "--format", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["gpus"]
    mean = found["over_histogram"]["us_per_step"]
    by_rank = {row[0]: row for row in cells(text, "<details><summary>Worth")[1:]}
    assert by_rank["TP8"][2].startswith(f"{mean:.1f} (")
    mine = recommend(
        Setting.shipped("MI355X", engine="sglang"), Workload.of([2880]), world_sizes=(4,)
    )  # fmt: skip
    written = catalogue.load(out / "rule.json")
    assert written.cutoff_bytes(4) == ("<=", mine.at(4).max_bytes)


def test_the_rule_it_shows_is_the_one_that_emit_writes(plain):
    text = (plain[0] / "report.md").read_text()
    shown = text.split("```python\n", 1)[1].split("```", 1)[0]
    done = run("emit", "--for", "sglang", "--arch", "gfx950", "--model", "gpt-oss-120b")
    assert done.returncode == 0, done.stderr
    assert shown.strip() == done.stdout.strip()


def test_the_check_is_one_command_that_measure_takes(sglang, vllm):
    for case in (vllm, sglang):
        words = shlex.split(check_command(case))
        assert words[:5] == [
            "torchrun",
            f"--nproc-per-node={words[1][-1]}",
            "-m",
            "costmodel",
            "measure",
        ]
        w = (case.headline or case.crossing)[0]
        tokens = [int(t) for t in words[words.index("--tokens") + 1].split(",")]
        assert len(tokens) <= 7
        assert set(tokens) <= set(case.deployment.tokens.tolist())
        row = case.llm.hidden_size * 2
        assert min(tokens) * row <= w.cutoff.max_bytes <= max(tokens) * row
        # Nobody can run it here, but the command line takes its options.
        refused = run(*words[4:-2], "--out", "/nonexistent/place/run")
        assert refused.returncode == 2
        assert "unknown" not in refused.stderr
        assert "No such option" not in refused.stderr


def test_engine_guards_are_part_of_the_rule(vllm):
    text = in_markdown(replace(vllm, by_world_size=tuple(surely(w) for w in vllm.by_world_size)))
    assert "vLLM's guards stay: tokens &lt;= 80" in text
    assert vllm.new.max_tokens(512, 2) == 80
    assert "No measured check" in text
    assert "**TP4: transferred**" in text
    assert "Worse on" not in text
    # The engine's rule has no GPU in it, so what it does elsewhere is said too.
    (other,) = vllm.elsewhere
    assert other.gpu == "MI355X"
    assert f"{other.scores[1].other_regret_pct.value:.2f} % before" in text
    assert "Not decided at TP8:" in in_markdown(vllm)


def surely(w):
    """Return a world size as if what its change spares were certain."""
    return replace(w, score=replace(w.score, saved_pct=Estimate(1.0, 0.5, 1.5)))


def test_harm_on_another_gpu_is_said_at_the_top():
    # vLLM's rule is better on MI355X than what suits MI308X.
    lower = gather(
        Setting.shipped("MI308X", engine="vllm"), llms.find("gpt-oss-120b"), world_sizes=(4,)
    )
    assert lower.elsewhere[0].scores[0].saved_pct.hi < 0
    text = in_markdown(lower)
    assert "- Worse on MI355X at TP4, " in text.split("```")[0]


def test_without_a_browser_the_page_has_the_figures(hostile):
    out, done = hostile
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.md", "rule.json"]
    assert done.stderr.startswith("costmodel: note: no PNG files:")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Pictures to drop in" not in (out / "report.md").read_text()


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


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))


def test_nothing_of_a_users_file_becomes_markup(hostile):
    tags = Tags()
    tags.feed((hostile[0] / "report.html").read_text())
    kinds = [t for t, _ in tags.found]
    assert kinds.count("script") == 3
    assert "img" not in kinds
    assert not any(n.startswith("on") for _, a in tags.found for n, _ in a)
    assert not any("javascript:" in (v or "") for _, a in tags.found for _, v in a if n_is_link(a))
    text = (hostile[0] / "report.md").read_text()
    assert "pwned" in text
    assert "@someone" not in text
    assert "#12" not in text
    outside = re.sub(r"(?s)```.*?```|(?<!\\)`[^`\n]*`|<!-- -->", "", text)
    assert set(re.findall(r"<(/?\w+)", outside)) <= {
        "details", "/details", "summary", "/summary", "code", "/code",
    }  # fmt: skip
    assert not re.search(r"(?<!\\)\[l(?<!\\)\]\(", outside)
    assert "https://evil" not in outside
    # A bar in a source's name would add a column.
    for line in outside.splitlines():
        if line.startswith("| "):
            assert "pwned" not in line or len(re.findall(r"(?<!\\)\|", line)) in (3, 9)


def test_data_of_the_page_cannot_end_its_script(vllm):
    kinds = [t for t, _ in tags_of_page(vllm, {"name": HOSTILE})]
    assert kinds.count("script") == 3
    assert "img" not in kinds


def n_is_link(attributes):
    return any(n in ("href", "src", "action") for n, _ in attributes)


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
def test_page_survives_hostile_text_and_follows_the_dark_theme(hostile):
    text, said = dom(hostile[0] / "report.html", "--blink-settings=preferredColorScheme=0")
    assert said == []
    (root,) = re.findall(r"<html[^>]*>", text)
    assert 'data-theme="dark"' in root
    assert 'data-errors="0"' in root
    assert "data-ready" in root
    body = text.split("</head>", 1)[1].split("<script", 1)[0]
    assert "<img" not in body
    # Figures show the name as text.
    assert re.search(r'class="legendtext"[^>]*>x&lt;i&gt;y&lt;: as published', body)


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


def test_a_report_is_not_overwritten(plain, tmp_path):
    out, _ = plain
    before = (out / "report.md").read_bytes()
    args = ("--arch", "gfx950", "--model", "gpt-oss-120b", "--for", "sglang")
    assert "--force replaces the report" in refused(*args, "--out", out)
    assert (out / "report.md").read_bytes() == before
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(*args, "--out", tmp_path / "file")


def test_force_replaces_the_report_and_leaves_other_files(vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/browser")
    out = tmp_path / "r"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "report.md").write_text("old")
    with pytest.raises(InputError, match="not empty"):
        directory.write([vllm], out, command="costmodel report")
    assert (out / "report.md").read_text() == "old"
    written = directory.write([vllm], out, command="costmodel report", force=True)
    assert written.files == ("report.html", "report.md", "rule.json")
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "report.md").read_text().startswith("# vLLM on MI300X")
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_links_are_followed_and_nothing_but_files_is_replaced(vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/browser")
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere.md"
    out.mkdir()
    elsewhere.write_text("old")
    (out / "report.md").symlink_to(elsewhere)
    directory.write([vllm], out, command="costmodel report", force=True)
    assert (out / "report.md").is_symlink()
    assert elsewhere.read_text().startswith("# ")
    elsewhere.write_text("kept")
    (out / "rule.json").unlink()
    (out / "rule.json").symlink_to(os.devnull)
    with pytest.raises(InputError, match=r"rule.json: is not a regular file"):
        directory.write([vllm], out, command="costmodel report", force=True)
    assert elsewhere.read_text() == "kept"
    assert (out / "rule.json").is_symlink()


def test_bad_input_writes_nothing(tmp_path):
    out = tmp_path / "r"
    good = ["--arch", "gfx950", "--model", "gpt-oss-120b", "--for", "sglang", "--out", out]
    assert "did you mean sglang" in refused(*good[:4], "--for", "sglan", "--out", out)
    assert "--model and --config" in refused(*good[:2], *good[4:])
    assert "mine.csv" in refused(*good, "--measurements", tmp_path / "mine.csv")
    broken = tmp_path / "calibration.json"
    broken.write_text('{"schema": "costmodel/calibration/2"')
    assert "truncated" in refused("--calibration", broken, *good[2:])
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.json"]


@needs_browser
def test_pictures_are_named_in_the_text(plain):
    pytest.importorskip("kaleido")
    out, done = plain
    assert done.stderr == ""
    text = (out / "report.md").read_text()
    assert "Pictures to drop in here: `decision-map.png`, `latency-tp4.png`, `worth.png`." in text
    for name in ("decision-map.png", "latency-tp4.png", "worth.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@given(st.text(max_size=60) | st.text(alphabet="ab\\*`[]<&|_@# ", max_size=12))
@example("\\*a\\*")
def test_markdown_shows_any_text_as_it_is(text):
    shown = markdown.escape(text)
    assert "<" not in shown.replace("<!-- -->", "")
    assert "\n" not in shown
    bare = re.sub(r"\\([\\`*\[\]|~$_])", r"\1", shown.replace("<!-- -->", ""))
    assert " ".join(html.unescape(bare).split()) == " ".join(
        html.unescape(html.escape(text)).split()
    )
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*\[\]|]", shown)


@given(st.text(alphabet="ab`|<>&\\*_ \n", max_size=30))
def test_code_spans_end_where_they_should(text):
    shown = markdown.code(text)
    if shown.startswith("`"):
        assert shown.count("`") == 2
        assert "|" not in shown
    else:
        inside = shown.removeprefix("<code>").removesuffix("</code>")
        assert "<" not in inside
        assert html.unescape(inside) == " ".join(text.split())


def test_a_listing_cannot_end_its_own_fence(sglang):
    hostile = replace(sglang, emitted=replace(sglang.emitted, text="a\n````\n</code><b>b"))
    assert "\n`````python\na\n````\n</code><b>b\n`````\n" in in_markdown(hostile)
    assert "b" not in [t for t, _ in tags_of_page(hostile, {})]


@given(
    st.sampled_from(
        ["- ", "+ ", "# ", "1. ", "12) ", "> ", "* ", "| ", "```", "    ", "\n- ", "=="]
    )
    | st.text(max_size=8)
)
@settings(deadline=None, max_examples=50)
def test_no_value_starts_a_line_as_markup(sglang, start):
    note = f"{start}x"
    text = in_markdown(replace(sglang, emitted=replace(sglang.emitted, notes=(note,))))
    (item,) = text.split("meet the rule.")[1].split("<details>")[0].strip().split("\n\n")[-1:]
    assert item.startswith("- ")
    assert "\n" not in item
    assert not re.match(r"([-+#>*|`]|\d+[.)]) ?", item.removeprefix("- "))
    assert html.unescape(item).endswith("x")
