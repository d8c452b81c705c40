"""The command line as people and programs meet it: real processes, real exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from costmodel.cli.main import COMMANDS

KEYS = {
    "recommend": [
        "schema", "arch", "gpu", "op", "dtype", "aiter_version", "calibration", "hidden_dims",
        "cutoffs", "engine", "source", "rule", "rows",
    ],
    "cutoff": [
        "world_size", "max_bytes", "inclusive", "max_bytes_lo", "max_bytes_hi", "verdict",
        "reason", "measure_next", "cell_bytes", "regret_pct", "evidence", "separate", "adequate",
        "gain_per_hidden_pct", "switch",
    ],
    "row": [
        "op", "algorithm", "world_size", "tokens", "hidden_dim", "dtype", "bytes", "latency_us",
        "latency_us_lo", "latency_us_hi", "evidence", "terms",
    ],
}  # fmt: skip


def run(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "costmodel", *map(str, args)],
        capture_output=True, text=True, timeout=120, cwd=cwd, check=False,
    )  # fmt: skip


def ok(*args, cwd=None):
    done = run(*args, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*args, cwd=None):
    """Return the one line of a refusal."""
    done = run(*args, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("costmodel: error: ")
    return lines[0]


def test_recommend_json_has_exactly_the_documented_keys():
    found = json.loads(ok("recommend", "--arch", "gfx942", "--format", "json"))
    assert list(found) == KEYS["recommend"]
    assert found["schema"] == "costmodel/recommend/1"
    assert found["gpu"] == "MI300X"
    assert list(found["calibration"]) == ["id", "sha256"]
    assert list(found["hidden_dims"]) == ["rule", "set", "depends_on_hidden", "workload", "effect"]
    assert [c["world_size"] for c in found["cutoffs"]] == [2, 4, 8]
    for cutoff in found["cutoffs"]:
        assert list(cutoff) == KEYS["cutoff"]
        assert cutoff["inclusive"] is True
        assert (cutoff["max_bytes"] is None) == (
            cutoff["verdict"] in ("always_1stage", "not_identified")
        )
        if cutoff["max_bytes"] is not None:
            assert cutoff["max_bytes_lo"] <= cutoff["max_bytes"] <= cutoff["max_bytes_hi"]
            low, high = cutoff["cell_bytes"]
            assert low <= cutoff["max_bytes"] <= high
    assert found["rule"]["schema"] == "costmodel/rule/1"
    assert found["rows"]["used"] <= found["rows"]["read"]


def test_recommend_table_shows_the_answer():
    text = ok("recommend", "--arch", "gfx950")
    assert "MI355X" in text
    assert "measured" in text
    assert "always" in text


def test_predict_json_terms_add_up():
    found = json.loads(
        ok("predict", "--arch", "GFX950", "--gpu", "mi355x", "--tokens", "1,2,8:24:8",
           "--hidden", "2880,7168", "--tp", "4,8", "--format", "json")
    )  # fmt: skip
    assert found["schema"] == "costmodel/predict/1"
    assert len(found["rows"]) == 5 * 2 * 2 * 2
    for row in found["rows"]:
        assert list(row) == KEYS["row"]
        assert sum(row["terms"].values()) == pytest.approx(row["latency_us"])
        assert row["latency_us_lo"] < row["latency_us"] < row["latency_us_hi"]
        assert row["bytes"] == row["tokens"] * row["hidden_dim"] * 2


def test_a_model_or_a_config_stands_for_hidden(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"hidden_size": 2880, "num_hidden_layers": 36}))
    rows = [
        json.loads(ok("predict", "--arch", "gfx942", *given, "--format", "json"))["rows"]
        for given in (["--model", "GPT-OSS-120B"], ["--config", config], ["--hidden", "2880"])
    ]
    assert rows[0] == rows[1] == rows[2]
    assert rows[0][0]["hidden_dim"] == 2880


def test_calibrate_writes_a_file_that_every_command_takes(tmp_path, row):
    import csv

    rows = [
        row | {"tokens": t, "bytes": t * 8192, "algorithm": a, "latency_us": 6 + b + t * c}
        for t in (4, 16, 64)
        for a, b, c in (("1stage", 1, 0.2), ("2stage", 5, 0.1))
    ]
    with (tmp_path / "mine.csv").open("w", newline="") as stream:
        from costmodel.data.measurement import COLUMNS

        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    text = ok("calibrate", "mine.csv", "--out", "mine.json", cwd=tmp_path)
    assert "rows: 6 read, 6 used, 0 set aside" in text
    for command in (["recommend"], ["predict", "--hidden", "4096"]):
        out = ok(*command, "--gpu", "MI300X", "--calibration", "mine.json", cwd=tmp_path)
        assert "MI300X" in out or "TP4" in out
    both = ok("calibrate", "mine.csv", "--published", "--arch", "gfx942", "--out", "both.json",
              "--no-cross-validation", cwd=tmp_path)  # fmt: skip
    assert "1479 read" in both


def test_noisy_rows_alone_are_refused_but_reported(tmp_path, published):
    noisy = published.select(published.quality == "noisy")
    noisy.write(tmp_path / "noisy.csv")
    done = run("calibrate", "noisy.csv", "--out", "n.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "REFUSED: no cutoff for MI355X at 8 ranks" in done.stdout
    assert "us from the model" in done.stdout
    assert "Measure 1stage and 2stage again" in done.stdout
    found = json.loads(
        ok("recommend", "--gpu", "MI355X", "--calibration", "n.json", "--format", "json",
           cwd=tmp_path)
    )  # fmt: skip
    assert {c["verdict"] for c in found["cutoffs"]} == {"always_1stage", "not_identified"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["recommend"], "give --arch"),
        (["recommend", "--arch", "gfx90a"], "unknown arch 'gfx90a'"),
        (["recommend", "--arch", "gfx942", "--gpu", "MI355X"], "MI355X is gfx950, not gfx942"),
        (["recommend", "--gpu", "MI300"], "did you mean MI300X"),
        (["recommend", "--arch", "gfx942", "--op", "gather"], "unknown op 'gather'"),
        (["recommend", "--arch", "gfx942", "--dtype", "fp8"], "unknown dtype 'fp8'"),
        (["recommend", "--arch", "gfx942", "--hidden", "10000"], "10000 is rejected"),
        (["recommend", "--arch", "gfx942", "--aiter-version", "latest"], "write it as"),
        (["recommend", "--arch", "gfx942", "--model", "gpt-oss"], "did you mean gpt-oss"),
        (["recommend", "--arch", "gfx942", "--calibration", "absent.json"], "absent.json"),
        (["recommend", "--arch", "gfx942", "--hidden", "2880", "--model", "phi-4"], "one of"),
        (["predict", "--arch", "gfx942", "--tp", "6"], "unknown world size 6"),
        (["predict", "--arch", "gfx942", "--tokens", "8:4"], "ends before it starts"),
        (["predict", "--arch", "gfx942", "--tokens", "-1"], "not a positive integer"),
        (["predict", "--arch", "gfx942", "--hidden", "2884"], "rejects 1 tokens x hidden 2884"),
        (["predict", "--arch", "gfx942", "--source", "nobody"], "source 'nobody'"),
        (["calibrate"], "give schema 1 files"),
        (["calibrate", "absent.csv"], "absent.csv"),
        (["calibrate", "--published", "--include", "good"], "unknown quality"),
        (["calibrate", "--published", "--arch", "gfx90a"], "hold no gfx90a"),
        (["recomend"], "did you mean recommend"),
        (["recommend", "--archs", "gfx942"], "--arch"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(args, says, tmp_path):
    assert says in refused(*args, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_recommend_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from costmodel.cli.main import main\n"
        "try:\n"
        "    main(['recommend', '--arch', 'gfx942'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'scipy', 'plotly', 'torch', 'pandas', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_every_command_shows_an_example(command):
    assert f"costmodel {command}" in ok(command, "--help")
