"""Small facts and edges of readers that larger tests pass by: each was a mutant that survived."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import is_dataclass
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

import costmodel as cm
from costmodel.data import (
    architectures,
    deployment,
    facts,
    hosts,
    llms,
    measurement,
    model_config,
    statements,
)
from costmodel.data.importers import (
    Said,
    chrome_trace,
    collective_json,
    collective_run,
    console_columns,
    grouped,
    json_tables,
    quantities,
    rocpd,
    rocprof_json,
)
from costmodel.data.importers.collective_tests import program_of, version_of_code
from costmodel.data.importers.columns import looks_like_header, read_columns
from costmodel.data.importers.context import said_by
from costmodel.data.importers.html_tables import html_rows
from costmodel.data.importers.launchers import without_prefix
from costmodel.data.importers.rows import Imported
from costmodel.data.importers.text_file import shortened
from costmodel.data.importers.torch_table import _TO_US
from costmodel.data.model_layers import layers_of
from costmodel.data.ranges import LARGEST, integers
from costmodel.data.workload import captured_batch_sizes
from costmodel.decide import adequacy, fit_report
from costmodel.decide.adequacy import one_stage_window
from costmodel.decide.regret import Arms, Cell, Estimate
from costmodel.errors import InputError
from costmodel.model import parameters


def test_captured_batch_sizes_are_those_of_the_engines():
    assert captured_batch_sizes().tolist() == [
        1, 2, 4, *(8 * i for i in range(1, 33)), *(256 + 16 * i for i in range(1, 17))
    ]  # fmt: skip
    plain = deployment._sglang_sizes(False).tolist()
    assert plain == [
        1,
        2,
        4,
        8,
        12,
        *(16 + 8 * i for i in range(31)),
        *(272 + 16 * i for i in range(16)),
    ]
    speculative = deployment._sglang_sizes(True).tolist()
    assert speculative == [
        1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 40, 44, 48, 52, 56,
        60, 64, *(72 + 8 * i for i in range(24)), *(272 + 16 * i for i in range(16)),
    ]  # fmt: skip


def test_lists_of_numbers_end_at_a_million():
    assert len(integers("1:1000000")) == 1_000_000
    with pytest.raises(InputError, match="more than a million"):
        integers("1:1000001")
    with pytest.raises(InputError, match="is not a positive integer or a range"):
        integers("1..8:2")


def test_the_largest_bytes_are_those_of_the_largest_call():
    assert measurement.LARGEST_BYTES == 4 * LARGEST**2 == 2**62


@pytest.mark.parametrize(
    ("code", "version"),
    [(2708, "2.7.8"), (9999, "9.9.99"), (10000, "1.0.0"), (22807, "2.28.7"), (21805, "2.18.5")],
)
def test_versions_of_codes(code, version):
    assert version_of_code(code) == version


def test_programs_have_the_name_of_their_collective():
    assert program_of("./build/all_reduce_perf") == "all_reduce"
    assert program_of("something else") == ""


def test_units_of_torch_tables():
    assert _TO_US == {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}


def test_numbers_of_reports_are_bounded():
    assert collective_json._integer(10**6 - 1, 7) == 10**6 - 1
    assert collective_json._integer(10**6, 7) == 7
    assert collective_json._integer(-1, 7) == 7
    whole = {"x": 8, "y": 2, "z": 1}
    assert [rocprof_json._extent(whole | {"x": x}) for x in (8, 0, 1 << 40)] == [16, 0, 0]
    assert rocprof_json._stamp({"at": 0}, "at") == 0
    assert rocprof_json._stamp({"at": -1}, "at") is None
    assert rocprof_json._stamp({"at": (1 << 63) - 1}, "at") == (1 << 63) - 1
    assert rocprof_json._stamp({"at": (1 << 63) + 1}, "at") is None


def test_gpus_are_agents_of_type_2():
    agents = [
        {"type": 1, "product_name": "AMD EPYC MI300X"}, {"type": 2, "product_name": "AMD Instinct MI355X"},
    ]  # fmt: skip
    assert rocprof_json._gpus({"agents": agents}) == {"MI355X"}


def test_grids_of_three_axes():
    assert rocpd._grid([8, 6, 10, 4, 3, 2]) == "20 x 24"
    assert rocpd._grid([8, 6, 10, 4, 3, 7]) == ""
    assert rocpd._grid([8, 6, 0, 4, 3, 2]) == ""


def test_extents_of_launches_are_lists_of_one_to_three_numbers():
    assert chrome_trace._extent([8, 2, 3]) == chrome_trace._extent([48]) == "48"
    assert [chrome_trace._extent(x) for x in ([], None, 8, [1, 1, 1, 1], [8, 0])] == [""] * 5
    assert chrome_trace._extent([1 << 39, 2]) == str(1 << 40)
    assert [chrome_trace._extent([n]) for n in (1 << 40, -1, 2.0, "8", True)] == [
        "",
        "",
        "",
        "",
        "1",
    ]


def test_one_attention_head_is_a_number_of_heads():
    key = model_config.HEADS[0]
    assert [model_config._heads({key: n}) for n in (1, 64, 0, True, [4, 8])] == [
        1,
        64,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("arch", "version"),
    [("gfx942", "90402"), ("gfx950", "90500"), ("gfx90a", "90010"), ("gfx1036", "100306"),
     ("gfx1250", "120500")],
)  # fmt: skip
def test_versions_of_targets_have_two_digits_of_each_part(arch, version):
    assert hosts.target_version(arch) == version


@pytest.mark.parametrize(
    ("text", "size_bytes", "half"),
    [("1.1 KB", 1126.4, 51.2), ("64 KiB", 65536, 512), ("1.25 MB", 1310720, 5242.88),
     ("1024", 1024, 0), ("1000 B", 1000, 0), ("12.5", 12.5, 0.05)],
)  # fmt: skip
def test_a_written_size_is_known_to_half_its_last_digit(text, size_bytes, half):
    found = quantities.size(text, None)
    assert (found.size_bytes, found.half_digit) == pytest.approx((size_bytes, half))
    assert found.fits(size_bytes + half)
    assert not found.fits(size_bytes + 1.01 * half + 0.01)


def test_numbers_of_ranks_are_whole_and_bounded():
    assert [chrome_trace._count(n) for n in (0, 7, (1 << 40) - 1)] == [0, 7, (1 << 40) - 1]
    assert [chrome_trace._count(n) for n in (-1, 1 << 40, 1.0, True, "8", None)] == [None] * 6


def test_an_estimate_of_several_has_the_ends_of_several():
    assert Estimate(2.0, 1.5, 3.0).times(4) == Estimate(8.0, 6.0, 12.0)


def test_cut_texts_keep_their_start():
    assert shortened("a" * 30, 20) == "a" * 19 + "…"
    assert shortened("a" * 20, 20) == "a" * 20
    assert len(json_tables._text("x" * 3000)) == 2000
    assert json_tables._text(10**30) == str(10**30)
    assert json_tables._text(10**30 + 1) == "a number of more than 30 digits"


def test_yes_and_no_are_the_first_word():
    assert quantities.truth("yes, as expected") is True
    assert quantities.truth("no") is False
    assert quantities.truth("maybe yes") is None


def test_headers_are_names_of_which_one_is_known():
    assert looks_like_header(["tokens", "latency (us)"])
    assert not looks_like_header(["apples", "pears"])
    assert not looks_like_header(["tokens", "12.5"])


@pytest.mark.parametrize(
    ("wrong", "old", "ranks", "is_wrong"),
    [
        ("0", False, 8, False), ("1", False, 8, True), ("N/A", False, 8, False),
        ("nan", True, 8, True), ("3e-2*", True, 8, True),
        # bf16: 1e-2 for each rank that is added to the first
        ("0.069", True, 8, False), ("0.071", True, 8, True), ("0.0101", True, 2, True),
        ("0.0099", True, 1, False),
    ],
)  # fmt: skip
def test_an_old_error_is_judged_by_the_ranks_that_added(wrong, old, ranks, is_wrong):
    empty = dict.fromkeys(collective_run.Result._fields, "")
    result = collective_run.Result(
        **{**empty, "dtype": "bfloat16", "wrong": wrong, "old_error": old}
    )
    assert collective_run.Taker._is_wrong(result, ranks) == is_wrong


@pytest.mark.parametrize(
    ("dtype", "allowed"), [("half", 0.07), ("bfloat16", 0.07), ("float", 7e-5), ("double", 7e-12)]
)
def test_an_old_error_may_be_that_of_its_dtype_for_each_rank_that_added(dtype, allowed):
    def wrong(error):
        said = {**empty, "dtype": dtype, "wrong": f"{error:g}", "old_error": True}
        return collective_run.Taker._is_wrong(collective_run.Result(**said), 8)

    empty = dict.fromkeys(collective_run.Result._fields, "")
    assert not wrong(0.99 * allowed)
    assert wrong(1.01 * allowed)


def test_an_architecture_is_found_by_any_of_its_names():
    assert architectures.find(None, "no such type", "LlamaForCausalLM") == architectures.find(
        "llama"
    )
    assert architectures.find("llama") is not None
    assert architectures.find(None, "") is None


def test_models_are_of_experts_only_where_their_row_says_so():
    known = {llm.name: llm.experts for llm in llms.catalogue()}
    assert known["gpt-oss-120b"]
    assert not all(known.values())


def test_statements_on_the_gpu_itself_stand_first_and_comparable_ones_before_others():
    for gpu, arch in (("MI355X", "gfx950"), ("MI300X", "gfx942")):
        for n in (4, 8):
            found = statements.about(gpu, arch, n, "fused_ar_rmsnorm")
            keys = [(s.gpu != gpu, not s.comparable) for s in found]
            assert keys == sorted(keys)
    assert statements.about("MI355X", "gfx942", 8, "fused_ar_rmsnorm") == ()
    for gpu in ("MI300X", "MI308X"):  # both are measured at TP2
        found = statements.about(gpu, "gfx942", 2, "all_reduce")
        assert found[0].gpu == gpu
        assert {s.gpu for s in found} == {"MI300X", "MI308X"}


@pytest.mark.parametrize(
    ("config", "layers", "blocks"),
    [
        ({"model_type": "llama", "num_hidden_layers": 32}, 32, 64),
        ({"model_type": "longcat_flash", "num_layers": 14}, 14, 56),
        ({"model_type": "longcat_flash", "num_hidden_layers": 28}, 14, 56),
    ],
)
def test_blocks_are_layers_times_those_of_a_layer(config, layers, blocks):
    built = architectures.find(config["model_type"])
    found = layers_of(config, built, "config.json")
    assert (found.count, found.blocks) == (layers, blocks)


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"model_type": "granite", "num_hidden_layers": 40}, ""),  # its note is of its residual
        ({"model_type": "falcon_mamba", "num_hidden_layers": 64}, "every layer is one block"),
    ],
)
def test_a_note_on_blocks_stands_where_a_layer_has_not_two(config, note):
    built = architectures.find(config["model_type"])
    assert built.note
    assert layers_of(config, built, "config.json").note == note


def test_layers_that_gate_the_add_end_in_no_fused_call():
    """Llama 3.2 Vision, 11B: of its 40 layers 8 are cross-attention."""
    gated = [3, 8, 13, 18, 23, 28, 33, 38]
    config = {"model_type": "mllama", "num_hidden_layers": 40, "cross_attention_layers": gated}
    found = layers_of(config, architectures.find("mllama"), "config.json")
    assert (found.count, found.blocks) == (40, 64)
    assert found.note == "8 cross-attention layers gate the add"


def test_layers_are_100_000_at_most():
    config = {"model_type": "llama", "num_hidden_layers": 100_000}
    built = architectures.find("llama")
    assert layers_of(config, built, "").count == 100_000
    with pytest.raises(InputError, match="num_hidden_layers: expected `int` <= 100000"):
        layers_of({**config, "num_hidden_layers": 100_001}, built, "")


def test_marks_of_a_note_are_no_part_of_a_figure():
    """Up to two signs set high; a longer word is read, and leaves the figure open."""
    cells = ["9.1<sup>1)</sup>", "9.1<sup>*</sup>", "9.1<sup>abc</sup>"]
    rows = "".join(f"<tr><td>{cell}</td></tr>" for cell in cells)
    found = html_rows([f"<table><tr><th>us</th></tr>{rows}</table>"], 1)
    assert [line for _, line in found.rows] == [["9.1"], ["9.1"], ["9.1abc"]]


def test_a_cell_over_several_columns_stands_in_each_and_its_line_is_kept():
    texts = [
        "<table><tr><th colspan=2>us</th><th>x</th></tr>",
        "<tr><td>1</td><td colspan=2>2</td></tr>",
        "<tr><td rowspan=2>3</td><td>4</td><td>5</td></tr>",
        "<tr><td>6</td><td>7</td></tr></table>",
    ]
    found = html_rows(texts, 12)
    assert found.levels == [["us", "us", "x"]]
    assert found.rows == [(13, ["1", "2", "2"]), (14, ["3", "4", "5"]), (15, ["3", "6", "7"])]


def test_blanks_behind_a_launcher_s_prefix_are_its_own():
    bare = without_prefix("[rank9]: tokens us\n[rank10]: 8 9.1\n")
    assert [bare(line) for line in ("[rank9]: tokens us", "[rank10]: 8 9.1", "[rank10]:  8")] == [
        "tokens us", "8 9.1", " 8",
    ]  # fmt: skip


def test_lines_of_ranks_and_statistics_are_bounded(monkeypatch):
    monkeypatch.setattr(grouped, "PASTED_ROWS", 1000)
    said = Said(source="mine")
    rows = [(at, [str(at), "0", "9.1"]) for at in range(1001)]
    header = ["tokens", "rank", "latency (us)"]
    columns = read_columns(header, [cells for _, cells in rows[:8]], said, "")

    def taken(count):
        account = Imported(said, "table")
        return list(grouped.one_a_call(iter(rows[:count]), columns, 3, "file", account))

    assert len(taken(1000)) == 1000
    with pytest.raises(InputError, match="file: a table of more than 1000 lines"):
        taken(1001)


@pytest.mark.parametrize(
    ("line", "version"),
    [("AITER main 1a2b3c4d", "AITER main 1a2b3c4d"), ("aiter v0.1.19", "AITER 0.1.19"),
     ("aiter: 0.1.20.post1, torch 2.9", "AITER 0.1.20.post1")],
)  # fmt: skip
def test_a_build_of_aiter_is_a_release_or_a_commit(line, version):
    assert said_by(line, bare=False)["kernel_version"] == version


@pytest.mark.parametrize(
    ("line", "ranks"),
    [("on 8 GPUs", 8), ("8 GPUs available", None), ("8 GPUs visible", None)],
)
def test_gpus_that_are_there_need_not_take_part(line, ranks):
    assert said_by(line, bare=False).get("world_size") == ranks


def test_a_line_names_the_gpu_and_its_arch():
    assert said_by("on gfx942, MI300X", bare=True) == {"gpu": "MI300X", "arch": "gfx942"}


@pytest.mark.parametrize(
    ("text", "read"),
    [("1.234,5", "1234.5"), ("1.234", "1234"), ("1234", "1234"), ("12,5", "12.5"), ("7", "7")],
)
def test_decimals_behind_a_comma_are_written_behind_a_point(text, read):
    assert quantities.with_point(text) == read


@pytest.mark.parametrize(
    ("cell", "roundest"),
    [
        (Cell(20000, 21600), 20480),  # 5 x 4 KiB
        (Cell(60000, 140000), 65536),
        (Cell(16300, 20000), 16384),
        (Cell(8000, 8193), 8192),
        (Cell(20481, 21600), 21504),  # 21 KiB
        (Cell(20481, 20500), 20481),
        (Cell(0, 20000), 0),
        (Cell(20481, None), 20481),
    ],
)
def test_the_roundest_cutoff_of_a_cell_is_a_multiple_of_most(cell, roundest):
    assert cell.roundest() == roundest


def test_a_name_of_several_words_is_one_cell_before_figures():
    cells = console_columns._console_cells
    assert cells("all reduce fused  9.1  yes", 3) == ["all reduce fused", "9.1", "yes"]
    assert cells("a long name fills it 9.1 yes", 3) == ["a long name fills it", "9.1", "yes"]
    assert cells("a long name fills it 9.1 12.5", 3) == ["a long name fills it", "9.1", "12.5"]
    assert cells("0  fused  9.1  yes", 3) == ["fused", "9.1", "yes"]
    assert cells("no figure stands here", 3) == ["no figure stands here"]


def test_the_nearest_source_is_of_the_gpu_then_of_the_op_then_of_its_arch():
    calibration = cm.shipped("gfx950")
    key = calibration.nearest_source("MI355X", "fused_ar_rmsnorm")
    here = [r for r in calibration.sources if "MI355X" in r.gpus and "fused_ar_rmsnorm" in r.ops]
    least = min(here, key=lambda r: calibration.values[f"harness[{r.key}]"])
    assert key == least.key
    # MI350X has no row: a source of its arch and the op, else nobody.
    other = calibration.nearest_source("MI350X", "fused_ar_rmsnorm")
    assert other is not None
    assert calibration.nearest_source("MI350X", "no such op") is None


def test_draws_come_in_pairs_around_the_estimate():
    calibration = cm.shipped("gfx950")
    for count in (7, 8, 400):
        drawn = calibration.draw(count, 3)["round_trip_us"].ravel()
        middle = calibration.values["round_trip_us"]
        assert drawn.size == count
        half = (count + 1) // 2
        pairs = drawn[: count - half] + drawn[half:]
        products = drawn[: count - half] * drawn[half:]  # a parameter that is positive
        assert np.allclose(pairs, 2 * middle) or np.allclose(products, middle**2)


def test_rows_made_in_memory_are_counted_from_the_second_line(row):
    again = {**row, "tokens": 16, "bytes": 131072}
    table = cm.Measurements.from_rows([row, again, {**row, "tokens": 32, "bytes": 262144}], "mine")
    assert table.line.tolist() == [2, 3, 4]


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_a_fit_report_says_what_was_learnt_and_how_sources_differ(arch):
    calibration = cm.shipped(arch)
    learnt = fit_report._parameters(calibration)
    assert len(learnt) == len(calibration.names)
    for i, said in enumerate(learnt):
        sd = parameters.prior(said["name"]).sd
        assert said["name"] == calibration.names[i]
        share = 1 - calibration.covariance[i, i] / (sd * sd)
        assert said["prior_only"] == (share < fit_report.SEEN)
    first = len(calibration.names) + len(calibration.harness)
    found = fit_report._contrasts(calibration)
    assert len(found) == len(calibration.contrast)
    for i, said in enumerate(found):
        sd = calibration.covariance[first + i, first + i] ** 0.5
        assert said["us"] == pytest.approx(calibration.mean[first + i])
        assert said["us"] - said["lo"] == pytest.approx(1.6449 * sd, rel=1e-3)
        assert said["hi"] - said["us"] == pytest.approx(1.6449 * sd, rel=1e-3)


def test_a_fit_report_lists_the_pairs_that_the_data_hardly_tell_apart():
    calibration = cm.shipped("gfx950")
    k = len(calibration.names)
    covariance = calibration.covariance[:k, :k]
    scale = np.sqrt(np.diag(covariance))
    r = covariance / scale / scale[:, None]
    strong = {
        (calibration.names[i], calibration.names[j])
        for i in range(k)
        for j in range(i + 1, k)
        if abs(r[i, j]) >= 0.8
    }
    found = fit_report._correlations(calibration)
    assert {(e["a"], e["b"]) for e in found} == strong
    assert all(abs(e["r"]) >= 0.8 for e in found)


def test_ranges_are_measured_again_at_their_ends_and_middle():
    calibration = cm.shipped("gfx950")
    arm = calibration.measured("MI355X", 4, "fused_ar_rmsnorm", "1stage")
    found = fit_report._again(calibration, "MI355X", 4)
    sizes = [arm.min_bytes, (arm.min_bytes * arm.max_bytes) ** 0.5, arm.max_bytes]
    wanted = [max(1, round(size / (7168 * 2))) for size in sizes]
    assert [e["tokens"] for e in found] == 2 * wanted
    assert [e["algorithm"] for e in found] == 3 * ["1stage"] + 3 * ["2stage"]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_best_window_is_the_best_of_all_windows(seed, limited):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    size = np.arange(1, n + 1) * 1024
    one_us, two_us = rng.uniform(1, 10, (2, 1, n))
    weight = rng.dirichlet(np.ones(n))
    arms = Arms(cm.Shapes.of(1, size // 2, 4), weight, one_us, two_us, "0.1.20")
    cutoff = int(size[rng.integers(n)]) if limited else None
    # What 1-stage costs more on each call, by the project's own regret: gain is what it spares.
    cost = -weight * arms.expected_gain
    sums = {(i, j): cost[i:j].sum() for i in range(n) for j in range(i + 1, n + 1)}
    (i, j), least = min(sums.items(), key=lambda item: item[1])
    found = one_stage_window(arms, cutoff)
    if found is None:
        assert i == 0 or least >= 0
        return
    at = n if cutoff is None else int(np.sum(size <= cutoff))
    inside = (np.arange(n) >= i) & (np.arange(n) < j)
    differ = weight[inside != (np.arange(n) < at)].sum()
    lo, hi, gain, share = structs.astuple(found)
    assert (lo, hi) == (size[i], size[j - 1])
    assert share == pytest.approx(differ)
    assert gain == pytest.approx(100 * (cost[:at].sum() - least) / differ)


def test_hidden_sizes_beyond_those_named_are_counted():
    decided = cm.recommend(cm.Setting.shipped("MI355X"), world_sizes=(4,)).cutoffs[0].adequacy
    one = decided.by_hidden[0]
    losing = tuple(
        structs.replace(one, hidden_dim=1024 * i, contested_gain_pct=50.0 + i)
        for i in range(1, adequacy.NAMED + 3)
    )
    (said,) = structs.replace(decided, by_hidden=losing, window=None).reasons()
    assert said.endswith(" and 2 more")
    (said,) = structs.replace(decided, by_hidden=losing[: adequacy.NAMED], window=None).reasons()
    assert "more" not in said


def classes(*wings):
    """Yield every class of some wings with the name of its module."""
    for wing in wings:
        package = importlib.import_module(f"costmodel.{wing}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for kind in vars(importlib.import_module(found.name)).values():
                if isinstance(kind, type) and kind.__module__ == found.name:
                    yield found.name, kind


def test_records_of_questions_and_answers_cannot_be_changed():
    """What is being filled while a file is read is all that may be."""
    for module, kind in classes("model", "rules", "decide", "calibration", "data"):
        filled = module.startswith("costmodel.data.importers") or "schemas" in module
        assert filled or not issubclass(kind, Struct) or kind.__struct_config__.frozen, kind


def test_records_are_structs_with_room_for_what_they_keep():
    """A dataclass takes twenty times as long to build, at every start of every command."""
    wings = ("model", "rules", "decide", "calibration", "data", "planning", "engines", "report")
    for _, kind in classes(*wings):
        assert not is_dataclass(kind), kind
        if issubclass(kind, Struct):
            held = [value for base in kind.__mro__ for value in vars(base).values()]
            kept = any(isinstance(value, cached_property) for value in held)
            assert not kept or kind.__dictoffset__, f"{kind} lacks dict=True"


def test_a_row_without_a_cell_for_every_column_is_refused(tmp_path, monkeypatch):
    """A cell too few moves what follows it one column to the left."""
    (tmp_path / "short.csv").write_text("source,family,note\na,aiter,as merged\nb,aiter\n")
    monkeypatch.setattr(facts, "_HERE", tmp_path)
    with pytest.raises(InputError, match=r"short\.csv: 'b,aiter' has 2 cells, the columns are"):
        facts.rows("short.csv")
