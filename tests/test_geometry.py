from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.data import facts
from costmodel.data import kernels as kernel
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.eligibility import eligible, lacks
from costmodel.model.geometry import link_geometry
from costmodel.model.shape import Shapes
from costmodel.units import KIB

sizes = st.integers(1, 512)
hidden = st.integers(64, 1024).map(lambda p: 8 * p)
ranks = st.sampled_from([2, 4, 8])


def one(op, algorithm, tokens, hidden_dim, n, version="0.1.19", arch="gfx950"):
    shapes = Shapes.of(tokens, hidden_dim, n, op=op)
    return link_geometry(shapes, algorithm, kernel.aiter(version), arch)


def test_fused_1stage_reads_everything_from_every_peer():
    g = one("fused_ar_rmsnorm", "1stage", 32, 7168, 8)
    assert float(g.read_bytes) == 32 * 7168 * 2
    assert float(g.write_bytes) == 0
    assert (float(g.workgroups), float(g.turns)) == (32, 1)
    assert float(g.workgroup_bytes) == 7 * 7168 * 2
    assert (g.launches, g.exit_barriers) == (1, 0)


#: Releases and what of each kernel's last barrier: https://github.com/ROCm/aiter, its tags.
EXIT_BARRIERS = [
    ("fused_ar_rmsnorm", "1stage", "0.1.19", 0), ("fused_ar_rmsnorm", "1stage", "0.1.19.post1", 1),
    ("fused_ar_rmsnorm", "2stage", "0.1.7.post2", 0), ("fused_ar_rmsnorm", "2stage", "0.1.7.post3", 1),
    ("all_reduce", "1stage", "0.1.7.post2", 1), ("all_reduce", "1stage", "0.1.7.post3", 0),
    ("all_reduce", "1stage", "0.1.15", 0), ("all_reduce", "1stage", "0.1.16", 1),
    ("all_reduce", "2stage", "0.1.20.post1", 0),
]  # fmt: skip


@pytest.mark.parametrize(("op", "algorithm", "version", "barriers"), EXIT_BARRIERS)
def test_exit_barriers_came_and_went_with_releases(op, algorithm, version, barriers):
    assert one(op, algorithm, 8, 4096, 4, version).exit_barriers == barriers


def test_a_state_is_what_an_arm_s_latency_hangs_on():
    def state(version, op="fused_ar_rmsnorm", algorithm="1stage"):
        return kernel.aiter(version).state(op, algorithm)

    assert state("0.1.16") == state("0.1.19") == "no exit barrier"
    assert state("0.1.19.post1") == state("0.1.20.post1") == "exit barrier"
    assert state("0.1.12", algorithm="2stage") == "relaxed exit barrier"
    assert state("0.1.14", algorithm="2stage") == "release/acquire"
    assert kernel.aiter("0.1.20.post1").known
    assert not kernel.aiter("0.1.21").known
    assert state("0.1.21") == "exit barrier"  # taken to be like the newest that was read


def test_a_source_s_algorithms_may_be_of_different_states():
    version = "PR 39080 (dev): aiter-style 2-stage, 64-block limit"
    ran = {
        a: kernel.of_row("aiter", "vllm-39080", version, "2026-04-06", a)
        for a in ("1stage", "2stage")
    }
    assert {a: k.family for a, k in ran.items()} == {"1stage": "vllm", "2stage": "aiter"}


def test_fused_1stage_loops_over_rows_above_80_tokens():
    g = one("fused_ar_rmsnorm", "1stage", [80, 81, 160, 161], 4096, 4)
    assert g.workgroups.tolist() == [80, 80, 80, 80]
    assert g.turns.tolist() == [1, 2, 2, 3]
    assert (g.workgroup_bytes / (3 * 4096 * 2)).tolist() == [1, 2, 2, 3]


def test_fused_2stage_reads_and_writes_a_rank_share():
    g = one("fused_ar_rmsnorm", "2stage", 64, 4096, 8)
    size = 64 * 4096 * 2
    assert float(g.read_bytes) == float(g.write_bytes) == size / 8
    assert float(g.local_bytes) == 4 * size
    assert float(g.workgroups) == min(80, size / 2 / 8 / 512)
    assert (g.launches, g.release_acquire) == (2, True)


def test_release_acquire_came_with_0_1_14():
    assert not one("fused_ar_rmsnorm", "2stage", 8, 4096, 8, "0.1.12").release_acquire
    assert one("fused_ar_rmsnorm", "2stage", 8, 4096, 8, "0.1.14").release_acquire


def test_plain_exit_barrier_came_with_0_1_16():
    assert one("all_reduce", "1stage", 8, 4096, 8, "0.1.14").exit_barriers == 0
    assert one("all_reduce", "1stage", 8, 4096, 8, "0.1.16").exit_barriers == 1


def test_plain_grid_is_80_workgroups_and_one_turn_is_160_kib_at_4_ranks():
    g = one("all_reduce", "1stage", [1, 20, 40], 4096, 4)
    assert g.fill.tolist() == pytest.approx([1 / 20, 1, 2])
    assert g.workgroups.tolist() == [4, 80, 80]


def test_plain_2stage_pushes_on_gfx942_with_8_ranks_above_4_mib():
    for arch, n, tokens, pushes in [
        ("gfx942", 8, 512, False),
        ("gfx942", 8, 513, True),
        ("gfx950", 8, 513, False),
        ("gfx942", 4, 513, False),
    ]:
        g = one("all_reduce", "2stage", tokens, 4096, n, arch=arch)
        assert bool(g.write_bytes > 0) is pushes
        assert bool(g.read_bytes > 0) is not pushes


@given(sizes, hidden, ranks)
def test_each_rank_receives_what_the_algorithm_needs(tokens, hidden_dim, n):
    """1-stage takes in S a link; 2-stage 2 S / N, whatever the op."""
    size = tokens * hidden_dim * 2
    for op in ("all_reduce", "fused_ar_rmsnorm", "ar_then_rmsnorm"):
        g1 = one(op, "1stage", tokens, hidden_dim, n)
        g2 = one(op, "2stage", tokens, hidden_dim, n)
        assert float(g1.read_bytes + g1.gather_bytes + g1.write_bytes) == size
        total = float(g2.read_bytes + g2.gather_bytes + g2.write_bytes)
        assert total == pytest.approx(2 * size / n)
        assert 1 <= float(g1.workgroups) <= 80
        assert 1 <= float(g2.workgroups) <= 80


@given(st.lists(st.tuples(sizes, hidden, ranks), min_size=1, max_size=20))
def test_arrays_agree_with_one_shape_at_a_time(shapes):
    t, h, n = map(np.array, zip(*shapes, strict=True))
    together = one("fused_ar_rmsnorm", "1stage", t, h, n)
    for i in range(len(shapes)):
        alone = one("fused_ar_rmsnorm", "1stage", t[i], h[i], n[i])
        assert together.workgroup_bytes[i] == float(alone.workgroup_bytes)
        assert together.turns[i] == float(alone.turns)


@pytest.mark.parametrize(
    ("version", "hidden_dim", "tokens", "takes"),
    [
        ("0.1.10.post3", 2880, 8, False),
        ("0.1.10.post3", 4096, 80, True),
        ("0.1.10.post3", 4096, 81, False),
        ("0.1.12", 2880, 8, True),
        ("0.1.16", 2880, 81, False),
        ("0.1.17", 2880, 81, True),
        ("0.1.19.post1", 8192, 8, True),
        ("0.1.19.post1", 8200, 8, False),
        ("0.1.19.post1", 2884, 8, False),
        ("0.1.10", 4096, 8, False),
    ],
)
def test_what_the_1stage_kernel_takes_by_version(version, hidden_dim, tokens, takes):
    ok, words = eligible(Shapes.of(tokens, hidden_dim, 4), "1stage", kernel.aiter(version))
    assert bool(ok) is takes
    assert words


def test_fp32_packs_hold_four_elements():
    shapes = Shapes.of(8, [4096, 4100], 4, dtype="fp32")
    ok, words = eligible(shapes, "1stage", kernel.aiter())
    assert ok.tolist() == [True, False]
    assert "hidden / 4 <= 1024" in words


def test_small_hidden_is_an_error_of_the_2stage_kernel():
    ok, words = eligible(Shapes.of(8, [504, 512], 4), "2stage", kernel.aiter())
    assert ok.tolist() == [False, True]
    assert ">= 64" in words


def test_large_hidden_is_an_error_of_the_2stage_kernel():
    ok, words = eligible(Shapes.of(8, [16384, 16392], 4), "2stage", kernel.aiter())
    assert ok.tolist() == [True, False]
    assert "hidden / 8 <= 2048" in words
    ok, words = eligible(Shapes.of(8, [8192, 8196], 4, dtype="fp32"), "2stage", kernel.aiter())
    assert ok.tolist() == [True, False]


def test_the_rest_that_aiters_2stage_would_not_reduce_makes_a_shape_ineligible():
    """361 packs of a token: at 8 ranks one more of every 8 tokens' packs is lost."""
    tokens = [1, 2, 4, 8, 12, 16]
    ok, words = eligible(Shapes.of(tokens, 2888, 8), "2stage", kernel.aiter())
    assert ok.tolist() == [False, False, False, True, False, True]
    assert "tokens x hidden / 8 a multiple of the ranks" in words
    assert eligible(Shapes.of(tokens, 2880, 8), "2stage", kernel.aiter())[0].all()
    assert eligible(Shapes.of(tokens, 2888, 8), "1stage", kernel.aiter())[0].all()
    own = kernel.calibrated("costmodel")
    assert eligible(Shapes.of(tokens, 2888, 8), "2stage", own)[0].all()


@pytest.mark.parametrize("version", ["0.1", "newest", "0.1.17rc1", ""])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(InputError, match="write it as"):
        kernel.aiter(version)


@pytest.mark.parametrize("written", ["0.1.22", " 0.1.22", "v0.1.22 ", "0.01.22.post0"])
def test_a_release_is_the_same_however_it_is_written(written):
    """A release that nobody has read must not pass for one that was."""
    unread = kernel.aiter(written)
    assert (unread.version, unread.known) == ("0.1.22", False)
    assert kernel.aiter(f"v{kernel.LATEST} ") == kernel.aiter(kernel.LATEST)
    setting = Setting.shipped("MI355X", aiter_version=written)
    assert setting.aiter_version == "0.1.22"


@pytest.mark.parametrize(
    ("stated", "ran"),
    [
        ("0.1.14", "0.1.14"),
        ("v0.1.14", "0.1.14"),
        ("AITER v0.1.19.post1, in place", "0.1.19.post1"),
        ("amd_aiter-0.1.14+rocm7.0.2", "0.1.14"),
        ("ROCm 7.0.2, AITER version 0.1.14", "0.1.14"),
        ("vLLM 0.11.0 and its aiter", "2026-11-01"),
        ("ROCm 7.0.2", "2026-11-01"),
        ("main 946ebf3a", "2026-11-01"),
    ],
)
def test_a_row_ran_the_release_that_it_states_of_aiter(stated, ran):
    """Where it states none, what stood at its date: another program's number is not AITER's."""
    assert kernel.of_row("aiter", "mine", stated, "2026-11-01", "1stage").version == ran


def test_versions_before_the_fused_op_are_refused():
    with pytest.raises(InputError, match="came with"):
        kernel.aiter("0.1.6")


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "gather"},
        {"dtype": "fp8"},
        {"world_size": 6},
        {"tokens": 0},
        {"hidden_dim": -8},
    ],
)
def test_unknown_shapes_are_refused(wrong):
    given_ = {"tokens": 8, "hidden_dim": 4096, "world_size": 4, "op": "all_reduce", "dtype": "bf16"}
    given_ |= wrong
    with pytest.raises(InputError):
        Shapes.of(
            given_["tokens"], given_["hidden_dim"], given_["world_size"],
            op=given_["op"], dtype=given_["dtype"],
        )  # fmt: skip


@pytest.mark.parametrize("family", kernel.families())
def test_every_limit_of_a_kernel_has_a_source(family):
    rows = [r for r in facts.rows("kernels.csv") if r["family"] == family]
    assert len({r["quantity"] for r in rows}) == len(rows) > 2
    assert all(r["source"] for r in (*rows, *facts.rows("aiter_kernels.csv")))


def test_a_push_writes_its_flags_with_its_data_and_meets_no_barrier():
    shapes = Shapes.of(64, 7168, 2, op="all_reduce")
    ll, ll128, sentinel = (
        link_geometry(shapes, "1stage", kernel.calibrated(f), "gfx942")
        for f in ("aiter-ll", "aiter-ll128", "trtllm")
    )
    size = 64 * 7168 * 2
    assert [float(g.write_bytes) for g in (ll, ll128, sentinel)] == [
        2 * size,
        size * 128 / 120,
        size,
    ]
    for g in (ll, ll128, sentinel):
        assert g.pushes
        assert not g.exit_barriers
        assert float(g.read_bytes + g.gather_bytes) == 0
    assert not one("all_reduce", "1stage", 64, 7168, 2).pushes


def test_another_grid_is_another_geometry():
    shapes = Shapes.of(80, 4096, 4, op="all_reduce")  # four turns of 80 x 128 packs
    own, few, wide = (
        link_geometry(shapes, "1stage", kernel.aiter().on_grid(*grid), "gfx950")
        for grid in ((None, None), (16, None), (None, 1024))
    )
    assert float(few.workgroups) == 16
    assert (float(own.turns), float(few.turns), float(wide.turns)) == (4, 20, 2)
    assert float(few.workgroup_bytes) == 5 * float(own.workgroup_bytes)
    # Twice the threads take half the turns, each with twice the loads in flight.
    assert float(wide.workgroup_bytes / wide.turns) == float(own.workgroup_bytes / own.turns)


def test_limits_by_release():
    first, middle, last = (kernel.aiter(v) for v in ("0.1.10.post3", "0.1.12", kernel.LATEST))
    assert first.fused_1stage_hidden_dims == (512, 1024, 2048, 4096)
    assert middle.fused_1stage_hidden_dims == last.fused_1stage_hidden_dims == ()
    assert [k.fused_1stage_max_tokens for k in (first, middle, last)] == [80, 80, None]
    for k in (first, middle, last):
        assert (k.fused_1stage_max_packs, k.fused_2stage_min_packs) == (1024, 64)
        assert k.plain_1stage_below_bytes == ((4, 160 * KIB), (8, 80 * KIB))


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((2**62, 7168, 8), "tokens goes up to 1073741824, got 4.61168601843e"),
        ((8, 2**63, 8), "hidden_dim goes up to 1073741824"),
        ((2**70, 7168, 8), "tokens must be whole numbers, got 1180591620717411303424"),
        ((1.5, 7168, 8), "tokens must be whole numbers, got 1.5"),
        ((float("nan"), 7168, 8), "tokens must be whole numbers"),
        ((8, float("inf"), 8), "hidden_dim goes up to 1073741824, got inf"),
        ((8, "7168", 8), "hidden_dim must be whole numbers, got '7168'"),
        ((8, None, 8), "hidden_dim must be whole numbers, got None"),
        (([[1], [1, 2]], 7168, 8), "tokens must be whole numbers"),
        ((-1, 7168, 8), "tokens must be 1 or more, got -1"),
        (([1, 2], [1, 2, 3], 8), r"of shapes \(2,\), \(3,\), \(\) do not go together"),
    ],
)
def test_sizes_that_no_call_has_are_refused(sizes, says):
    with pytest.raises(InputError, match=says):
        Shapes.of(*sizes)


def test_the_largest_sizes_have_their_bytes():
    shapes = Shapes.of(2.0**30, 2**30, 8, dtype="fp32")
    assert int(shapes.bytes) == 2**62
    assert shapes.tokens.dtype == np.int64
    assert len(Shapes.of([], 7168, 8)) == 0


@pytest.mark.parametrize(
    ("arch", "writes"), [("gfx942", True), ("gfx90a", False), ("gfx950", False)]
)
def test_only_gfx942_writes_in_the_first_phase_of_a_large_plain_2stage(arch, writes):
    g = one("all_reduce", "2stage", 8192, 8192, 8, "0.1.20.post1", arch)
    small = one("all_reduce", "2stage", 8, 8192, 8, "0.1.20.post1", arch)
    assert (float(g.write_bytes) > float(small.write_bytes) * 1024) == writes


def test_what_a_family_lacks_is_said_with_the_release_that_brought_it():
    old, own = kernel.aiter("0.1.7"), kernel.calibrated("costmodel")
    came = f" (it came with {kernel.first_release('fused_1stage')})"
    assert lacks(old, "fused_ar_rmsnorm", "1stage").endswith(f"has no 1-stage fused kernel{came}")
    assert lacks(own, "fused_ar_rmsnorm", "1stage") == ""
    others = {k.family: k for k in map(kernel.calibrated, kernel.families()) if k.family != "aiter"}
    for family, other in others.items():
        said = lacks(other, "fused_ar_rmsnorm", "1stage")
        assert said in ("", f"{family} has no 1-stage fused kernel")
