"""Reports where the data identify no cutoff: that is said first, with what would narrow it."""

import html
import json
import re

import pytest
from browser import probed
from reports import cells, first_screen, run
from test_report_numbers import crossing_rows, words_of

from costmodel.data.measurement import published
from costmodel.figures import static
from costmodel.show.words import size_interval

ASKED = ("--model", "gpt-oss-120b", "--for", "sglang")


def calibrated(directory, table, *options):
    run("calibrate", table, *options, "--no-cross-validation", "--out", "mine.json", cwd=directory)
    return ("--calibration", "mine.json")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Return a directory with a calibration that knows only rows that contradict each other."""
    directory = tmp_path_factory.mktemp("noisy")
    rows = published()
    rows.select(rows.quality == "noisy").write(directory / "rows.csv")
    calibrated(directory, "rows.csv")
    return directory


@pytest.fixture(scope="module")
def one_armed(tmp_path_factory):
    """Return a directory with a calibration of 1-stage rows alone."""
    directory = tmp_path_factory.mktemp("one-armed")
    lines = crossing_rows(0, 0).splitlines()
    kept = [lines[0], *(line for line in lines if ",1stage," in line)]
    (directory / "rows.csv").write_text("\n".join(kept) + "\n")
    calibrated(directory, "rows.csv", "--arch", "gfx942")
    return directory


def reported(directory, *options):
    done = run("report", *ASKED, *options, "--calibration", "mine.json", "--out", "report",
               "--force", browser=False, cwd=directory)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (directory / "report" / "report.md").read_text(), done.stdout


def test_what_is_not_identified_is_said_first_with_reason_measurement_and_cost(noisy):
    text, said = reported(noisy, "--gpu", "MI355X", "--tp", "4,8")
    title = "SGLang on MI355X: no cutoff is identified, so no rule is proposed"
    assert said.splitlines()[0] == title
    first = html.unescape(first_screen(text))
    assert first.startswith(f"# {title}\n")
    assert len(words_of(first)) <= 120
    for label in ("Asked", "Not identified", "Stays", "Would narrow it"):
        assert f"- **{label}:** " in first
    assert "- **Measure on your GPUs:** `" in text
    assert "TP8: no clean row (noisy)" in first
    # No rule is written, none is shown, and none is measured against.
    assert not (noisy / "report" / "rule.json").exists()
    assert "The rule as it will stand" not in text
    assert "emit" not in text


def test_the_numbers_of_an_open_report_are_those_of_recommend_and_plan(noisy):
    text, _ = reported(noisy, "--gpu", "MI355X", "--tp", "4,8")
    asked = ("--gpu", "MI355X", "--calibration", "mine.json", "--model", "gpt-oss-120b",
             "--tp", "4,8", "--for", "sglang", "--format", "json")  # fmt: skip
    planned = json.loads(run("plan", *asked, cwd=noisy).stdout)
    shapes = [row[:3] for row in cells(text, "MI355X: shapes")[1:]]
    assert shapes == [
        [f"TP{e['world_size']}", str(e["hidden_dim"]), str(e["tokens"])] for e in planned["shapes"]
    ]
    told = re.search(r"(\d+) shapes, about (\d+) s of measuring", first_screen(text))
    assert int(told[1]) == len(shapes)
    assert not re.search(r"\b(0|100) % probability", text)
    assert abs(int(told[2]) - planned["seconds"]) <= 0.6  # both are rounded
    found = json.loads(run("recommend", *asked, cwd=noisy).stdout)
    rows = cells(text, "- **Would narrow it")[1:]
    assert [row[0] for row in rows] == [f"TP{c['world_size']}" for c in found["cutoffs"]]
    for row, cutoff in zip(rows, found["cutoffs"], strict=True):
        assert cutoff["verdict"] == "not_identified"
        ends = cutoff["max_bytes_lo"], cutoff["max_bytes_hi"]
        assert row[3] == size_interval(*ends)
    for command in text.split("## What would settle it")[1].split("```sh\n")[1].splitlines():
        assert command.startswith(("costmodel ", "torchrun ", "```")), command
        if command == "```":
            break


def test_where_one_cutoff_of_several_is_open_the_reason_is_said(tmp_path):
    (tmp_path / "rows.csv").write_text(crossing_rows(0, 0))
    calibrated(tmp_path, "rows.csv", "--arch", "gfx942")
    text, _ = reported(tmp_path, "--gpu", "MI300X", "--tp", "4,8", "--measurements", "rows.csv")
    first = html.unescape(first_screen(text))
    assert first.startswith("# SGLang on MI300X: nothing should change yet\n")
    assert re.search(r"No cutoff is identified at TP4: rows scatter by \d+ %", first)
    # The rule that stays does not run what the model expects there: the curve says which it tells.
    (head,) = re.findall(r"```text\n.*\n +(\S.*)\n", text)
    assert head == "expected faster"
    assert len(words_of(first)) <= 120


def test_an_arm_without_a_row_is_a_reason_however_surely_the_priors_speak(one_armed):
    text, _ = reported(one_armed, "--arch", "gfx942", "--tp", "4")
    assert "no usable row of 2-stage" in first_screen(text)
    assert "always" not in first_screen(text)


def test_what_physics_decides_is_proposed_and_the_rest_called_unidentified(noisy):
    text, _ = reported(noisy, "--gpu", "MI355X", "--model", "deepseek-v3")
    assert text.startswith("# SGLang on MI355X: only TP2 is decided: run 1-stage always, by")
    assert "the cutoff at TP4 and TP8, where the rule in force stays" in first_screen(text)
    rows = {row[0]: row for row in cells(text, "- **Not known")[1:]}
    assert rows["TP8"][2] == "<= 128 KiB (no claim, stays)"


def test_of_several_archs_one_may_lack_a_cutoff(one_armed, tmp_path):
    from costmodel.calibration import posterior
    from costmodel.data import llms
    from costmodel.decide.setting import Setting
    from costmodel.report import directory
    from costmodel.report.case import gather

    model, ranks = llms.find("gpt-oss-120b"), (4, 8)
    known = gather(Setting.shipped("MI355X").but(engine="sglang"), model, world_sizes=ranks)
    mine = posterior.load(one_armed / "mine.json")
    lacking = gather(Setting(mine, "MI300X", engine="sglang"), model, world_sizes=ranks)
    written = directory.write([known, lacking], tmp_path / "both", command="costmodel report")
    assert "no cutoff identified" in written.title
    text = (tmp_path / "both" / "report.md").read_text()
    assert len(words_of(first_screen(text))) <= 120
    assert "rule-gfx950.json" in written.files
    assert "rule-gfx942.json" not in written.files


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gpu", "MI300A"), "unknown GPU 'MI300A'"),
        (("--gpu", "MI355X", "--calibration", "mine.json"), "MI355X"),
        (("--arch", "gfx942", "--model", "llama-3.1-405b"), "hidden size 16384, can run both arms"),
    ],
)
def test_what_has_nothing_to_say_is_refused_in_one_line(one_armed, options, says):
    done = run("report", *ASKED, *options, "--out", "none", browser=False, cwd=one_armed)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (one_armed / "none").exists()


def test_where_1stage_never_wins_the_reason_says_so(tmp_path):
    (tmp_path / "rows.csv").write_text(crossing_rows(30, 0))
    calibrated(tmp_path, "rows.csv", "--arch", "gfx942")
    done = run("recommend", "--calibration", "mine.json", "--tp", "4,8", cwd=tmp_path)
    said = " ".join(done.stdout.split())
    for tp in ("TP4", "TP8"):
        assert f"{tp}: 1-stage is the faster arm on no call of the workload" in said
    planned = run("plan", "--calibration", "mine.json", "--tp", "4,8", cwd=tmp_path)
    assert "still no cutoff is claimed" in planned.stdout


@pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")
@pytest.mark.parametrize("width", [700, 1400])
def test_the_page_of_an_open_report_is_as_good(noisy, tmp_path, width):
    reported(noisy, "--gpu", "MI355X", "--tp", "4,8")
    page = noisy / "report" / "report.html"
    assert 'id="tab-settle"' in page.read_text()
    assert 'id="tab-change"' not in page.read_text()
    seen = probed(page, width, tmp_path)
    assert (seen["console"], seen["found"], seen["errors"], seen["left"]) == ([], [], "0", [])
