"""``costmodel report``: numbers, escaping, the page in a real browser, and what it refuses."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from costmodel.calibration import posterior as calibrations
from costmodel.data import llms
from costmodel.data.deployment import Deployment
from costmodel.data.workload import Workload
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.decide.worth import worth
from costmodel.errors import InputError
from costmodel.figures import static
from costmodel.report import directory, markdown, page
from costmodel.report.case import gather
from costmodel.report.text import context
from costmodel.rules import catalogue

HOSTILE = (
    "x<i>y</i></script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'> | **b** "
    "[l](javascript:window.pwned=1) @someone #12 `c` https://evil.example"
)

needs_browser = pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")


def run(*args, browser=True, cwd=None):
    environment = dict(os.environ)
    if not browser:
        environment["BROWSER_PATH"] = "/nonexistent/browser"
    return subprocess.run(
        [sys.executable, "-m", "costmodel", *map(str, args)],
        capture_output=True, text=True, timeout=300, check=False, cwd=cwd, env=environment,
    )  # fmt: skip


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
    return markdown.render(context(case, [], "costmodel report", "out"))


def tags_of_page(case, explorer):
    """Return the tags of a case's page, without figures."""
    tags = Tags()
    tags.feed(page.render(context(case, [], "costmodel report", "out"), explorer))
    return tags.found


def cells(text, start):
    """Return the rows of the first Markdown table after a line that starts so."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(start):
            break
    rows = []
    for line in lines:
        if line.startswith("| "):
            rows.append([html.unescape(c.strip()) for c in line.strip("|").split("|")])
        elif rows and not line.startswith("|"):
            break
    return rows


def test_tables_hold_the_models_numbers(plain):
    text = (plain[0] / "report.md").read_text()
    setting = Setting.shipped("MI355X", engine="sglang")
    gfx950 = setting.calibration
    llm = llms.find("gpt-oss-120b")
    found = recommend(setting, Workload.of([llm.hidden_size]))
    old = catalogue.current("sglang")
    head, *rows = cells(text, "SGLang chooses")
    assert head[:3] == ["ranks", "1-stage now", "1-stage proposed"]
    for row, cutoff in zip(rows, found.cutoffs, strict=True):
        n = cutoff.world_size
        assert row[0] == f"TP{n}"
        assert row[1] == "<= 128 KiB"
        proposed = "every size" if n == 2 else f"<= {cutoff.max_bytes // 1024} KiB"
        assert row[2].strip("*") == proposed
        assert row[5].startswith(cutoff.verdict.split("_")[0])
    _, *rows = cells(text, "## Worth")
    for row, n in zip(rows, (2, 4, 8), strict=True):
        w = worth(setting, llm, n, old, found.rule, deployment=Deployment(engine="sglang"))
        e = w.mean_us
        assert row[1] == f"{e.value:.1f} ({e.lo:.1f} to {e.hi:.1f})"
        assert row[3] == w.evidence
    assert f"`{gfx950.sha256}`" in text
    assert f"`{gfx950.data['sha256']}`" in text
    assert "Nothing was measured for this report" in text
    assert "TP8: transferred" in text
    assert "this is agreement, not a test on unseen data" in text


def test_the_commands_it_names_give_its_numbers(plain):
    out, _ = plain
    text = (out / "report.md").read_text()
    block = text.split("## Reproduce", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
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
    _, *rows = cells(text, "## Worth")
    assert rows[2][1].startswith(f"{mean:.1f} (")
    mine = recommend(
        Setting.shipped("MI355X", engine="sglang"), Workload.of([2880]), world_sizes=(4,)
    )  # fmt: skip
    written = catalogue.load(out / "rule.json")
    assert written.cutoff_bytes(4) == ("<=", mine.at(4).max_bytes)


def test_engine_guards_are_part_of_the_rule(vllm):
    text = in_markdown(vllm)
    assert "vLLM's guards stay: tokens &lt;= 80" in text
    assert vllm.new.max_tokens(512, 2) == 80
    assert "**Not decided at TP8:**" in text
    assert "No measured check" in text
    assert "**TP4: transferred**" in text
    assert "Worse on" not in text
    # The engine's rule has no GPU in it, so what it does elsewhere is said too.
    (other,) = vllm.elsewhere
    assert other.gpu == "MI355X"
    assert f"{other.scores[1].other_regret_pct.value:.2f} % now" in text


def test_harm_on_another_gpu_is_said_at_the_top():
    # vLLM's rule now is better on MI355X than what suits MI308X.
    lower = gather(
        Setting.shipped("MI308X", engine="vllm"), llms.find("gpt-oss-120b"), world_sizes=(4,)
    )
    assert lower.elsewhere[0].scores[0].saved_pct.hi < 0
    text = in_markdown(lower)
    assert "**Worse on MI355X at TP4,**" in text.split("## For whom")[0]


def test_without_a_browser_the_page_has_the_figures(hostile):
    out, done = hostile
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.md", "rule.json"]
    assert done.stderr.startswith("costmodel: note: no PNG files:")
    assert len(done.stderr.strip().splitlines()) == 1
    text = (out / "report.md").read_text()
    assert "](latency" not in text
    assert "The figures are in `report.html`" in text


def test_page_is_one_file_of_less_than_6_mb(plain):
    file = plain[0] / "report.html"
    assert file.stat().st_size < 6e6
    tags = Tags()
    tags.feed(file.read_text())
    assert not [v for _, a in tags.found for n, v in a if n in ("src", "srcset", "data")]
    links = [dict(a).get("href", "") for t, a in tags.found if t == "a"]
    assert links
    assert all(link.startswith("https://") for link in links)
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
            assert "pwned" not in line or len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6)


def test_data_of_the_page_cannot_end_its_script(vllm):
    kinds = [t for t, _ in tags_of_page(vllm, {"name": HOSTILE})]
    assert kinds.count("script") == 3
    assert "img" not in kinds


def n_is_link(attributes):
    return any(n in ("href", "src", "action") for n, _ in attributes)


def dom(file, *options):
    """Return the page as a headless browser leaves it, and the errors of its scripts."""
    done = subprocess.run(
        [
            static.browser(), "--headless", "--no-sandbox", "--disable-gpu",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=60000",
            "--host-resolver-rules=MAP * ~NOTFOUND", *options, "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said


@needs_browser
def test_page_works_offline_in_a_browser(plain):
    text, said = dom(plain[0] / "report.html", "--window-size=900,1200")
    assert said == []
    (root,) = re.findall(r"<html[^>]*>", text)
    wanted = re.findall(r'data-figure="([a-z0-9-]+)"', (plain[0] / "report.html").read_text())
    assert len(wanted) >= 14
    assert 'data-errors="0"' in root
    assert f'data-figures="{len(wanted)}"' in root
    assert 'data-theme="light"' in root
    # Every figure is drawn, with its title; so is the explorer's.
    assert text.count('class="gtitle"') == len(wanted)
    assert "Explore a call" in text
    assert re.search(r"Run [12]-stage: faster with .* probability", text)


@needs_browser
def test_page_survives_hostile_text_and_follows_the_dark_theme(hostile):
    text, said = dom(hostile[0] / "report.html", "--blink-settings=preferredColorScheme=0")
    assert said == []
    (root,) = re.findall(r"<html[^>]*>", text)
    assert 'data-theme="dark"' in root
    assert 'data-errors="0"' in root
    body = text.split("</head>", 1)[1].split("<script", 1)[0]
    assert "<img" not in body
    # Figures show the name as text, whole.
    assert re.search(r'class="legendtext"[^>]*>x&lt;i&gt;y&lt;/i&gt;&lt;/script&gt;', body)


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
        directory.write(vllm, out, command="costmodel report")
    assert (out / "report.md").read_text() == "old"
    written = directory.write(vllm, out, command="costmodel report", force=True)
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
    directory.write(vllm, out, command="costmodel report", force=True)
    assert (out / "report.md").is_symlink()
    assert elsewhere.read_text().startswith("# ")
    elsewhere.write_text("kept")
    (out / "rule.json").unlink()
    (out / "rule.json").symlink_to(os.devnull)
    with pytest.raises(InputError, match=r"rule.json: is not a regular file"):
        directory.write(vllm, out, command="costmodel report", force=True)
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
def test_pictures_go_with_the_markdown(plain):
    pytest.importorskip("kaleido")
    out, done = plain
    assert done.stderr == ""
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (out / "report.md").read_text())
    wanted = {"latency-tp4.png", "latency-tp8.png", "decision-map.png", "regret.png", "worth.png"}
    assert wanted <= set(images)
    for name in images:
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


def test_a_listing_cannot_end_its_own_fence(vllm):
    hostile = replace(vllm, emitted=replace(vllm.emitted, text="a\n````\n</code><b>b"))
    assert "\n`````python\na\n````\n</code><b>b\n`````\n" in in_markdown(hostile)
    assert "b" not in [t for t, _ in tags_of_page(hostile, {})]


@given(
    st.sampled_from(
        ["- ", "+ ", "# ", "1. ", "12) ", "> ", "* ", "| ", "```", "    ", "\n- ", "=="]
    )
    | st.text(max_size=8)
)
@settings(deadline=None, max_examples=50)
def test_no_value_starts_a_line_as_markup(vllm, start):
    note = f"{start}x"
    text = in_markdown(replace(vllm, emitted=replace(vllm.emitted, notes=(note,))))
    (item,) = text.split("the rule:")[1].split("## For whom")[0].strip().split("\n\n")[-1:]
    assert item.startswith("- ")
    assert "\n" not in item
    assert not re.match(r"([-+#>*|`]|\d+[.)]) ?", item.removeprefix("- "))
    assert html.unescape(item).endswith("x")
