"""Whom a report's text is for: the headings that each project's pull-request template asks for.

SGLang: Motivation, Modifications, Accuracy Tests, Speed Tests and Profiling, as filled in in
https://github.com/sgl-project/sglang/pull/25164 (2026-05-14). vLLM: Purpose, Test Plan, Test
Result (``.github/PULL_REQUEST_TEMPLATE.md`` at 83d80a83f89f). No template of AITER or ATOM is
known: theirs are plain headings.
"""

from __future__ import annotations

#: A heading and the parts under it; a part is a template of this wing.
Outline = tuple[tuple[str, tuple[str, ...]], ...]

#: Parts of a report: the first screen, the rule as code, what it is worth, how results may differ,
#: how to check it, what would settle what is open, and all that it rests on.
LEAD, CHANGE, BENCHMARK, ACCURACY, CHECK, SETTLE, EVIDENCE = (
    "lead", "change", "benchmark", "accuracy", "check", "settle", "evidence",
)  # fmt: skip

_PLAIN: Outline = (
    ("Motivation", (LEAD,)),
    ("Change", (CHANGE,)),
    ("Benchmark", (BENCHMARK,)),
    ("Accuracy", (ACCURACY,)),
    ("How to test", (CHECK,)),
    ("What it rests on", (EVIDENCE,)),
)

OUTLINES: dict[str, Outline] = {
    "sglang": (
        ("Motivation", (LEAD,)),
        ("Modifications", (CHANGE,)),
        ("Accuracy Tests", (ACCURACY,)),
        ("Speed Tests and Profiling", (BENCHMARK, CHECK)),
        ("What it rests on", (EVIDENCE,)),
    ),
    "vllm": (
        ("Purpose", (LEAD, CHANGE)),
        ("Test Plan", (CHECK,)),
        ("Test Result", (BENCHMARK, ACCURACY)),
        ("What it rests on", (EVIDENCE,)),
    ),
    "aiter": _PLAIN,
    "atom": _PLAIN,
}

#: What a title calls a project that runs another's rule.
WHOSE = {"atom": "ATOM (AITER's rule)"}

#: Kernels and links that no engine runs: there is nothing to patch, and no project to ask.
OTHER_LINKS: Outline = (
    ("", (LEAD,)),
    ("Benchmark", (BENCHMARK,)),
    ("How to test", (CHECK,)),
    ("What it rests on", (EVIDENCE,)),
)

#: A report that proposes nothing ends after its reasons and how to get better ones.
NOTHING: Outline = (("", (LEAD,)),)

#: A report without a change where a cutoff is not identified goes on with what would settle it.
UNIDENTIFIED: Outline = (
    ("", (LEAD,)),
    ("What would settle it", (SETTLE,)),
    ("What it rests on", (EVIDENCE,)),
)
