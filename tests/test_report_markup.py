"""Text of users in a report: never markup, in Markdown, in the page and in its data."""

from __future__ import annotations

import html
import json
import re

import pytest
from browser import dom
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from reports import Tags, run

from costmodel.calibration import posterior as calibrations
from costmodel.data import llms
from costmodel.decide.setting import Setting
from costmodel.figures import static
from costmodel.report import markdown, page
from costmodel.report.case import gather
from costmodel.report.text import context

HOSTILE = (
    "x<i>y</i></script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'> | **b** "
    "[l](javascript:window.pwned=1) @someone #12 `c` https://evil.example"
)


needs_browser = pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")


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


def test_without_a_browser_the_page_has_the_figures(hostile):
    out, done = hostile
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.md", "rule.json"]
    assert done.stderr.startswith("costmodel: note: no PNG files:")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Pictures to drop in" not in (out / "report.md").read_text()


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
    (item,) = text.split("whatever the model.")[1].split("<details>")[0].strip().split("\n\n")[-1:]
    assert item.startswith("- ")
    assert "\n" not in item
    assert not re.match(r"([-+#>*|`]|\d+[.)]) ?", item.removeprefix("- "))
    assert html.unescape(item).endswith("x")
