"""``costmodel emit`` as a process: output, files, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from command import costmodel
from emitted import apply, tools
from engines.shapes import SGLANG, SHAPES

from costmodel.rules import catalogue


def run(*args, cwd=None):
    return costmodel("emit", *args, cwd=cwd)


def test_a_patch_with_its_tests_from_the_shipped_calibration(tmp_path):
    site = SHAPES["sglang_bytes"].package(tmp_path / "site")
    done = run(
        "--for", "sglang", "--arch", "gfx950", "--source", "site", "--out", "rule.patch",
        "--tests", "test_rule.py", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    apply((tmp_path / "rule.patch").read_text(), site, tools()[0])
    tested = subprocess.run(
        [sys.executable, "test_rule.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    text = (site / "sglang" / SGLANG).read_text()
    assert "costmodel, calibration gfx950-" in text
    assert "Reproduce: costmodel emit --for sglang --arch gfx950\n" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rule.patch", "site", "test_rule.py"]


def test_the_rule_is_told_first_and_the_patch_says_it_all(tmp_path):
    SHAPES["sglang_bytes"].package(tmp_path / "site")
    asked = ("--for", "sglang", "--arch", "gfx950", "--aiter-version", "0.1.16")
    done = run(*asked, "--source", "site", "--out", "rule.patch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *told = done.stderr.splitlines()
    assert first.startswith("costmodel: note: 1-stage TP2 every size, TP4 <= ")
    assert len(done.stderr.split()) < 110
    # What could go wrong is told in few words, and said whole in the patch.
    assert any("SGLANG_USE_1STAGE_ALLREDUCE still overrides it" in line for line in told)
    assert any("throws above 80 tokens" in line for line in told)
    text = " ".join((tmp_path / "rule.patch").read_text().split())
    done = run(*asked, "--source", "site", "--verbose", cwd=tmp_path)
    whole = [line.removeprefix("costmodel: note: ") for line in done.stderr.splitlines()]
    assert len(whole) > len(told) + 3
    assert all(line in text for line in whole[1:])


def test_where_one_cutoff_loses_stands_in_the_patch_and_is_told_on_demand(tmp_path):
    SHAPES["sglang_bytes"].package(tmp_path / "site")
    lost = "on contested calls than one of a hidden size's own would"
    asked = ("--for", "sglang", "--arch", "gfx950", "--aiter-version", "0.1.26")
    for source in ((), ("--source", "site")):
        done = run(*asked, *source, cwd=tmp_path)
        # The head of a snippet goes into a source: it stays short.
        assert (lost in " ".join(done.stdout.split())) is bool(source)
        assert lost not in done.stderr
        assert lost in run(*asked, *source, "--verbose", cwd=tmp_path).stderr


def test_json_and_table_and_environment(tmp_path):
    done = run("--for", "json", "--gpu", "mi300x", "--out", tmp_path / "rule.json")
    assert done.returncode == 0, done.stderr
    rule = catalogue.load(tmp_path / "rule.json")
    assert rule.cutoff_bytes(2) is None
    found = json.loads((tmp_path / "rule.json").read_text())["provenance"]
    assert (found["arch"], found["gpu"]) == ("gfx942", "MI300X")
    again = run("--for", "table", "--rule", tmp_path / "rule.json")
    assert again.returncode == 0, again.stderr
    assert "TP2" in again.stdout
    shell = run("--for", "env", "--rule", "aiter")
    assert "export AITER_AR_1STAGE_MAX_KB=458752" in shell.stdout


def test_a_hidden_set_rule():
    done = run("--for", "sglang", "--rule", "sglang-gpt-oss")
    assert "input_.shape[-1] in {512, 1024, 2048, 2880, 4096}" in done.stdout
    done = run("--for", "sglang", "--arch", "gfx950", "--hidden-set", "--hidden", "2880,7168")
    assert done.returncode == 0, done.stderr
    assert "input_.shape[-1] in {2880, 7168}" in done.stdout
    assert "--hidden 2880,7168 --hidden-set" in done.stdout


def test_hidden_sizes_that_the_rule_leaves_out_have_no_cutoff_to_lose_by():
    """A set of hidden sizes runs 2-stage at every other; notes of losses are of the set alone."""
    here = ("--for", "table", "--gpu", "MI355X", "--hidden", "512,1024")
    losing = r"at hidden ([\d, ]+)(?: and \d+ more)?, TP\d, this cutoff is expected to lose"
    assert re.search(losing, run(*here).stderr)
    assert not re.search(losing, run(*here, "--hidden-set").stderr)
    wide = run("--for", "table", "--gpu", "MI300X", "--hidden", "512,1024,8192", "--hidden-set")
    named = {h for found in re.findall(losing, wide.stderr) for h in found.split(", ")}
    assert named
    assert named <= {"512", "1024", "8192"}


def test_an_old_aiter_version_brings_its_token_cap():
    done = run("--for", "sglang", "--arch", "gfx950", "--aiter-version", "0.1.14")
    assert done.returncode == 0, done.stderr
    assert "<= 80" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--for", "sglnag"], "unknown --for 'sglnag' (did you mean sglang?)"),
        (["--for", "sglang"], "give --arch (gfx942 or gfx950) or --gpu"),
        (["--for", "sglang", "--arch", "gfx90a"], "unknown arch 'gfx90a'"),
        (["--for", "sglang", "--rule", "vlm"], "unknown rule 'vlm' (did you mean vllm"),
        (["--for", "env", "--rule", "aiter", "--source", "."], "--source goes with --for sglang"),
        (["--for", "vllm", "--rule", "vllm", "--source", "nowhere"], "nowhere: no such file"),
        (["--for", "vllm", "--rule", "vllm", "--source", "."], "not an SGLang, vLLM or AITER tree"),
        (["--for", "vllm", "--rule", "vllm", "--source", "site"], "site: this is SGLang, not vLLM"),
        (["--for", "vllm", "--rule", "vllm", "--source", "bad.whl"], "bad.whl: not a readable wheel"),
        (["--for", "vllm", "--rule", "vllm", "--source", "a.txt"], "not a directory and not a .whl"),
        (["--for", "sglang", "--rule", "sglang-first", "--source", "broken"],
         "parallel_state.py:2: not valid Python"),
        (["--for", "json", "--rule", "sglang", "--out", "no/where.json"], "no/where.json: cannot write"),
        (["--for", "json", "--rule", "sglang", "--out", "site"], "site: is a directory"),
        (["--for", "json", "--rule", "sglang", "--aiter-version", "1.x"], "AITER version '1.x'"),
        (["--for", "sglang", "--rule", "aiter-plain"], "is for op 'all_reduce'; a snippet for SGLang"),
        (["--for", "sglang", "--rule", "aiter-plain", "--source", "site"],
         "SGLang has no rule for op 'all_reduce'"),
        (["--for", "sglang", "--rule", "sglang", "--hidden-set"], "--hidden-set with --rule needs"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(args, message, tmp_path):
    SHAPES["sglang_bytes"].package(tmp_path / "site")
    SHAPES["sglang_bytes"].package(tmp_path / "broken")
    (tmp_path / "broken" / "sglang" / SGLANG).write_text("x = 1\ndef f(:\n")
    (tmp_path / "bad.whl").write_bytes(b"PK\x03\x04 truncated")
    (tmp_path / "a.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    done = run(*args, "--out", "out.patch", cwd=tmp_path) if "--out" not in args else run(
        *args, cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("costmodel: error: ")
    assert message in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unrecognised_rule_still_gives_the_snippet(tmp_path):
    site = SHAPES["sglang_bytes"].package(tmp_path / "site")
    file = site / "sglang" / SGLANG
    file.write_text("class GroupCoordinator:\n    pass\n")
    done = run(
        "--for", "sglang", "--rule", "vllm-57886", "--source", "site", "--out", "rule.patch",
        "--tests", "test_rule.py", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "looked for GroupCoordinator.fused_allreduce_rmsnorm in sglang/srt" in done.stderr
    assert "use_1stage_ar = " in done.stdout
    assert not (tmp_path / "rule.patch").exists()
    assert not (tmp_path / "test_rule.py").exists()


def test_files_are_overwritten_only_by_force(tmp_path):
    out = tmp_path / "rule.json"
    out.write_text("precious")
    done = run("--for", "json", "--rule", "sglang", "--out", out)
    assert done.returncode == 2
    assert "exists; give --force" in done.stderr
    assert out.read_text() == "precious"
    done = run("--for", "json", "--rule", "sglang", "--out", out, "--force")
    assert done.returncode == 0
    assert catalogue.load(out).name == "sglang-128k"
    tests = tmp_path / "test_rule.py"
    tests.write_text("precious")
    done = run("--for", "vllm", "--rule", "vllm", "--out", tmp_path / "new", "--tests", tests)
    assert done.returncode == 2
    assert tests.read_text() == "precious"
    assert not (tmp_path / "new").exists(), "nothing half-written"


def test_a_rule_in_force_gives_an_empty_diff(tmp_path):
    SHAPES["sglang_bytes"].package(tmp_path / "site")
    done = run(
        "--for", "sglang", "--rule", "sglang", "--source", "site", "--out", "rule.patch",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == ""
    assert "already in force" in done.stderr
    assert not (tmp_path / "rule.patch").exists()
