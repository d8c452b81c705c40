"""Arrivals: what a specification draws, and what a file may say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from costmodel.errors import InputError
from costmodel.model.latency import EXPECTED_MAXIMUM
from costmodel.simulation.skew import Skew, parse, read_arrivals


def test_specifications():
    assert parse("normal:20") == Skew("normal", 20.0)
    assert parse("uniform:0.5") == Skew("uniform", 0.5)
    assert parse("exponential:3") == Skew("exponential", 3.0)


@pytest.mark.parametrize("kind", ["normal", "uniform", "exponential"])
def test_draws_repeat_and_scale(kind):
    drawn = Skew(kind, 2.0).draw(8, seed=5, count=3)
    assert drawn.shape == (3, 8)
    assert (drawn.min(axis=1) == 0).all()
    assert drawn.tobytes() == Skew(kind, 2.0).draw(8, seed=5, count=3).tobytes()
    assert Skew(kind, 6.0).draw(8, seed=5, count=3) == pytest.approx(3 * drawn)
    assert (Skew(kind, 2.0).draw(8, seed=6) != drawn[:1]).any()


@pytest.mark.parametrize("ranks", EXPECTED_MAXIMUM)
def test_normal_arrivals_have_the_spread_of_the_closed_form(ranks):
    # Latest minus earliest of N normals is twice the expected maximum, by symmetry.
    drawn = Skew("normal", 1.0).draw(ranks, seed=1, count=20_000)
    assert drawn.max(axis=1).mean() == pytest.approx(2 * EXPECTED_MAXIMUM[ranks], rel=0.02)


def test_means_of_the_other_distributions():
    # Spread of N uniforms on [0, w]: w (N-1)/(N+1); of N exponentials: mean x H(N-1).
    uniform = Skew("uniform", 9.0).draw(8, seed=1, count=20_000)
    assert uniform.max(axis=1).mean() == pytest.approx(7.0, rel=0.02)
    exponential = Skew("exponential", 1.0).draw(4, seed=1, count=20_000)
    assert exponential.max(axis=1).mean() == pytest.approx(1 + 1 / 2 + 1 / 3, rel=0.02)


def test_reads_a_file(tmp_path):
    path = tmp_path / "arrivals.txt"
    path.write_text("# us\n0\n 12.5 # the slow host\n\nnever\n")
    assert read_arrivals(path, 3).tolist() == [0.0, 12.5, np.inf]
    assert parse(str(path)) == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n-3\n1\n", r"arrivals.txt:2: arrival -3 us is negative"),
        ("0\nsoon\n1\n", r"arrivals.txt:2: 'soon' is no arrival"),
        ("0\ninf\n1\n", r"arrivals.txt:2: 'inf' is no arrival"),
        ("0\nnan\n1\n", r"arrivals.txt:2: 'nan' is no arrival"),
        ("0\n1\n", "2 arrivals for 3 ranks"),
        ("", "0 arrivals for 3 ranks"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "arrivals.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_arrivals(path, 3)


def test_a_binary_file_and_a_directory(tmp_path):
    path = tmp_path / "arrivals.bin"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_arrivals(path, 3)
    with pytest.raises(InputError, match="irectory"):
        read_arrivals(tmp_path, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("normal:-1", "SIGMA must be a number of us, 0 or more"),
        ("uniform:wide", "skew 'uniform:wide': WIDTH must be"),
        ("exponential:inf", "MEAN must be"),
        ("gauss:3", "no distribution and no file"),
        ("norml:3", "did you mean normal"),
        ("missing.txt", "no distribution and no file; give normal:SIGMA"),
    ],
)
def test_bad_specifications(spec, message):
    assert not Path(spec).exists()
    with pytest.raises(InputError, match=message):
        parse(spec)
