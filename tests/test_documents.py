"""What documents name is there: files, modules, links, the one version."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

import costmodel
from costmodel.decide.setting import Setting

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    p
    for folder, pattern in ((".", "*.md"), ("docs", "*.md"), ("measurements", "**/*.md"))
    for p in (ROOT / folder).glob(pattern)
)
OWN = re.compile(r"`((?:costmodel|docs|tests|measurements|benchmarks|notebooks)/[\w./-]+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_that_a_document_names_are_there(document):
    text = document.read_text(encoding="utf-8")
    if document.name == "CHANGELOG.md":
        text = re.sub(r"moved from `[^`]*`|place of `[^`]*`", "", text)
    named = OWN.findall(text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    linked = LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    assert [link for link in linked if not (document.parent / link).exists()] == []


def test_moved_modules_are_where_the_changelog_says():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[\w.]+` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) > 80
    now = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert [n for n in now if importlib.util.find_spec(f"costmodel.{n}") is None] == []


def test_modules_that_the_design_names_are_there():
    wings = "|".join(p.parent.name for p in (ROOT / "costmodel").glob("*/__init__.py"))
    named = re.findall(rf"`((?:{wings})(?:\.[a-z_]+)*)`", (ROOT / "docs" / "design.md").read_text())
    assert len(set(named)) > 25
    assert [n for n in named if importlib.util.find_spec(f"costmodel.{n}") is None] == []


def test_documents_state_what_benchmarks_add_as_the_calibrations_do():
    said = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    adds = {g: Setting.shipped(g).point["harness[]"] for g in ("MI355X", "MI300X")}
    assert f"({adds['MI355X']:.1f} us on MI355X, {adds['MI300X']:.1f} on MI300X)" in said
    known = Setting.shipped("MI300X").calibration
    each = [known.values[f"harness[{key}]"] for key in known.harness]
    said = (ROOT / "docs" / "physics.md").read_text(encoding="utf-8")
    assert f"from {min(each):.1f} to {max(each):.1f} us between published sources" in said


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", costmodel.__version__)
    for name in ("pyproject.toml", "CITATION.cff", "README.md"):
        assert costmodel.__version__ not in (ROOT / name).read_text(), name


def test_the_citation_has_what_its_schema_asks_for_and_nobody_made_up():
    # https://github.com/citation-file-format/citation-file-format, 1.2.0: these four are required.
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    keys = re.findall(r"^([\w-]+):", text, re.MULTILINE)
    assert {"cff-version", "message", "title", "authors"} <= set(keys)
    assert re.findall(r"^  - (name: .*)$", text, re.MULTILINE) == [
        'name: "The costmodel developers"'
    ]
    assert not set(keys) & {"date-released", "url", "doi", "repository-code"}


def test_the_readme_has_two_screens_before_its_details():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, said, details = text.partition("\nThe rest of this page is detail: ")
    assert said
    # Screens of 40 lines, of which a heading takes two.
    assert len(before.splitlines()) + before.count("\n#") <= 80
    assert max(map(len, before.splitlines())) <= 160
    for first in ("1-stage", "2-stage", "How sure", "pip install", "run 1-stage: TP2 always"):
        assert first in before
    assert "## What it does" in details


def test_the_page_on_mutants_counts_those_that_are_kept_and_names_every_survivor():
    kept = (ROOT / "benchmarks" / "mutants.jsonl").read_text(encoding="utf-8").splitlines()
    head, *mutants = map(json.loads, kept)
    page = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
    assert f"--seed {head['seed']} --count {len(mutants)}" in page
    lines = {**head["lines"], "all": sum(head["lines"].values())}
    for wing in lines:
        mine = [m["state"] for m in mutants if wing in ("all", m["wing"])]
        run, killed = len(mine) - mine.count("not run"), mine.count("killed")
        cells = wing, lines[wing], len(mine), run, killed, f"{100 * killed / len(mine):.0f} %"
        assert f"| {' | '.join(map(str, cells))} |" in page
    said = set(re.findall(r"[\w/]+\.py:\d+", page))
    said |= {
        f"{file}:{more}"
        for file, several in re.findall(r"`([\w/]+\.py):\d+`((?:, `\d+`)*(?: and `\d+`)?)", page)
        for more in re.findall(r"\d+", several)
    }
    places = {
        ":".join(m["id"].removeprefix("costmodel/").split(":")[:2])
        for m in mutants
        if m["state"] != "killed"
    }
    assert places - said == set()
