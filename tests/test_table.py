"""Tables fit the width, wrap texts, keep numbers whole, and lose nothing."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.show.table import filled, table, terminal_width

ROWS = [
    ("TP4", 7168, "14 KiB", "<= 288 KiB", "180 KiB to 405 KiB", "carried from other GPUs " * 3),
    ("TP8", 7168, "3.5 MiB", "always", "-", "measured here"),
]
HEAD = ("ranks", "hidden", "bytes", "1-stage when", "90 % interval", "evidence")


def test_a_table_that_fits_is_left_alone():
    text = table(ROWS, HEAD, width=500)
    assert len(text.splitlines()) == 4
    assert "carried from other GPUs " * 2 in text


def test_texts_wrap_and_numbers_keep_their_units():
    for width in (60, 80, 100):
        text = table(ROWS, HEAD, width=width)
        assert max(map(len, text.splitlines())) <= width
        for whole in ("14 KiB", "<= 288 KiB", "180 KiB", "405 KiB", "3.5 MiB"):
            assert whole in text, (width, text)


def test_many_columns_go_in_parts_that_tell_the_rows_apart():
    head = ["ranks", "tokens", *(f"some_term_{i}" for i in range(12))]
    rows = [["TP4", t, *(f"{i + t}.25" for i in range(12))] for t in (1, 2)]
    parts = table(rows, head, width=80).split("\n\n")
    assert len(parts) > 1
    for part in parts:
        assert max(map(len, part.splitlines())) <= 80
        assert re.match(r"ranks +tokens ", part)
        assert [line.split()[:2] for line in part.splitlines()[2:]] == [["TP4", "1"], ["TP4", "2"]]
    assert sum(part.count("some_term") for part in parts) == 12


def test_names_break_only_where_nothing_else_fits():
    rows = [("a_source_of_rows" * 2, "fused_ar_rmsnorm_quant_mxfp4", i) for i in range(3)]
    assert "fused_ar_rmsnorm_quant_mxfp4" in table(rows, ("source", "op", "rows"), width=80)
    text = table(rows, ("source", "op", "rows"), width=40)
    assert max(map(len, text.splitlines())) <= 40


CELL = st.one_of(
    st.integers(0, 10**9),
    st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=12),
    st.lists(st.text(st.characters(codec="ascii", categories=("L",)), min_size=1, max_size=9),
             max_size=12).map(" ".join),
)  # fmt: skip


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=6)
    ),
    st.booleans(),
)
def test_everything_is_shown_within_the_width(rows, right):
    head = [f"h{i}" for i in range(len(rows[0]))]
    text = table(rows, head, right=right, width=80)
    shown = text.split()
    for row in rows:
        for cell in row:
            assert all(word in shown for word in str(cell).split())
    keys = sum(min(12, max(len(str(r[i])) for r in rows)) + 2 for i in range(len(head) - 1))
    if keys + 14 <= 80:
        assert max(map(len, text.splitlines())) <= 80


def test_the_width_is_of_columns_then_the_terminal_then_100(monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert terminal_width() == 140
    monkeypatch.setenv("COLUMNS", "20")
    assert terminal_width() == 80
    monkeypatch.setenv("COLUMNS", "wide")
    assert terminal_width() == 100
    monkeypatch.delenv("COLUMNS")
    assert terminal_width() == 100


def on_a_terminal(*args, columns=80, **environment):
    """Return what a command prints on a pseudo-terminal of so many columns."""
    import fcntl
    import struct
    import termios

    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "costmodel", *args], stdout=end, stderr=end,
        env={**env, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(end)
    out = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # Linux ends a pseudo-terminal with EIO
            break
        if not chunk:
            break
        out += chunk
    os.close(main)
    assert process.wait(120) == 0, out
    return out.decode()


def test_tables_fit_a_real_terminal():
    widths = {}
    for columns in (80, 120):
        text = on_a_terminal("gpus", columns=columns).replace("\r", "")
        lines = [line for line in text.splitlines() if not line.startswith("[")]
        widths[columns] = max(map(len, lines))
        assert widths[columns] <= columns
        assert "MI355X" in text


def test_colour_is_for_terminals_that_want_it(tmp_path):
    # A look at torch is most of what doctor takes.
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert "\x1b[" in on_a_terminal("doctor", PYTHONPATH=path)
    assert "\x1b[" not in on_a_terminal("doctor", NO_COLOR="1", PYTHONPATH=path)
    assert "\x1b[" not in on_a_terminal("doctor", TERM="dumb", PYTHONPATH=path)
    done = subprocess.run(
        [sys.executable, "-m", "costmodel", "doctor"], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert "\x1b[" not in done.stdout


@given(
    st.lists(st.sampled_from(["TP4", "120 KiB", "to", "0.15 %", "<= 232 KiB", "transferred,"]),
             min_size=1, max_size=60),
    st.integers(80, 120),
)  # fmt: skip
def test_sentences_are_filled_and_part_no_number_from_its_unit(words, width):
    lines = filled(" ".join(words), width).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(line.strip() for line in lines) == " ".join(words)
    for line in lines:
        assert not re.match(r" *(KiB|%)", line)
        assert not line.endswith("<=")


@pytest.mark.parametrize(
    "words",
    [
        ("recommend", "--arch", "gfx942"),
        ("recommend", "--gpu", "MI355X", "--model", "gpt-oss-120b", "--for", "vllm", "--verbose"),
        ("explain", "--arch", "gfx942", "--tp", "8", "--hidden", "2880", "--tokens", "32"),
        ("explain", "--gpu", "MI355X", "--tp", "4", "--hidden", "7168", "--tokens", "8"),
        ("explain", "--gpu", "MI355X", "--tp", "4", "--hidden", "7168", "--all"),
    ],
)
def test_answers_fit_80_columns_and_come_first(words):
    done = subprocess.run(
        [sys.executable, "-m", "costmodel", *words], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    if words[0] == "recommend":
        assert lines[0].startswith("run 1-stage: TP")
        assert any(line.startswith("how sure: TP") for line in lines[1:3])
    elif "--all" in words:
        assert "by how much 2-stage is slower (+) or faster (-)" in lines[0]
    else:
        assert re.match(
            r"[12]-stage is faster by [\d.]+ us \(90 %: .*\), [\d.]+ % of its latency\.$", lines[0]
        )
        assert re.match(r"Run [12]-stage \(recommended at TP\d: 1-stage <= ", lines[1])
