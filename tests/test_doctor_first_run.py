"""``costmodel doctor --backend``: a first look through a back end, on real processes."""

import json

import pytest
from test_live_aiter import KERNELS, torchrun

pytest.importorskip("torch", reason="the live back ends compute with torch")

from command import costmodel

from costmodel.live.backends.gloo import GlooBackend
from costmodel.live.machine import Check
from costmodel.live.run.checkup import record

DOCTOR = ("-m", "costmodel", "doctor", "--backend")


def first_run(backend, *arguments, ranks=2, **environment):
    code, out, said = torchrun(
        *DOCTOR, backend, *arguments, ranks=ranks, AITER_LOG_LEVEL="ERROR", **environment
    )
    return code, out, said


def found(out):
    record = json.loads(out)
    assert record["schema"] == "costmodel/doctor/1"
    return {c["name"]: c for c in record["checks"]}, record["abilities"][0]


def test_the_standin_is_ready_and_everything_was_looked_at():
    ranks = 2
    code, out, _ = first_run("aiter", "--format", "json")
    assert code == 0
    checks, able = found(out)
    assert able == {"what": "measure --backend aiter", "possible": True, "lacks": []}
    assert [*checks] == [
        "ranks", "GPUs of the ranks", "link rates", "kernels", "compiled kernels", "stages",
        "graph", "barrier", "memory",
    ]  # fmt: skip
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert checks["GPUs of the ranks"]["seen"] == f"{ranks} x STANDIN (none)"
    assert len(checks["link rates"]["details"]["gbps"]) == ranks * (ranks - 1)
    assert "taken for AITER 0.1.18; 1stage: no exit barrier" in checks["kernels"]["seen"]
    kernels = checks["stages"]["details"]["kernels"]
    assert kernels["1stage"] == [KERNELS[0].replace("2, f", f"{ranks}, f")]
    assert checks["stages"]["details"]["same_bits"]
    assert set(checks["barrier"]["details"]["latency_us"]) == {"1stage", "2stage"}
    assert checks["memory"]["details"]["growth_bytes"]["device"] == 0


DEVICES = """
import json
from costmodel.live.backends.aiter.adapter import AiterBackend
from costmodel.live.run.checkup import STEPS
backend = AiterBackend(4)
backend.set_up()
checks = STEPS["looking at devices, links and library"](backend)
if backend.local_ranks == (0,):
    print(json.dumps({c.name: c.to_dict() for c in checks}))
backend.close()
backend.leave()
"""


def test_four_ranks_have_a_rate_for_each_link_of_each(tmp_path):
    script = tmp_path / "devices.py"
    script.write_text(DEVICES)
    code, out, _ = torchrun(script, ranks=4, AITER_LOG_LEVEL="ERROR")
    assert code == 0
    checks = json.loads(out.splitlines()[-1])
    assert checks["GPUs of the ranks"]["seen"] == "4 x STANDIN (none)"
    assert checks["link rates"]["status"] == "ok"
    assert len(checks["link rates"]["details"]["gbps"]) == 4 * 3


def test_each_thing_that_is_wrong_is_said_with_what_to_do():
    code, out, _ = first_run(
        "aiter", AITER_STANDIN_FAULT="falls-back,leak,slow-link",
        AITER_STANDIN_VERSION="99.1.0",
    )  # fmt: skip
    assert code == 1
    said = " ".join(out.split())
    assert "1-stage was asked for and 2-stage ran on rank 0: aiter::reduce_scatter" in said
    assert "device +200.0 MiB" in said
    assert "set HSA_ENABLE_IPC_MODE_LEGACY=1, or measure in pieces" in said
    assert "slow: 0 to 1 (10)" in said
    assert "newer than" in said
    verdict = out[out.index("not ready:") :]
    assert [line.split(":")[0] for line in verdict.splitlines() if line.startswith("  - ")] == [
        "  - link rates", "  - stages", "  - memory",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("disabled", "not ready: AITER's custom all-reduce is disabled on 2 ranks"),
        ("no-capture", "not ready: AITER refuses it: operation not permitted when stream is"),
    ],
)
def test_ranks_that_cannot_be_set_up_end_in_one_line(fault, says):
    code, _, said = first_run("aiter", AITER_STANDIN_FAULT=fault)
    assert code == 1
    assert len(said) == 1
    assert says in said[0]


def test_a_run_in_the_same_directory_keeps_what_was_found(tmp_path):
    run = tmp_path / "run"
    code, out, _ = first_run("gloo", "--out", run)
    assert code == 0
    assert out.endswith("\nready\n")
    assert "gloo has none; calls are issued one by one" in out
    before = json.loads((run / "environment.json").read_text())
    assert [check["name"] for check in before["doctor"]] == [
        "ranks", "stages", "graph", "barrier", "memory",
    ]  # fmt: skip
    code, _, _ = torchrun(
        "-m", "costmodel", "measure", "--backend", "gloo", "--hidden", "64", "--tokens", "1",
        "--rounds", "4", "--samples", "1", "--slots", "1", "--calls", "1", "--out", run,
    )  # fmt: skip
    assert code == 0
    after = json.loads((run / "environment.json").read_text())
    assert after["doctor"] == before["doctor"]
    assert after["backend"]["gpu"] == "CPU"
    record([Check("one", "ok", "more")], GlooBackend(2), run)  # beside what the run wrote
    assert json.loads((run / "environment.json").read_text()) == {
        **after,
        "doctor": [{"name": "one", "status": "ok", "seen": "more", "advice": ""}],
    }


def alone(*arguments, path=None):
    done = costmodel("doctor", *arguments)
    return done.returncode, done.stdout, done.stderr


def test_without_ranks_it_answers_in_words():
    code, out, error = alone("--backend", "aiter", "--tp", "8")
    assert (code, error) == (1, "")
    assert "start torchrun --nproc-per-node=8 -m costmodel doctor --backend aiter" in out
    assert "\nnot ready:\n" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tp", "4"), "--tp belongs to --backend"),
        (("--out", "x"), "--out belongs to --backend"),
        (("--backend", "glo"), "unknown back end 'glo' (did you mean gloo?)"),
        (("--backend", "gloo", "--watchdog", "0"), "--watchdog is 0; give seconds, more than 0"),
    ],
)
def test_bad_input(arguments, says):
    code, _, error = alone(*arguments)
    assert code == 2
    assert says in error
    assert len(error.splitlines()) == 1
