"""How a model is served enters every answer: ``recommend``, ``worth`` and ``report``."""

import json

import pytest
from command import costmodel

MODEL = ("--gpu", "MI355X", "--tp", "8", "--model", "gpt-oss-120b")
RECOMMEND = ("recommend", *MODEL, "--for", "sglang")
NONE = (
    "gpt-oss-120b makes no fused call in SGLang, so no rule decides anything here: data-parallel "
    "attention"
)


def answer(*args):
    done = costmodel(*args, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def switch(*options):
    """Return the last batch in tokens that runs 1-stage, and the first that does not."""
    (cutoff,) = answer(*RECOMMEND, *options)["cutoffs"]
    return cutoff["switch"][0]["last_1stage_tokens"], cutoff["switch"][0]["first_2stage_tokens"]


def test_draft_tokens_and_captured_sizes_are_the_workload_of_recommend():
    cutoff_bytes = 200 * 1024
    for options, tokens in (
        ((), [1, 2, 4, *range(8, 257, 8)]),
        (("--captured", "1,2,4,8,16", "--draft-tokens", "3"), [4, 8, 16, 32, 64]),
    ):
        below = [t for t in tokens if t * 2880 * 2 <= cutoff_bytes]
        above = [t for t in tokens if t * 2880 * 2 > cutoff_bytes]
        assert switch(*options) == (max(below), min(above)), options


def test_the_deployment_stands_in_the_record_of_recommend():
    found = answer(*RECOMMEND, "--draft-tokens", "3", "--captured", "1,2,4")
    assert (found["deployment"]["draft_tokens"], found["deployment"]["captured"]) == (3, [1, 2, 4])
    assert (found["calls"]["per_step"], bool(found["calls"]["why"])) == (71, True)
    found = answer(*RECOMMEND, "--dp-attention")
    assert (found["calls"]["per_step"], "dp_attention" in found["calls"]["why"]) == (0, True)


def test_without_a_fused_call_the_answer_is_none_with_the_reason(tmp_path):
    done = costmodel(*RECOMMEND, "--dp-attention")
    assert done.stdout.startswith(NONE)
    done = costmodel("worth", *MODEL, "--from", "sglang", "--dp-attention")
    assert "no fused call" in done.stdout
    assert "worth 0 us a decode step" in done.stdout
    done = costmodel("report", *MODEL, "--for", "sglang", "--dp-attention", "--out", tmp_path / "r",
                     env={"BROWSER_PATH": "/nonexistent/browser"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "r" / "report.md").read_text()
    assert "nothing should change" in text.splitlines()[0]
    assert f"**Why:** {NONE}" in text
    assert "KiB" not in text  # it stops there: no size, no table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "(hidden 2880, bf16), batch 1-512."),
        (("--captured", "1,2,4,8,16"), "(hidden 2880, bf16), batch 1-16."),
        (("--captured", "1,2,4,8,16", "--draft-tokens", "3"),
         "(hidden 2880, bf16), 4 tokens a sequence, batch 1-16."),
    ],
)  # fmt: skip
def test_a_report_says_for_which_batches_it_is(tmp_path, options, said):
    done = costmodel("report", *MODEL, "--for", "sglang", *options, "--out", tmp_path / "r",
                     env={"BROWSER_PATH": "/nonexistent/browser"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert said in (tmp_path / "r" / "report.md").read_text()
