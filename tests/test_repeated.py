"""Rows by kind, read in parts: the same rows, the same answers, the same errors."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from judged_rows import a_row, synthetic
from msgspec.structs import fields

from costmodel.calibration.plausibility import check
from costmodel.data import csv_columns, measurement, repeated
from costmodel.data.measurement import Measurements
from costmodel.data.repeated import KIND, OF_A_ROW, Repeated
from costmodel.decide import row_errors
from costmodel.decide.pairs import calls, pair
from costmodel.decide.setting import Setting
from costmodel.decide.validation import validate
from costmodel.errors import InputError
from costmodel.model.shape import FUSED


@pytest.fixture(scope="module")
def gfx950():
    return Setting.shipped("MI355X")


@pytest.fixture(scope="module")
def rows(gfx950):
    """Rows of sweeps by two sources and on two GPUs, some noisy, of separate ops and of auto."""
    sweeps = [synthetic(gfx950, noise=0.02, seed=seed).to_rows() for seed in range(4)]
    more = [
        {**row, "quality": "noisy"}
        if i % 7 == 0
        else {
            **row, "gpu": "MI350X", "source": "theirs",
            "latency_us": str(5 + float(row["latency_us"])),
        }
        for i, row in enumerate(sweeps.pop())
    ]  # fmt: skip
    more += [{**row, "latency_us": str(1.001 * float(row["latency_us"]))} for row in more]
    apart = [
        {**row, "op": "ar_then_rmsnorm", "latency_us": str(1.02 * float(row["latency_us"]))}
        for row in sweeps[0][::3]
    ]
    auto = [
        {**row, "algorithm": "auto", "latency_us": str(1.01 * float(row["latency_us"]))}
        for row in sweeps[1][::5]
    ]
    mixed = [row for two in zip(*sweeps, strict=True) for row in two]
    return [*mixed, *more, *apart, *auto]


@pytest.fixture
def small_parts(monkeypatch):
    """Files are read a few kB, and given away some 50 rows, at a time."""
    monkeypatch.setattr(csv_columns, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(csv_columns, "ROWS", 16)
    parts = measurement.parts
    monkeypatch.setattr(measurement, "parts", lambda path, rows=50: parts(path, rows))
    return monkeypatch


def same(found: Measurements, expected: Measurements) -> None:
    for field in fields(Measurements):
        one, two = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), field.name)


def spread_out(found: Repeated) -> Measurements:
    """Return a table of every row."""
    row = dict(zip(OF_A_ROW, (found.latency_us, found.line), strict=True))
    cells = {name: getattr(found.kinds, name)[found.kind] for name in KIND}
    return Measurements(**cells, **row)


@pytest.mark.parametrize("quoted", [None, 0, 130])
def test_a_file_in_parts_has_the_rows_of_the_file(rows, quoted, small_parts, tmp_path):
    path = tmp_path / "rows.csv"
    Measurements.from_rows(rows).write(path)
    if quoted is not None:  # from there on the csv module reads
        lines = path.read_text().splitlines()
        lines[quoted] = ",".join(f'"{cell}"' for cell in lines[quoted].split(","))
        path.write_text("\n".join(lines))
    parts = list(measurement.parts(path))
    assert len(parts) > 4
    assert all(len(part) for part in parts)
    whole = measurement.read(path)
    same(measurement.stacked(parts), whole)
    same(spread_out(repeated.read_all([path])), whole)
    same(spread_out(Repeated.of(whole)), whole)


def test_kinds_differ_and_come_in_the_order_of_their_first_rows(rows):
    table = Measurements.from_rows(rows)
    found = Repeated.of(table)
    number, first = table.numbered(KIND)
    np.testing.assert_array_equal(found.kind, number)
    same(found.kinds, table.select(first))
    assert found.times.tolist() == np.bincount(number).tolist()
    assert found.times.max() > 1
    some = found.kinds.quality == "noisy"
    same(spread_out(found.select(some)), table.select(table.quality == "noisy"))
    same(spread_out(found.having("gpu", ["MI350X"])), table.having("gpu", ["MI350X"]))
    with pytest.raises(InputError, match="no rows of GPU 'MI300X'"):
        found.having("gpu", ["MI300X"])


def test_a_row_takes_sixteen_bytes_and_parts_are_let_go(rows, small_parts, tmp_path):
    path = tmp_path / "rows.csv"
    # Fifty times the same kinds, and no row twice.
    Measurements.from_rows(
        [{**row, "latency_us": float(row["latency_us"]) + k} for k in range(50) for row in rows]
    ).write(path)

    def most(read):
        tracemalloc.start()
        read([path])
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    found = repeated.read_all([path])
    assert len(found) == 50 * len(rows)
    arrays = (found.kind, found.latency_us, found.line)
    assert sum(a.nbytes for a in arrays) == 16 * len(found)
    assert most(repeated.read_all) < 0.5 * most(measurement.read_all)


def test_the_same_row_in_two_parts_or_files_is_named_with_both_places(rows, small_parts, tmp_path):
    table = Measurements.from_rows(rows)
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    Measurements.from_rows(rows[:200]).write(one)
    one.write_text(one.read_text() + one.read_text().splitlines()[3] + "\n")
    with pytest.raises(InputError, match=rf"^{one}:202: the same row as {one}:4;"):
        repeated.read_all([one])
    Measurements.from_rows(rows[:200]).write(one)
    table.select(np.arange(199, 300)).write(other)
    with pytest.raises(InputError, match=rf"^{other}:2: the same row as {one}:201;"):
        repeated.read_all([one, other])
    with pytest.raises(InputError, match=rf"^{other}:2: the same row as {one}:201;"):
        repeated.concat([repeated.read_all([one]), repeated.read_all([other])])
    table.select(np.arange(200, 300)).write(other)
    both = repeated.concat([repeated.read_all([one]), repeated.read_all([other])])
    same(spread_out(both), measurement.read_all([one, other]))


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "the file is empty"), ("HEADER", "a header but no rows"), (None, "No such file")],
)
def test_files_without_rows(text, says, tmp_path):
    path = tmp_path / "rows.csv"
    if text is not None:
        path.write_text(text.replace("HEADER", ",".join(measurement.COLUMNS) + "\n"))
    for read in (measurement.read_all, repeated.read_all):
        with pytest.raises(InputError, match=says):
            read([path])


@pytest.mark.parametrize("include", [("clean",), ("clean", "noisy")])
def test_a_validation_by_kind_is_that_of_every_row(gfx950, rows, include, small_parts, tmp_path):
    """Beside rows of a kind each: with a line of its own no row shares another's path."""
    path = tmp_path / "rows.csv"
    Measurements.from_rows(rows).write(path)
    table = measurement.read(path)
    apart = Measurements(
        **{f.name: getattr(table, f.name) for f in fields(table) if f.name != "path"},
        path=[f"{path}-{i}" for i in range(len(table))],
    )
    every = validate(apart, gfx950, include=include)
    small_parts.setattr(row_errors, "ROWS_AT_ONCE", 37)
    found = validate(repeated.read_all([path]), gfx950, include=include)
    assert len(every.rows.observations) == len(every.rows) == len(found.rows)
    assert len(found.rows.observations) < 0.6 * len(found.rows)
    assert found.to_dict() == every.to_dict()
    assert found.accuracy == every.accuracy
    # Each source has an offset of its own.
    assert found.accuracy.p90_ape_offset < 6 < 20 < found.accuracy.p90_ape
    assert found.three_way is not None
    assert found.rows.observations.set_aside == every.rows.observations.set_aside
    assert found.rows.observations.read == every.rows.observations.read == len(rows)
    assert (found.failures, found.own_sources) == (every.failures, every.own_sources)
    np.testing.assert_array_equal(found.rows.inside, every.rows.inside)


def test_pairs_of_a_table_name_its_rows_and_those_of_kinds_a_kind(rows):
    table = Measurements.from_rows(rows)
    of_table, by_kind = pair(table, FUSED), calls(Repeated.of(table), FUSED)
    by_kind = by_kind.select(by_kind.both)
    np.testing.assert_array_equal(of_table.one_us, by_kind.one_us)
    _, first = table.numbered(KIND)
    np.testing.assert_array_equal(of_table.row, first[by_kind.row])
    np.testing.assert_array_equal(table.tokens[of_table.row], of_table.tokens)


def test_units_are_judged_over_all_rows_of_a_source_and_named_at_a_row(rows, small_parts, tmp_path):
    path = tmp_path / "rows.csv"
    milliseconds = [{**r, "latency_us": float(r["latency_us"]) / 1000} for r in rows]
    Measurements.from_rows(milliseconds).write(path)
    said = []
    for read in (measurement.read_all, repeated.read_all):
        with pytest.raises(InputError, match="it looks like milliseconds") as caught:
            check(read([path]))
        said.append(str(caught.value))
    assert said[0] == said[1]
    mine = sum(row["source"] == "mine" for row in rows)
    assert f"; {mine} of {mine} rows of source 'mine' are" in said[0]
    check(Measurements.from_rows([a_row(), a_row(latency_us=9.6)]))
