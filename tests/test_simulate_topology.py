"""Topologies: what links there are, which a path crosses, and what a failure does to it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from costmodel.errors import InputError
from costmodel.simulation.topology import TOPOLOGIES, build


def path(topology, a, b):
    """Return the links from a to b by name."""
    row = topology.paths[a * topology.ranks + b]
    return [topology.link_name(i) for i in row if i < len(topology.ends) - 1]


def test_full_mesh_has_one_link_each_way():
    mesh = build("full_mesh", 4, 50.0)
    assert path(mesh, 0, 3) == ["0>3"]
    assert path(mesh, 3, 0) == ["3>0"]
    assert len(mesh.ends) == 4 + 12 + 1  # memories, links, filler


def test_switch_goes_up_one_port_and_down_another():
    switch = build("switch", 72, 1640.0)
    assert path(switch, 5, 70) == ["5>sw", "sw>70"]
    assert (switch.gbps[72:-1] == 1640.0).all()


def test_ring_takes_the_shorter_way():
    ring = build("ring", 8, 50.0)
    assert path(ring, 6, 1) == ["6>7", "7>0", "0>1"]
    assert path(ring, 1, 6) == ["1>0", "0>7", "7>6"]
    assert path(ring, 0, 4) == ["0>1", "1>2", "2>3", "3>4"]  # a tie goes clockwise


def test_hypercube_flips_one_bit_a_hop_and_is_widest_inside_a_package():
    cube = build("hypercube", 8, 50.0)
    assert path(cube, 0, 7) == ["0>1", "1>3", "3>7"]
    rate = {cube.link_name(i): cube.gbps[i] for i in range(8, len(cube.ends) - 1)}
    assert (rate["0>1"], rate["0>2"], rate["0>4"]) == (200.0, 100.0, 50.0)


def test_hierarchical_stays_in_its_mesh_where_it_can():
    domains = build("hierarchical", 16, 58.0, domain=8, uplink_gbps=40.0)
    assert path(domains, 1, 6) == ["1>6"]
    assert path(domains, 1, 9) == ["1>sw", "sw>9"]
    assert set(domains.gbps[16:-1].tolist()) == {40.0, 58.0}


WHERE = {"full_mesh": [2, 4, 8], "hierarchical": [16, 64]}


@pytest.mark.parametrize(
    ("name", "ranks"), [(n, r) for n in TOPOLOGIES for r in WHERE.get(n, [2, 4, 8, 32])]
)
def test_every_path_leads_from_its_source_to_its_target(name, ranks):
    fabric = build(name, ranks, 50.0)
    for pair, links in enumerate(fabric.paths):
        a, b = divmod(pair, ranks)
        real = [fabric.ends[i].tolist() for i in links if i < len(fabric.ends) - 1]
        assert len(real) == fabric.hops[pair]
        if a == b:
            assert real == [[a, a]]
            continue
        assert real[0][0] == a
        assert real[-1][1] == b
        assert all(x[1] == y[0] for x, y in itertools.pairwise(real))


def test_degrading_touches_one_cable_only():
    mesh = build("full_mesh", 4, 50.0)
    half = mesh.degrade({"0-3": 0.5})
    changed = [mesh.link_name(i) for i in np.flatnonzero(mesh.gbps != half.gbps)]
    assert changed == ["0>3", "3>0"]
    one_way = mesh.degrade({"0>3": 0.5})
    assert [mesh.link_name(i) for i in np.flatnonzero(mesh.gbps != one_way.gbps)] == ["0>3"]


def test_ring_forwards_the_other_way_round_a_failure():
    ring = build("ring", 8, 50.0).degrade({"0-1": 0})
    assert path(ring, 0, 1) == ["0>7", "7>6", "6>5", "5>4", "4>3", "3>2", "2>1"]
    assert path(ring, 4, 5) == ["4>5"]


def test_hypercube_takes_the_widest_of_the_shortest_detours():
    # From 0 to 1 in three hops: over 2 and 3 at 10 GB/s, or over 4 and 5 at 50.
    cube = build("hypercube", 8, 50.0).degrade({"0-1": 0, "0-2": 0.1})
    assert path(cube, 0, 1) == ["0>4", "4>5", "5>1"]
    assert path(cube, 2, 3) == ["2>3"]


def test_failed_link_of_a_mesh_disconnects_its_pair():
    with pytest.raises(InputError, match="no path from rank 0 to rank 3"):
        build("full_mesh", 4, 50.0).degrade({"0-3": 0})


@pytest.mark.parametrize(
    ("name", "links", "message"),
    [
        ("ring", {"0-1": 0, "4-5": 0}, "no path from rank 0 to rank 1"),
        ("switch", {"5-sw": 0}, "no path from rank 0 to rank 5"),
        ("full_mesh", {"0-9": 0.5}, "no link 0-9 in full_mesh of 8 ranks"),
        ("switch", {"0-3": 0.5}, "the ports 0-sw to 7-sw"),
        ("full_mesh", {"0-3": -1}, "0 or more"),
        ("full_mesh", {"0-3": float("nan")}, "0 or more"),
        ("full_mesh", {"zero": 0.5}, "not understood"),
        ("full_mesh", {"2-2": 0}, "memory cannot be taken out"),
    ],
)
def test_bad_links_are_named(name, links, message):
    with pytest.raises(InputError, match=message) as caught:
        build(name, 8, 50.0).degrade(links)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("torus", 8, 50.0), "unknown fabric 'torus'"),
        (("full_mesh", 16, 50.0), "at most 8 ranks"),
        (("full_mesh", 1, 50.0), "2 or more"),
        (("hypercube", 6, 50.0), "power of two"),
        (("hierarchical", 20, 50.0), "multiple of 8"),
        (("switch", 8, 0.0), "more than 0"),
        (("switch", 8, float("inf")), "more than 0"),
        (("ring", 4096, 50.0), "do not fit in memory"),
    ],
)
def test_fabrics_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        build(*arguments)
