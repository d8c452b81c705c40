"""What was tuned in a start-up, kept in the run-time table."""

import fcntl
import json
import os
import subprocess
import sys

import pytest
from msgspec.structs import replace

from costmodel.data import kernels
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.files import json_text
from costmodel.live.startup import cache as cached
from costmodel.live.startup.cache import Cache, this_machine
from costmodel.rules import table
from costmodel.rules.table import Call, Miss

NEWEST = kernels.aiter()
MACHINE = {"driver": "6.12.12", "topology": "8 MI355X", "kernel_state": "AITER 0.1.20.post1"}
CALIBRATION = {"id": "gfx950-0", "sha256": "0" * 64}
DEVICE = "AMD_Instinct_MI355X"
HIDDEN = (2880, 7168)
CALL = Call("gfx950", "xgmi", 8, "fused_ar_rmsnorm", "bfloat16", "0.1.20.post1", HIDDEN, MACHINE)
FIRST, BEFORE = table.releases_like(NEWEST)
ENTRY = {
    "arch": "gfx950", "fabric": "xgmi", "world_size": 8, "op": "fused_ar_rmsnorm",
    "dtype": "bfloat16", "kernel_family": "aiter", "aiter_from": FIRST, "aiter_before": BEFORE,
    "hidden_dims": list(HIDDEN), "max_bytes": 196608, "verdict": "measured", "lo": 180224.0, "hi": 229375.0, "machine": None,
}  # fmt: skip


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "table.json", DEVICE, CALL)


def kept(cache, **changes):
    cache.keep({**ENTRY, **changes}, CALIBRATION)
    return table.load(cache.path)


def test_what_was_kept_is_found_on_this_machine_alone(cache):
    assert cache.look() == Miss("no file yet")
    record = kept(cache)
    assert cache.look() == {**ENTRY, "machine": MACHINE} == record["entries"][0]
    assert (record["device_name"], record["command"]) == (DEVICE, "costmodel.live.tune")
    assert record["calibration"] == CALIBRATION
    for key, words in (
        ("driver", "driver"), ("topology", "topology"), ("kernel_state", "kernel state"),
    ):  # fmt: skip
        other = replace(CALL, machine={**MACHINE, key: "x"})
        assert Cache(cache.path, DEVICE, other).look() == Miss(f"stale: tuned with another {words}")
    for other, said in (
        (replace(CALL, world_size=4), "no entry for gfx950, xgmi, TP4"),
        (replace(CALL, arch="gfx942"), "no entry for gfx942"),
        (replace(CALL, aiter_version="0.1.12"), "stale: made for AITER"),
        (replace(CALL, aiter_version="0.1.20.dev1"), "is no release"),
    ):
        assert said in Cache(cache.path, DEVICE, other).look().why


def test_an_entry_takes_the_place_of_that_of_its_key_and_leaves_the_others(cache):
    kept(cache)
    kept(cache, world_size=4, max_bytes=7)
    record = kept(cache, max_bytes=65536)
    assert [(e["world_size"], e["max_bytes"]) for e in record["entries"]] == [(4, 7), (8, 65536)]
    assert cache.look()["max_bytes"] == 65536


def test_what_was_tuned_for_other_hidden_sizes_is_a_miss(cache):
    kept(cache)
    some, more = (replace(CALL, hidden_dims=sizes) for sizes in ((7168,), (2880, 4096)))
    assert Cache(cache.path, DEVICE, some).look()["max_bytes"] == ENTRY["max_bytes"]
    found = Cache(cache.path, DEVICE, more).look()
    assert found == Miss("made for hidden 2880, 7168, not for 2880, 4096")


def test_an_entry_of_a_calibration_is_a_miss_and_stays_for_other_hidden_sizes(cache):
    record = table.with_entry(
        None, {**ENTRY, "hidden_dims": None}, device=DEVICE, calibration=CALIBRATION, day=table.date(2026, 11, 1),
        command="costmodel emit",
    )  # fmt: skip
    cache.path.write_text(json_text(record))
    assert "from a calibration" in cache.look().why
    assert [e["machine"] for e in kept(cache)["entries"]] == [None, MACHINE]
    assert cache.look()["machine"] == MACHINE


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "costmodel/table/2"}', "\xff" * 9])
def test_a_damaged_file_is_a_miss_and_is_moved_aside(cache, text):
    cache.path.write_text(text, encoding="latin-1")
    assert cache.look().why.startswith("not read: ")
    assert len(kept(cache)["entries"]) == 1
    assert cache.path.with_name("table.json.damaged").read_text(encoding="latin-1") == text
    assert cache.look()["max_bytes"] == ENTRY["max_bytes"]


def test_a_table_of_another_gpu_is_left_alone(cache):
    kept(cache)
    before = cache.path.read_bytes()
    with pytest.raises(InputError, match="is for AMD_Instinct_MI355X, not for AMD_Instinct_MI300X"):
        Cache(cache.path, "AMD_Instinct_MI300X", cache.call).keep(ENTRY, CALIBRATION)
    assert cache.path.read_bytes() == before


def test_what_is_no_file_is_neither_read_nor_written(cache, tmp_path):
    os.mkfifo(cache.path)
    assert "not a regular file" in cache.look().why
    with pytest.raises(InputError, match="not a regular file"):
        cache.keep(ENTRY, CALIBRATION)
    with pytest.raises(InputError, match="No such file or directory"):
        Cache(tmp_path / "no" / "no" / "t.json", DEVICE, CALL).keep(ENTRY, CALIBRATION)
    with pytest.raises(InputError, match="max_bytes is -1"):
        Cache(tmp_path / "o.json", DEVICE, CALL).keep({**ENTRY, "max_bytes": -1}, CALIBRATION)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.json"]


def test_a_table_does_not_outgrow_what_is_read(cache):
    long = {**MACHINE, "topology": "x" * 9000}
    big = Cache(cache.path, DEVICE, replace(CALL, machine=long))
    for size in range(12):
        big.keep({**ENTRY, "op": f"op{size}"}, CALIBRATION)
    entries = table.load(cache.path)["entries"]
    assert cache.path.stat().st_size <= table.MAX_FILE_BYTES
    assert [e["op"] for e in entries] == [f"op{n}" for n in range(12 - len(entries), 12)]
    assert 3 < len(entries) < 12


def test_a_lock_that_is_held_is_waited_for_but_not_for_ever(cache, monkeypatch):
    monkeypatch.setattr(cached, "LOCK_S", 0.1)
    handle = os.open(cache.path.parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="locked by another process"):
        cache.keep(ENTRY, CALIBRATION)
    assert not cache.path.exists()
    os.close(handle)
    assert len(kept(cache)["entries"]) == 1


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_startup_cache import CALIBRATION, CALL, DEVICE, ENTRY
from costmodel.live.startup import cache
cache.LOCK_S = 60.0
for n in range(12):
    cache.Cache(Path(sys.argv[1]), DEVICE, CALL).keep(
        {{**ENTRY, "op": f"{{sys.argv[2]}}-{{n}}"}}, CALIBRATION
    )
"""


def test_several_writers_lose_nothing(cache):
    code = WRITER.format(tests=os.path.dirname(__file__))
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(cache.path), name]) for name in "abc"
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    entries = table.load(cache.path)["entries"]
    assert len({e["op"] for e in entries}) == 36
    assert list(cache.path.parent.iterdir()) == [cache.path]


def test_the_machine_is_said_in_words_and_the_alternative_is_part_of_it():
    two, apart = (
        this_machine(Setting.shipped("MI355X", otherwise=arm), "0.1.20.post1+x", "xgmi")
        for arm in ("2stage", "separate")
    )
    assert two["kernel_state"] != apart["kernel_state"]
    assert "AITER 0.1.20.post1+x" in two["kernel_state"]
    assert json.loads(json_text(two)) == two
