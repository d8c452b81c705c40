"""What a tuning shows on a terminal while it runs."""

import os
import pty
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.show.sketch import SCALE, two_curves
from costmodel.tuning.knowledge import Known
from costmodel.tuning.view import STEPS, view

KIB = 1024


def test_curves_stand_over_the_scale_and_meet_where_they_cross():
    sizes = [16 * KIB, 256 * KIB, 4096 * KIB]
    drawn = two_curves(sizes, {"1stage": [1.0, 8.0, 64.0], "2stage": [4.0, 8.0, 16.0]}, lines=7)
    rows = [line.partition("|")[2].ljust(SCALE) for line in drawn]
    assert len(rows) == 7
    assert [line.split()[0] for line in (drawn[0], drawn[3], drawn[-1])] == ["60.8", "8.0", "1.1"]
    assert rows[0][-1] == rows[-1][0] == "1"
    columns = ["".join(row[i] for row in rows).strip() for i in range(SCALE)]
    assert all(set(column) <= set("12x ") and column for column in columns)
    assert next(i for i, column in enumerate(columns) if column == "x") in range(15, 20)
    assert columns[0].startswith("2")  # below the crossing 2-stage is the slower, above 1-stage
    assert columns[-1].startswith("1")


def test_curves_outside_the_scale_are_not_drawn():
    assert two_curves([64, 128], {"1stage": [1.0, 2.0], "2stage": [2.0, 3.0]}) == []


@pytest.mark.parametrize("otherwise", ["2stage", "separate"])
def test_the_view_fits_a_narrow_terminal_and_shows_the_last_intervals(otherwise):
    setting = Setting.shipped("MI355X", otherwise=otherwise)
    known = Known(setting, recommend(setting, world_sizes=(4,)), measured=False)
    steps = [
        {"shapes": i, "max_bytes": 300 * KIB, "max_bytes_lo": (40 + 30 * i) * KIB,
         "max_bytes_hi": (2000 - 200 * i) * KIB}
        for i in range(8)
    ]  # fmt: skip
    lines = view(known, 4, steps, "time left: 12 s", fine=False).split("\n")
    assert max(map(len, lines)) < 80
    assert lines[0].endswith("1 1-stage, 2 2-stage" if otherwise == "2stage" else "s separate ops")
    assert any("1" in line for line in lines[1:10])
    closing = [line.count("=") for line in lines if "shape" in line]
    assert len(closing) == STEPS
    assert closing == sorted(closing, reverse=True)
    assert closing[0] > closing[-1]
    assert lines[-1] == "time left: 12 s"


def test_the_view_of_the_plain_op_says_so():
    setting = Setting.shipped("MI300X", op="plain")
    known = Known(setting, recommend(setting, world_sizes=(8,)), measured=False)
    first = view(known, 8, [], "", fine=False).split("\n")[0]
    assert first.startswith("TP8 plain, hidden ")


def run(out, **streams):
    command = [sys.executable, "-m", "costmodel", "tune", "--backend", "replay", "--tp", "4",
               "--hidden", "2880", "--budget", "200", "--rounds", "4", "--samples", "2", "--seed",
               "7", "--out", str(out)]  # fmt: skip
    environment = {**os.environ, "COSTMODEL_REPLAY": "MI355X:17"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **streams)


def test_a_terminal_gets_the_view_and_a_pipe_plain_lines(tmp_path):
    reading, writing = pty.openpty()
    watched = run(tmp_path / "watched", stdout=writing)
    os.close(writing)
    shown = b""
    while True:
        try:
            part = os.read(reading, 1 << 16)
        except OSError:  # the last writer is gone
            break
        if not part:
            break
        shown += part
    assert watched.wait(timeout=120) == 0
    os.close(reading)
    text = shown.decode()
    assert text.count("time left: ") == text.count("TP4 after ")
    assert " us |" in text
    piped = run(tmp_path / "piped", stdout=subprocess.PIPE)
    plain = piped.communicate(timeout=120)[0].decode()
    assert "TP4 after 3 shapes: 1-stage <= " in plain
    assert "time left" not in plain
    assert " us |" not in plain
