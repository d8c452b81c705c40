from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import measurement
from costmodel.data.measurement import COLUMNS, GRID, Measurements
from costmodel.errors import InputError
from costmodel.files import replacing


def write(path, rows, header=COLUMNS):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for row in rows:
            writer.writerow([row.get(c, "") for c in header])
    return path


def test_published_tables_hold_every_row(published):
    assert len(published) == 1848
    assert len(set(published.source)) == 50
    assert float(published.latency_us.min()) > 0


def test_each_source_has_a_file_of_its_own():
    for path in measurement.published_directory().glob("*.csv"):
        assert set(measurement.read(path).source) == {path.stem}


def test_write_and_read_give_the_same_table(tmp_path, published):
    path = tmp_path / "all.csv"
    published.write(path)
    again = measurement.read(path)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(published, name))


def test_rows_may_hold_numpy_s_numbers(row):
    """As a loop over arrays gives them; they print otherwise than Python's."""
    mine = row | {"latency_us": np.float64(9.84), "tokens": np.int64(8), "hidden_dim": 7168}
    theirs = row | {"latency_us": 9.84, "tokens": 8, "hidden_dim": 7168}
    theirs["bytes"] = mine["bytes"] = 8 * 7168 * 2
    assert Measurements.from_rows([mine]).to_rows() == Measurements.from_rows([theirs]).to_rows()


def test_a_launch_grid_is_read_and_written_where_a_row_states_one(tmp_path, row):
    table = Measurements.from_rows([row, row | {"workgroups": 32, "threads": 256}])
    assert table.columns == (*COLUMNS, "workgroups", "threads")
    table.write(tmp_path / "a.csv")
    again = measurement.read(tmp_path / "a.csv")
    np.testing.assert_array_equal(again.workgroups, [np.nan, 32])
    np.testing.assert_array_equal(again.threads, [np.nan, 256])
    assert again.to_rows() == table.to_rows() == Measurements.from_frame(again.to_frame()).to_rows()
    silent = again.select(np.array([0]))
    silent.write(tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    threads = Measurements.from_rows([row | {"threads": 256}])
    assert threads.columns == (*COLUMNS, "threads")
    both = measurement.concat([measurement.read(tmp_path / "b.csv"), threads])
    assert both.to_rows() == [silent.to_rows()[0] | {"threads": ""}, *threads.to_rows()]


def test_published_rows_state_the_grids_that_their_sources_name(published):
    stated = published.select(~np.isnan(published.workgroups) | ~np.isnan(published.threads))
    assert set(stated.source) == {"aiter-5272-mi308", "hip-comms", "hip-comms-tail"}
    for i in range(len(stated)):
        said = stated.kernel_version[i]
        for number, unit in ((stated.workgroups[i], "blocks"), (stated.threads[i], "threads")):
            assert np.isnan(number) or f"{number:.0f} {unit}" in said


def test_frames_go_in_and_out(published):
    some = published.select(np.arange(40))
    again = Measurements.from_frame(some.to_frame())
    np.testing.assert_array_equal(again.latency_us, some.latency_us)
    np.testing.assert_array_equal(again.tokens, some.tokens)


def test_gpu_names_are_taken_in_any_case(tmp_path, row):
    table = measurement.read(write(tmp_path / "a.csv", [row | {"gpu": "mi300x"}]))
    assert table.gpu.tolist() == ["MI300X"]


@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16", " BF16", "bf16"])
def test_a_dtype_may_be_written_as_torch_does(tmp_path, row, name):
    table = measurement.read(write(tmp_path / "a.csv", [row | {"dtype": name}]))
    assert table.dtype.tolist() == ["bf16"]
    with pytest.raises(InputError, match="bytes is 1, but 8 tokens x 4096 hidden x 2 bytes"):
        measurement.read(write(tmp_path / "b.csv", [row | {"dtype": name, "bytes": 1}]))


def test_a_dtype_that_no_kernel_of_the_model_has_keeps_its_name(tmp_path, row):
    table = measurement.read(write(tmp_path / "a.csv", [row | {"dtype": "fp8_e4m3"}]))
    assert table.dtype.tolist() == ["fp8_e4m3"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"latency_us": 0}, "more than 0"),
        ({"latency_us": -3.5}, "latency_us is -3.5"),
        ({"latency_us": "nan"}, "'nan', not a number"),
        ({"latency_us": ""}, "latency_us is empty"),
        ({"latency_us": "1e308"}, "latency_us is 1e+308; the longest that is taken is 1000 s"),
        ({"date": "30.09.2026"}, "date is '30.09.2026'; write year, month and day, such as 2026-"),
        ({"date": "2026-30-09"}, "date is '2026-30-09'"),
        ({"date": "Sep 30 2026"}, "date is 'Sep 30 2026'"),
        ({"latency_us": "12us"}, "'12us', not a number"),
        ({"bytes": 99}, "bytes is 99, but 16 tokens x 4096 hidden x 2 bytes (bf16) = 131072"),
        ({"bytes": 131074}, "bytes is 131074, but 16 tokens"),
        ({"op": "fused_ar_rmsnrm"}, "did you mean fused_ar_rmsnorm"),
        ({"quality": "good"}, "unknown quality 'good'"),
        ({"quality": ""}, "unknown quality ''"),
        ({"tokens": 2.5, "bytes": ""}, "whole number"),
        ({"world_size": 0}, "at least 1"),
        ({"workgroups": 0}, "workgroups is 0; it must be a whole number of at least 1"),
        ({"threads": "many"}, "threads is 'many', not a number"),
        ({"source": ""}, "source is empty"),
        ({"algorithm": "one"}, "unknown algorithm 'one'"),
        ({"kernel_version": "a\x1b[31m"}, "kernel_version is 'a\x1b[31m', which holds a character"),
        ({"source": "a\u202eb"}, "source is 'a\u202eb', which holds a character"),
        ({"url": "a\nb"}, "url is 'a\nb', which holds a character"),
        ({"tokens": 2**30 + 1, "bytes": ""}, "the largest that is taken is 1073741824"),
        ({"tokens": "", "bytes": 2**63}, "bytes is 9.22337e+18; the largest that is taken"),
        ({"workgroups": "1e300"}, "the largest that is taken is 1073741824"),
    ],
)
def test_a_bad_cell_is_named_with_file_and_line(tmp_path, row, change, says):
    rows = [row, row | {"tokens": 16, "bytes": 131072} | change]
    path = write(tmp_path / "bad.csv", rows, (*COLUMNS, *GRID))
    with pytest.raises(InputError) as caught:
        measurement.read(path)
    assert says in str(caught.value)
    assert re.search(r"bad\.csv:[34]: ", str(caught.value))


@pytest.mark.parametrize("day", ["", "2026", "2026-09", "2026-09-30", "2026-09-30T12:00:00Z"])
def test_a_date_may_be_as_exact_as_is_known(tmp_path, row, day):
    assert measurement.read(write(tmp_path / "a.csv", [row | {"date": day}])).date[0] == day


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ([c if c != "latency_us" else "latency" for c in COLUMNS], "no unit"),
        ([c if c != "tokens" else "tokns" for c in COLUMNS], "did you mean tokens"),
        ((*COLUMNS, "workgroup"), "did you mean workgroups"),
        ((*COLUMNS, "threads", "threads"), "stands twice"),
        (COLUMNS[:-1], "missing column quality"),
        ((*COLUMNS, "op"), "stands twice"),
        ([";".join(COLUMNS)], "columns between semicolons; schema 1 has commas"),
        (["\t".join(COLUMNS)], "columns between tabs; schema 1 has commas"),
    ],
)
def test_a_wrong_header_is_explained(tmp_path, row, header, says):
    with pytest.raises(InputError, match=says):
        measurement.read(write(tmp_path / "h.csv", [row], header))


def test_duplicate_rows_are_named_together(tmp_path, row):
    with pytest.raises(InputError, match=r"d\.csv:3: the same row as .*d\.csv:2"):
        measurement.read(write(tmp_path / "d.csv", [row, row]))


def test_the_same_row_in_two_files_is_a_duplicate(tmp_path, row):
    a, b = write(tmp_path / "a.csv", [row]), write(tmp_path / "b.csv", [row])
    with pytest.raises(InputError, match="the same row"):
        measurement.read_all([a, b])


def test_repeated_measurements_are_no_duplicates(tmp_path, row):
    table = measurement.read(write(tmp_path / "r.csv", [row, row | {"latency_us": 9.6}]))
    assert len(table) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (",".join(COLUMNS).encode() + b"\n", "no rows"),
        (b"\x00\xff\xfe\x00", "not a text file|not readable"),
        (",".join(COLUMNS).encode() + b"\na,b\n", "2 cells, the header has 21"),
    ],
)
def test_unusable_files_are_refused(tmp_path, content, says):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        measurement.read(path)


def test_missing_files_and_empty_directories_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        measurement.read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"holds no \.csv"):
        measurement.read_all([tmp_path])


def test_columns_may_come_in_any_order(tmp_path, row):
    path = write(tmp_path / "o.csv", [row], tuple(reversed(COLUMNS)))
    assert measurement.read(path).latency_us.tolist() == [9.5]


def test_a_failed_write_leaves_the_old_file(tmp_path, row):
    path = tmp_path / "keep.csv"
    path.write_text("old")

    def stop_half_way():
        with replacing(path) as stream:
            stream.write("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        stop_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["keep.csv"]


CELL = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(CELL, min_size=21, max_size=21))
@settings(max_examples=200, deadline=None)
def test_any_row_is_read_or_refused_in_one_line(tmp_path_factory, cells):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, cells])
    try:
        table = measurement.read(path)
    except InputError as error:
        assert str(error)
    else:
        assert len(table) == 1
