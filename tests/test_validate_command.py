"""``costmodel validate``: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json

import pytest
from command import costmodel
from judged_rows import a_row, synthetic, table

from costmodel.decide.setting import Setting
from costmodel.decide.validation import validate
from costmodel.errors import InputError


@pytest.fixture(scope="module")
def gfx950():
    return Setting.shipped("MI355X")


def run(*args):
    return costmodel("validate", *args)


def test_the_command_passes_on_published_rows_with_the_documented_json():
    done = run("--arch", "gfx950", "--published", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == [
        "schema", "accuracy", "choice", "regret", "crossings", "passed",
        "failures", "judged",
    ]  # fmt: skip
    assert found["schema"] == "costmodel/validate/1"
    assert list(found["accuracy"]) == [
        "n", "median_ape", "p90_ape", "max_ape", "coverage90", "median_ape_offset",
        "p90_ape_offset", "max_ape_offset",
    ]  # fmt: skip
    assert list(found["choice"]) == ["pairs", "agree", "agree_outside_tie"]
    for entry in found["regret"]:
        assert list(entry) == [
            "rule", "kind", "pairs", "mean_pct", "max_pct", "mean_us", "max_us", "behind",
            "noise_90_pct", "differ", "workload_pct", "workload_us",
        ]  # fmt: skip
    rules = [entry["rule"] for entry in found["regret"]]
    assert rules[0] == "recommended"
    assert {"sglang-128k", "vllm-16bit", "aiter-per-rank", "always-1stage", "always-2stage",
            "three-way"} <= set(rules)  # fmt: skip
    assert found["passed"] is True


def test_the_command_says_what_it_rests_on():
    done = run("--arch", "gfx950", "--published", "--against", "vllm-57886")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "197 another arch" in text
    assert "this is a fit, not a test" in text
    assert "cannot separate recommended from" in text
    assert "no worse than vllm-57886 within noise" in text


def test_the_command_fails_with_1_and_the_reason(gfx950, tmp_path):
    path = tmp_path / "rows.csv"
    synthetic(gfx950, factor=(1.4, 1.0)).write(path)
    done = run("--arch", "gfx950", "--measurements", path)
    assert done.returncode == 1, done.stderr
    assert "not passed: the recommended rule is worse than" in done.stdout
    assert "this is a test on new data" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--arch", "gfx942", "--published"), "--accuracy-only"),
        (("--arch", "gfx950"), "give --measurements"),
        (("--published",), "give --arch"),
        (("--arch", "gfx950", "--published", "--against", "sglan"), "did you mean sglang"),
        (("--arch", "gfx950", "--published", "--include", "nois"), "did you mean noisy"),
        (("--arch", "gfx950", "--measurements", "nowhere.csv"), "nowhere.csv"),
        (("--arch", "gfx950", "--published", "--hidden", "2881"), "hidden % 8 == 0"),
        (("--arch", "gfx950", "--published", "--max-median-error", "nan"), "nan is not a finite"),
        (("--arch", "gfx950", "--published", "--max-regret", "inf"), "inf is not a finite"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, said):
    done = run(*args)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("costmodel: error: ")
    assert said in done.stderr


def test_rows_of_a_library_alone_are_said_to_be_no_arm(tmp_path, gfx950):
    rccl = {"kernel_family": "rccl", "op": "all_reduce", "algorithm": "auto"}
    rows = [a_row(**rccl, tokens=tokens) for tokens in (8, 64)]
    path = tmp_path / "rccl.csv"
    table(*rows).write(path)
    for more in ((), ("--accuracy-only",), ("--op", "plain")):
        done = run("--arch", "gfx950", "--measurements", path, *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(
            "costmodel: error: no row can be used: all 2 are of RCCL, whose kernels are neither arm"
        )
        assert len(done.stderr.splitlines()) == 1
    with pytest.raises(InputError, match="all 2 are of RCCL and NCCL"):
        validate(table(rows[0], {**rows[1], "kernel_family": "nccl"}), gfx950)
    beside = validate(table(*rows, a_row()), gfx950, need_pairs=False)
    assert len(beside.rows.observations) == 1


def test_the_rule_is_said_where_it_is_judged_and_nowhere_else():
    """Pairs of MI355X are at 4 ranks: what the engine runs at others is no recommendation."""
    asked = ("--gpu", "MI355X", "--model", "gpt-oss-120b")
    weighed = json.loads(costmodel("recommend", *asked, "--tp", 4, "--format", "json").stdout)
    kib = weighed["cutoffs"][0]["max_bytes"] // 1024
    for engine in ((), ("--for", "sglang")):
        text = run(*asked, *engine, "--published").stdout
        (line,) = (at for at in text.splitlines() if at.startswith("recommended on"))
        assert line == f"recommended on MI355X, bf16: TP4 1-stage when bytes <= {kib} KiB"


@pytest.mark.parametrize("option", ["--against", "--fallback"])
def test_a_rule_of_another_op_is_not_judged(option):
    done = costmodel("validate", "--gpu", "MI355X", "--published", option, "aiter-plain")
    assert done.returncode == 2
    assert "rule 'aiter-plain' is for op 'all_reduce', asked is 'fused_ar_rmsnorm'" in done.stderr
    same = costmodel("validate", "--gpu", "MI355X", "--published", option, "aiter-per-rank")
    assert same.returncode in (0, 1)
