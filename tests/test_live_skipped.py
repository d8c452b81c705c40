"""Arms that were skipped, on going on with a run: said, and asked again when the user wants it."""

import json

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.data import measurement
from tests.test_live_aiter import ENTRY, QUICK, torchrun


def test_skipped_arms_are_said_on_resume_and_asked_again_when_wanted(tmp_path):
    run = tmp_path / "run"
    shapes = ("--hidden", "1024", "--tokens", "2,64", "--seed", "3")
    small = {"AITER_CUSTOM_AR_MAX_SIZE": "65536"}
    code, out, _ = torchrun(*ENTRY, *shapes, *QUICK, "--out", run, **small)
    assert code == 0
    assert "skipped: 1stage at 64 tokens" in out
    before = (run / "measurements.csv").read_bytes()

    code, out, _ = torchrun(*ENTRY, "--resume", "--out", run)
    assert code == 0
    for arm in ("1stage", "2stage"):
        assert f"skipped before: {arm} at 64 tokens x 1024 hidden bf16: AITER's custom" in out
    assert out.count("--retry-skipped asks them again") == 1
    assert (run / "measurements.csv").read_bytes() == before

    code, out, _ = torchrun(*ENTRY, "--resume", "--retry-skipped", "--out", run)
    assert code == 0
    assert "once more  64 tokens x 1024 hidden bf16" in out
    assert "skipped: " not in out
    assert "2 shapes: " in out
    rows = measurement.read(run / "measurements.csv")
    assert sorted(zip(rows.tokens, rows.algorithm, strict=True)) == [
        (2, "1stage"), (2, "2stage"), (64, "1stage"), (64, "2stage"),
    ]  # fmt: skip
    assert (run / "measurements.csv").read_bytes().startswith(before)
    kinds = [json.loads(line)["kind"] for line in (run / "samples.jsonl").read_text().splitlines()]
    assert kinds.count("retry") == 1

    after = (run / "samples.jsonl").read_bytes()  # what was asked again with success is not asked
    code, out, _ = torchrun(*ENTRY, "--resume", "--retry-skipped", "--out", run)
    assert code == 0
    assert (run / "samples.jsonl").read_bytes() == after


def test_what_is_still_refused_stays_skipped(tmp_path):
    run = tmp_path / "run"
    small = {"AITER_CUSTOM_AR_MAX_SIZE": "65536"}
    torchrun(*ENTRY, "--hidden", "1024", "--tokens", "2,64", *QUICK, "--out", run, **small)
    before = (run / "measurements.csv").read_bytes()
    code, out, _ = torchrun(*ENTRY, "--resume", "--retry-skipped", "--out", run, **small)
    assert code == 0
    assert out.count("skipped: 1stage at 64 tokens") == 1
    assert (run / "measurements.csv").read_bytes() == before


def test_retry_without_resume_is_one_line(tmp_path):
    code, _, said = torchrun(
        *ENTRY, "--hidden", "8", "--tokens", "1", "--retry-skipped", "--out", tmp_path / "run"
    )
    assert code != 0
    assert said == [
        "costmodel: error: --retry-skipped asks again what an earlier run skipped: give --resume"
    ]
