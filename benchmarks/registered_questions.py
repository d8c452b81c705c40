"""What :mod:`preregistered` asks: of which calibration, shapes, guards, aims, what was known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from costmodel.calibration.posterior import Calibration
from costmodel.decide.decision import Decision
from costmodel.decide.setting import Setting
from costmodel.model import choose
from costmodel.model.fabric import SWITCH
from costmodel.rules.rule import Rule

HIDDEN = (2048, 2880, 4096, 5120, 7168, 8192)
WORLD_SIZES = (4, 8)
ARMS = ("1stage", "2stage")
#: Sizes, as multiples of the predicted crossover, of the shapes near it; and those of the others.
NEAR = (0.5, 0.6, 0.71, 0.85, 1.0, 1.19, 1.41, 1.7, 2.0)
FAR_TOKENS = (1, 3, 24, 96, 384)
#: Tokens by world size that a machine's own calibration rests on, at :data:`PLANNED_HIDDEN`. Those
#: of 2 ranks are all that the two GPUs' rows have there: they repeat them.
PLANNED = {
    2: (1, 8, 32, 64, 128, 192, 256, 512), 4: (1, 8, 32, 64, 128, 512),
    8: (1, 8, 32, 64, 128, 512),
}  # fmt: skip
#: Hidden sizes of a machine's own calibration: those of which the two GPUs' rows have all arms.
PLANNED_HIDDEN = (2880, 7168)
#: Tokens by world size that rules are judged on, and hidden sizes: as on the two GPUs, of which no
#: calibration has a row of them.
LIVE = dict.fromkeys(PLANNED, (2, 5, 12, 28, 70, 160, 360))
LIVE_HIDDEN = (1536, 2112, 3648, 6400)
#: Two arms closer than this are a tie.
TIE = 0.03
#: Fewer measured shapes of a world size than this are not judged.
FEWEST = 40
#: By how much the median of the anchor's rows may differ from the same calls' of the calibration.
ANCHOR = 0.05


class Question(NamedTuple):
    """What a place asks about, beside its calibration.

    ``known`` are the crossovers (ranks, hidden) that were known before, which do not count, and
    ``taken`` the calls (ranks, hidden, tokens) that the test leaves out, both beside what the
    calibration has of the same fabric. ``both_dtypes`` are the (ranks, hidden) measured in fp16
    too. ``aims`` are what is called good, in percent. ``beside`` are the plans of what is measured
    beside the test, by name.
    """

    known: frozenset[tuple[int, int]]
    taken: frozenset[tuple[int, int, int]]
    both_dtypes: frozenset[tuple[int, int]]
    guards: tuple[str, ...]
    aims: dict[str, float]
    beside: dict[str, list[dict]]


def shapes_of(
    sizes: dict[int, tuple[int, ...]], hidden_dims: Iterable[int], arms: Iterable[str]
) -> list[dict]:
    """Return a plan's entries: tokens by world size, at every hidden size, bf16."""
    return [
        {
            "op": "fused_ar_rmsnorm", "arms": list(arms), "world_size": n, "tokens": t,
            "hidden_dim": hidden, "dtype": "bf16",
        }
        for n, tokens in sizes.items()
        for hidden in hidden_dims
        for t in tokens
    ]  # fmt: skip


_KERNELS = "the kernels are those of calibration.csv, on 2 sets of buffers, graph replay"
_CLEAN = (
    "an arm with wrong results, or noisy by the harness's A/A or drift, is no row of the test",
    f"a world size with fewer than {FEWEST} shapes measured is not judged",
)
QUESTIONS = {
    "": Question(
        # Calls of these sizes were seen while kernels were tuned.
        known=frozenset((n, h) for n in WORLD_SIZES for h in (2048, 2880, 4096, 4608, 7168)),
        taken=frozenset(),
        # At 8 ranks the arms change places at one token or two, so that few shapes lie near.
        both_dtypes=frozenset(
            {(4, h) for h in (2304, 2816, 2880, 4480, 5120, 5376, 5504, 6144, 6784, 8064)}
            | {(8, h) for h in range(0, 16385, 64)}
        ),
        guards=(
            "the GPUs are two H200 joined by NVLink and nvidia-smi reports no throttling",
            _KERNELS,
            *_CLEAN,
        ),
        aims={},
        beside={},
    ),
    SWITCH: Question(
        known=frozenset(),
        taken=frozenset((n, h, t) for n in WORLD_SIZES for h in PLANNED_HIDDEN for t in PLANNED[n]),
        both_dtypes=frozenset((n, h) for n in WORLD_SIZES for h in HIDDEN),
        guards=(
            "a GPU for every rank: H200s of one host, NVLink between each pair of them, and "
            "nvidia-smi reports no throttling",
            _KERNELS,
            *_CLEAN,
            "2 ranks on two of the GPUs (planned-tp2.csv) repeat the same calls of calibration.csv "
            f"within {ANCHOR:.0%} in the median; else the machine is another, and this is said "
            "beside every figure",
        ),
        aims={
            "predicted_median_error": 8.0, "calibrated_median_error": 4.0, "right": 97.0,
            "regret": 0.5,
        },
        beside={
            "planned": shapes_of(PLANNED, PLANNED_HIDDEN, (*ARMS, "separate")),
            "live": shapes_of(LIVE, LIVE_HIDDEN, (*ARMS, "separate")),
            "torch": shapes_of(
                dict.fromkeys(PLANNED, (1, 8, 64, 512)), PLANNED_HIDDEN,
                ("separate_1stage", "separate_2stage", "separate"),
            ),
        },
    ),
}  # fmt: skip


def ask(
    calibration: Calibration, dtype: str = "bf16", fabric: str = "", source: str = ""
) -> Setting:
    """Return the question to a calibration of these GPUs alone, as ``source`` measures.

    Without one, as its one source does; of several, as the last in order of their names.

    ``fabric`` is how the ranks are wired where that is not the calibration's. Only rows of ranks
    that both wirings put on GPUs alike are rows of it then: the others carry parameters.
    """
    source = source or max(rows.source for rows in calibration.sources)
    if fabric:
        there = choose.for_fabric(fabric, calibration.kernel_family).wiring
        here = calibration.model.wiring
        alike = tuple(
            c
            for c in calibration.coverage
            if here.ranks_a_gpu(c.world_size) == there.ranks_a_gpu(c.world_size)
        )
        calibration = replace(calibration, fabric=fabric, coverage=alike)
    return Setting(calibration, "H200", source=source, dtype=dtype)


def rule_of(decision: Decision, name: str) -> Rule:
    """Return the rule of a decision; where it makes no claim, its best cutoff."""
    cutoffs = {c.world_size: c.max_bytes if c.claimed else c.estimate for c in decision.cutoffs}
    return Rule.from_cutoffs(name, cutoffs, fabric="nvlink")
