"""Cards by PCI device id, and what joins GPUs by the KFD topology."""

import re

import pytest
from test_doctor import kfd as topology

from costmodel.data import cards, facts, hardware
from costmodel.data.importers.rows import Said
from costmodel.live import kfd, machine

#: AITER's own list (aiter/jit/utils/chip_info.py).
MI308X = (0x74A2, 0x74A8, 0x74B6, 0x74BC)


def every_pair(gpus):
    return [(a, b) for a in range(1, gpus + 1) for b in range(1, gpus + 1) if a != b]


def with_ids(directory, device_id):
    """Give every GPU of a topology a PCI device id."""
    for file in directory.glob("*/properties"):
        file.write_text(f"{file.read_text()}device_id {device_id}\n")
    return directory


def test_an_id_is_listed_once_with_its_source_and_every_card_has_a_virtual_function():
    rows = facts.rows("pci_ids.csv")
    assert len({row["device_id"] for row in rows}) == len(rows) == len(cards.cards())
    for one in cards.cards().values():
        assert one.source.startswith("https://")
        assert re.search(r"/[0-9a-f]{40}/", one.source), "a source that may change"
        apart = {"gfx942": 20, "gfx950": 16}[one.arch]
        other = cards.card(one.device_id + (-apart if one.virtual else apart))
        assert (other.gpu, other.virtual) == (one.gpu, not one.virtual)


def test_mi308x_is_what_aiter_lists_and_no_other():
    assert sorted(cards.device_ids("MI308X")) == sorted(MI308X)


def test_every_gpu_that_is_recommended_for_has_ids_on_xgmi():
    for arch, gpus in hardware.GPUS.items():
        for gpu in gpus:
            found = [cards.card(i) for i in cards.device_ids(gpu)]
            assert {(c.arch, c.interconnect) for c in found} == {(arch, "xgmi")}
            assert {c.virtual for c in found} == {True, False}


@pytest.mark.parametrize("unlisted", [0, 0x74A3, 0x74B7, 0x75A1, 0x75A9, 1 << 40])
def test_an_id_that_is_not_listed_is_an_unknown_card(unlisted):
    assert cards.card(unlisted) is None


def test_gpus_of_a_full_mesh_of_a_part_and_of_none(tmp_path):
    full = topology(tmp_path / "full", every_pair(8))
    assert kfd.interconnect(full) == "xgmi"
    part = topology(tmp_path / "part", [(1, 2), (2, 1)], gpus=4)
    assert kfd.interconnect(part) == "mixed"
    alone = topology(tmp_path / "none", [], version=90500)
    assert kfd.interconnect(alone) == "pcie"
    assert kfd.interconnect(tmp_path / "nowhere") is None


def test_gfx950_over_pcie_is_told_from_gfx950_over_xgmi(tmp_path):
    p = with_ids(topology(tmp_path / "p", [], version=90500), 0x75A8)
    x = with_ids(topology(tmp_path / "x", every_pair(8), version=90500), 0x75B3)
    assert {(g.arch, g.card.gpu) for g in kfd.gpus(p)} == {("gfx950", "MI350P")}
    assert {(g.arch, g.card.gpu, g.card.virtual) for g in kfd.gpus(x)} == {
        ("gfx950", "MI355X", True)
    }
    assert (kfd.interconnect(p), kfd.interconnect(x)) == ("pcie", "xgmi")


def test_a_lone_gpu_is_judged_by_its_card(tmp_path):
    for number, (device_id, wire) in enumerate([(0x75A8, "pcie"), (0x74A1, "xgmi"), (1, None)]):
        one = with_ids(topology(tmp_path / str(number), [], gpus=1), device_id)
        assert kfd.interconnect(one) == wire


def test_the_doctor_names_the_cards_whose_ids_are_known(tmp_path):
    here = with_ids(topology(tmp_path / "mi308x", every_pair(8)), 0x74BC)
    checks = {c.name: c for c in machine.look(kfd=here, path=[str(tmp_path)])}
    assert checks["GPUs"].seen.startswith("8 x MI308X; torch sees none of them")


def test_gpus_that_no_row_of_a_topology_joins_make_rows_over_pcie():
    assert hardware.wire("MI350P", 8) == "pcie"
    assert hardware.wire("MI355X", 8) == "xgmi"
    assert Said(gpu="MI350P").gpu == "MI350P"
