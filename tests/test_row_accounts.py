"""Which rows are used and which are set aside, by GPU, world size, op and arm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import costmodel

from costmodel.calibration.observations import observe
from costmodel.calibration.posterior import load, shipped
from costmodel.calibration.row_accounts import accounts, said_of
from costmodel.data import facts, measurement, timing
from costmodel.data.measurement import Measurements
from costmodel.decide.row_errors import covered

MEASUREMENTS = Path(__file__).parents[1] / "measurements"


def run(*args, code=0):
    done = costmodel("data", *args)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_rows_measured_in_another_way_have_an_account_of_their_own(row):
    ways = [
        {"gpu_evidence": "inferred"}, {"quality": "noisy"}, {"statistic": ""},
        {"rank_reduction": ""}, {"timing": "eager"},
    ]  # fmt: skip
    table = Measurements.from_rows([row, *(row | way for way in ways)])
    found = accounts(table)
    assert len(found) == len(table)
    for way in ways:
        ((column, value),) = way.items()
        assert [r[column] for r in found].count(value) == 1


def test_versions_are_counted_inside_an_account(row):
    table = Measurements.from_rows(
        [row, row | {"latency_us": 9.6}, row | {"kernel_version": "0.1.18"}]
    )
    (found,) = accounts(table)
    assert found["kernel_versions"] == {"0.1.18": 1, "0.1.19": 2}
    assert (found["rows"], found["used"], found["set_aside"]) == (3, 3, {})


def test_accounts_stand_by_gpu_and_unnamed_ones_last(published):
    found = [(r["gpu"], r["world_size"] or 0, r["op"], r["algorithm"]) for r in accounts(published)]
    named = [arm for arm in found if arm[0]]
    assert named == sorted(named)
    assert found == [*named, *sorted(arm for arm in found if not arm[0])]
    assert 0 < len(named) < len(found)


def test_an_arm_that_was_set_aside_is_not_one_that_nobody_measured(published):
    records = observe(published).aside
    arm = {"gpu": "MI355X", "world_size": 8, "op": "fused_ar_rmsnorm"}
    noisy = "5 rows of aiter-3458-mi355x set aside: quality is noisy"
    assert said_of(records, **arm, algorithm="1stage") == noisy
    assert said_of(records, **arm, algorithm="2stage") == noisy
    assert said_of(records, **arm) == noisy.replace("5 rows", "10 rows")
    assert said_of(records, **arm | {"world_size": 2}) == ""
    assert said_of(observe(published, include=("clean", "noisy")).aside, **arm) == ""


def test_rows_of_other_libraries_are_named_only_when_asked_for(published):
    records = observe(published, include=("noisy",)).aside
    arm = {"gpu": "MI355X", "world_size": 8, "op": "all_reduce"}
    for families, rows in ((None, 14), (("vllm",), 7)):
        said = said_of(records, **arm, families=families)
        assert said == f"{rows} rows of vllm-39080 set aside: quality is clean"


def test_the_source_with_most_rows_is_named_first_and_equals_by_name(row):
    rows = [
        row | {"source": source, "quality": "noisy", "latency_us": 9.0 + at}
        for at, source in enumerate("bcabddd")
    ]
    arm = {"gpu": row["gpu"], "world_size": row["world_size"], "op": row["op"]}
    aside = observe(Measurements.from_rows(rows)).aside
    said = said_of(aside[::-1], **arm)
    counts = [("3 rows", "d"), ("2 rows", "b"), ("1 row", "a"), ("1 row", "c")]
    assert said == "; ".join(f"{n} of {s} set aside: quality is noisy" for n, s in counts)


def test_ranks_that_share_a_gpu_are_not_judged_by_ranks_on_two():
    """The same kernels on the same GPU, over another fabric."""
    third = MEASUREMENTS / "h200-pair" / "revision-2" / "third"
    of_two = load(third / "calibration.json")
    rows = measurement.read(MEASUREMENTS / "h200-loopback" / "revision-2" / "exhaustive.csv")
    found = covered(of_two, rows)
    assert found.set_aside == {"another fabric than the calibration's split_2": len(rows)}
    rows = measurement.read(third / "calibration.csv")
    assert "another fabric than the calibration's split_2" not in covered(of_two, rows).set_aside
    # of the kernels that came after them neither says anything
    assert covered(shipped("sm_90"), rows).set_aside == {"another kernel family": len(rows)}


def test_rows_that_do_not_say_their_arm_may_be_of_either(row):
    table = Measurements.from_rows([row | {"algorithm": "auto"}])
    arm = {"gpu": "MI300X", "world_size": 4, "op": "fused_ar_rmsnorm"}
    for algorithm in ("1stage", "2stage"):
        assert said_of(observe(table).aside, **arm, algorithm=algorithm) == (
            "1 row of mine set aside: algorithm not stated"
        )


def test_rows_without_gpu_or_ranks_are_of_no_arm(row):
    rows = [row | {"gpu": ""}, row | {"world_size": ""}, row | {"op": "fused_ar_mhc"}]
    assert observe(Measurements.from_rows(rows)).aside == ()


def test_what_is_set_aside_adds_up(published):
    from costmodel.data.kernels import AITER_FAMILIES
    from costmodel.model.shape import OPS

    counted = sum(r["rows"] for r in observe(published).aside)
    assert counted == sum(
        sum(r["set_aside"].values())
        for r in accounts(published)
        if r["gpu"] and r["world_size"] and r["op"] in OPS and r["kernel_family"] in AITER_FAMILIES
    )
    assert counted > 0


def test_kernels_that_calibrate_beside_are_not_called_unmodelled(published):
    """Of #5272's 94 rows both calibrations take all; of another library's none is theirs."""
    mine = accounts(published.select(published.source == "aiter-5272-mi308"))
    (pushed,) = [a for a in mine if a["kernel_family"] == "aiter-ll"]
    assert pushed["set_aside"] == {
        "calibrated beside, as aiter-ll": 24, "calibrated beside, as aiter-ll128": 70,
    }  # fmt: skip
    assert pushed["rows"] == 94
    (other,) = accounts(published.select(published.source == "amd-acceptance-mi300x"))[:1]
    assert set(other["set_aside"]) == {"kernel family not modelled"}


def test_one_gpu_and_world_size():
    found = json.loads(run("--gpu", "mi355x", "--tp", "4,8", "--op", "fused", "--format", "json"))
    assert {(r["gpu"], r["op"]) for r in found["data"]} == {("MI355X", "fused_ar_rmsnorm")}
    assert {r["world_size"] for r in found["data"]} == {4, 8}
    text = run("--gpu", "MI355X", "--tp", "4", "--op", "fused")
    assert text.startswith("MI355X, 4 ranks, fused_ar_rmsnorm\n")
    line = next(one for one in text.splitlines() if "vllm-54787" in one)
    assert "inferred" in line
    assert "graph, median, max" in line
    assert "2 quality is serving_trace" in text
    assert "27 of 29 rows used" in text


def test_text_without_an_address_says_so():
    text = run("--source", "atom-minimax-m25")
    assert "none" in text
    assert "[1]" not in text
    assert "0 of 4 rows used" in text


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--gpu", "MI355"), "no rows of GPU 'MI355' (did you mean MI355X"),
        (("--gpu", "MI355X", "--tp", "6"), "no rows of world size '6'; there are 2, 4, 8"),
        (("--op", "fusd"), "did you mean fused"),
        (("--source", "vllm-5478"), "did you mean vllm-54787"),
    ],
)
def test_what_no_row_has_is_answered_with_what_there_is(args, says):
    assert says in run(*args, code=2)


def test_rows_set_aside_for_one_reason_are_added_up():
    record = {
        "gpu": "MI300X", "world_size": 8, "op": "fused_ar_rmsnorm", "algorithm": "1stage",
        "kernel_family": "aiter", "source": "mine", "reason": "quality is noisy", "rows": 3,
    }  # fmt: skip
    found = said_of(
        [record, record | {"rows": 4}, record | {"source": "other", "rows": 1}],
        gpu="MI300X", world_size=8, op="fused_ar_rmsnorm",
    )  # fmt: skip
    assert found == (
        "7 rows of mine set aside: quality is noisy; 1 row of other set aside: quality is noisy"
    )


def test_what_sources_state_of_their_timing_is_that_of_their_rows(published):
    for source in set(published.source.tolist()):
        rows = published.select(published.source == source)
        said = " ".join(timing.stated(source))
        for column in ("timing", "rank_reduction", "statistic"):
            assert {w for w in getattr(rows, column).used if w} <= set(
                said.replace(";", " ").split()
            )
        silent = not any(
            getattr(rows, c).used != ("",) for c in ("timing", "rank_reduction", "statistic")
        )
        assert (said == "") == (silent and not timing.beside(source)), source
    assert timing.stated("mine") is None
    assert timing.stated("../published/vllm-54787") is None
    assert timing.stated("vllm-54787") == (
        "graph (no launch by the host is in it)", "max over ranks (the slowest rank counts)",
        "median", "8 graphs are replayed in rotation",
    )  # fmt: skip


def test_what_is_stated_beside_the_columns_is_of_a_published_source_with_its_address(published):
    address = dict(zip(published.source.tolist(), published.url.tolist(), strict=True))
    rows = facts.rows("timing_methods.csv")
    assert rows
    for fact in rows:
        assert fact["url"] == address[fact["source"]]
    record = json.loads(run("--source", "vllm-54787", "--format", "json"))["data"]
    assert {words for r in record for words in r["timing_beside"]} == {
        "8 graphs are replayed in rotation"
    }
    told = run("--source", "vllm-54787")
    assert "graph: no launch by the host is in it" in told
    assert "max: the slowest rank counts" in told
    assert "vllm-54787: 8 graphs are replayed in rotation" in told
    assert "eager:" not in told
    assert "what of a benchmark's own" not in run("--source", "aiter-801")


def test_explain_says_it_beside_the_constant():
    words = ("explain", "--gpu", "MI355X", "--tp", 4, "--tokens", 8, "--hidden", 7168, "--verbose")
    told = costmodel(*words, "--source", "vllm-54787").stdout
    assert "of its timing vllm-54787 states: graph (no launch by the host is in it); max" in told
    told = costmodel(*words, "--source", "vllm-fork-81").stdout
    assert "of its timing vllm-fork-81 states: nothing, so no cause of the harness's share" in told
    assert "of its timing" not in costmodel(*words, "--source", "typical").stdout
