"""The campaign on a GPU for every rank, rehearsed on CPU processes: whole, killed, gone on with."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.data import measurement

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
CAMPAIGN = BENCHMARKS / "switch_campaign.py"
STAGES = ["1stage", "2stage"]

pytestmark = pytest.mark.campaign
QUICK = ("--rounds", "4", "--samples", "1", "--seed", "3", "--watchdog", "300")


def write_plans(folder, world_sizes, tokens):
    """Write small plans of the same names as the registered ones."""
    folder.mkdir()
    (folder / "rule.json").write_text(
        (ROOT / "measurements" / "h200-switch" / "rule.json").read_text()
    )
    for name, hidden, arms, sizes in (
        ("planned", 256, [*STAGES, "separate"], world_sizes),
        ("plan", 512, STAGES, [n for n in world_sizes if n > 2] or world_sizes),
        ("live", 384, STAGES, world_sizes),
        ("torch", 256, ["separate"], world_sizes),
    ):
        shapes = [
            {"arms": arms, "world_size": n, "tokens": t, "hidden_dim": hidden, "dtype": "bf16"}
            for n in sizes
            for t in tokens
        ]
        (folder / f"{name}.json").write_text(
            json.dumps({"schema": "costmodel/plan/1", "shapes": shapes})
        )
    return folder


def started(ranks, plans, out, *more):
    """Start the campaign as torchrun does, in a process group of its own."""
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", CAMPAIGN,
        "--backend", "gloo", "--plans", plans, "--out", out, *QUICK, *more,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(process):
    said = process.communicate(timeout=540)[0]
    assert process.returncode == 0, said[-3000:]
    return said


def unpacked(out, n):
    """Return the folder of an archive's content."""
    with tarfile.open(out / f"tp{n}.tar.gz") as archive:
        archive.extractall(out / "unpacked", filter="data")
    return out / "unpacked" / f"tp{n}"


def calls(path):
    rows = measurement.read(path)
    return sorted(zip(rows.tokens.tolist(), rows.op, rows.algorithm, strict=True))


@pytest.mark.parametrize(
    ("ranks", "sizes", "steps"),
    [(2, [2], ("--steps", "doctor,planned,test,live,barriers,copies,torch")),
     (4, [4, 2], ("--tp", "4,2", "--steps", "planned,test,live")),
     (8, [8], ("--steps", "planned,test,live"))],
)  # fmt: skip
def test_a_campaign_leaves_an_archive_for_each_world_size(tmp_path, ranks, sizes, steps):
    plans = write_plans(tmp_path / "plans", sizes, [2])
    said = ended(started(ranks, plans, tmp_path / "out", *steps))
    for n in sizes:
        folder = unpacked(tmp_path / "out", n)
        tested = n > 2 or sizes == [2]
        for step, hidden, arms in (("planned", 256, 3), ("test", 512, 2), ("live", 384, 2)):
            if step == "test" and not tested:
                assert f"left out: test, TP{n}: the plan has no shape of it" in said
                assert not (folder / "test").exists()
                continue
            rows = measurement.read(folder / "rows" / f"{step}-tp{n}.csv")
            assert set(rows.hidden_dim.tolist()) == {hidden}
            assert (set(rows.source), set(rows.world_size.tolist())) == ({"plans"}, {n})
            assert len(rows) == arms
            assert (folder / "rows" / f"{step}-tp{n}.environment.json").exists()
            assert (folder / step / "samples.jsonl").read_text().count('"kind":"shape"') == 1
        assert f"TP{n}, live: done" in said
    assert said.count("live: rule h200-switch-predicted takes the faster arm on") == len(sizes)
    if ranks == 2:
        for step in ("barriers", "copies", "torch"):
            assert f"left out: {step}: back end gloo has none" in said
        known = json.loads((unpacked(tmp_path / "out", 2) / "doctor/environment.json").read_text())
        assert "stages" in {check["name"] for check in known["doctor"]}


def test_a_killed_campaign_is_whole_as_far_as_it_came_and_goes_on(tmp_path):
    out, tokens = tmp_path / "out", [1, 2, 4, 8]
    plans = write_plans(tmp_path / "plans", [2], tokens)
    steps = ("--steps", "planned,test,live")
    process = started(2, plans, out, *steps)
    samples = out / "test" / "tp2" / "samples.jsonl"
    until = time.monotonic() + 300
    while not (samples.exists() and samples.read_bytes().count(b"\n")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = samples.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert 1 <= whole.count(b"\n") < len(tokens)

    # All that was measured is in the archive, though nobody ended the run.
    packed = subprocess.run(
        [sys.executable, CAMPAIGN, "--pack", "--plans", plans, "--out", out],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert packed.stdout.startswith(f"{out}/tp2.tar.gz: ")
    rows = unpacked(out, 2) / "rows"
    assert len(calls(rows / "planned-tp2.csv")) == 3 * len(tokens)
    assert len(calls(rows / "test-tp2.csv")) in (
        2 * (whole.count(b"\n") - 1), 2 * whole.count(b"\n") - 1, 2 * whole.count(b"\n"),
    )  # fmt: skip

    said = ended(started(2, plans, out, *steps, "--resume"))
    assert "continuing run" in said
    assert samples.read_bytes().startswith(whole)
    rows = unpacked(out, 2) / "rows"
    for step, arms in (("planned", 3), ("test", 2), ("live", 2)):
        found = calls(rows / f"{step}-tp2.csv")
        assert len(found) == len(set(found)) == arms * len(tokens)


def test_a_campaign_that_was_begun_is_not_begun_again(tmp_path):
    plans = write_plans(tmp_path / "plans", [2], [2])
    ended(started(2, plans, tmp_path / "out", "--steps", "live"))
    again = started(2, plans, tmp_path / "out", "--steps", "live")
    said = again.communicate(timeout=540)[0]
    assert again.returncode == 1  # torchrun's word for any failure
    assert "holds a run already; continue it with --resume" in said


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--out", "run"), "start it as torchrun --nproc-per-node 4"),
     (("--out", "run", "--steps", "planed"), "steps are doctor, planned, test, live")],
)  # fmt: skip
def test_what_it_cannot_do_is_said_in_a_line(tmp_path, options, word):
    done = subprocess.run(
        [sys.executable, CAMPAIGN, *options], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 2
    assert word in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def copies():
    pytest.importorskip("triton", minversion="3.4", reason="triton 3.4 or newer is not installed")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("peer_copies")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_every_link_is_used_alone_and_all_at_once(copies, ranks):
    found = dict(copies.patterns(ranks))
    pairs = [peers for name, peers in found.items() if name[0].isdigit()]
    assert sorted((r, p) for peers in pairs for r, mine in enumerate(peers) for p in mine) == [
        (r, p) for r in range(ranks) for p in range(ranks) if r != p
    ]
    assert all(sum(map(len, peers)) == 1 for peers in pairs)
    shifts = [peers for name, peers in found.items() if name.endswith(" on")]
    assert len(shifts) == ranks - 1
    for peers in shifts:  # each port gives to one and takes from one
        assert sorted(p for mine in peers for p in mine) == list(range(ranks))
        assert all(len(mine) == 1 and mine != (r,) for r, mine in enumerate(peers))
    whole = found.get("all from all", shifts[0])
    assert all(sorted((r, *mine)) == list(range(ranks)) for r, mine in enumerate(whole))


def test_a_rate_is_what_comes_into_a_reader(copies):
    # 1,000 bytes from each peer in 1 us are 1 GB/s a peer; who reads nothing has no rate.
    assert copies.gbps(1000, [(1,), ()], [1.0, 7.0]) == [1.0]
    assert copies.gbps(1000, [(1, 2), (0, 2), (0, 1)], [1.0, 2.0, 4.0]) == [2.0, 1.0, 0.5]
