"""Every figure that a command prints as text stands in its JSON too."""

from __future__ import annotations

import json
import re

import pytest
from command import costmodel

#: A number with its unit, no part of a name, a version or an address.
NUMBER = re.compile(r"(?<![\w.#/:\-])([+-]?\d+(?:\.\d+)?)(?: (KiB|MiB|%))?(?![\w/:\-]|\.\d)")

#: What a unit of the text is in the JSON: bytes, a percentage or a share. Words keep their units.
SCALES = {"KiB": (1024, 1), "MiB": (1024**2, 1), "%": (1, 0.01), None: (1, 0.01)}

#: Confidence of every interval, which is a convention of the whole tool.
CONVENTION = {90.0}

ASKED = [
    "recommend --arch gfx942",
    "recommend --arch gfx950 --model gpt-oss-120b --for vllm --verbose",
    "explain --arch gfx942 --tp 8 --hidden 2880 --tokens 32",
    "worth --model gpt-oss-120b --tp 8 --from sglang --to recommended --step-ms 8",
    "plan --arch gfx942 --shapes 2",
    "predict --gpu MI355X --tp 4 --hidden 2880 --tokens 8:64:8 --terms",
    "validate --arch gfx950 --published",
]


#: What a text counts or multiplies for its reader, from entries that the JSON has one by one.
COUNTED = {
    "worth": lambda r: [sum(b["from"] == b["to"] for b in g["batches"]) for g in r["gpus"]],
    "validate": lambda r: [sum(r["judged"]["rows"]["set_aside"].values())],
    "explain": lambda r: [
        f["at"] * r["bytes"] / r["tokens"] for f in r["flips"] if f["what"] == "tokens"
    ],
}


def numbers(record):
    """Yield every number of a record, those in its words and keys too."""
    if isinstance(record, bool) or record is None:
        return
    if isinstance(record, int | float):
        yield float(record)
    elif isinstance(record, str):
        yield from (float(n) for n in re.findall(r"\d+(?:\.\d+)?", record))
    elif isinstance(record, dict):
        for key, value in record.items():
            yield from numbers(key)
            yield from numbers(value)
    else:
        for value in record:
            yield from numbers(value)


def missing(text, record):
    """Return the numbers of a text that no number of the record is when it is rounded so."""
    have = list(map(abs, numbers(record)))
    found = []
    for match in NUMBER.finditer(text):
        digits, unit = match.groups()
        value, places = abs(float(digits)), len(digits.partition(".")[2])
        close = 0.5000001 * 10**-places
        if value in CONVENTION:
            continue
        if not any(abs(h / s - value) <= close for h in have for s in SCALES[unit]):
            found.append(match[0])
    return found


def test_a_figure_that_is_only_printed_is_found():
    assert missing("about 12.3 us, 4 KiB and 37 %", {"us": 12.26, "of": [4096]}) == ["37 %"]


@pytest.mark.parametrize("asked", ASKED)
def test_every_figure_of_the_text_is_in_the_json(asked):
    text = costmodel(*asked.split())
    record = costmodel(*asked.split(), "--format", "json")
    assert text.returncode == record.returncode == 0, record.stderr
    assert NUMBER.search(text.stdout)
    found = json.loads(record.stdout)
    counted = COUNTED.get(asked.split()[0], lambda r: [])(found)
    assert not missing(text.stdout, [found, counted])
