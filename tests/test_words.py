"""One thing has one name: the words that commands, report, figures and notebooks share."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from costmodel.data import facts, llms
from costmodel.data.workload import Workload
from costmodel.decide.evidence import physics_decides
from costmodel.decide.explanation import explain
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Estimate
from costmodel.decide.setting import Setting
from costmodel.decide.worth import worth
from costmodel.figures.worth import worth_by_batch
from costmodel.model.latency import TERMS
from costmodel.model.parameters import meaning
from costmodel.report.case import gather
from costmodel.rules import catalogue
from costmodel.show import explanation, notebook, words
from costmodel.show.glossary import MEANING
from costmodel.show.recommendation import answer_lines, evidence
from costmodel.show.worth import evidence_words


def test_every_parameter_with_a_prior_has_a_meaning():
    quantities = {row["parameter"] for row in facts.rows("priors.csv")}
    known = {row["parameter"] for row in facts.rows("parameters.csv")}
    # An arm's contrast has a spread that the rows give, and no row among the priors.
    assert known == quantities | {"contrast"}
    assert words.parameter("link_gbps[MI300X]") == "rate of a link (MI300X)"
    assert words.parameter("launch_us") == "launch"
    # The constant of a source has no words of its own.
    assert words.parameter("harness[mine/aiter]") == meaning("harness[mine/aiter]")
    assert meaning("harness[mine/aiter]") == "harness[mine/aiter]"


def test_sizes_and_intervals():
    assert words.size(464 * 1024) == "464 KiB"
    assert words.size(None) == words.size(math.inf) == "no limit"
    assert words.size_interval(405 * 1024, 480 * 1024) == "405 KiB to 480 KiB"
    assert words.size_interval(405 * 1024, None) == "405 KiB to no limit"
    assert words.size_interval(0, 1024) == "0 B to 1 KiB"
    assert words.size_interval(None, None) == "-"
    assert words.about(465.4 * 1024) == "465 KiB"
    assert words.about(96) == "96 B"
    assert words.up_to("<= 464 KiB, tokens <= 80") == "up to 464 KiB"
    assert words.up_to("every size") == "at every size"


def test_numbers_with_their_intervals():
    e = Estimate(4.372, 3.115, 5.561)
    assert words.estimate(e, "+.2f") == "+4.37 (+3.12 to +5.56)"
    assert words.percent(e) == "4.37 % (3.12 to 5.56)"


@pytest.mark.parametrize(
    ("share", "long", "short"),
    [
        (1.0, "more than 99 %", "> 99 %"),
        (0.0, "less than 1 %", "< 1 %"),
        (0.5, "50 %", "50 %"),
    ],
)
def test_a_few_hundred_draws_give_no_certainty(share, long, short):
    assert words.chance(share) == long
    assert words.chance(share, short=True) == short


def test_arms_terms_and_evidence():
    assert [words.arm(a) for a in ("1stage", "2stage", "separate", "")] == [
        "1-stage", "2-stage", "separate ops", "no claim",
    ]  # fmt: skip
    assert not any("_" in words.term(t) for t in TERMS)
    assert words.evidence("always_1stage") == "always 1-stage"
    assert words.evidence("not_identified") == "not identified"
    assert words.answer("always_1stage", None) == "always"
    assert words.answer("not_identified", None) == "no claim"
    assert words.answer("transferred", 280 * 1024) == "<= 280 KiB"


def test_the_glossary_has_the_words_that_answers_use():
    """A word that a table or a sentence of the tool leans on is explained, once."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "glossary.md").read_text()
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.M)
    assert len(terms) == len(set(terms))
    verdicts = ("measured", "measured_elsewhere", "transferred")
    assert {words.evidence(v) for v in verdicts} < set(terms)
    assert {words.arm(a) for a in ("1stage", "2stage", "separate", "")} < set(terms)
    head = answer_lines(recommend(Setting.shipped("MI355X"), world_sizes=(2, 4)))
    assert "by physics" in head[1]
    for term in ("by physics", "cutoff", "crossover", "regret", "contested call", "reference",
                 "this kernel", "your machine", "worth", "decided"):  # fmt: skip
        assert term in terms
    # A report explains its words as the glossary does.
    said = dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \|$", text, re.M))
    assert {word: said.get(word) for word in MEANING} == MEANING


@pytest.mark.parametrize("gpu", ["MI300X", "MI355X"])
def test_two_ranks_are_by_physics_wherever_something_is_said_of_them(gpu):
    setting = Setting.shipped(gpu, engine="sglang")
    model = llms.find("gpt-oss-120b")
    decision = recommend(setting, Workload.of([model.hidden_size]), world_sizes=(2, 4))
    two, four = decision.cutoffs
    case = gather(setting, model, world_sizes=(2, 4))
    shown = worth(setting, model, 2, catalogue.current("sglang"), decision.rule)
    called = setting.shapes(64, model.hidden_size, 2)
    told = explanation.text(explain(setting, called, decision.workload))
    for text in (
        evidence(two), evidence_words(shown), answer_lines(decision)[1].partition("TP2 ")[2],
        case.by_world_size[0].evidence, case.by_world_size[0].worth_evidence,
        worth_by_batch([shown]).layout.annotations[0].text.partition("(")[2],
        told.partition("TP2: 1-stage always, ")[2],
        notebook.html("decision", decision).partition("<td>-</td><td>-</td><td>")[2],
    ):  # fmt: skip
        assert text.startswith("by physics"), text
    assert not evidence(four).startswith("by physics")
    # Ranks that share a GPU have no link between them; other rows decide who is faster.
    shared = replace(setting.calibration, fabric="loopback")
    assert physics_decides(setting, 2)
    assert not physics_decides(setting, 4)
    assert not physics_decides(Setting(shared, gpu), 2)
