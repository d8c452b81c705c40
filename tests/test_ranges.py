"""One list syntax, wherever whole numbers are listed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cli.options import INTEGERS
from costmodel.data.ranges import LARGEST, MOST, integers
from costmodel.errors import InputError


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("48", (48,)),
        ("1,2,48", (1, 2, 48)),
        (" 1, 2 ,48 ", (1, 2, 48)),
        ("1 2 48", (1, 2, 48)),
        ("1..512", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)),
        ("3..20, 7", (3, 6, 12, 7)),
        ("8:32:8,1:3,5..5", (8, 16, 24, 32, 1, 2, 3, 5)),
        ("8 : 24 : 8 1 .. 4", (8, 16, 24, 1, 2, 4)),
        ("4,2,4,1:5", (4, 2, 1, 3, 5)),
        ("10:12:5", (10,)),
        (str(LARGEST), (LARGEST,)),
    ],
)
def test_lists(text, numbers):
    assert integers(text) == numbers
    assert INTEGERS.convert(text, None, None) == numbers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a number is missing"),
        ("1,,2", "a number is missing"),
        ("1,2,", "a number is missing"),
        ("a", "'a' is not a positive integer or a range"),
        ("0", "'0' is not a positive integer"),
        ("-4", "'-4' is not a positive integer"),
        ("1.5", "'1.5'"),
        ("1e3", "'1e3'"),
        ("1_000", "'1_000'"),
        ("٣", "'٣'"),
        ("8..4", "ends before it starts"),
        ("8:4", "ends before it starts"),
        ("1..", "'1..'"),
        ("..4", "'..4'"),
        ("1:", "'1:'"),
        ("1:2:3:4", "'1:2:3:4'"),
        ("1..8:2", "'1..8:2'"),
        ("1:4:0", "'1:4:0'"),
        ("1..2..4", "'1..2..4'"),
        (f"{LARGEST + 1}", "goes beyond"),
        ("9" * 5000, "goes beyond"),
        (f"1:{MOST + 1}", "more than a million"),
        (f"1:{MOST} {MOST + 1}:{MOST + 2}", "more than a million"),
    ],
)
def test_what_is_wrong_is_said_with_the_option(text, says):
    with pytest.raises(InputError) as refused:
        integers(text, "--tokens")
    assert str(refused.value).startswith("--tokens: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.lists(st.integers(1, LARGEST), min_size=1, max_size=50))
def test_numbers_come_back_in_order_each_once(numbers):
    assert integers(",".join(map(str, numbers))) == tuple(dict.fromkeys(numbers))


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 50))
def test_steps_and_doublings_stay_within_their_ends(first, more, step):
    last = first + more
    assert integers(f"{first}:{last}:{step}") == tuple(range(first, last + 1, step))
    doubled = integers(f"{first}..{last}")
    assert doubled[0] == first
    assert doubled[-1] <= last < 2 * doubled[-1]
    assert all(b == 2 * a for a, b in pairwise(doubled))
