"""Every percentage of a text says in its sentence, or its column's head, what it is of."""

from __future__ import annotations

import re

import pytest
from command import costmodel

ASKED = [
    "recommend --arch gfx942",
    "recommend --arch gfx950 --model gpt-oss-120b --for vllm --verbose",
    "explain --arch gfx942 --tp 8 --hidden 2880 --tokens 32 --verbose",
    "worth --model gpt-oss-120b --tp 4 --from sglang --to recommended --step-ms 8",
    "plan --arch gfx942 --shapes 1 --tp 4",
    "validate --arch gfx950 --published",
]

#: What a percentage may be of. The 90 % of intervals and a probability are of the posterior, as the
#: glossary says; limits stand beside what they limit.
OF = re.compile(
    r"\bof (?:(?:the|a|their|its|it|\S+'s|\d+) )?[^%]*(?:arm|latency|calls|posterior|step|them|"
    r"remove|measured|algorithm)|in percent of|probability"
)


def unnamed(text):
    """Return the sentences, and the tables with what stands at them, that say nothing of it."""
    found = []
    for block in text.split("\n\n"):
        table = re.search(r"^-+( +-+)+$", block, re.MULTILINE)
        for said in [block] if table else re.split(r"\n(?=\S)", block):
            words = " ".join(said.split())
            if re.search(r"\d %", words.replace("90 %", "")) and not OF.search(words):
                found.append(words)
    return found


def test_a_percentage_of_nothing_is_found():
    assert unnamed("without the third arm 9.2 % at TP4 is lost")
    assert unnamed("rule  mean\n----  ------\nmine  0.20 %")
    assert not unnamed("this rule loses 9.2 % at TP4 of the fastest arm's latency")


@pytest.mark.parametrize("asked", ASKED)
def test_every_percentage_says_what_it_is_of(asked):
    done = costmodel(*asked.split())
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d %", done.stdout)
    assert unnamed(done.stdout) == []
