"""Columns of text as words, rows told apart by several columns, and the reader in blocks."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import csv_columns, measurement
from costmodel.data.measurement import ALL_COLUMNS, COLUMNS
from costmodel.data.words import Words, combined, joined, members, numbered
from costmodel.errors import InputError

texts = st.lists(st.sampled_from(["", "a", "b", "ab", "MI300X"]), max_size=30)


@given(texts, texts)
def test_words_are_an_array_of_text(first, second):
    text, column = np.array(first, np.str_), Words.of(first)
    assert column.tolist() == list(column) == first
    assert len(column) == column.size == text.size
    for word in ("a", "", "elsewhere"):
        np.testing.assert_array_equal(column == word, text == word)
        np.testing.assert_array_equal(column != word, text != word)
        np.testing.assert_array_equal(np.equal(word, column), text == word)
    np.testing.assert_array_equal(text == column, np.ones(text.size, np.bool_))
    np.testing.assert_array_equal(text != column, np.zeros(text.size, np.bool_))
    np.testing.assert_array_equal(np.unique(column), np.unique(text))
    np.testing.assert_array_equal(np.isin(column, ["a", "b"]), np.isin(text, ["a", "b"]))
    np.testing.assert_array_equal(np.char.add(column, "/"), np.char.add(text, "/"))
    assert joined([column, Words.of(second)]).tolist() == first + second
    assert column[np.arange(len(first))[::2]].tolist() == first[::2]
    assert column.each(len, np.int64).tolist() == [len(word) for word in first]
    assert column.renamed(str.lower).tolist() == [word.lower() for word in first]
    if first:
        assert column[0] == first[0]
        assert combined((column, column), "{}-{}".format).tolist() == [f"{w}-{w}" for w in first]


def test_a_function_of_words_is_not_asked_about_words_that_no_row_has():
    column = Words.of(["a", "b", "a"])[np.array([0, 2])]
    assert column.each({"a": 1}.__getitem__, np.int64).tolist() == [1, 1]
    assert column.used == ("a",)


numbers = st.sampled_from([np.nan, 0.0, 1.0, 7.0, 2.5, 1e12, 1e300, -1e300])


@given(st.lists(st.tuples(st.sampled_from("ab"), numbers, numbers, st.integers(0, 2)), max_size=30))
def test_rows_have_one_number_when_all_cells_are_equal(rows):
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    number, first = numbered(
        [Words.of(columns[0]), *(np.array(c, np.float64) for c in columns[1:])]
    )
    # As a dictionary would number them; str makes one nan of all.
    seen: dict[str, int] = {}
    assert number.tolist() == [seen.setdefault(str(row), len(seen)) for row in rows]
    assert [str(rows[i]) for i in first] == list(seen)
    groups = members(number, first.size)
    assert [g.tolist() for g in groups] == [
        np.flatnonzero(number == k).tolist() for k in range(first.size)
    ]


def test_a_key_of_many_large_columns_does_not_overflow():
    rng = np.random.default_rng(0)
    columns = [rng.permutation(1000) * 1e9 for _ in range(12)]
    number, first = numbered([np.concatenate([c, c]) for c in columns])
    assert number.tolist() == [*range(1000), *range(1000)]
    assert first.tolist() == [*range(1000)]


PLAIN = st.text(st.sampled_from("ab1.-é "), max_size=5)
AWKWARD = st.text(st.sampled_from('a,"\n\r\t 1'), max_size=5)


def _both_ways(path, monkeypatch):
    """Return what the reader in blocks makes of a file, and what csv makes of it."""

    def outcome():
        try:
            return measurement.read(path)
        except InputError as error:
            return str(error)

    fast = outcome()
    with monkeypatch.context() as patch:
        patch.setattr(csv_columns.GrowingColumns, "add_plain", lambda *_: False)
        return fast, outcome()


def _assert_same(fast, plain):
    assert isinstance(fast, str) == isinstance(plain, str), (fast, plain)
    if isinstance(fast, str):
        # Of several faults either may be the first.
        assert fast.startswith(plain.split(".csv", 1)[0])
    else:
        for name in (*ALL_COLUMNS, "path", "line"):
            np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))


CELLS = st.fixed_dictionaries(
    {}, optional={
        "url": PLAIN | AWKWARD | st.just('"'),
        "kernel_version": PLAIN | AWKWARD,
        "gpu": st.sampled_from([" mi300x", "MI300X ", "", "ß"]),
        "tokens": st.sampled_from(["", " 8 ", "8.0", "8e0", "x", "nan", "-8", "٨", "0008"]),
        "bytes": st.sampled_from(["", "65536", "65537", "1e400"]),
        "latency_us": st.sampled_from(["", "9.25", "1_0", "inf", "0x9", "9.500000000000000001"]),
        "quality": st.sampled_from(["clean", "clean ", "noisy", "dirty"]),
    },
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(CELLS, min_size=1, max_size=6),
    newline=st.sampled_from(["\n", "\r\n"]),
    ending=st.sampled_from(["", "\n", "\n\n", "a,b\n", "\r", "\x00\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.booleans(),
)
def test_blocks_are_read_as_csv_reads_them(
    changes, newline, ending, quoting, mark, tmp_path_factory
):
    from conftest import ROW

    path = tmp_path_factory.getbasetemp() / "blocks.csv"
    with path.open("w", newline="", encoding="utf-8-sig" if mark else "utf-8") as stream:
        writer = csv.writer(stream, lineterminator=newline, quoting=quoting)
        writer.writerow(COLUMNS)
        for i, change in enumerate(changes):
            row = ROW | {"date": f"2026-09-{i + 1:02}"} | change
            writer.writerow([row.get(c, "") for c in COLUMNS])
        stream.write(ending)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_columns, "BLOCK_BYTES", 600)
        _assert_same(*_both_ways(path, patch))


@pytest.mark.parametrize("text", ['two, "quoted"', '"'])
@pytest.mark.parametrize("at", [0, 700, 1399])
def test_a_quote_in_a_later_block_changes_no_row_and_no_line(at, text, row, tmp_path, monkeypatch):
    rows = [row | {"latency_us": 9 + i / 1000, "url": "a"} for i in range(1400)]
    rows[at]["url"] = text
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([r.get(c, "") for c in COLUMNS] for r in rows)
    monkeypatch.setattr(csv_columns, "BLOCK_BYTES", 4096)
    table = measurement.read(path)
    assert table.latency_us.tolist() == [r["latency_us"] for r in rows]
    assert table.url[at] == text
    assert table.line.tolist() == [i + 2 for i in range(1400)]


def test_a_carriage_return_ends_a_row(row, tmp_path, monkeypatch):
    good = ",".join(str(row.get(c, "")) for c in COLUMNS)
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join([",".join(COLUMNS), good.replace("mine", "mi\rne"), ""]).encode())
    for outcome in _both_ways(path, monkeypatch):
        assert isinstance(outcome, str)


def test_a_bad_cell_in_a_later_block_is_named_with_its_line(row, tmp_path, monkeypatch):
    lines = [",".join(COLUMNS)]
    for i in range(400):
        cells = row | {"latency_us": "slow" if i == 321 else 9 + i / 1000}
        lines.append(",".join(str(cells.get(c, "")) for c in COLUMNS))
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(csv_columns, "BLOCK_BYTES", 4096)
    with pytest.raises(InputError, match=r"a.csv:323: latency_us is 'slow', not a number"):
        measurement.read(path)
    path.write_text("\n".join([*lines[:322], lines[322] + ",", *lines[323:]]) + "\n")
    with pytest.raises(InputError, match=r"a.csv:323: 22 cells, the header has 21"):
        measurement.read(path)


def test_bytes_that_are_no_text_are_refused_wherever_they_stand(row, tmp_path):
    good = ",".join(str(row.get(c, "")) for c in COLUMNS)
    for bad in (good.replace("mine", "m\xe9ne"), good.replace("9.5", "9\xe9")):
        path = tmp_path / "a.csv"
        path.write_bytes("\n".join([",".join(COLUMNS), good, bad, ""]).encode("latin-1"))
        with pytest.raises(InputError, match="not a text file"):
            measurement.read(path)
