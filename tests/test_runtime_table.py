"""The run-time table: what is written, what is read, what is refused, and what is a miss."""

from __future__ import annotations

import json
import os
from datetime import date

import pytest
from msgspec.structs import asdict

from costmodel.data import kernels
from costmodel.errors import InputError
from costmodel.files import json_text
from costmodel.rules import table
from costmodel.rules.adapt import validity
from costmodel.rules.algebra import factors
from costmodel.rules.catalogue import named
from costmodel.rules.condition import Always
from costmodel.rules.evidence import CutoffEvidence, Provenance
from costmodel.rules.rule import Rule
from costmodel.rules.table import Call, Miss

PROVENANCE = Provenance(
    "costmodel emit", "gfx942-01", "0123", "gfx942", "MI300X",
    {8: CutoffEvidence("measured", 100, 200)},
)  # fmt: skip
KERNEL = kernels.aiter("0.1.18")
HELD = dict.fromkeys((2, 4, 8), factors(validity(KERNEL)))
CALL = Call("gfx942", "xgmi", 8, "fused_ar_rmsnorm", "bfloat16", "0.1.18", (2880,))
MACHINE = {"driver": "6.14", "topology": "mesh", "kernel_state": "exit barrier"}


def made(rule=None, **more):
    rule = rule or Rule.from_cutoffs("mine", {2: None, 4: 229376, 8: 139264})
    how = {"dtype": "bf16", "held": HELD, "day": date(2026, 11, 1), **more}
    return table.make(rule, PROVENANCE, KERNEL, **how)


def read(record):
    return table.parse(json_text(record), "t.json")


def sizes(record):
    return {e["world_size"]: e["max_bytes"] for e in record["entries"]}


def test_every_claimed_world_size_has_an_entry_and_is_read_back():
    record = made()
    assert read(record) == record
    assert sizes(record) == {2: table.MOST_BYTES, 4: 229376, 8: 139264}
    assert record["device_name"] == "AMD_Instinct_MI300X"
    assert table.file_name(record["device_name"]) == (
        "fused_ar_rmsnorm,device_name=AMD_Instinct_MI300X.json"
    )
    assert record["calibration"] == {"id": "gfx942-01", "sha256": "0123"}
    assert (record["entries"][2]["verdict"], record["entries"][2]["hi"]) == ("measured", 200)
    assert sizes(made(Rule.from_cutoffs("one", {4: 4096}))) == {4: 4096}


def test_below_a_size_is_up_to_the_byte_before_and_never_is_none():
    strict = Rule.from_cutoffs("strict", {2: 8193, 8: 1}, inclusive=False)
    assert sizes(made(strict)) == {2: 8192, 8: 0}
    assert set(sizes(made(Rule("never", Always(False)))).values()) == {0}


def test_what_the_engine_asks_anyway_may_be_asked_and_nothing_else():
    guarded = Rule.from_cutoffs("mine", {8: 4096}, requires=validity(KERNEL))
    assert sizes(made(guarded)) == {8: 4096}
    with pytest.raises(InputError, match=r"'sglang-first' at TP2 asks hidden in .* too"):
        made(named("sglang-first"))


@pytest.mark.parametrize(
    ("version", "range_"),
    [
        ("0.1.10.post2", ("0.1.10.post2", "0.1.12")),
        ("0.1.13", ("0.1.12", "0.1.14")),
        ("0.1.16", ("0.1.14", "0.1.17")),
        ("0.1.17", ("0.1.17", "0.1.19.post1")),
        ("0.1.19", ("0.1.17", "0.1.19.post1")),
        ("0.1.20.post1", ("0.1.19.post1", None)),
        ("0.3.0", ("0.1.19.post1", None)),
    ],
)
def test_an_entry_is_for_the_releases_with_the_same_fused_kernels(version, range_):
    assert table.releases_like(kernels.aiter(version)) == range_


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(max_bytes=-1), "entries[2]: max_bytes is -1, not 0 to 67108864"),
        (lambda e: e.update(max_bytes=table.MOST_BYTES + 1), "max_bytes is 67108865"),
        (lambda e: e.update(max_bytes=True), "entries[2].max_bytes: expected `int`, got `bool`"),
        (lambda e: e.update(max_bytes="4096"), "entries[2].max_bytes: expected `int`"),
        (lambda e: e.update(aiter_from="new"), "entries[2]: AITER version 'new'"),
        (lambda e: e.update(aiter_before="0.1.17"), "no AITER release is between"),
        (lambda e: e.update(world_size=4), "entries[2]: a second entry for the same key"),
        (lambda e: e.update(fabric="nvlink"), "entries[2].fabric"),
        (lambda e: e.update(aiter_from=None), "entries[2]: aiter_from is for AITER's kernels"),
        (lambda e: e.update(kernel_family="costmodel-2"), "aiter_from is for AITER's kernels"),
        (lambda e: e.update(hidden_dims=[2880, 0]), "hidden_dims holds 0, which is no hidden"),
        (lambda e: e.update(hidden_dims=["2880"]), "entries[2].hidden_dims[0]: expected `int`"),
        (lambda e: e.update(machine=MACHINE), "entries[2]: hidden_dims is null, but what was"),
        (lambda e: e.pop("hidden_dims"), "missing required field `hidden_dims`"),
        (lambda e: e.pop("arch"), "missing required field `arch`"),
    ],
)
def test_a_damaged_entry_is_refused_in_one_line(change, said):
    record = made()
    change(record["entries"][2])
    with pytest.raises(InputError) as error:
        read(record)
    assert said in str(error.value)
    assert str(error.value).startswith("t.json: ")
    assert "\n" not in str(error.value)


def test_files_that_are_no_table(tmp_path):
    file = tmp_path / "t.json"
    for text, said in {
        "{": "truncated or not JSON",
        json.dumps({**made(), "schema": "costmodel/table/3"}): "schema is 'costmodel/table/3'",
        json_text(made()) + " " * table.MAX_FILE_BYTES: "larger than 64 KiB",
        "[" * 10_000: "t.json",
    }.items():
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            table.load(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        table.load(file)
    with pytest.raises(InputError, match="No such file"):
        table.load(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        table.load(tmp_path / "pipe")
    file.write_text(json_text(made()))
    assert table.load(file) == made()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"arch": "gfx950"}, "no entry for gfx950, xgmi, TP8"),
        ({"fabric": "pcie"}, "no entry for gfx942, pcie"),
        ({"op": "other"}, "TP8, other, bfloat16"),
        ({"dtype": "float16"}, "float16"),
        ({"aiter_version": "0.1.16.post6"}, "stale: made for AITER 0.1.17 and before 0.1.19.post1"),
        ({"aiter_version": "0.1.19.post1"}, "not 0.1.19.post1"),
        ({"aiter_version": "main"}, "AITER main is no release"),
        ({"aiter_version": "0.1.17rc0"}, "AITER 0.1.17rc0 is no release"),
    ],
)
def test_another_key_is_a_miss_with_a_word(change, why):
    found = table.look_up(made(), Call(**{**asdict(CALL), **change}))
    assert isinstance(found, Miss)
    assert why in found.why


def test_the_key_finds_its_entry():
    for version in ("0.1.17", "0.1.17+rocm7.2", "0.1.19"):
        call = Call(**{**asdict(CALL), "aiter_version": version})
        assert table.look_up(made(), call)["max_bytes"] == 139264


def test_what_was_tuned_on_another_machine_is_a_miss_too():
    record = made()
    here = Call(**{**asdict(CALL), "machine": MACHINE})
    assert table.look_up(record, here)["max_bytes"] == 139264
    record["entries"][2] |= {"machine": dict(MACHINE), "hidden_dims": [2880]}
    assert table.look_up(read(record), here)["max_bytes"] == 139264
    assert table.look_up(read(record), CALL)["max_bytes"] == 139264
    record["entries"][2]["machine"]["driver"] = "6.10"
    assert table.look_up(read(record), here) == Miss("stale: tuned with another driver")


def test_ranges_that_do_not_meet_may_share_a_key():
    record = made()
    record["entries"].append(
        {**record["entries"][2], "aiter_from": "0.1.19.post1", "aiter_before": None, "max_bytes": 8}
    )
    call = Call(**{**asdict(CALL), "aiter_version": "0.1.20"})
    assert table.look_up(read(record), call)["max_bytes"] == 8
    assert table.look_up(read(record), CALL)["max_bytes"] == 139264


def first_form(record, **changes):
    """Return a table as schema 1 had it."""
    entries = [
        {k: v for k, v in e.items() if k not in ("kernel_family", "hidden_dims")} | changes
        for e in record["entries"]
    ]
    return {**record, "schema": "costmodel/table/1", "entries": entries}


def test_a_table_of_schema_1_is_read_for_what_it_says():
    assert read(first_form(made())) == made()
    tuned = read(first_form(made(), machine=MACHINE))
    found = table.look_up(tuned, CALL)
    assert found == Miss("made for hidden sizes that it does not name, not for 2880")
    with pytest.raises(InputError, match="missing required field `arch`"):
        read(first_form({**made(), "entries": [{}]}))


def of_sizes(*sizes, **more):
    return {**made()["entries"][2], "hidden_dims": list(sizes), **more}


def test_an_entry_is_for_the_hidden_sizes_that_it_names():
    every = made()["entries"][2]
    record = read({**made(), "entries": [every, of_sizes(2880, 7168, max_bytes=8)]})
    for hidden, size in (
        ((2880,), 8), ((7168, 2880), 8), ((4096,), 139264), ((2880, 4096), 139264), ((), 8),
    ):  # fmt: skip
        call = Call(**{**asdict(CALL), "hidden_dims": hidden})
        assert table.look_up(record, call)["max_bytes"] == size
    alone = read({**made(), "entries": [of_sizes(2880), of_sizes(*range(1, 9), max_bytes=8)]})
    found = table.look_up(alone, Call(**{**asdict(CALL), "hidden_dims": (2880, 1)}))
    assert found == Miss(
        "made for hidden 2880 and hidden 1, 2, 3, 4, 5, 6 and 2 more, not for 1, 2880"
    )
    for twice in ([every, every], [of_sizes(2880, 4096), of_sizes(4096, 7168)]):
        with pytest.raises(InputError, match=r"entries\[1\]: a second entry for the same key"):
            read({**made(), "entries": twice})


def test_a_new_entry_takes_its_hidden_sizes_from_the_others_of_its_key():
    def put(record, entry):
        calibration = {"id": "a", "sha256": "b"}
        return table.with_entry(
            record, entry, device="AMD_Instinct_MI300X", calibration=calibration,
            day=date(2026, 11, 1), command="x",
        )  # fmt: skip

    every, other = made()["entries"][2], made()["entries"][1]
    record = {**made(), "entries": [other, every, of_sizes(2880, 7168)]}
    found = put(record, of_sizes(2880, 4096, max_bytes=8))["entries"]
    assert found == [other, every, of_sizes(7168), of_sizes(2880, 4096, max_bytes=8)]
    assert put({**record, "entries": found}, of_sizes(7168))["entries"] == [
        other, every, of_sizes(2880, 4096, max_bytes=8), of_sizes(7168),
    ]  # fmt: skip
    assert put(record, {**every, "max_bytes": 1})["entries"] == [
        other, of_sizes(2880, 7168), {**every, "max_bytes": 1},
    ]  # fmt: skip


def test_kernels_of_others_have_entries_of_their_own():
    own = of_sizes(
        2880, kernel_family="costmodel-2", aiter_from=None, aiter_before=None, fabric="nvlink/2"
    )
    record = read({**made(), "entries": [own]})
    call = {**asdict(CALL), "fabric": "nvlink/2", "aiter_version": "none"}
    assert table.look_up(record, Call(**{**call, "kernel_family": "costmodel-2"})) == own
    assert "no entry for gfx942, nvlink/2" in table.look_up(record, Call(**call)).why
    assert "TP8, fused_ar_rmsnorm, bfloat16, costmodel-2's kernels, hidden 2880: " in table.words(
        own
    )


def test_a_table_is_for_one_gpu():
    rule = Rule.from_cutoffs("mine", {8: 4096})
    how = {"dtype": "bf16", "held": HELD, "day": date(2026, 11, 1)}
    with pytest.raises(InputError, match="give --arch or --gpu"):
        table.make(rule, Provenance("costmodel emit"), KERNEL, **how)
