"""``costmodel simulate`` as people and programs meet it, and the timeline that it writes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from costmodel.cli.main import main

MI355X = ("--arch", "gfx950")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command in a directory of its own; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            main(["simulate", *map(str, args)])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


def test_a_real_process_prints_ranks_and_closed_form():
    done = subprocess.run(
        [sys.executable, "-m", "costmodel", "simulate", *MI355X, "--ranks", "4", "--tokens", "16"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1stage: 16 tokens x 7168 (224 KiB), full_mesh of 4 ranks" in done.stdout
    assert "the same to 0.01 %" in done.stdout
    assert "1stage is faster by" in done.stdout
    assert "that a benchmark adds" in done.stdout


def test_json_has_exactly_the_keys(run):
    code, out, _ = run(
        *MI355X, "--algorithm", "2stage", "--ranks", 4, "--skew", "normal:5", "--format", "json"
    )
    record = json.loads(out)
    assert code == 0
    assert list(record) == [
        "schema", "algorithm", "tokens", "hidden_dim", "bytes", "fabric", "ranks", "latency_us",
        "closed_form_us", "departures", "gpu", "calibration", "left_out_us", "notes", "other",
    ]  # fmt: skip
    assert record["schema"] == "costmodel/simulate/1"
    assert (record["algorithm"], record["fabric"]) == ("2stage", "full_mesh")
    assert [r["rank"] for r in record["ranks"]] == [0, 1, 2, 3]
    for rank in record["ranks"]:
        assert list(rank) == [
            "rank", "arrival_us", "finish_us", "duration_us", "waiting_us", "terms",
        ]  # fmt: skip
        assert rank["duration_us"] == pytest.approx(rank["finish_us"] - rank["arrival_us"])
        spent = sum(rank["terms"].values()) + rank["waiting_us"]
        assert rank["arrival_us"] + spent == pytest.approx(rank["finish_us"])
    assert (record["gpu"], record["other"]) == ("MI355X", None)
    assert record["left_out_us"] > 0
    last = max(r["arrival_us"] for r in record["ranks"])
    ends = max(r["finish_us"] for r in record["ranks"])
    assert record["latency_us"] == pytest.approx(ends - last)


def test_json_of_both_is_the_faster(run):
    for tokens, faster in ((4, "1stage"), (256, "2stage")):
        _, out, _ = run(*MI355X, "--ranks", 8, "--tokens", tokens, "--format", "json")
        assert json.loads(out)["algorithm"] == faster


def test_a_seed_fixes_the_output(run):
    call = (*MI355X, "--skew", "exponential:9", "--format", "json", "--seed")
    assert run(*call, 3) == run(*call, 3)
    assert run(*call, 3) != run(*call, 4)


def test_faults_are_named(run):
    code, out, _ = run(
        *MI355X, "--link", "0-3=0.5", "--slow", "2=1.5", "--cus", "1=8", "--background", "4-5=20x8"
    )
    assert code == 0
    assert "links changed: 0-3=0.5" in out
    assert "slow ranks: 2 x 1.5" in out
    assert "a rank runs 8 of 32 workgroups at once" in out
    assert "background traffic on 1 paths" in out


def test_other_fabrics_say_where_their_figures_come_from(run):
    _, out, _ = run(*MI355X, "--fabric", "mi450")
    assert "mi450 of 72 ranks" in out
    assert "1640 GB/s (measured push between one pair of a 4-GPU node)" in out
    _, out, _ = run(*MI355X, "--fabric", "mi250x")
    assert "65.5, 47.4, 36 GB/s" in out
    assert "no closed form" in out


def test_timeline_is_what_perfetto_reads(run, tmp_path):
    code, out, _ = run(*MI355X, "--ranks", 4, "--skew", "uniform:30", "--trace", "out.json")
    assert code == 0
    assert "timeline: out.json" in out
    trace = json.loads((tmp_path / "out.json").read_text())
    events = trace["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {"1stage rank 0", "2stage rank 3", "1stage links (GB/s)"} <= names
    slices = [e for e in events if e["ph"] == "X"]
    assert {"launch", "link_read", "link_write", "local_pass"} <= {e["name"] for e in slices}
    assert all(e["dur"] > 0 and e["ts"] >= 0 for e in slices)
    # Slices of a track do not overlap.
    tracks: dict[tuple[int, int], float] = {}
    for e in slices:
        track = (e["pid"], e["tid"])
        assert e["ts"] >= tracks.get(track, 0.0) - 1e-9
        tracks[track] = e["ts"] + e["dur"]
    counters = [e for e in events if e["ph"] == "C"]
    assert {"0>1", "3>2"} <= {e["name"] for e in counters}
    assert max(e["args"]["GB/s"] for e in counters if ">" in e["name"]) > 50
    ends = {}
    for e in counters:
        ends[e["pid"], e["name"]] = e["args"]["GB/s"]
    assert set(ends.values()) == {0.0}


def test_sweep_prints_a_map(run):
    code, out, _ = run(*MI355X, "--sweep", "ranks=2,4", "--sweep", "link:0-1=1,0.5")
    assert code == 0
    lines = out.splitlines()
    assert lines[1].split() == ["ranks", "link=1", "link=0.5"]
    assert lines[3].split() == ["2", "1-stage", "1-stage"]
    code, out, _ = run(*MI355X, "--ranks", 4, "--sweep", "rate=1,2", "--format", "json")
    one, two = (cell["cutoff_bytes"] for cell in json.loads(out)["cells"])
    assert two > 1.5 * one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fabric", "torus"], "unknown fabric 'torus'"),
        (["--link", "0-9=0.5"], "no link 0-9 in full_mesh of 8 ranks"),
        (["--link", "0-3=0"], "no path from rank 0 to rank 3"),
        (["--link", "0-3"], "--link 0-3: write it as 0-3=0.5"),
        (["--link-gbps", "0"], "the rate must be more than 0"),
        (["--ranks", "16"], "at most 8 ranks"),
        (["--fabric", "ring", "--link", "0-1=0", "--link", "4-5=0"], "disconnected"),
        (["--skew", "arrivals.txt"], "arrivals.txt:2: arrival -1 us is negative"),
        (["--skew", "absent.txt"], "no distribution and no file"),
        (["--slow", "8=2"], "the fabric has ranks 0 to 7"),
        (["--cus", "3=0"], "blocked at 1.33 us: ranks 0-2, 4-7 spun at entry_barrier"),
        (["--background", "0=3"], "write it as 0-3=20"),
        (["--cost", "norm=1"], "unknown cost 'norm'"),
        (["--sweep", "skew="], "write it as skew=0,5,20"),
        (["--sweep", "rate:0-1=1"], "only link and slow name what they change"),
        (["--sweep", "rate=1", "--sweep", "rate=2"], "rate is given twice"),
        (["--sweep", "rate=1", "--trace", "x.json"], "leave out --sweep"),
        (["--layers"], "add --sweep"),
        (["--hidden", "2880,4096"], "one hidden size"),
        (["--tokens", "0"], "tokens must be 1 or more"),
        (["--trace", "no/such/place.json"], "cannot write"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, tmp_path, options, message):
    (tmp_path / "arrivals.txt").write_text("0\n-1\n0\n0\n0\n0\n0\n0\n")
    code, out, err = run(*MI355X, *options)
    assert code == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("costmodel: error: ")
    assert message in lines[0]
    assert not list(tmp_path.glob("*.json"))
