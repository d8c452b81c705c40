"""One answer as processes: what is written into an engine decides and saves what was recommended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from emitted import apply, function_says, random_calls, rule_says, tools
from engines.shapes import SHAPES

from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.engines.kernel_version import of_tree
from costmodel.engines.source import open_trees
from costmodel.rules import catalogue
from costmodel.units import kib

#: The newest form of each engine's source that the tests have.
SOURCE = {"sglang": "sglang_bytes", "vllm": "vllm_method", "aiter": "aiter_limit"}


def plain(text: str) -> str:
    """Return a text without the line breaks of comments and tables."""
    return " ".join(text.replace("#", " ").split())


def process(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "costmodel", *map(str, words)], capture_output=True, text=True,
        timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def test_gpt_oss_on_mi355x_at_4_ranks_has_one_cutoff(tmp_path):
    """The question that had six answers: 464, 480 and 447 KiB, three intervals, 219 us for none."""
    here = ("--gpu", "MI355X", "--model", "gpt-oss-120b")
    tp, style = ("--tp", 4), ("--format", "json")
    found = []
    (c,) = json.loads(process("recommend", *here, *tp, *style))["cutoffs"]
    found.append((c["max_bytes"], c["max_bytes_lo"], c["max_bytes_hi"]))
    (switch,) = c["switch"]
    last, first = switch["last_1stage_tokens"], switch["first_2stage_tokens"]
    for how in (("--tokens", last), ("--all",)):
        e = json.loads(process("explain", *here, *tp, *how, *style))["cutoff"]
        found.append((e["bytes"], e["bytes_lo"], e["bytes_hi"]))
    (p,) = json.loads(process("plan", *here, *tp, "--shapes", 1, *style))["cutoffs"]
    found.append(tuple(p["before"][k] for k in ("max_bytes", "max_bytes_lo", "max_bytes_hi")))
    (s,) = json.loads(process("simulate", *here, "--ranks", 4, "--sweep", "rate=1", *style))[
        "cells"
    ]
    found.append((s["cutoff_bytes"], *s["cutoff_bytes_interval"]))
    rule = json.loads(process("emit", "--for", "json", *here))
    evidence = rule["provenance"]["evidence"]["4"]
    found.append((rule["condition"]["bytes"][1]["4"], evidence["lo"], evidence["hi"]))
    assert len(set(found)) == 1, found
    size, lo, hi = found[0]
    assert lo <= size <= hi
    # Rows of 2880 in bf16.
    assert last * 5760 <= size < first * 5760
    # Without a model the workload is another one; either cutoff lies in the other's interval.
    (known,) = json.loads(process("recommend", *here[:2], *tp, *style))["cutoffs"]
    assert lo <= known["max_bytes"] <= hi
    assert known["max_bytes_lo"] <= size <= known["max_bytes_hi"]
    report = tmp_path / "report"
    process(
        "report", *here, *tp, "--for", "vllm", "--out", report, BROWSER_PATH="/nonexistent/browser"
    )  # fmt: skip
    text = plain(re.sub("[*\\\\]|&lt;", "", (report / "report.md").read_text()))
    assert f"= {kib(size)}, tokens = 80 | {kib(lo)} to {kib(hi)}" in text
    assert catalogue.load(report / "rule.json").cutoff_bytes(4) == ("<=", size)


def test_worth_is_what_the_patch_brings(tmp_path):
    """vLLM at 2 ranks: 219 us were promised of a patch that changes nothing there."""
    here = ("--gpu", "MI355X", "--model", "gpt-oss-120b", "--aiter-version", "0.1.20.post1")
    (gpu,) = json.loads(
        process("worth", *here, "--tp", 2, "--from", "vllm", "--format", "json")
    )["gpus"]  # fmt: skip
    assert gpu["over_histogram"] == {
        "us_per_step": 0.0, "us_per_step_lo": 0.0, "us_per_step_hi": 0.0,
    }  # fmt: skip
    site = SHAPES["vllm_method"].package(tmp_path / "site")
    shape = SHAPES["vllm_method"]
    file = site / "vllm" / shape.files[0][0]
    before = file.read_text()
    apply(process("emit", "--for", "vllm", *here, "--source", site), site, tools()[0])
    after = file.read_text()
    two = [(2, "bf16", 2880, int(t) * 2880, True) for t in captured_batch_sizes()]
    assert function_says(after, shape.function, two) == function_says(before, shape.function, two)
    four = [(4, *call[1:]) for call in two]
    (at_4,) = json.loads(
        process("worth", *here, "--tp", 4, "--from", "vllm", "--format", "json")
    )["gpus"]  # fmt: skip
    for text, key in ((before, "from"), (after, "to")):
        runs_1stage = function_says(text, shape.function, four)
        assert [b[key] == "1stage" for b in at_4["batches"]] == runs_1stage


@pytest.mark.parametrize("engine", catalogue.ENGINES)
def test_the_patched_engine_decides_as_the_decision(engine, tmp_path):
    shape = SHAPES[SOURCE[engine]]
    site = shape.package(tmp_path)
    here = ("--gpu", "MI308X", "--model", "deepseek-r1")
    patch = process("emit", "--for", engine, *here, "--source", site)
    apply(patch, site, tools()[0])
    text = (site / engine / shape.files[0][0]).read_text()
    # The rule is made for the AITER that the tree runs.
    (tree,) = open_trees(site)
    version = of_tree(tree).kernel.version
    setting = Setting.shipped("MI308X", engine=engine, aiter_version=version)
    decision = recommend(setting, Workload.of([7168]))
    calls = random_calls(300)
    assert function_says(text, shape.function, calls) == rule_says(decision.rule, calls)
