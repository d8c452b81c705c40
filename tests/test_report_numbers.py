"""What a report says first, and whether its numbers are those of the commands, on one arch or two."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from engines.shapes import SHAPES
from reports import cells, first_screen, run

from costmodel.calibration import posterior as calibrations
from costmodel.data import llms
from costmodel.data.measurement import COLUMNS
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.report import markdown
from costmodel.report.case import gather
from costmodel.report.pictures import NAMES, check_name
from costmodel.report.text import context
from costmodel.rules import catalogue
from costmodel.show.words import size_interval


def words_of(text):
    return re.findall(r"\S*\w\S*", text)


ALL_GPUS = ("MI300X", "MI308X", "MI325X", "MI350X", "MI355X")
ALONE_AND_TOGETHER = [*((g,) for g in ALL_GPUS), *itertools.combinations(ALL_GPUS, 2), ALL_GPUS]


@pytest.mark.parametrize("engine", ["sglang", "vllm", "aiter"])
@pytest.mark.parametrize("model", ["gpt-oss-120b", "deepseek-v3"])
def test_at_most_120_words_stand_before_the_first_table(engine, model):
    llm = llms.find(model)
    cases = {g: gather(Setting.shipped(g, engine=engine), llm) for g in ALL_GPUS}
    projects = (engine, "atom") if engine == "aiter" else (engine,)
    for gpus in ALONE_AND_TOGETHER:
        mine = [cases[g] for g in gpus]
        for project in projects:
            text = markdown.render(context(mine, "costmodel report", "out", project=project))
            first = first_screen(text)
            assert len(words_of(first)) <= 120, first
        # What changes is said with its size and its saving; 2 ranks, which physics decides, are in
        # the title only where nothing else changes, and last among the savings.
        head = first.splitlines()[0]
        wins = first.partition("**Wins:**")[2].partition("\n")[0]
        headed = any(c.headline for c in mine)
        for w in (w for c in mine for w in c.by_world_size if w.decided):
            assert (w.tp in head) == (w.world_size > 2 or not headed)
            if w.world_size > 2 or not headed:
                assert w.tp in wins
                assert "TP2" not in wins or wins.index(w.tp) <= wins.index("TP2")
        if not headed and any(c.proposes for c in mine):
            assert head.endswith("by physics")
        least = [min((w.worth.mean_us.value for c in mine for w in c.by_world_size
                      if w.decided and w.world_size == n), default=None)
                 for n in ((4, 8) if headed else (2,))]  # fmt: skip
        assert all(f"{us:.1f}" in wins for us in least if us is not None)
        assert ("nothing should change" in head) == (not any(c.proposes for c in mine))


MEASUREMENTS = Path(__file__).parent.parent / "measurements"
PAIR, LOOPBACK = MEASUREMENTS / "h200-pair" / "second", MEASUREMENTS / "h200-loopback"


def of_users(name, directory):
    """Return a calibration that is not shipped, with its rows and GPU."""
    if name == "two GPUs":
        return PAIR / "calibration.json", PAIR / "calibration.csv", "H200"
    if name == "one GPU":
        rows = LOOPBACK / "calibration.csv"
        gpu, arch = "H200", ()
    else:
        # Their kernels cross where they like: nowhere, or late.
        rows = directory / "mine.csv"
        slow_us = {"1-stage never": (30, 0), "1-stage nearly always": (0, 60)}[name]
        rows.write_text(crossing_rows(*slow_us))
        gpu, arch = "MI300X", ("--arch", "gfx942")
    done = run("calibrate", rows, *arch, "--no-cross-validation", "--out", directory / "c.json")
    assert (directory / "c.json").exists(), done.stderr
    return directory / "c.json", rows, gpu


def crossing_rows(one_us, two_us):
    """Return schema 1 rows of a machine whose arms take so much longer."""
    lines = [",".join(COLUMNS)]
    for n in (2, 4, 8):
        for tokens in (1, 4, 8, 16, 32, 64, 128, 256):
            size = tokens * 2880 * 2
            for arm, us in (
                ("1stage", 6 + one_us + size * (n - 1) / 192e3),
                ("2stage", 9 + two_us + size * 2 * (n - 1) / n / 192e3),
            ):
                lines.append(
                    f"mine,,2026-10-01,MI300X,stated,gfx942,xgmi,{n},fused_ar_rmsnorm,{arm},aiter,"
                    f"0.1.20.post1,{tokens},2880,bf16,{size},{us:.2f},median,max,graph,clean"
                )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["two GPUs", "one GPU", "1-stage never", "1-stage nearly always"])
def test_at_most_120_words_of_a_calibration_that_is_not_shipped(name, tmp_path):
    calibration, rows, gpu = of_users(name, tmp_path)
    said = 0
    for engine in ("sglang", "vllm", "aiter"):
        setting = Setting(calibrations.load(calibration), gpu, engine=engine)
        for model, ranks in (("gpt-oss-120b", (2, 4, 8)), ("deepseek-v3", (4, 8)),
                             ("llama-3.1-8b", (8,))):  # fmt: skip
            try:
                case = gather(setting, llms.find(model), world_sizes=ranks, measurements=[rows])
            except InputError as error:
                assert "no cutoff is identified" in str(error)
                continue
            said += 1
            text = markdown.render(context([case], "costmodel report", "out"))
            first = first_screen(text)
            assert len(words_of(first)) <= 120, first
            # Kernels that no engine runs are not called the engine's, nor measured by AITER's.
            if gpu == "H200":
                assert text.startswith("# costmodel's kernels on H200 (not xGMI): ")
                assert f"no reason to change {case.engine.title}" in first
                assert ("--backend triton --tp " in text) == case.makes_calls
                assert "--backend aiter" not in text
            assert ("by physics" in first) <= (name != "one GPU")
    assert said or name == "1-stage never"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return the directory of a report on both archs, and whom it is for."""
    out = tmp_path_factory.mktemp("both") / "report"
    asked = ("--model", "gpt-oss-120b", "--for", "sglang")
    done = run("report", "--arch", "gfx942,gfx950", *asked, "--out", out, browser=False)
    assert done.returncode == 0, done.stderr
    return out, asked


def as_json(*args):
    done = run(*args, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def html_cells(page, caption):
    """Return the rows of the first table behind a text of a page, as text."""
    body = page.split(caption, 1)[1].split("<table", 1)[1].split("</table>", 1)[0]
    return [
        [html.unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in
         re.findall(r"(?s)<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"(?s)<tr>(.*?)</tr>", body)
    ]  # fmt: skip


def test_every_number_of_a_report_on_two_archs_is_that_of_the_commands(both):
    out, asked = both
    text, page_text = ((out / name).read_text() for name in ("report.md", "report.html"))
    head, *rows = cells(text, "- **Not known")
    by_place = {row[0]: row for row in rows}
    said = as_json("recommend", "--arch", "gfx942,gfx950", *asked)["recommendations"]
    _, *worths = cells(text, "<details><summary>Worth")
    worth_of = {row[0]: row for row in worths}
    for found in said:
        gpu = found["gpu"]
        rule = catalogue.load(out / f"rule-{found['arch']}.json")
        emitted = json.loads(
            run("emit", "--for", "json", "--arch", found["arch"], *asked[:2]).stdout
        )
        for c in found["cutoffs"]:
            n, row = c["world_size"], by_place[f"{gpu} TP{c['world_size']}"]
            limit = c["max_bytes"]
            best = "every size" if limit is None else f"<= {limit // 1024} KiB"
            stays = "stays" in row[2]
            assert stays == ("not decided" in row[6])
            after = f"<= 128 KiB (stays; best estimate {best})" if stays else f"**{best}**"
            assert row[2] == after
            assert row[3] == size_interval(c["max_bytes_lo"], c["max_bytes_hi"])
            assert row[4] == size_interval(
                c["max_bytes_this_kernel_lo"], c["max_bytes_this_kernel_hi"]
            )
            if limit is not None:
                assert rule.cutoff_bytes(n) == ("<=", 128 * 1024 if stays else limit)
                assert emitted["condition"]["bytes"][1][str(n)] == limit
            (w,) = as_json("worth", "--gpu", gpu, "--tp", n, "--from", "sglang", *asked)["gpus"]
            mean = w["over_histogram"]
            us, lo, hi = (mean[k] for k in ("us_per_step", "us_per_step_lo", "us_per_step_hi"))
            words = f"{us:.1f} ({lo:.1f} to {hi:.1f})"
            assert row[5] == f"{words} if it did" if stays else words
            mine = worth_of[f"{row[0]}, if it changed" if stays else row[0]]
            assert mine[2] == words
            most = max(w["batches"], key=lambda b: b["us_per_step"])
            assert mine[3].endswith(f"batch {most['batch']}")
            assert mine[3].startswith(f"{most['us_per_step']:.0f} (")
    assert len(rows) == sum(len(found["cutoffs"]) for found in said)
    # The page has the same tables, and its figures are those of plot.
    assert html_cells(page_text, "Not known:") == [
        head, *([cell.strip("*") for cell in row] for row in rows)
    ]  # fmt: skip
    assert html_cells(page_text, "Worth: us saved")[1:] == worths


def test_the_text_names_the_command_that_writes_both_rules(both, tmp_path):
    out, _ = both
    text = (out / "report.md").read_text()
    change = text.split("## Modifications", 1)[1].split("## Accuracy", 1)[0]
    assert change.count("SGLang chooses between") == 1
    (command,) = re.findall(r"all of them by GPU: `costmodel (.+?)`", change)
    words = shlex.split(command)
    words[words.index("PATH")] = str(SHAPES["sglang_bytes"].package(tmp_path))
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    patch = (tmp_path / "rule.patch").read_text()
    # TP4 is decided on MI355X alone; what each changes is what its rule file has.
    rules = {arch: catalogue.load(out / f"rule-{arch}.json") for arch in ("gfx942", "gfx950")}
    assert words[words.index("--tp") :][:4] == ["--tp", "gfx942:2", "--tp", "gfx950:2,4"]
    assert rules["gfx942"].cutoff_bytes(4) == ("<=", 128 * 1024)
    assert f"4: {rules['gfx950'].cutoff_bytes(4)[1] // 1024} * 1024" in patch


@pytest.mark.parametrize("name", ["mi300x-latency-tp4", "mi355x-worth", "mi300x-plan"])
def test_plot_draws_each_figure_of_a_report_on_two_archs(both, tmp_path, name):
    out, asked = both
    (packed,) = re.findall(r'id="data">([A-Za-z0-9+/=]+)<', (out / "report.html").read_text())
    shown = json.loads(gzip.decompress(base64.b64decode(packed)))["figures"][name]
    done = run("plot", name, "--arch", "gfx942,gfx950", *asked, "--out", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    drawn = json.loads((tmp_path / "a.json").read_text())
    drawn["layout"].pop("template")
    assert drawn == shown


def test_every_figure_of_a_report_has_a_name_that_plot_knows(both):
    out, _ = both
    names = re.findall(r'data-figure="([a-z0-9-]+)"', (out / "report.html").read_text())
    assert len(names) == len(set(names)) >= 30
    for name in names:
        check_name(name)
    # The summary shows the GPU that the title is about.
    assert names[:3] == ["mi355x-latency-tp4", "mi355x-worth", "mi355x-decision-map"]
    bare = {re.sub(r"-tp\d$", "-tpN", name.partition("-")[2]) for name in names}
    assert bare == set(NAMES)
