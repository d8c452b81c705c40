"""Emitted code as the engines' formatter leaves it, and without needless signs."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from emitted import PROVENANCE, RULES, emit
from engines.shapes import SHAPES

from costmodel.data import kernels
from costmodel.data.hardware import GPUS
from costmodel.data.hosts import Kind
from costmodel.engines import consultation, patch_by_arch, templates
from costmodel.engines import patch as engine
from costmodel.engines.call_sites import serving_engine
from costmodel.engines.kernel_version import asked_for
from costmodel.engines.source import open_trees
from costmodel.rules import ENGINES, catalogue
from costmodel.rules.by_arch import ByArch
from costmodel.rules.rule import Rule

FIELD = {name: catalogue.named(name) for name in ("aiter", "vllm", "sglang-gpt-oss")}


def all_formatted(texts, tmp_path):
    """Return sources as ruff formats them, with the settings of the engines; it starts once."""
    files = [tmp_path / f"formatted{i}.py" for i in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    ruff = shutil.which("ruff") or f"{sys.prefix}/bin/ruff"
    command = [ruff, "format", "--isolated", "--line-length=88", *map(str, files)]
    subprocess.run(command, check=True, capture_output=True)
    return [file.read_text() for file in files]


def formatted(text, tmp_path):
    """Return one source as ruff formats it."""
    return all_formatted([text], tmp_path)[0]


@pytest.mark.parametrize("version", ["0.1.11", "0.1.16", "0.1.20"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_patch_is_formatted(shape, version, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    (tree,) = open_trees(root)
    name = emit(root, RULES["recommended"]).file
    # The small sources are wider; the engine's own are formatted to 88 columns.
    file = root / name
    file.write_text(formatted(file.read_text(), tmp_path))
    meant = asked_for(version)
    texts = [
        engine.patch(tree, rule, PROVENANCE, meant.kernel, running=meant).patched
        for rule in {**RULES, **FIELD}.values()
    ]
    assert all_formatted(texts, tmp_path) == texts
    for text in texts:
        code = ast.unparse(ast.parse(text))
        assert "((" not in re.sub(r"\w\(\(", "(", code)


@pytest.mark.parametrize("version", ["0.1.11", "0.1.20"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_patch_with_rules_by_gpu_is_formatted(shape, version, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    (tree,) = open_trees(root)
    file = root / emit(root, RULES["recommended"]).file
    file.write_text(formatted(file.read_text(), tmp_path))
    meant = asked_for(version)
    odd = Rule.from_cutoffs("odd", {2: 1_234_567_891, 4: 1_234_567, 8: 98_765})
    texts = []
    for first, second in (("recommended", "one_cutoff"), ("strict", "partly_claimed")):
        for kinds in ((Kind("gfx942"), Kind("gfx950")), (Kind("gfx942", "MI300X"),)):
            rules = ByArch(tuple(zip(kinds, (RULES[first], RULES[second]), strict=False)))
            rules = ByArch((*rules, (Kind("gfx950", "MI355X"), odd))) if kinds[0].gpu else rules
            told = dict.fromkeys(rules.kinds, PROVENANCE)
            made = patch_by_arch.patch(tree, rules, told, meant.kernel, running=meant)
            texts.append(made.patched)
    assert all_formatted(texts, tmp_path) == texts


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("rule", RULES)
def test_every_snippet_is_formatted_where_it_belongs(name, rule, tmp_path):
    for version in ("0.1.11", "0.1.16", "0.1.20"):
        meant = asked_for(version).kernel
        whole = engine.snippet(serving_engine(name), RULES[rule], PROVENANCE, meant).patched
        marks = (templates.BEGIN, templates.END)
        lines = [x for x in whole.lstrip().splitlines(True) if x.strip() not in marks]
        text = "".join(lines)
        assert formatted(text, tmp_path) == text


def test_nothing_is_bracketed_twice(tmp_path):
    for shape in SHAPES:
        for rule in {**RULES, **FIELD}.values():
            text = emit(SHAPES[shape].package(tmp_path / shape), rule).text
            added = [x[1:] for x in text.splitlines() if x.startswith("+") and "#" not in x]
            assert not any(re.search(r"(?<!\w)\(\(|,\s*\)|,\s*\]", x) for x in added), added


def test_brackets_of_a_replaced_comparison_go_with_it(tmp_path):
    root = SHAPES["aiter_forced"].package(tmp_path)
    file = root / emit(root, RULES["recommended"]).file
    old = "total_bytes <= LIMIT // self.world_size if"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, f"({old[:-3]}) if"))
    text = emit(root, RULES["recommended"]).patched
    assert "use_1stage = fits_1stage if FORCED is None" in text


#: What AITER (ruff's own choice) and vLLM have ruff look for, but for the length of lines (vLLM),
#: since the mark that undoes a patch is one word, and for branches that came to be alike (SIM114):
#: the chain of branches is the engine's own. A patch imports nothing at the top of a file.
LINTED = "E4,E7,E9,F,UP,B,ISC,SIM,G"


def lint(folder):
    """Return what ruff finds in each file of a folder, without the lines."""
    ruff = shutil.which("ruff") or f"{sys.prefix}/bin/ruff"
    command = [ruff, "check", "--isolated", "--line-length=88", f"--select={LINTED}"]
    command += ["--ignore=SIM114"]
    command += ["--ignore-noqa", "--output-format=json", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = {file.name: Counter() for file in folder.iterdir()}
    for one in json.loads(done.stdout):
        found[Path(one["filename"]).name][one["code"], one["message"]] += 1
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_no_patch_brings_anything_that_the_engines_linter_finds(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path / "site")
    (tree,) = open_trees(root)
    file = root / emit(root, RULES["recommended"]).file
    file.write_text(formatted(file.read_text(), tmp_path))
    by_arch = ByArch(tuple((Kind(arch), RULES["recommended"]) for arch in GPUS))
    told = dict.fromkeys(by_arch.kinds, PROVENANCE)
    consults = consultation.consult(tree, kernels.aiter(), "costmodel emit --runtime-table")
    patched = {
        **{name: emit(root, rule).patched for name, rule in RULES.items()},
        "by_arch": patch_by_arch.patch(tree, by_arch, told, kernels.aiter()).patched,
        "table": consults.patched[tree.name(file.relative_to(root / tree.inside).as_posix())],
    }
    (tmp_path / "linted").mkdir()
    for name, text in {"before": file.read_text(), **patched}.items():
        (tmp_path / "linted" / f"{name}.py").write_text(text)
    found = lint(tmp_path / "linted")
    before = found.pop("before.py")
    assert len(found) == len(RULES) + 2
    for name, there in found.items():
        assert not there - before, name


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        ("limits = {2: 917504, 4: 458752}", False),
        ("limits = {2: 917504, 4: 458752}; other = 1", True),
        ("limits = {2: 917504, 4: 458752}; log(limits)", True),
        ("limits = other = {2: 917504, 4: 458752}", True),
    ],
)
def test_a_local_that_nobody_asks_any_more_goes_with_its_line(line, stays, tmp_path):
    root = SHAPES["aiter_helper"].package(tmp_path)
    file = root / emit(root, RULES["recommended"]).file
    old = "limits = {2: 896 * 1024, 4: 448 * 1024}"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, line))
    text = emit(root, RULES["one_cutoff"]).patched
    assert (f"        {line}\n" in text) is stays
    assert "return size <= 64 * 1024" in text
    assert "limits" in emit(root, RULES["recommended"]).patched
