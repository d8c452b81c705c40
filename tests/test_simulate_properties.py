"""Properties of the simulation under random machines, shapes and conditions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel.calibration.posterior import shipped
from costmodel.simulation import Conditions, Skew, Stream, machine, simulate
from costmodel.simulation.program import EXCHANGE, MEMORY, READ, Transfer

CALIBRATION = shipped("gfx950")
FABRICS = {"full_mesh": (2, 4, 8), "switch": (2, 4, 8, 12), "ring": (2, 4, 5, 8),
           "hypercube": (2, 4, 8), "hierarchical": (4, 8)}  # fmt: skip

few = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def calls(draw, fabrics=tuple(FABRICS), plain=False):
    """Return (machine, keyword arguments of simulate) with faults, skew, slow ranks, other work."""
    fabric = draw(st.sampled_from(fabrics))
    ranks = draw(st.sampled_from(FABRICS[fabric]))
    domain = 2 if fabric == "hierarchical" else 8
    found = machine(CALIBRATION, "MI355X", fabric=fabric, ranks=ranks, domain=domain)
    call = {
        "algorithm": draw(st.sampled_from(["1stage", "2stage"])),
        "tokens": draw(st.integers(1, 200)),
        "hidden_dim": draw(st.sampled_from([512, 2048, 7168])),
        "op": draw(st.sampled_from(["fused_ar_rmsnorm", "all_reduce", "ar_then_rmsnorm"])),
    }
    if plain:
        return found, call
    if draw(st.booleans()):
        ends = found.topology.ends[ranks:-1]
        a, b = ends[draw(st.integers(0, len(ends) - 1))].tolist()
        name = "-".join("sw" if e == ranks else str(e) for e in (a, b))
        found = found.degrade({name: draw(st.floats(0.05, 1.0))})
    rank = st.integers(0, ranks - 1)
    streams = draw(st.lists(st.builds(Stream, rank, rank, st.floats(1.0, 100.0)), max_size=2))
    arrivals = draw(st.lists(st.floats(0.0, 50.0), min_size=ranks, max_size=ranks))
    call["conditions"] = Conditions(
        arrivals_us=np.array(arrivals),
        slowdown=draw(st.dictionaries(rank, st.floats(0.5, 3.0), max_size=2)),
        resident=draw(st.dictionaries(rank, st.integers(20, 80), max_size=1)),
        background=tuple(streams),
        entry_barrier=draw(st.booleans()),
    )
    return found, call


def moved(outcome):
    """Return the wire bytes that the program puts on each link."""
    topology = outcome.machine.topology
    ranks = topology.ranks
    expected = np.zeros(len(topology.ends))
    for step in outcome.program.steps:
        if not isinstance(step, Transfer):
            continue
        if step.kind == MEMORY:
            expected[:ranks] += step.wire_bytes[0]
            continue
        each = float(step.wire_bytes @ outcome.program.workgroups)
        for a in range(ranks):
            for b in range(ranks):
                if a != b:
                    assert step.kind in (READ, EXCHANGE, "write")
                    np.add.at(expected, topology.paths[a * ranks + b], each)
    return expected[:-1]


@few
@given(calls())
def test_bytes_are_conserved_and_no_link_exceeds_its_capacity(case):
    found, call = case
    call["conditions"] = replace(call["conditions"], background=())
    outcome = simulate(found, record=True, **call)
    times = np.array([t for t, _ in outcome.run.loads])
    loads = np.array([load for _, load in outcome.run.loads])
    assert (np.diff(times) >= 0).all()
    capacity = found.topology.with_memory(outcome.program.memory_gbps).capacity
    assert (loads[:, :-1] <= capacity[:-1] * (1 + 1e-9)).all()
    assert (loads[-1, :-1] == 0).all()
    carried = (loads[:-1, :-1] * np.diff(times)[:, None]).sum(axis=0)
    assert carried == pytest.approx(moved(outcome), rel=1e-9, abs=1e-3)


@few
@given(calls())
def test_no_link_exceeds_its_capacity_with_other_traffic(case):
    found, call = case
    outcome = simulate(found, record=True, **call)
    capacity = found.topology.with_memory(outcome.program.memory_gbps).capacity
    for _, load in outcome.run.loads:
        assert (load[:-1] <= capacity[:-1] * (1 + 1e-9)).all()


@few
@given(calls())
def test_time_is_monotone_and_nothing_precedes_its_cause(case):
    found, call = case
    outcome = simulate(found, record=True, **call)
    run, arrivals = outcome.run, call["conditions"].arrivals_us
    at: dict[tuple[int, int], float] = {}
    ends = [span.end for span in run.spans]
    assert ends == sorted(ends)
    entry: list[tuple[float, float]] = []
    for span in run.spans:
        for rank, k, start in zip(span.rank, span.workgroups, span.start, strict=True):
            # A step starts when the one before it ended, the first one on arrival or later.
            assert start >= at.get((rank, k), arrivals[rank])
            assert span.end >= start
            at[rank, k] = span.end
            if span.term == "entry_barrier":
                entry.append((start, span.end))
    if entry:
        # Nobody passes the entry barrier before the last rank has launched.
        launched = max(a + run.own_us[r, run.terms.index("launch")] for r, a in enumerate(arrivals))
        assert min(end for _, end in entry) >= launched * (1 - 1e-12)
    assert (run.waiting_us >= 0).all()
    assert (run.own_us >= 0).all()
    total = run.own_us.sum(axis=1) + run.waiting_us
    assert arrivals + total == pytest.approx(run.finish_us, rel=1e-9)


@few
@given(calls(plain=True), st.floats(1.0, 4.0))
def test_more_bandwidth_never_slows_a_collective(case, factor):
    found, call = case
    faster = simulate(found.scaled(factor), **call).latency_us
    assert faster <= simulate(found, **call).latency_us * (1 + 1e-9)


@few
@given(calls(("full_mesh",), plain=True), st.floats(0.1, 1.0), st.floats(1.0, 4.0))
def test_a_faster_cable_of_a_mesh_never_slows_it(case, fraction, factor):
    found, call = case
    slow = simulate(found.degrade({"0-1": fraction}), **call).latency_us
    assert simulate(found.degrade({"0-1": fraction * factor}), **call).latency_us <= slow * (
        1 + 1e-9
    )


@few
@given(calls(("full_mesh", "switch")), st.randoms(use_true_random=False))
def test_a_permutation_of_ranks_permutes_the_result(case, random):
    found, call = case
    found = machine(CALIBRATION, "MI355X", fabric=found.topology.name, ranks=found.ranks)
    order = list(range(found.ranks))
    random.shuffle(order)
    place = {rank: i for i, rank in enumerate(order)}
    old = call["conditions"]
    cable = ("0-1", 0.3) if found.topology.name == "full_mesh" else ("0-sw", 0.3)
    ends = [str(place[int(e)]) if e != "sw" else e for e in cable[0].split("-")]
    new = replace(
        old,
        arrivals_us=old.arrivals_us[order],
        slowdown={place[r]: f for r, f in old.slowdown.items()},
        resident={place[r]: n for r, n in old.resident.items()},
        background=tuple(
            replace(s, source=place[s.source], target=place[s.target]) for s in old.background
        ),
    )
    one = simulate(found.degrade(dict([cable])), **call)
    two = simulate(found.degrade({"-".join(ends): cable[1]}), **{**call, "conditions": new})
    assert two.run.finish_us == pytest.approx(one.run.finish_us[order], rel=1e-9)
    assert two.run.waiting_us == pytest.approx(one.run.waiting_us[order], rel=1e-6, abs=1e-6)


@few
@given(calls(), st.integers(0, 2**31))
def test_results_are_bit_identical_for_a_seed(case, seed):
    found, call = case
    runs = []
    for _ in range(2):
        arrivals = Skew("normal", 7.0).draw(found.ranks, seed)[0]
        call["conditions"] = call["conditions"].late(arrivals)
        runs.append(simulate(found, **call).run)
    assert runs[0].finish_us.tobytes() == runs[1].finish_us.tobytes()
    assert runs[0].own_us.tobytes() == runs[1].own_us.tobytes()


@few
@given(calls(("full_mesh", "switch", "ring")))
def test_classes_of_equal_workgroups_change_nothing(case):
    """A rank that runs all but none at once makes every workgroup a class of its own."""
    found, call = case
    call["tokens"] = min(call["tokens"], 90)
    call["conditions"] = replace(call["conditions"], resident={})
    classes = simulate(found, **call)
    one_by_one = simulate(replace(found, resident=1 << 20), split=True, **call)
    assert one_by_one.run.finish_us == pytest.approx(classes.run.finish_us, rel=1e-9)
