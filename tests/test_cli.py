"""The command line as people and programs meet it.

Every command starts as a process once, and whatever hangs on one: pipes, disks, what is imported.
What is said about input is asked without one, which says the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import costmodel

from costmodel.cli.main import COMMANDS

KEYS = {
    "recommend": [
        "schema", "arch", "gpu", "op", "dtype", "aiter_version", "kernel", "calibration", "otherwise",
        "objective",
        "hidden_dims", "cutoffs", "engine", "source", "rule", "rule_of_arms", "rows", "batch_invariant",
    ],
    "cutoff": [
        "world_size", "max_bytes", "inclusive", "max_bytes_lo", "max_bytes_hi",
        "max_bytes_this_kernel_lo", "max_bytes_this_kernel_hi", "verdict", "reason", "measure_next",
        "cell_bytes", "regret_pct", "contested_regret_pct", "worst_regret_pct", "evidence", "separate", "pushed", "three_way",
        "three_way_regret_pct", "two_arms_loss_pct", "two_arms_enough", "adequate", "gain_per_hidden_pct", "by_hidden", "smallest_over_hidden_lo",
        "smallest_over_hidden_hi", "window", "switch",
        "statements",
    ],
    "row": [
        "op", "algorithm", "world_size", "tokens", "hidden_dim", "dtype", "bytes", "latency_us",
        "latency_us_lo", "latency_us_hi", "latency_us_this_kernel_lo", "latency_us_this_kernel_hi",
        "reference", "evidence", "terms",
    ],
}  # fmt: skip


def run(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "costmodel", *map(str, args)],
        capture_output=True, text=True, timeout=120, cwd=cwd, check=False,
    )  # fmt: skip


def ok(*args, cwd=None):
    done = costmodel(*args, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*args, cwd=None):
    """Return the one line of a refusal."""
    done = costmodel(*args, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("costmodel: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["recommend", "--arch", "gfx942", "--format", "json"], 0),
        (["gpus", "--debug"], 0),
        (["calibrate", "noisy.csv", "--out", "n.json"], 1),
        (["predict", "--arch", "gfx942", "--tp", "6"], 2),
        (["recomend"], 2),
        (["recommend", "--arch", "gfx942", "--calibration", "absent.json"], 2),
        (["recommend", "--arch", "a\x1b[31m\u202ered"], 2),
        ([], 0),
    ],
)
def test_without_a_process_of_its_own_a_command_says_the_same(args, code, tmp_path, published):
    published.select(published.quality == "noisy").write(tmp_path / "noisy.csv")
    before = dict(os.environ), os.getcwd(), sys.stdout
    here = costmodel(*args, cwd=tmp_path)
    assert (dict(os.environ), os.getcwd(), sys.stdout) == before
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "n.json").unlink(missing_ok=True)
    apart = run(*args, cwd=tmp_path)
    assert apart.returncode == here.returncode == code
    assert (here.stdout, here.stderr) == (apart.stdout, apart.stderr)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_without_a_process_of_its_own_warnings_are_said_as_there(monkeypatch):
    def warns(arguments):
        np.float64(1) / np.float64(0)
        raise SystemExit(0)

    monkeypatch.setattr("command.main", warns)
    assert "RuntimeWarning: divide by zero" in costmodel("gpus").stderr


def test_recommend_json_has_exactly_the_documented_keys():
    found = json.loads(ok("recommend", "--arch", "gfx942", "--format", "json"))
    assert list(found) == KEYS["recommend"]
    assert found["schema"] == "costmodel/recommend/1"
    assert found["gpu"] == "MI300X"
    assert list(found["calibration"]) == ["id", "sha256"]
    assert list(found["hidden_dims"]) == [
        "rule", "set", "depends_on_hidden", "adequate_pct", "workload", "effect", "measured",
    ]  # fmt: skip
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


def test_recommend_shows_the_answer_in_its_first_three_lines():
    from costmodel.decide.recommendation import recommend
    from costmodel.decide.setting import Setting
    from costmodel.units import kib

    text = ok("recommend", "--arch", "gfx950")
    head, sure, third, *rest = text.splitlines()
    found = recommend(Setting.shipped("MI355X"))
    sizes = [f"TP{c.world_size} up to {kib(c.max_bytes)}" for c in found.cutoffs if c.max_bytes]
    assert head == (
        f"run 1-stage: TP2 always, {', '.join(sizes)} (MI355X, fused_ar_rmsnorm, bf16, "
        f"{found.setting.kernel.title})"
    )
    assert sure.startswith("how sure: TP2 by physics, TP4 measured elsewhere, TP8 transferred")
    assert all(f"{c.regret_pct:.2f} %" in sure for c in found.cutoffs)
    assert third.startswith("separate ops are expected to be fastest: ")
    assert len(rest) < 20
    scales = [line for line in rest if line.startswith("TP") and line.endswith(".")]
    assert len(scales) == 2
    for line in scales:
        assert line.index("=") < line.index("*") < line.rindex("=")
    full = ok("recommend", "--arch", "gfx950", "--verbose")
    assert full.splitlines()[:3] == [head, sure, third]
    assert "to narrow this, measure on this GPU" in full
    assert "to narrow this" not in text


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
    assert "1854 read" in both


def test_noisy_rows_alone_are_refused_but_reported(tmp_path, published):
    noisy = published.select(published.quality == "noisy")
    noisy.write(tmp_path / "noisy.csv")
    done = costmodel("calibrate", "noisy.csv", "--out", "n.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "REFUSED: no cutoff for MI355X at 8 ranks" in done.stdout
    assert "us from the model" in done.stdout
    assert "Measure 1-stage and 2-stage again" in done.stdout
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
        (["plan", "--gpu", "MI300X,MI355X"], "--gpu MI300X,MI355X: no list is taken here"),
        (["predict", "--arch", "gfx942,gfx950"], "--arch gfx942,gfx950: no list is taken here"),
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


@pytest.mark.parametrize("command", ["recommend", "plan"])
def test_an_answer_imports_nothing_heavy_and_no_device(command):
    code = (
        "import sys\n"
        "from costmodel.cli.main import main\n"
        "try:\n"
        f"    main(['{command}', '--gpu', 'MI300X', '--tp', '8', '--hidden', '2880'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'scipy', 'plotly', 'torch', 'pandas', 'triton', 'subprocess'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not any(m.startswith('costmodel.live.backends') for m in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_start_alone_keeps_what_it_made_from_the_search_for_garbage():
    code = (
        "import gc\n"
        "from costmodel.cli.main import main\n"
        "def run(*words):\n"
        "    try:\n"
        "        main(list(words))\n"
        "    except SystemExit as ended:\n"
        "        assert ended.code == 0\n"
        "    return gc.get_freeze_count()\n"
        "gc.disable()\n"
        "assert run('gpus') == 0 and not gc.isenabled()\n"
        "gc.enable()\n"
        "kept = run('models')\n"
        "assert kept > 10_000 and gc.isenabled(), kept\n"
        "assert run('models') <= kept\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_every_command_shows_an_example(command):
    done = run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout
    assert f"costmodel {command}" in said
    assert " object" not in said, "a default is a number or a word"
    assert "None]" not in said, "a range without ends is no range"


def piped(command, cwd=None):
    """Run a shell line with ``costmodel`` as this checkout's; return its result with bash."""
    line = f'costmodel() {{ {sys.executable} -m costmodel "$@"; }}; set -o pipefail; {command}'
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=120, cwd=cwd, check=False
    )


@pytest.mark.parametrize(
    "args",
    [
        ["--arch", "mi300x"],
        ["--arch", "MI300X", "--dtype", "bfloat16"],
        ["--gpu", "Mi300X", "--dtype", "torch.bfloat16", "--op", "fused_ar_rmsnorm"],
        ["--gpu", "gfx942", "--tp", "2 4, 8"],
        ["--arch", "gfx942", "--tp", "2..8"],
    ],
)
def test_spellings_that_people_use_give_the_same_answer(args):
    assert ok("recommend", *args) == ok("recommend", "--arch", "gfx942")


@pytest.mark.parametrize("algorithm", ["1-stage", "1stage", "one-stage", "One_Stage"])
def test_algorithms_go_by_any_name(algorithm):
    given = ["predict", "--gpu", "mi355x", "--tokens", "8", "--tp", "4", "--format", "json"]
    found = json.loads(ok(*given, "--algorithm", algorithm))
    assert {row["algorithm"] for row in found["rows"]} == {"1stage"}


@pytest.mark.parametrize("source", ["aiter-3458-mi355x", "typical"])
def test_sources_go_by_any_case(source):
    given = ["predict", "--gpu", "mi355x", "--tokens", "8", "--tp", "4", "--source"]
    assert ok(*given, source.upper()) == ok(*given, source)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["predict", "--arch", "gfx942", "--algorithm", "3stage"],
            "one of 1stage, 2stage, ll, ll128",
        ),
        (["recommend", "--arch", "mi300x", "--gpu", "mi308x"], "contradict"),
        (["emit", "--for", "json", "--arch", "gfx942", "--tp", "3"], "unknown world size 3"),
        (["explain", "--arch", "gfx942", "--tp", "5", "--all"], "unknown world size 5"),
        (["predict", "--arch", "gfx942", "--tokens", "1..2..3"], "8:64:8"),
        (["predict", "--arch", "gfx942", "--tokens", "9999999999999999999999"], "goes beyond"),
        (["recommend", "--arch", "x" * 100_000], "xxx ... xxx"),
        (["plan", "--arch", "gfx942", "--noise", "nan"], "nan is not a finite number"),
        (["recommend", "--arch", "a\x1b[31m\u202ered"], "a\\x1b[31m\\u202ered"),
        (["recommend", "--gpu", "mi355x", "--source", "aiter-3458"], "mean aiter-3458-mi355x,"),
        (["recommend", "--gpu", "mi355x", "--source", "x"], "and typical is the pool of them"),
        (["models", "--format", "xml"], "'xml' is not one of 'table', 'csv', 'json'"),
    ],
)
def test_other_wrong_input(args, says):
    assert says in refused(*args)


def test_nothing_at_all_is_answered_with_the_help():
    assert ok() == ok("--help")


def test_tp_narrows_what_recommend_and_emit_say():
    found = json.loads(ok("recommend", "--arch", "gfx942", "--tp", "8", "--format", "json"))
    assert [c["world_size"] for c in found["cutoffs"]] == [8]
    rule = json.loads(ok("emit", "--for", "json", "--arch", "gfx942", "--tp", "4,8"))
    assert "--tp 4,8" in rule["provenance"]["command"]
    assert sorted(rule["provenance"]["evidence"]) == ["4", "8"]


@pytest.mark.parametrize("option", ["--tp", "--ranks"])
def test_simulate_takes_both_names_of_the_world_size(option):
    text = ok("simulate", "--arch", "gfx950", "--tokens", "4", option, "4")
    assert text == ok("simulate", "--arch", "gfx950", "--tokens", "4", "--tp", "4")


def test_version_names_calibrations_data_and_aiter(published):
    from costmodel import __version__
    from costmodel.calibration.posterior import shipped
    from costmodel.data.kernels import LATEST

    text = ok("--version")
    for word in (
        __version__, shipped("gfx942").id, shipped("gfx950").id, max(published.date), LATEST,
    ):  # fmt: skip
        assert str(word) in text


@pytest.mark.parametrize(
    "command",
    ["costmodel data | head -1", "costmodel rules --format json | head -c 10",
     "costmodel recommend --arch gfx942 | head -n 1", "costmodel --help | head -n 1",
     "costmodel --version | head -n 0"],
)  # fmt: skip
def test_a_reader_that_goes_away_is_no_error(command):
    for _ in range(3):  # whether the pipe breaks early or at the end is a matter of timing
        done = piped(command)
        assert done.stderr == ""
        assert done.returncode in (0, 141)


def test_a_reader_that_is_gone_before_the_start():
    done = piped("(sleep 0.1; costmodel data) | true")
    assert (done.stderr, done.returncode) == ("", 141)
    done = piped("(sleep 0.1; costmodel recommend 2>&1) | true")
    assert (done.stderr, done.returncode) == ("", 2)


@pytest.mark.parametrize("command", ["data", "--version", "recommend --arch gfx942"])
def test_a_full_disk_is_one_line(command):
    done = piped(f"costmodel {command} > /dev/full")
    assert done.returncode == 2
    said = "costmodel: error: cannot write the output: No space left on device\n"
    assert done.stderr == said


def test_without_standard_output_nothing_breaks():
    done = piped("costmodel recommend --arch gfx942 >&-")
    assert (done.stderr, done.returncode) == ("", 0)


BROKEN = """
import sys
import costmodel.cli.gpus as module
def callback(style):
    raise RuntimeError("deep\\x1b down\\nand out")
module.command.callback = callback
from costmodel.cli.main import main
main(sys.argv[1:])
"""


def broken(*args, **environment):
    return subprocess.run(
        [sys.executable, "-c", BROKEN, *args], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_an_internal_error_is_one_line_and_exit_code_70():
    done = broken("gpus")
    assert done.returncode == 70
    assert done.stdout == ""
    assert done.stderr == (
        "costmodel: internal error: RuntimeError: deep\\x1b down and out; run again with --debug "
        "for the traceback, and keep the output of 'costmodel doctor'\n"
    )


@pytest.mark.parametrize(
    ("args", "environment"),
    [
        (["--debug", "gpus"], {}),
        (["gpus", "--debug"], {}),
        (["gpus"], {"COSTMODEL_DEBUG": "1"}),
    ],
)
def test_debug_shows_the_traceback(args, environment):
    done = broken(*args, **environment)
    assert done.returncode == 70
    assert "Traceback (most recent call last)" in done.stderr
    assert "in callback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("costmodel: internal error: RuntimeError")
    assert "--debug" not in done.stderr.splitlines()[-1]


def test_debug_changes_nothing_where_all_is_well():
    assert ok("--debug", "gpus") == ok("gpus", "--debug") == ok("gpus")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("costmodel re", ["recommend", "report"]),
        ("costmodel recommend --gpu mi3", ["MI300X", "MI308X", "MI325X", "MI355X", "MI350X"]),
        ("costmodel recommend --arch gfx95", ["gfx950"]),
        ("costmodel predict --model gpt", ["gpt-oss-20b", "gpt-oss-120b"]),
        ("costmodel predict --op fus", ["fused"]),
        ("costmodel predict --dtype b", ["bf16"]),
        ("costmodel emit --rule sglang-1", ["sglang-128k"]),
        ("costmodel predict --algo", ["--algorithm"]),
        ("costmodel report --for a", ["aiter", "atom"]),
        ("costmodel recommend --otherwise sep", ["separate"]),
        ("costmodel tune --backend tr", ["triton"]),
        ("costmodel plot lat", ["latency-tp4", "latency-tp8"]),
    ],
)
def test_the_shell_can_complete(typed, offered):

    words = typed.split()
    done = subprocess.run(
        [sys.executable, "-m", "costmodel"], capture_output=True, text=True, check=False,
        env={**os.environ, "_COSTMODEL_COMPLETE": "bash_complete", "COMP_WORDS": typed,
             "COMP_CWORD": str(len(words) - 1)},
    )  # fmt: skip
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == offered
    assert done.stderr == ""


def test_completing_a_command_imports_none():
    code = (
        "import os, sys\n"
        "os.environ.update(_COSTMODEL_COMPLETE='bash_complete', COMP_WORDS='costmodel ', COMP_CWORD='1')\n"
        "from costmodel.cli.main import COMMANDS, main\n"
        "try:\n"
        "    main([])\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0, ended.code\n"
        "loaded = [m for m in sys.modules if m.startswith('costmodel.cli.')]\n"
        "assert loaded == ['costmodel.cli.main'], loaded\n"
        "assert 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(COMMANDS)


def test_bash_takes_the_completion_script():
    script = subprocess.run(
        [sys.executable, "-m", "costmodel"], capture_output=True, text=True, check=True,
        env={**os.environ, "_COSTMODEL_COMPLETE": "bash_source"},
    ).stdout  # fmt: skip
    assert "complete -o nosort -F _costmodel_completion costmodel" in script
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["emit", "--for", "json", "--arch", "gfx942"], "--out"),
        (["emit", "--for", "sglang", "--arch", "gfx942"], "--tests"),
        (["simulate", "--arch", "gfx950", "--tokens", "1", "--tp", "2"], "--trace"),
        (["calibrate", "--published", "--arch", "gfx950", "--no-cross-validation"], "--out"),
    ],
)
def test_every_output_file_behaves_alike(args, option, tmp_path):

    import stat

    target = tmp_path / "target"
    target.write_text("mine\n")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to("target")
    for name in ("target", "link"):
        assert "exists; give --force" in refused(*args, option, tmp_path / name)
    assert target.read_text() == "mine\n"
    ok(*args, option, tmp_path / "link", "--force")
    assert (tmp_path / "link").is_symlink()
    assert len(target.read_text()) > 100
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert "is a directory" in refused(*args, option, tmp_path)
    assert "no directory" in refused(*args, option, tmp_path / "no" / "where")
    ok(*args, option, os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "target"]


def test_a_report_asks_for_whom_it_is(tmp_path):
    done = costmodel(
        "report", "--arch", "gfx950", "--model", "gpt-oss-120b", "--out", tmp_path / "r"
    )
    assert done.returncode == 2
    assert done.stderr == "costmodel: error: Missing option '--for' (see costmodel report --help)\n"
    assert not (tmp_path / "r").exists()


def test_a_name_that_is_not_printable_is_escaped_where_it_is_said(tmp_path):
    """A mark that turns the reading direction, or a terminal's escape, in the name of a file."""
    measurements = Path(__file__).parent.parent / "measurements"
    rows = measurements / "h200-loopback" / "calibration.csv"
    for name, said in (("\u202ec.json", "\\u202ec.json"), ("\x1b[31mc.json", "\\x1b[31mc.json")):
        done = costmodel("calibrate", rows, "--no-cross-validation", "--out", tmp_path / name)
        assert (tmp_path / name).exists(), done.stderr
        assert said in "".join(done.stdout.split())
        assert not {"\u202e", "\x1b"} & set(done.stdout)
