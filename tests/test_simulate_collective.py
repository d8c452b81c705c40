"""One simulated collective: against the closed form, by hand, and against a published trace."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from costmodel.calibration.posterior import shipped
from costmodel.data import hardware
from costmodel.data import kernels as kernel
from costmodel.errors import InputError
from costmodel.model.fabric import FullMesh
from costmodel.model.latency import TERMS, LinkModel, read_floor_us
from costmodel.model.shape import Shapes
from costmodel.simulation import Blocked, Conditions, Skew, Stream, machine, simulate

OPS = ("fused_ar_rmsnorm", "all_reduce", "ar_then_rmsnorm")

#: Costs with nothing but links: 1-stage takes S/w, plain 2-stage 2 S/(N w).
FREE = {
    "read_efficiency": 1.0, "eight_rank_efficiency": 1.0, "round_trip_us": 0.0,
    "one_stage_eight_rank_efficiency": 1.0, "read_floor_us": 0.0, "read_floor_growth": 1.0,
    "turn_exposure_us": 0.0, "launch_us": 0.0, "second_launch_us": 0.0, "barrier_us": 0.0,
    "arrival_jitter_us": 0.0, "stage_gap_us": 0.0, "fused_exit_us": 0.0, "plain_exit_us": 0.0,
    "release_acquire_us": 0.0, "norm_us": 0.0, "local_us": 0.0, "local_gbps": 1e9,
    "separate_launch_us": 0.0, "separate_norm_us": 0.0, "separate_norm_gbps": 1e9,
    "eight_rank_fused_us": 0.0, "eight_rank_plain_us": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def mi355x():
    return shipped("gfx950")


def only_links(calibration, ranks=4, gbps=50.0, fabric="full_mesh", **more):
    return machine(
        calibration, "MI355X", fabric=fabric, ranks=ranks, link_gbps=gbps, costs={**FREE, **more}
    )


# Against the closed form.


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("algorithm", ["1stage", "2stage"])
def test_agrees_with_the_closed_form_where_it_holds(arch, ranks, op, algorithm):
    found = machine(shipped(arch), hardware.GPUS[arch][0], ranks=ranks)
    plain = 0
    for hidden in (512, 2880, 7168):
        for tokens in (1, 7, 16, 40, 64, 80, 96, 160, 333, 2048):
            outcome = simulate(found, algorithm, tokens, hidden, op=op)
            off = abs(outcome.latency_us / outcome.closed_form_us - 1)
            if outcome.departures:
                # Even uneven workgroups move a call by less than a fifth.
                assert off < 0.2, (hidden, tokens, outcome.departures)
            else:
                plain += 1
                assert off < 0.01, (hidden, tokens)
    assert plain >= 5


def test_terms_are_the_closed_forms_own(mi355x):
    found = machine(mi355x, "MI355X", ranks=8)
    outcome = simulate(found, "2stage", 80, 4096)
    terms = outcome.terms(0)
    assert set(terms) <= set(TERMS)
    assert sum(terms.values()) == pytest.approx(outcome.latency_us)
    assert terms["link_write"] > found.costs.round_trip_us


def test_a_nearly_empty_last_turn_is_said_and_costs(mi355x):
    found = machine(mi355x, "MI355X", ranks=8)
    full, one_more = (simulate(found, "1stage", t, 7168) for t in (80, 81))
    assert not full.departures
    assert one_more.departures == ("uneven workgroups: 1 of 80 do 2 turns, others 1",)
    # The closed form adds 1/80 of the link time; the last token is read by one workgroup alone.
    trip_us, norm_us = found.costs.round_trip_us, found.costs.norm_us

    def floor_us(tokens):
        geometry = LinkModel(FullMesh()).geometry(
            Shapes.of([tokens], 7168, 8), "1stage", found.kernel, "gfx950"
        )
        return read_floor_us(geometry, found.costs).item()

    read_us, half = full.terms(0)["link_read"], floor_us(81) / 2
    wire_us = np.sqrt(read_us**2 - trip_us**2 - floor_us(80) ** 2)
    first, last = (np.linalg.norm([wire, trip_us, half]) for wire in (wire_us, wire_us / 80))
    step = one_more.latency_us - full.latency_us
    assert step == pytest.approx(first - read_us + last + norm_us, rel=1e-3)
    assert one_more.closed_form_us - full.closed_form_us < step / 2


def test_unknown_fabrics_have_no_closed_form(mi355x):
    outcome = simulate(machine(mi355x, "MI355X", fabric="ring"), "1stage", 8, 4096)
    assert outcome.closed_form_us is None
    assert outcome.to_dict()["closed_form_us"] is None


# By hand: links only, 10 tokens x 5000 x 2 bytes = 100 kB, 50 GB/s: S/w = 2 us.


def test_1stage_is_bytes_over_link_rate(mi355x):
    assert simulate(only_links(mi355x), "1stage", 10, 5000).latency_us == pytest.approx(2.0)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_2stage_moves_two_nths(mi355x, ranks):
    outcome = simulate(only_links(mi355x, ranks), "2stage", 10, 5000)
    assert outcome.latency_us == pytest.approx(4.0 / ranks, rel=1e-5)


def test_a_half_rate_cable_doubles_both_stages(mi355x):
    found = only_links(mi355x).degrade({"0-3": 0.5})
    assert simulate(found, "1stage", 10, 5000).latency_us == pytest.approx(4.0)
    assert simulate(found, "2stage", 10, 5000).latency_us == pytest.approx(2.0, rel=1e-5)
    waits = simulate(found, "1stage", 10, 5000).run.waiting_us
    assert waits == pytest.approx([0, 2, 2, 0])


def test_a_read_slows_the_rank_that_it_brings_data_to(mi355x):
    found = only_links(mi355x).degrade({"0>1": 0.5})
    outcome = simulate(found, "1stage", 10, 5000)
    assert outcome.terms(1)["link_read"] == pytest.approx(4.0)
    assert outcome.terms(0)["link_read"] == pytest.approx(2.0)
    # Fused 2-stage, parts that take 1 unit of time at the full rate: rank 0 has read at 1 and writes
    # over 0>1, where rank 1 has half of its read left: shared until 3, then half of the write
    # alone until 4.
    outcome = simulate(found, "2stage", 10, 4096)
    unit = outcome.bytes / 4 / 50e3
    assert outcome.terms(1)["link_read"] == pytest.approx(3 * unit)
    assert outcome.terms(0)["link_write"] == pytest.approx(3 * unit)


@pytest.mark.parametrize("op", OPS)
def test_workgroups_share_out_all_bytes(mi355x, op):
    found = only_links(mi355x, ranks=8)
    for tokens in (1, 33, 81, 500):
        outcome = simulate(found, "2stage", tokens, 2880, op=op)
        exchanged = [
            s for s in outcome.program.steps if getattr(s, "kind", "") in ("read", "write")
        ]
        assert len(exchanged) == 2
        for step in exchanged:
            assert step.wire_bytes @ outcome.program.workgroups == pytest.approx(outcome.bytes / 8)


def test_a_switch_port_takes_its_peers_in_turn(mi355x):
    found = only_links(mi355x, ranks=4, fabric="switch")
    # The one hop beyond the calibrated mesh shows in the flags of both barriers.
    # Its read's round trip is longer too, and adds to the bytes' 6 us as a smooth maximum.
    read_us, flags = np.hypot(6.0, 2 * found.hop_us), 2 * found.hop_us
    assert simulate(found, "1stage", 10, 5000).latency_us == pytest.approx(read_us + flags)


def test_a_ring_link_carries_what_passes_through(mi355x):
    # 4 ranks: 0>1 carries 0>1, 3>1 (a tie goes clockwise: 3>0, 0>1) and 0>2: three flows, 6 us.
    found = only_links(mi355x, fabric="ring")
    read_us, flags = np.hypot(6.0, 2 * found.hop_us), 2 * found.hop_us
    assert simulate(found, "1stage", 10, 5000).latency_us == pytest.approx(read_us + flags)


def test_background_takes_half_of_a_link(mi355x):
    # As many streams as workgroups (10): half the link each.
    streams = Conditions(background=(Stream(0, 1, 50.0, flows=10),))
    outcome = simulate(only_links(mi355x), "1stage", 10, 5000, conditions=streams)
    assert outcome.latency_us == pytest.approx(4.0)
    # A stream of 10 GB/s leaves 40.
    slow = Conditions(background=(Stream(0, 1, 10.0),))
    outcome = simulate(only_links(mi355x), "1stage", 10, 5000, conditions=slow)
    assert outcome.latency_us == pytest.approx(2.5)


def test_background_in_the_memory_slows_the_local_pass(mi355x):
    # 4 S = 400 kB at 100 GB/s: 4 us; with 60 GB/s taken by another kernel 10 us.
    found = only_links(mi355x, local_gbps=100.0)
    alone = simulate(found, "2stage", 10, 5000)
    busy = Conditions(background=(Stream(2, 2, 50.0, flows=1),))
    shared = simulate(found, "2stage", 10, 5000, conditions=busy)
    assert alone.terms(2)["local_pass"] == pytest.approx(4.0)
    assert shared.terms(2)["local_pass"] == pytest.approx(8.0)
    assert shared.terms(1)["local_pass"] == pytest.approx(4.0)


def test_a_slow_rank_takes_longer_over_its_own_work(mi355x):
    found = only_links(mi355x, launch_us=1.0, local_us=2.0, local_gbps=100.0)
    slow = Conditions(slowdown={3: 1.5})
    outcome = simulate(found, "2stage", 10, 5000, conditions=slow)
    assert outcome.terms(3)["launch"] == pytest.approx(1.5)
    assert outcome.terms(0)["local_pass"] == pytest.approx(6.0)  # 2 us, and 400 kB at 100 GB/s
    assert outcome.terms(3)["local_pass"] == pytest.approx(9.0)
    assert outcome.run.waiting_us[0] == pytest.approx(0.5)


def test_workgroups_beyond_the_cus_queue(mi355x):
    # 10 tokens on a rank that runs 5 workgroups at once: two turns of S/2 each, and the other
    # ranks' last workgroups wait for it at entry.
    found = only_links(mi355x, norm_us=1.0)
    outcome = simulate(found, "1stage", 10, 5000, conditions=Conditions(resident={2: 5}))
    assert outcome.terms(2)["workgroup_queue"] > 0
    plain = simulate(found, "1stage", 10, 5000)
    assert outcome.latency_us == pytest.approx(plain.latency_us + 1.0, rel=0.01)
    assert "5 of 10 workgroups at once" in outcome.departures[-1]


# Skew.


def test_a_ranks_time_is_the_collectives_plus_its_wait(mi355x):
    # With flags that take no time: else the last rank, which waits for none, reads ahead of others.
    free_flags = {"barrier_us": 0.0, "arrival_jitter_us": 0.0}
    found = machine(mi355x, "MI355X", ranks=8, costs=free_flags)
    together = simulate(found, "2stage", 64, 7168)
    arrivals = Skew("normal", 20.0).draw(8, seed=3)[0]
    apart = simulate(found, "2stage", 64, 7168, conditions=Conditions(arrivals_us=arrivals))
    wait = arrivals.max() - arrivals
    assert apart.duration_us == pytest.approx(together.latency_us + wait, abs=1e-9)
    assert apart.run.waiting_us == pytest.approx(wait, abs=1e-9)
    assert apart.latency_us == pytest.approx(together.latency_us)


def test_the_last_rank_finds_all_flags_there(mi355x):
    found = only_links(mi355x, barrier_us=0.5)
    arrivals = Conditions(np.array([0.0, 0.0, 10.0, 0.0]))
    outcome = simulate(found, "1stage", 10, 5000, conditions=arrivals)
    # At entry its peers' flags have long landed; at exit all store theirs together but for it.
    assert outcome.terms(0)["entry_barrier"] == pytest.approx(0.5)
    assert outcome.terms(2)["entry_barrier"] == 0.0
    assert outcome.run.waiting_us[0] == pytest.approx(10.0)
    assert outcome.terms(2)["exit_barrier"] == pytest.approx(0.5)


def published(quantity):
    figure = next(f for f in hardware.figures() if f.quantity == quantity)
    assert "vllm/issues/52911" in figure.source_url
    return figure


def test_reproduces_the_published_trace(mi355x):
    """https://github.com/vllm-project/vllm/issues/52911: 8 ranks of a gfx950 decode, AITER 2-stage.

    The middle layer: arrivals spread 64.2 us, kernel times 10.5 to 72.2 us; duration - wait is
    8.0 to 12.1 us with mean 10.2 over the ranks. The shape is not published: the simulated one is
    the all-reduce of a decode batch whose time is nearest to the mean.
    """
    gap = published("tp8_decode_ar_arrival_gap")
    spread, mean = float(gap.value), float(published("tp8_decode_ar_intrinsic").value)
    assert "AR kernel 10.5-72.2 us" in gap.notes
    found = machine(mi355x, "MI350X", ranks=8)
    calls = [simulate(found, "2stage", t, 7168, op="all_reduce") for t in range(8, 129, 8)]
    call = min(calls, key=lambda o: abs(o.latency_us - mean))
    assert call.latency_us == pytest.approx(mean, abs=0.5)
    arrivals = Skew("uniform", 1.0).draw(8, seed=1)[0]
    arrivals *= spread / arrivals.max()
    late = Conditions(arrivals_us=arrivals)
    trace = simulate(found, "2stage", call.tokens, 7168, op="all_reduce", conditions=late)
    scatter = 2.2  # of duration - wait in the source
    flag_us = call.terms(0)["entry_barrier"]
    assert trace.duration_us - (spread - arrivals) == pytest.approx(call.latency_us, abs=flag_us)
    assert trace.duration_us.min() == pytest.approx(10.5, abs=scatter)
    assert trace.duration_us.max() == pytest.approx(72.2, abs=scatter + 0.5)


def test_without_barriers_early_ranks_do_not_hold_up_the_last(mi355x):
    # The last rank finds its peers' data there: 1-stage costs it no wire time at all.
    found = only_links(mi355x, norm_us=1.0)
    arrivals = np.array([0.0, 0.0, 0.0, 100.0])
    push = Conditions(arrivals_us=arrivals, entry_barrier=False)
    outcome = simulate(found, "1stage", 10, 5000, conditions=push)
    assert outcome.duration_us[3] == pytest.approx(1.0)
    assert outcome.duration_us[:3] == pytest.approx(103.0)  # launch, its push (2 us), norm
    assert outcome.run.waiting_us[:3] == pytest.approx(100.0)
    with_barrier = simulate(found, "1stage", 10, 5000, conditions=Conditions(arrivals))
    assert with_barrier.duration_us[3] == pytest.approx(3.0)


# Larger domains.


def test_1024_ranks_on_a_switch(mi355x):
    found = machine(mi355x, "MI355X", fabric="switch", ranks=1024)
    outcome = simulate(found, "1stage", 4, 2048)
    # 1023 peers share the port.
    port_us = 1023 * outcome.bytes * 1e-3 / found.costs.link_gbps
    assert outcome.terms(7)["link_read"] > port_us
    # Flags and the read's round trip are two hops longer; the read adds its own as a smooth maximum.
    trip_us = found.costs.round_trip_us
    longer_us = (trip_us + 2 * found.hop_us) ** 2 - trip_us**2
    read_us = outcome.terms(7)["link_read"]
    added_us = read_us - np.sqrt(read_us**2 - longer_us)
    expected_us = outcome.closed_form_us + 2 * found.hop_us + added_us
    assert outcome.latency_us == pytest.approx(expected_us, rel=1e-5)


def test_mi450_figures_come_from_the_facts(mi355x):
    found = machine(mi355x, "MI355X", fabric="mi450")
    assert found.ranks == 72
    mesh = machine(mi355x, "MI355X").costs
    assert found.costs.local_gbps == pytest.approx(mesh.local_gbps * 19.6 / 8.0)
    assert found.costs.round_trip_us == mesh.round_trip_us
    assert found.costs.link_gbps == hardware.number("MI450", "peer_push_single_pair_ceiling")
    assert set(found.topology.gbps[72:-1]) == {1640.0}
    assert any("no MI450 collective is published" in note for note in found.notes)


def test_a_switch_pools_the_links_of_the_gpu(mi355x):
    mesh, switch = (machine(mi355x, "MI355X", fabric=f) for f in ("full_mesh", "switch"))
    assert switch.costs.link_gbps == pytest.approx(7 * mesh.costs.link_gbps)
    assert machine(mi355x, "MI355X", fabric="switch", link_gbps=900.0).costs.link_gbps == 900.0


def test_mi250x_links_are_unequal_as_measured(mi355x):
    found = machine(mi355x, "MI355X", fabric="mi250x")
    assert np.unique(found.topology.gbps[8:-1]) == pytest.approx([36.0, 47.4, 65.5])


# What cannot be.


def test_a_rank_that_never_comes_blocks_and_is_named(mi355x):
    arrivals = np.array([0.0, 1.0, np.inf, 0.0])
    with pytest.raises(Blocked) as caught:
        simulate(only_links(mi355x), "1stage", 10, 5000, conditions=Conditions(arrivals))
    said = str(caught.value)
    assert "rank 2 never arrived" in said
    assert "ranks 0-1, 3 spun at entry_barrier for flags of rank 2" in said


def test_a_rank_without_cus_blocks_and_is_named(mi355x):
    with pytest.raises(Blocked, match="rank 1 had no CU"):
        simulate(only_links(mi355x), "1stage", 10, 5000, conditions=Conditions(resident={1: 0}))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (Conditions(np.array([0.0, -1.0, 0.0, 0.0])), "rank 1 arrives at -1 us"),
        (Conditions(np.zeros(3)), "3 arrivals for 4 ranks"),
        (Conditions(slowdown={4: 2.0}), "ranks 0 to 3"),
        (Conditions(slowdown={0: 0.0}), "more than 0"),
        (Conditions(resident={9: 1}), "ranks 0 to 3"),
        (Conditions(resident={0: -1}), "0 or more"),
        (Conditions(background=(Stream(0, 7, 1.0),)), "ranks 0 to 3"),
        (Conditions(background=(Stream(0, 1, 0.0),)), "more than 0"),
    ],
)
def test_conditions_that_do_not_fit(mi355x, conditions, message):
    with pytest.raises(InputError, match=message):
        simulate(only_links(mi355x), "1stage", 10, 5000, conditions=conditions)


def test_shapes_that_the_kernel_rejects(mi355x):
    with pytest.raises(InputError, match="rejects 4 tokens x hidden 5001"):
        simulate(only_links(mi355x), "1stage", 4, 5001)
    with pytest.raises(InputError, match="tokens must be 1 or more"):
        simulate(only_links(mi355x), "1stage", 0, 5000)
    with pytest.raises(InputError, match="tokens goes up to 1073741824"):
        simulate(only_links(mi355x), "1stage", 2**63, 5000)
    with pytest.raises(InputError, match="unknown algorithm"):
        simulate(only_links(mi355x), "3stage", 4, 5000)


def test_costs_that_cannot_be(mi355x):
    with pytest.raises(InputError, match="did you mean round_trip_us"):
        machine(mi355x, "MI355X", costs={"roundtrip_us": 1.0})
    with pytest.raises(InputError, match="local_gbps=0: it must be more than 0"):
        machine(mi355x, "MI355X", costs={"local_gbps": 0.0})
    with pytest.raises(InputError, match="the fabric's"):
        machine(mi355x, "MI355X", costs={"link_gbps": 10.0})


def test_kernel_versions_act(mi355x):
    found = machine(mi355x, "MI355X", ranks=4, kernel=kernel.aiter("0.1.15"))
    later = replace(found, kernel=kernel.aiter("0.1.16"))
    before, after = (simulate(m, "1stage", 8, 4096, op="all_reduce") for m in (found, later))
    assert "exit_barrier" not in before.terms(0)
    assert "exit_barrier" in after.terms(0)
