"""Every command's text fits 80 columns; a single word that is wider, such as a path, stays whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import costmodel
from test_gates import SGLANG_TREE

from costmodel.cli.main import COMMANDS

HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "measurements/h200-pair/revision-2"
OWN = ROWS / "calibration.json"
COLUMNS = 80

#: What each command is asked, with what makes its lines long: every GPU, prose, long names, paths.
ASKED = {
    "recommend": [
        "--arch gfx942", "--arch gfx950 --verbose", "--arch gfx942,gfx950 --model deepseek-v3",
        "--arch gfx950 --model gpt-oss-120b --for vllm --verbose", "--gpu MI308X --dtype fp16",
        "--arch gfx950 --otherwise separate --verbose", f"--calibration {OWN} --verbose",
        "--arch gfx942 --op plain --verbose", "--arch gfx942 --batch-invariant",
        "--arch gfx942 --model llama-3.1-8b --dp-attention", "--calibration NOISY --verbose",
    ],
    "explain": [
        "--arch gfx942 --tp 8 --hidden 2880 --tokens 32",
        "--arch gfx950 --tp 4 --hidden 7168 --tokens 32 --verbose",
        "--arch gfx950 --tp 4 --hidden 2880 --all", "--arch gfx942 --tp 8 --hidden 16384 --tokens 8",
        f"--calibration {OWN} --tp 8 --hidden 7168 --tokens 3 --verbose",
    ],
    "predict": [
        "--gpu MI355X --tp 4 --hidden 2880 --tokens 8:64:8 --terms",
        "--arch gfx942 --tp 2,4,8 --hidden 7168 --tokens 1,512",
    ],
    "worth": [
        "--model gpt-oss-120b --tp 8 --from sglang --to recommended",
        "--model gpt-oss-120b --tp 4 --from vllm --to recommended --step-ms 8 --engine-version 0.9",
        "--model kimi-k2 --tp 8 --from aiter --to recommended --calls-of vllm",
        "--model deepseek-v3 --tp 8 --from aiter --to sglang --dp-attention",
    ],
    "plan": [
        "--arch gfx942 --shapes 2", "--arch gfx950 --tp 8 --shapes 1 --model gpt-oss-120b",
        "--gpu MI355X --shapes 2 --calibration NOISY", "--arch gfx942 --shapes 1 --out plan.json",
    ],
    "validate": ["--arch gfx950 --published", f"{ROWS / 'live.csv'} --calibration {OWN}"],
    "simulate": [
        "--arch gfx950 --ranks 8 --tokens 32 --hidden 7168 --skew normal:20",
        "--arch gfx942 --ranks 4 --sweep skew=0,5 --tokens 32 --hidden 7168",
    ],
    "calibrate": ["--published --arch gfx942 --no-cross-validation"],
    "audit": ["sglang-tree --arch gfx950", "sglang-tree --gpu MI300X --model gpt-oss-120b"],
    "report": ["--arch gfx950 --model gpt-oss-120b --for atom --tp 4 --out report"],
    "plot": ["--arch gfx950 --model gpt-oss-120b --for sglang"],
    "import": [f"{HERE / 'cases/nccl-old.log'} --out rows.csv"],
    "diff": ["a.json b.json --gpu MI355X"],
    "models": [""], "rules": [""], "statements": [""], "gpus": [""], "data": ["", "--gpu MI300X --tp 8"],
    "schemas": [""], "doctor": ["", "--backend aiter", "--backend gloo"],
}  # fmt: skip

#: Commands that start processes or need a machine, or print what another program reads.
ELSEWHERE = {"measure", "tune", "emit", "in-force"}


def too_wide(text: str) -> list[str]:
    """Return the lines wider than 80 columns that could be broken between two words.

    A table is as wide as its words: a line whose columns hold one word that alone leaves no room.
    """
    found = []
    for line in text.splitlines():
        if len(line) <= COLUMNS:
            continue
        longest = max(line.split(), key=len)
        indent = max(len(line) - len(line.lstrip()), 5)
        if indent + len(longest) <= COLUMNS or not re.search(r"[/:.@]", longest):
            found.append(line)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a directory with a calibration without a cutoff, and what some commands read."""
    from costmodel.calibration.posterior import shipped
    from costmodel.data.measurement import published

    directory = tmp_path_factory.mktemp("widths")
    rows = published()
    rows.select(rows.quality == "noisy").write(directory / "noisy.csv")
    costmodel("calibrate", "noisy.csv", "--no-cross-validation", "--out", "NOISY", cwd=directory)
    SGLANG_TREE.package(directory / "sglang-tree")
    for name in ("a.json", "b.json"):
        shipped("gfx950").save(directory / name)
    return directory


def test_every_command_is_asked_or_excused():
    assert set(ASKED) | ELSEWHERE == set(COMMANDS)


#: Without a browser: pictures are no text.
ENVIRONMENT = {"COLUMNS": str(COLUMNS), "BROWSER_PATH": "/nonexistent/browser"}


@pytest.mark.parametrize(("command", "asked"), [(c, a) for c, some in ASKED.items() for a in some])
def test_text_fits_80_columns(command, asked, place):
    done = costmodel(command, *asked.split(), cwd=place, env=ENVIRONMENT)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.strip()
    assert not too_wide(done.stdout)
