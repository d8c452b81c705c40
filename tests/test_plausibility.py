"""Names and units in a user's rows: what is refused, and what has to pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel.calibration.plausibility import _bounds, check, launch_us
from costmodel.cli.main import cli
from costmodel.data import gpu_names, hardware, measurement
from costmodel.data.measurement import Measurements
from costmodel.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
OWN = sorted((ROOT / "measurements" / "h200-loopback").glob("*.csv"))

#: Published tables over links: AMD's and NVIDIA's, a GPU that is not named, one row alone.
SOURCES = (
    "aiter-1290", "aiter-3458-mi355x", "aiter-801", "fbgemm-4072", "helion-245",
    "quickreduce-readme", "sglang-2904", "vllm-24111", "vllm-54787", "vllm-fork-81",
)  # fmt: skip


def scaled(table, factor):
    return replace(table, latency_us=table.latency_us * factor)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MI355", "MI355X"), ("mi355x-oam", "MI355X"), ("MI 300X", "MI300X"), ("MI-308X", "MI308X"),
        ("AMD Instinct MI325X", "MI325X"), ("MI355X_VF", "MI355X"), ("MI3OOX", "MI300X"),
        ("300X", "MI300X"), ("MI350", "MI350X"), ("MI300", "MI300A or MI300X"),
    ],
)  # fmt: skip
def test_a_name_that_looks_like_a_known_one_is_asked_about(row, name, meant):
    table = Measurements.from_rows([row, row | {"gpu": name}], "mine.csv")
    with pytest.raises(InputError, match=re.escape(f"mine.csv:3: GPU '{name.upper()}'")) as caught:
        check(table)
    assert f"did you mean {meant}?" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "MI450", "MI455X", "MI430X", "MI500", "MI300C", "MI210", "MI250", "H100", "H200", "B300",
        "GB300", "H100 80GB HBM3", "A100-SXM4-80GB", "H20", "",
    ],
)  # fmt: skip
def test_a_new_name_passes(row, name):
    arch = gpu_names.arch_of(name) or "gfx1250"
    check(Measurements.from_rows([row | {"gpu": name, "arch": arch}]))


def test_every_gpu_that_can_be_recommended_for_is_known_by_its_own_name():
    for arch, gpus in hardware.GPUS.items():
        for gpu in gpus:
            assert gpu_names.arch_of(gpu) == arch
            assert gpu_names.looks_like(gpu) == ()
            assert gpu_names.looks_like(gpu[:-1])


@pytest.mark.parametrize(
    ("gpu", "arch", "says"),
    [
        ("MI355X", "gfx942", "mine.csv:2: MI355X is gfx950, not gfx942"),
        ("MI300X", "GFX942", "mine.csv:2: MI300X is gfx942, not GFX942"),
        ("MI300X", "gfx942:sramecc+:xnack-", "MI300X is gfx942, not gfx942:sramecc+"),
        ("H200", "gfx942", "H200 is sm_90, not gfx942"),
        ("gfx950", "gfx950", "GPU 'GFX950' is an arch"),
    ],
)
def test_a_known_gpu_has_one_arch(row, gpu, arch, says):
    with pytest.raises(InputError) as caught:
        check(Measurements.from_rows([row | {"gpu": gpu, "arch": arch}], "mine.csv"))
    assert says in str(caught.value)


def test_nvidia_s_archs_are_written_in_two_ways(row):
    check(Measurements.from_rows([row | {"gpu": "H100", "arch": a} for a in ("sm90", "sm_90")]))


def test_every_row_that_the_project_ships_passes(published):
    check(published)
    for path in OWN:
        check(measurement.read(path))
    assert OWN


@pytest.mark.parametrize("source", SOURCES)
@given(around=st.floats(-0.3, 0.3), decades=st.sampled_from([-6, -3, 3]))
@settings(max_examples=20, deadline=None)
def test_a_table_off_by_a_thousand_is_refused_in_any_source(published, source, around, decades):
    table = published.select(published.source == source)
    check(scaled(table, 10**around))
    with pytest.raises(InputError) as caught:
        check(scaled(table, 10 ** (decades + around)))
    unit = {-6: "seconds; multiply by 1000000", -3: "milliseconds; multiply by 1000",
            3: "nanoseconds; divide by 1000"}[decades]  # fmt: skip
    assert f"looks like {unit}" in str(caught.value)
    assert f"of source '{source}'" in str(caught.value)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_runs_on_one_gpu_are_judged_too(path):
    table = measurement.read(path)
    for factor, unit in ((1e-3, "milliseconds"), (1e3, "nanoseconds")):
        with pytest.raises(InputError, match=f"looks like {unit}"):
            check(scaled(table, factor))


def sweep(row, latencies, **change):
    return Measurements.from_rows(
        [
            row | {"tokens": 2**i, "bytes": "", "latency_us": latency} | change
            for i, latency in enumerate(latencies)
        ],
        "mine.csv",
    )


def test_one_slow_row_is_not_a_unit(row):
    check(sweep(row, [9.0, 9.1, 9.3, 9.9, 5e5]))
    check(sweep(row, [5e5]))
    check(sweep(row, [9.0, 5e5]))
    check(sweep(row, [9.0, 0.0091, 9.3]))
    with pytest.raises(InputError, match="nanoseconds"):
        check(sweep(row, [9.0, 5e3, 5e3]))
    with pytest.raises(InputError, match=r"mine\.csv:2.*milliseconds"):
        check(sweep(row, [0.009]))


def test_each_source_is_judged_by_itself(row):
    good, bad = sweep(row, [9.0] * 5), sweep(row, [0.009] * 2, source="other", kernel_version="x")
    with pytest.raises(InputError, match="2 of 2 rows of source 'other'"):
        check(measurement.concat([good, bad]))


def test_large_calls_are_judged_by_their_bytes(row):
    big = {"tokens": 4096, "hidden_dim": 8192, "bytes": 4096 * 8192 * 2}
    check(sweep(row, [1100.0], **big))  # 67 MB in 1-stage over one 64 GB/s link: 1049 us
    with pytest.raises(InputError, match="launch and links take 1049 us"):
        check(sweep(row, [1.1], **big))
    assert 0.25 * launch_us() < 1.1  # the launch alone would let it pass


def test_rows_that_cannot_be_judged_are_left_to_other_checks(row):
    for change in (
        {"op": "other"}, {"world_size": ""}, {"interconnect": "gloo"}, {"interconnect": ""},
    ):  # fmt: skip
        check(sweep(row, [1e-4, 1e-4, 1e-4], **change))
    plain = {"op": "all_reduce", "tokens": "", "hidden_dim": ""}
    check(Measurements.from_rows([row | plain | {"bytes": "", "latency_us": 1e-4}]))


def test_no_unit_of_time_explains_it(row):
    with pytest.raises(InputError, match="no unit of time"):
        check(sweep(row, [9e8, 9e8, 9e8]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gpu": "MI355"}, "did you mean MI355X"),
        ({"gpu": "MI355X", "arch": "gfx942"}, "MI355X is gfx950"),
        ({"latency_us": 0.0095}, "milliseconds"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "--no-cross-validation"),
        ("validate", "--arch", "gfx942", "--accuracy-only"),
    ],
)
def test_commands_refuse_a_file_and_write_nothing(
    tmp_path, row, monkeypatch, command, change, says
):
    monkeypatch.chdir(tmp_path)
    Measurements.from_rows([row, row | {"latency_us": 9.6}]).write("good.csv")
    made = [row | change, row | change | {"tokens": 16, "bytes": 131072}]
    Measurements.from_rows(made).write("mine.csv")
    out = ("--out", "mine.json") if command[0] == "calibrate" else ()
    for more in ((), ("--published",)):
        done = CliRunner().invoke(cli, [*command, "mine.csv", *more, *out])
        assert isinstance(done.exception, InputError)
        assert says in str(done.exception)
        assert "mine.csv:" in str(done.exception)
    assert {p.name for p in tmp_path.iterdir()} == {"good.csv", "mine.csv"}


def test_a_2stage_moves_two_nths_of_the_input_over_each_link(row):
    """1-stage reads all of each peer's; 64 GB/s is the rate of a link of MI300X."""
    size, n = 1 << 30, 8
    rows = [
        row | {"gpu": "MI300X", "world_size": n, "algorithm": arm, "tokens": size // 2 // 8192,
               "hidden_dim": 8192, "bytes": size, "latency_us": 1e6}
        for arm in ("1stage", "2stage")
    ]  # fmt: skip
    least, usual, found = _bounds(Measurements.from_rows(rows))
    assert found.tolist() == [size, size]
    assert least.tolist() == pytest.approx([size / 64e3, 2 * size / n / 64e3])
    assert usual.tolist() == pytest.approx(least.tolist())


def test_the_bounds_rest_on_the_facts():
    assert launch_us() == hardware.number("H200", "back_to_back_small_kernel_graph")
    assert hardware.link_gbps("MI300X") == 64
    assert hardware.link_gbps("H100") == 450
    assert hardware.link_gbps("MI450") is None
