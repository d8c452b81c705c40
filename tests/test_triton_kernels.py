"""The Triton kernels without a GPU: compiled ahead of time, and run in Triton's interpreter.

Compiled for gfx942, gfx950 and sm_90: vector width, spills, shared memory, and that barriers poll
memory. Run in the interpreter (a process of its own, one program after the other): numbers.
Where a GPU is present, the back end's own tests run too.
"""

from __future__ import annotations

import json
import re

import pytest

triton = pytest.importorskip(
    "triton", minversion="3.4", reason="triton 3.4 or newer is not installed: pip install triton"
)
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

from kernels_without_gpu import (
    TARGETS,
    Ranks,
    answer,
    compiled_for,
    element_type,
    in_interpreter,
    spilled,
)
from replays import right_replay_after_replay

from costmodel.data.kernels import OWN_FAMILY, aiter, at_date
from costmodel.errors import InputError
from costmodel.live.backends.base import ARMS, LiveShape
from costmodel.live.backends.device import short_name
from costmodel.live.backends.reference import worst_error
from costmodel.live.backends.triton import kernels
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.backends.triton.launch import (
    FLAT_THREADS,
    MAX_HIDDEN,
    TWO_STAGE_REGISTERS,
    programs_per_rank,
    registers_of,
    row_block,
    row_threads,
    share_of,
    two_stage_threads,
)
from costmodel.model import row_programs
from costmodel.model.shape import Shapes
from costmodel.units import element_bytes

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

GPU = torch.cuda.is_available()
ROW_KERNELS = ("fused_one_stage", "fused_two_stage", "add_rms_norm")
FLAT_KERNELS = ("reduce_scatter_to_peers", "all_reduce_one_stage", "all_reduce_two_stage")
CASES = [
    *(("fused_one_stage", ranks, 2880, "bf16") for ranks in (2, 4, 8)),
    ("fused_one_stage", 8, 8192, "fp16"),
    ("fused_one_stage", 8, 5120, "fp32"),
    *(("fused_two_stage", ranks, 2880, "bf16") for ranks in (2, 8)),
    ("fused_two_stage", 8, 8192, "fp16"),
    ("fused_two_stage", 4, 16384, "bf16"),
    ("add_rms_norm", 8, 2880, "bf16"),
    ("add_rms_norm", 8, 8192, "fp32"),
    *((name, 8, 0, "bf16") for name in FLAT_KERNELS),
    ("reduce_scatter_to_peers", 4, 0, "fp32"),
]
#: Two barriers and nothing else, as the floor of a call is measured.
EMPTY = ("barriers_alone", 8, 0, "bf16")


# -- compiled ahead of time -----------------------------------------------------------------------


def threads_of(name: str, ranks: int, hidden: int) -> int:
    if name in (*FLAT_KERNELS, EMPTY[0]):
        return FLAT_THREADS
    if name == "fused_two_stage":
        return two_stage_threads(hidden, ranks)
    return row_threads(hidden, ranks if name == "fused_one_stage" else 1)


def block_of(name: str, hidden: int, dtype: str) -> int:
    return row_block(hidden) if name in ROW_KERNELS else FLAT_THREADS * 16 // element_bytes(dtype)


def compiled(name: str, target: str, ranks: int, hidden: int, dtype: str):
    """Compile as the back end launches: same constants, same warps, aligned table."""
    constants = {
        "HIDDEN": hidden,
        "BLOCK": block_of(name, hidden, dtype),
        "PACK": 16 // element_bytes(dtype),
        "RANKS": ranks,
        "LOCAL": ranks,
        "TYPE": element_type(dtype),
        "SCOPE": "gpu",
        "HIP": target != "sm_90",
        "EXIT": True,
        "BARRIERS": 2,
        "ORDERED": True,
    }
    if name == "fused_two_stage":
        constants |= share_of(hidden, ranks, element_bytes(dtype))
    threads = threads_of(name, ranks, hidden)
    most = TWO_STAGE_REGISTERS if name == "fused_two_stage" else registers_of(threads)
    return compiled_for(target, getattr(kernels, name), constants, threads, most)


def part_packs(ranks: int, hidden: int, dtype: str) -> int:
    """Return the packs of 16 bytes of a rank's part, padded."""
    return share_of(hidden, ranks, element_bytes(dtype))["SHARE_BLOCK"] * element_bytes(dtype) // 16


def loads_and_stores(name: str, ranks: int, hidden: int, dtype: str) -> tuple[int, int]:
    """Return the 16-byte loads and stores of one thread in one turn (and of its weights).

    Packs of a row's block that lie beyond ``hidden`` in every thread are not counted.
    """
    pack = 16 // element_bytes(dtype)
    threads = threads_of(name, ranks, hidden)
    packs = -(-hidden // (threads * pack)) if hidden else 1
    loads, stores = {
        "fused_one_stage": (ranks + 2, 2),
        "add_rms_norm": (3, 2),
        "fused_two_stage": (3, 3),  # its gathered row is polled, see below
        "reduce_scatter_to_peers": (ranks, ranks),
        "all_reduce_one_stage": (ranks, 1),
        "all_reduce_two_stage": (2 * ranks, 1 + ranks),
    }[name]
    if name == "fused_two_stage":  # and its part of a row at every rank, where it fills the threads
        more = ranks * (part_packs(ranks, hidden, dtype) // threads)
        return packs * loads + more, packs * stores + more
    return packs * loads, packs * stores


@pytest.fixture(scope="module")
def built():
    """Compile each case once for all tests of this file."""
    done = {}

    def build(name, target, ranks, hidden, dtype):
        key = (name, target, ranks, hidden, dtype)
        if key not in done:
            done[key] = compiled(*key)
        return done[key]

    return build


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "ranks", "hidden", "dtype"), CASES)
def test_data_move_in_16_byte_vectors(built, target, name, ranks, hidden, dtype):
    kernel = built(name, target, ranks, hidden, dtype)
    loads, stores = loads_and_stores(name, ranks, hidden, dtype)
    if target == "sm_90":
        text = kernel.asm["ptx"]
        wide = r"%s\.global\.v4\.b32"
        # the pointers of the table are 8 bytes; counters, epochs and flags 4
        narrow = r"(?:ld|st)\.global\.(?:v2\.b(?:16|32)|b16)"
        if name == "fused_two_stage" and 2 * part_packs(ranks, hidden, dtype) == threads_of(
            name, ranks, hidden
        ):  # half a pack of the part for each thread
            narrow = r"(?:ld|st)\.global\.(?:v2\.b16|b16)"
    else:
        text = kernel.asm["amdgcn"]
        wide = r"(?:global|buffer)_%s_dwordx4"
        narrow = r"(?:global|buffer|flat)_(?:load|store)_(?:d16|short|ushort|byte|ubyte)"
    load, store = ("ld", "st") if target == "sm_90" else ("load", "store")
    assert len(re.findall(wide % load, text)) >= loads
    assert len(re.findall(wide % store, text)) >= stores
    assert not re.findall(narrow, text)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "ranks", "hidden", "dtype"), CASES)
def test_nothing_spills(built, tmp_path, target, name, ranks, hidden, dtype):
    assert spilled(built(name, target, ranks, hidden, dtype), target, tmp_path) == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "ranks", "hidden", "dtype"), CASES)
def test_shared_memory_is_only_the_reduction_s(built, target, name, ranks, hidden, dtype):
    kernel = built(name, target, ranks, hidden, dtype)
    assert kernel.metadata.shared <= (1024 if name in ROW_KERNELS else 64)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "ranks", "hidden", "dtype"),
    [EMPTY, *(case for case in CASES if case[0] != "add_rms_norm")],
)
def test_barriers_poll_memory_in_their_loops(built, target, name, ranks, hidden, dtype):
    """Two barriers, each with a first look and a loop: four loads that no cache may answer.

    The fused 2-stage has one barrier, and a loop over the packs of a row whose parts are to come.
    """
    kernel = built(name, target, ranks, hidden, dtype)
    if target == "sm_90":
        text, label = kernel.asm["ptx"], r"^\$L__BB\w+:"
        load, wide = r"ld\.volatile\.global", r"ld\.volatile\.global\.v4\.b32"
        store = r"st\.global"
    else:
        text, label = kernel.asm["amdgcn"], r"^\.LBB\w+:"
        load, wide = r"global_load_dword\w* .*sc0 sc1", r"global_load_dwordx4 .*sc0 sc1"
        store = r"(?:global|buffer)_store"
    packs = 0
    if name == "fused_two_stage":
        held = threads_of(name, ranks, hidden) * 16 // element_bytes(dtype)
        packs = block_of(name, hidden, dtype) // held
        assert packs <= len(re.findall(wide, text)) <= 2 * packs
    assert len(re.findall(load, text)) - len(re.findall(wide, text)) == (2 if packs else 4)
    back = re.compile(r"(?:bra(?:\.uni)?|s_cbranch_\w+|s_branch)\s+(\$?\.?L\w+)\b")
    starts = {found.group(0)[:-1]: found.end() for found in re.finditer(label, text, re.MULTILINE)}
    loops = [
        (starts[jump.group(1)], jump.start())
        for jump in back.finditer(text)
        if starts.get(jump.group(1), jump.start()) < jump.start()
    ]
    polling = set()
    for found in re.finditer(load, text):
        around = [loop for loop in loops if loop[0] <= found.start() < loop[1]]
        inner = min(around, key=lambda loop: loop[1] - loop[0], default=None)
        if inner and not re.search(store, text[slice(*inner)]):  # no loop over tokens
            polling.add(inner[0])
    assert len(polling) == 2, "a poll left its loop"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "hidden"),
    [("reduce_scatter_to_peers", 0), ("all_reduce_two_stage", 0)],
)
def test_what_peers_wrote_is_released_and_acquired(built, target, name, hidden):
    kernel = built(name, target, 8, hidden, "fp16" if hidden else "bf16")
    if target == "sm_90":
        text = kernel.asm["ptx"]
        assert len(re.findall(r"\.release\.", text)) == 1
        assert len(re.findall(r"atom\.global\.acquire\.gpu\.cas", text)) == 1
    else:
        text = kernel.asm["amdgcn"]
        assert len(re.findall(r"buffer_wbl2", text)) == 1
        assert len(re.findall(r"buffer_inv", text)) == 1


@pytest.mark.parametrize(("name", "barriers"), [("fused_one_stage", 2), ("fused_two_stage", 1)])
def test_barriers_of_the_fused_kernels_are_relaxed(built, name, barriers):
    text = built(name, "sm_90", 8, 2880, "bf16").asm["ptx"]
    assert len(re.findall(r"\.global\.gpu\.relaxed\.add", text)) == barriers
    assert not re.search(r"release|acquire|fence|membar", text)


# -- in the interpreter ---------------------------------------------------------------------------

#: (arm, ranks, tokens, hidden, dtype, programs): hidden with and without padding, shares that do
#: not divide (3 tokens x 40 = 15 packs over 2, 4 or 8 ranks), more and fewer tokens than programs.
NUMBERS = [
    *((arm, 2, 3, 40, "bf16", 2) for arm in ("1stage", "2stage", "plain1", "plain2")),
    *((arm, 8, 3, 40, "fp16", 1) for arm in ("1stage", "2stage", "plain1", "plain2")),
    *((arm, 4, 5, 64, "fp32", 2) for arm in ("1stage", "2stage", "plain1", "plain2")),
]


def run_arm(arm: str, ranks: int, shape: LiveShape, programs: int) -> Ranks:
    """Run one arm in the interpreter, all ranks in one launch."""
    memory = Ranks(ranks, shape)
    memory.let_everybody_have_arrived()
    pack = 16 // element_bytes(shape.dtype)
    packs = shape.tokens * shape.hidden_dim // pack
    rows = {"HIDDEN": shape.hidden_dim, "BLOCK": row_block(shape.hidden_dim)}
    common = {"LOCAL": ranks, "TYPE": element_type(shape.dtype)}
    barrier = {**common, "RANKS": ranks, "SCOPE": "gpu", "HIP": False}
    flat = {"PACK": pack, "BLOCK": 4 * pack, **barrier}
    grid = (programs * ranks,)

    if arm == "1stage":
        kernels.fused_one_stage[grid](memory.table, shape.tokens, 0, 1e-6, 3, **rows, **barrier)
        return memory
    if arm == "2stage":
        share = share_of(shape.hidden_dim, ranks, element_bytes(shape.dtype))
        # One program after the other: the first run gathers, the second norms what is complete.
        for _ in range(2):
            kernels.fused_two_stage[grid](
                memory.table, shape.tokens, 0, 1e-6, 3, **share, **rows, **barrier
            )
        return memory
    if arm == "plain1":
        kernels.all_reduce_one_stage[grid](memory.table, packs, 0, 3, **flat)
    else:
        # One program after the other: the first run reduces, the second gathers what is complete.
        for _ in range(2):
            kernels.all_reduce_two_stage[grid](memory.table, packs, 0, 3, **flat)
    kernels.add_rms_norm[grid](memory.table, shape.tokens, 0, ranks, 1e-6, **rows, **common)
    return memory


def interpreted() -> dict[str, object]:
    """What the interpreter finds; runs in a process with TRITON_INTERPRET=1."""
    from costmodel.live.backends.base import Outputs
    from costmodel.live.backends.reference import fused_reference

    found: dict[str, object] = {"errors": []}
    for arm, ranks, tokens, hidden, dtype, programs in NUMBERS:
        memory = run_arm(arm, ranks, LiveShape(tokens, hidden, dtype), programs)
        reference = fused_reference(memory.given)
        both = zip(memory.outputs, memory.residual_outs, strict=True)
        found["errors"].append(max(worst_error(Outputs(*pair), reference, dtype) for pair in both))

    memory = run_arm("1stage", 2, LiveShape(3, 40, "bf16"), 2)
    lines = memory.signals[1].view(-1, kernels.SIGNAL_LINE.value)
    found["arrivals"] = (lines[:3, :2] - (1 << 20)).tolist()
    found["epochs"] = lines[:3, kernels.EPOCH.value].tolist()

    alone = Ranks(2, LiveShape(2, 40, "bf16"))
    kernels.fused_one_stage[(2,)](
        alone.table, 2, 0, 1e-6, 3,
        HIDDEN=40, BLOCK=64, RANKS=2, LOCAL=1, TYPE=element_type("bf16"), SCOPE="gpu", HIP=False,
    )  # fmt: skip
    found["lost"] = [int(signal[kernels.ERROR.value]) for signal in alone.signals]
    return found


@pytest.fixture(scope="module")
def findings():
    return answer(in_interpreter(__file__))


@pytest.mark.parametrize("index", range(len(NUMBERS)), ids=lambda i: "-".join(map(str, NUMBERS[i])))
def test_numbers_agree_with_the_reference(findings, index):
    assert findings["errors"][index] <= 1.0


def test_a_call_counts_two_arrivals_of_every_rank_and_keeps_the_epoch(findings):
    """Programs 0 and 1 of rank 1 took part, program 2 did not."""
    assert findings["arrivals"] == [[2, 2], [2, 2], [0, 0]]
    assert findings["epochs"] == [2, 2, 0]


def test_a_rank_whose_peer_never_comes_gives_up_and_says_so(findings):
    assert findings["lost"] == [1, 0]


# -- launches -------------------------------------------------------------------------------------


def test_every_rank_gets_an_equal_share_of_the_programs_that_fit():
    assert programs_per_rank(work=1, resident=132, local_ranks=8) == 1
    assert programs_per_rank(work=512, resident=132, local_ranks=8) == 16
    assert programs_per_rank(work=528, resident=2 * 132, local_ranks=4) == 66
    assert programs_per_rank(work=5280, resident=10_000, local_ranks=2) == kernels.MAX_PROGRAMS


@pytest.mark.parametrize(
    ("work", "most", "programs"),
    [(512, 160, 128), (512, 200, 171), (7, 4, 4), (7, 7, 7), (7, 100, 7), (1, 1, 1), (9, 4, 3)],
)
def test_no_more_programs_than_divide_the_rows_evenly(work, most, programs):
    """As many turns as with the most, in as few programs as make no more."""
    assert row_programs.even_programs(work, most) == programs
    assert programs_per_rank(work, resident=most, local_ranks=1) == programs


def test_too_small_a_gpu_is_refused_before_the_launch():
    with pytest.raises(InputError, match=r"only 6 programs fit .* 8 ranks") as caught:
        programs_per_rank(work=1, resident=6, local_ranks=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hidden", [8, 64, 2048, 2880, 4096, 5120, 7168, 8192, 12288, 16384])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_rows_fit_into_whole_warps_of_both_vendors(hidden, ranks):
    threads = row_threads(hidden, ranks)
    assert threads % 64 == 0
    assert threads & (threads - 1) == 0
    assert 64 <= threads <= 1024
    assert hidden <= row_block(hidden) < 2 * hidden


def test_separate_ops_follow_aiter_s_rule():
    kib = 1024
    own = at_date("costmodel", "")
    for ranks, limit in ((2, None), (4, 160 * kib), (8, 80 * kib)):
        for size in (16, 80 * kib - 16, 80 * kib, 160 * kib - 16, 160 * kib, 10**9):
            assert own.auto_is_1stage(ranks, size) == (limit is None or size < limit)
            assert own.auto_is_1stage(ranks, size) == aiter().auto_is_1stage(ranks, size)


def test_the_facts_of_the_kernels_are_those_of_their_code():
    own = at_date(OWN_FAMILY, "")
    assert own.max_workgroups == kernels.MAX_PROGRAMS
    assert own.threads == FLAT_THREADS
    assert own.fused_1stage_max_packs * 16 // element_bytes("bf16") == MAX_HIDDEN


# -- the back end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "arm", "reason"),
    [
        (LiveShape(1, 2884, "bf16"), "1stage", "hidden_dim % 8 is 4"),
        (LiveShape(1, 2884, "fp32"), "1stage", None),
        (LiveShape(1, 2882, "fp32"), "2stage", "hidden_dim % 4 is 2"),
        (LiveShape(512, 16384, "bf16"), "separate", None),
        (LiveShape(1, 16392, "bf16"), "1stage", "above 16384"),
        (LiveShape(2**18, 8192, "bf16"), "2stage", "elements a rank"),
        (LiveShape(1, 4096, "bf16"), "auto", "no dispatch rule"),
    ],
)
def test_reasons_against_a_shape(shape, arm, reason):
    found = TritonBackend(8).reason_against(shape, arm)
    assert found is None if reason is None else reason in found


def test_only_world_sizes_of_the_model():
    with pytest.raises(InputError, match="2, 4 or 8 ranks, not on 3"):
        TritonBackend(3).set_up()


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_no_gpu_is_one_clear_line():
    backend = TritonBackend(2)
    with pytest.raises(InputError, match="needs a CUDA or ROCm GPU") as caught:
        backend.set_up()
    assert "\n" not in str(caught.value)
    backend.close()


def test_gpu_names_are_those_of_the_tables():
    assert short_name("NVIDIA H200") == "H200"
    assert short_name("AMD Instinct MI300X") == "MI300X"
    assert short_name("NVIDIA GeForce RTX 4090") == "GeForce RTX 4090"


needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA or ROCm GPU")


@needs_gpu
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("timing", ["graph", "eager"])
@pytest.mark.parametrize(
    "shape",
    [LiveShape(1, 2880, "bf16"), LiveShape(200, 5120, "fp16"), LiveShape(7, 8192, "fp32")],
    ids=str,
)
def test_all_arms_are_right_on_the_gpu_replay_after_replay(ranks, timing, shape):
    backend = TritonBackend(ranks)
    backend.set_up()
    backend.prepare(shape, slots=2, seed=1)
    for arm in (arm for arm in ARMS if arm != "auto"):
        timed = backend.capture(arm, 4, timing)
        right_replay_after_replay(backend, timed, shape)
        timed.close()
    backend.close()


@needs_gpu
def test_a_lost_rank_is_an_error_and_the_next_call_works():
    backend = TritonBackend(2)
    backend.set_up()
    backend.prepare(LiveShape(4, 2048, "bf16"), slots=1, seed=0)
    (launch,) = backend._launches("1stage")
    launch._replace(programs=4, options={**launch.options, "LOCAL": 1})(backend._slots[0].table)
    with pytest.raises(RuntimeError, match="not all ranks arrived"):
        backend._check()
    timed = backend.capture("1stage", 1, "eager")
    timed.replay(1)
    reference = backend.reference(0)
    assert all(worst_error(found, reference, "bf16") <= 1.0 for found in backend.outputs(0))
    backend.close()


if __name__ == "__main__":
    print(json.dumps(interpreted()))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_model_divides_rows_as_the_launch_does(ranks):
    for hidden in (512, 1032, 2048, 2880, 4096, 7168, 9216, 12288, 16384):
        shapes = Shapes.of([1], hidden, ranks)
        threads = row_threads(hidden, ranks)
        assert row_programs.row_threads(shapes.hidden_dim, ranks).tolist() == [threads]
        assert two_stage_threads(hidden, ranks) == row_programs.two_stage_threads(hidden, ranks)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("hidden", [40, 1280, 2880, 4096, 7168, 12288])
def test_parts_are_whole_cache_lines_and_cover_the_row(ranks, hidden):
    for size in (2, 4):
        share = share_of(hidden, ranks, size)["SHARE"]
        assert share * size % 128 == 0
        assert (share - 128 // size) * ranks < hidden  # and are no longer than that takes
        assert share * ranks >= hidden
