"""The directory of a report: whole or not at all, nothing of anybody else's replaced."""

from __future__ import annotations

import os

import pytest
from reports import run

from costmodel.data import llms
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.figures import static
from costmodel.report import directory
from costmodel.report.case import gather

needs_browser = pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")


def refused(*args):
    done = run("report", *args, browser=False)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("costmodel: error: ")
    return lines[0]


@pytest.fixture(scope="module")
def vllm():
    """Return what a report for vLLM on MI300X rests on."""
    return gather(Setting.shipped("MI300X", engine="vllm"), llms.find("gpt-oss-120b"))


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
