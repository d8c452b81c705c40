"""Names from outside (files, rules, sources) in every target: never live code."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command import costmodel
from emitted import PROVENANCE
from engines.shapes import SHAPES
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import facts, kernels
from costmodel.engines import environment
from costmodel.engines import patch as engine
from costmodel.engines.boundary_tests import render
from costmodel.engines.call_sites import serving_engine
from costmodel.errors import InputError
from costmodel.rules.evidence import Provenance
from costmodel.rules.outside import writable
from costmodel.rules.rule import Rule
from costmodel.show.rule import rule_table

HOSTILE = [
    "a\nimport os",
    "a\rimport os",
    "a\x0bb",
    "a\x85b",
    "a\u2028b",
    "a\x00b",
    "a\x1b[31mb",
    "a\u202eb",
    "a\udcffb",
    'a"""b',
    "a'''b",
    "a\\N{b",
    "a*/b",
    "a`id`b",
    "a$(id)b",
    "a${HOME}b",
    "a\n--- a/x\n+++ b/x",
    "a --- a/x",
]
PLAIN = ['it\'s "mine"', "größe 2", "a; rm -rf ~ #", "{0} {name} %s", "a && b | c > d", "#noqa"]


def run(*args, cwd):
    return costmodel("emit", *args, cwd=cwd)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_refused_for_rules_and_provenance(name):
    with pytest.raises(InputError, match=r"cannot be written into code: rename it") as refused:
        Rule.from_cutoffs(name, {2: None, 4: 1, 8: 1})
    assert str(refused.value).isprintable()
    for about in ("source", "title", "note", "since"):
        with pytest.raises(InputError, match=f"the rule's {about} holds"):
            Rule.from_cutoffs("x", {2: None}, **{about: name})
    with pytest.raises(InputError, match="a file name in it"):
        Provenance(f"costmodel emit --calibration {name}")
    with pytest.raises(InputError, match="the calibration's id"):
        Provenance("costmodel emit", name)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_stay_words(name, tmp_path):
    rule = Rule.from_cutoffs(name, {2: None, 4: 458752, 8: 229376}, source=name)
    found = Provenance(f"costmodel emit --rule '{name}'")
    kernel = kernels.aiter()
    for one in ("sglang", "vllm", "aiter"):
        emitted = engine.snippet(serving_engine(one), rule, found, kernel)
        plain = engine.snippet(
            serving_engine(one),
            Rule.from_cutoffs("plain", {2: None, 4: 458752, 8: 229376}),
            Provenance("costmodel emit"),
            kernel,
        )
        assert _code(emitted.text) == _code(plain.text)
        text = render(emitted.adapted, found, serving_engine(one), emitted.file, emitted.function)
        assert not [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Global)]
        assert _code(text).count("def ") == _code(text.replace(name, "plain")).count("def ")
    script = environment.script(rule, found, kernel)
    (tmp_path / "env.sh").write_text(script)
    done = subprocess.run(
        ["sh", "-eu", "env.sh"], cwd=tmp_path, env={"TP": "4", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["env.sh"]
    assert name in rule_table(rule, found)


def _code(text):
    return ast.unparse(ast.parse(text))


@pytest.mark.parametrize("target", ["sglang", "env", "table", "json"])
@pytest.mark.parametrize("name", ["a\nimport os #.json", 'a"""b.json', "a`id`.json"], ids=ascii)
def test_a_calibration_files_name_is_refused_by_every_target(target, name, tmp_path):
    shipped = next(Path(facts.path("calibrations")).glob("gfx950*.json"))
    shutil.copy(shipped, tmp_path / name)
    done = run("--for", target, "--arch", "gfx950", "--calibration", name, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be written into code: rename it" in done.stderr


def test_a_rule_files_name_and_its_own_name_are_refused(tmp_path):
    record = Rule.from_cutoffs("mine", {2: None, 4: 458752, 8: 229376}).to_json()
    (tmp_path / "bad.json").write_text(json.dumps({**record, "name": 'x\n"""\nimport os'}))
    done = run("--for", "sglang", "--rule", "bad.json", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    (tmp_path / "a\nb.json").write_text(json.dumps(record))
    done = run("--for", "sglang", "--rule", "a\nb.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written into code" in done.stderr


@pytest.mark.parametrize(
    "part",
    [
        {"dtype": ["in", ["bf16); import os; (", "fp16"]]},
        {"dtype": ["in", ["bf16\nimport os"]]},
        {"tokens": ["<=", 10**30]},
        {"hidden_dim": ["in", [2880, 1 << 70]]},
        {"bytes": ["<=", {"2": None, "4": 1 << 63}]},
        {"kernel_version": [">=", "0.1.17\nimport os"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["sglang", "env", "table"])
def test_values_of_a_rule_file_are_checked(target, part, tmp_path):
    record = Rule.from_cutoffs("mine", {2: None, 4: 458752, 8: 229376}).to_json()
    record["condition"] = {"all": [record["condition"], part]}
    (tmp_path / "rule.json").write_text(json.dumps(record))
    done = run("--for", target, "--rule", "rule.json", cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("stated", ["0.5\\x.1", "0.5;import os", "0.5$(x)", "9" * 70])
def test_what_is_no_version_is_not_taken_for_one(tmp_path, stated):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    (root / "sglang" / "version.py").write_text(f'__version__ = "{stated}"\n')
    done = run("--for", "sglang", "--rule", "aiter", "--source", ".", cwd=root)
    assert done.returncode == 0
    assert stated not in done.stdout + done.stderr


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=40))
def test_whatever_is_let_through_is_one_line_of_words(name):
    try:
        writable(name, "it")
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert len(name.splitlines()) <= 1
    rule = Rule.from_cutoffs(name, {2: None, 4: 458752, 8: 229376})
    found = Provenance(f"x {name}")
    made = engine.snippet(serving_engine("sglang"), rule, found, kernels.aiter())
    assert "import" not in _code(made.text)
    tests = render(made.adapted, found, serving_engine("sglang"), "f.py", "g")
    assert isinstance(ast.parse(tests).body[0], ast.Expr)
    assert PROVENANCE.command not in tests
