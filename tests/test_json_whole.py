"""Every figure that a command prints as text stands in its JSON too."""

from __future__ import annotations

import json
import re

import pytest
from command import costmodel
from conftest import ROW
from engines.shapes import SHAPES

from costmodel.data.measurement import Measurements
from costmodel.data.workload import captured_batch_sizes

#: A number with its unit, no part of a name, a version or an address.
NUMBER = re.compile(r"(?<![\w.#/:\-])([+-]?\d+(?:\.\d+)?)(?: (KiB|MiB|%))?(?![\w/:\-]|\.\d)")

#: What a probability near 0 or 1 is called, which rests on a few hundred draws, and a difference
#: that rounds to none.
BOUND = re.compile(r"[<>] \d+ %|the same to [\d.]+ %")

#: What a unit of the text is in the JSON: bytes, a percentage or a share. Words keep their units.
SCALES = {"KiB": (1024, 1), "MiB": (1024**2, 1), "%": (1, 0.01), None: (1, 0.01)}

#: Confidence of every interval, which is a convention of the whole tool.
CONVENTION = {90.0}

ASKED = [
    "recommend --arch gfx942",
    "recommend --arch gfx950 --model gpt-oss-120b --for vllm --verbose",
    "explain --arch gfx942 --tp 8 --hidden 2880 --tokens 32",
    "recommend --gpu MI308X --op plain --tp 2,4 --verbose",
    "explain --gpu MI308X --op plain --tp 2 --hidden 7168 --tokens 8 --verbose",
    "worth --model gpt-oss-120b --tp 8 --from sglang --to recommended --step-ms 8",
    "plan --arch gfx942 --shapes 2",
    "predict --gpu MI355X --tp 4 --hidden 2880 --tokens 8:64:8 --terms",
    "validate --arch gfx950 --published",
    "simulate --arch gfx950 --ranks 8 --tokens 64 --skew normal:20",
    "simulate --arch gfx950 --ranks 4 --link 0-3=0.5 --algorithm 2stage",
    "simulate --arch gfx950 --hidden 2880 --sweep skew=0,5",
    "data --gpu MI355X --tp 4",
    "audit {trees}/sglang_bytes --gpu MI355X --model gpt-oss-120b",
    "audit {trees}/vllm_method",
    "diff {trees}/sglang_hidden_set {trees}/sglang_bytes --gpu MI355X",
    "diff {trees}/before.csv {trees}/after.csv",
]


#: What a text counts or multiplies for its reader, from entries that the JSON has one by one.
COUNTED = {
    "worth": lambda r: [sum(b["from"] == b["to"] for b in g["batches"]) for g in r["gpus"]],
    "validate": lambda r: [sum(r["judged"]["rows"]["set_aside"].values())],
    "explain": lambda r: [
        *(f["at"] * r["bytes"] / r["tokens"] for f in r["flips"] if f["what"] == "tokens"),
        *apart(*list(r["arms"].values())[:2]),
        int(captured_batch_sizes().max()),  # up to which no batch flips the choice
    ],
    "simulate": lambda r: [
        *(100 * (c["latency_us"] / c["closed_form_us"] - 1) for c in both(r)),
        max(c["latency_us"] for c in both(r)) - min(c["latency_us"] for c in both(r)),
    ],
    "data": lambda r: [
        *(sum(account[k] for account in r["data"]) for k in ("rows", "used")),
        *range(len({account["url"] for account in r["data"]})),  # numbers of the links below
    ],
}


def apart(one, other):
    """Return by how much two arms differ, term by term."""
    return [
        one["terms"].get(term, {"value": 0.0})["value"]
        - other["terms"].get(term, {"value": 0.0})["value"]
        for term in {*one["terms"], *other["terms"]}
    ]


def both(record):
    """Return the algorithms that a simulation ran; a sweep has none of its own."""
    return [c for c in (record, record.get("other")) if c and "latency_us" in c] or [
        {"latency_us": 1.0, "closed_form_us": 1.0}
    ]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Return a directory with engines' trees, and rows before and after a change of 3 %."""
    root = tmp_path_factory.mktemp("asked")
    for name in ("sglang_hidden_set", "sglang_bytes", "vllm_method"):
        SHAPES[name].package(root / name)
    for name, factor in (("before", 1.0), ("after", 1.03)):
        rows = [
            ROW | {"algorithm": a, "tokens": t, "bytes": t * 8192, "latency_us": factor * us}
            for a, t, us in (("1stage", 8, 9.5), ("2stage", 8, 11.0), ("1stage", 32, 14.25))
        ]
        Measurements.from_rows(rows).write(root / f"{name}.csv")
    return root


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
    for match in NUMBER.finditer(BOUND.sub("", text)):
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
def test_every_figure_of_the_text_is_in_the_json(asked, trees):
    asked = asked.format(trees=trees)
    text = costmodel(*asked.split())
    record = costmodel(*asked.split(), "--format", "json")
    assert text.returncode == record.returncode == 0, record.stderr
    assert NUMBER.search(text.stdout)
    found = json.loads(record.stdout)
    counted = COUNTED.get(asked.split()[0], lambda r: [])(found)
    assert not missing(text.stdout, [found, counted])
