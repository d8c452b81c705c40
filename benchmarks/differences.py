"""What barriers, flags in the data, a second launch and release/acquire cost, a call in two ways.

    torchrun --nproc-per-node 2 benchmarks/differences.py --tp 2,4,8 --out differences.json
    python benchmarks/differences.py --tp 2,4,8 --out differences.json       # ranks on one GPU

Every row is a pair of the project's Triton kernels that differ in one thing, at one shape: rounds
of both, alternating, replayed from captured graphs; the difference of a round's medians, its median
over the rounds and the interval that a bootstrap over rounds gives. A variant without its order or
its exit barrier may compute wrong numbers; every other call is compared with the reference before
it is timed, and again after, and a pair with a wrong one is said and left out.

``--only LL`` measures the pairs whose name has that word.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from costmodel.show.table import table

try:
    import torch
    import triton
except ImportError as error:
    sys.exit(f"differences: {error.name} is not installed; nothing to measure")

from costmodel.errors import InputError
from costmodel.live.backends.base import CannotRun, LiveShape, Outputs
from costmodel.live.backends.triton import kernels
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.repetition import GRAPH
from costmodel.live.run.harness import compare

SHAPES = ((1, 2880), (16, 2880), (128, 2880), (1, 7168), (16, 7168), (128, 7168))
SLOTS, CALLS, SAMPLES, ROUNDS, BOOTSTRAP = 2, 16, 5, 12, 2000


def barriers(backend: TritonBackend, count: int) -> list[Any]:
    """Return the launch that meets ``count`` times, one program a token."""
    assert backend._shape is not None
    options = {"BARRIERS": count, "num_warps": 4, **backend._rank_options()}
    del options["TYPE"]
    arguments = (backend.local_ranks[0], backend._spin_limit)
    return [backend._resident(kernels.barriers_alone, backend._shape.tokens, arguments, options)]


def changed(launches: list[Any], **options: Any) -> list[Any]:
    """Return launches whose kernel is compiled with other options."""
    return [launch._replace(options={**launch.options, **options}) for launch in launches]


class Pair(NamedTuple):
    """Two calls, each its launches in order; ``second`` has what ``first`` has not.

    ``right`` says which of them compute the op, and are compared with the reference.
    """

    first: list[Any]
    second: list[Any]
    right: tuple[bool, bool] = (False, False)


def complain(backend: TritonBackend, words: str) -> None:
    """Say once for all processes what is not measured."""
    if 0 in backend.local_ranks:
        print(f"differences: {words}", file=sys.stderr, flush=True)


def variants(backend: TritonBackend) -> dict[str, Pair]:
    """Return pairs of calls, by what the second one has that the first one has not."""
    one, two = backend._launches("1stage"), backend._launches("2stage")
    plain = [backend._flat_launch(kernels.all_reduce_two_stage, backend.world_size)]
    apart = [
        backend._flat_launch(kernels.reduce_scatter_to_peers, backend.world_size),
        backend._norm_launch(),
    ]
    pairs = {
        "a barrier": Pair(barriers(backend, 1), barriers(backend, 2)),
        "three more barriers": Pair(barriers(backend, 1), barriers(backend, 4)),
        "the 1-stage's exit barrier": Pair(changed(one, EXIT=False), one, (False, True)),
        "release/acquire in the plain 2-stage": Pair(changed(plain, ORDERED=False), plain),
        "the 2-stage in two launches, a barrier between": Pair(two, apart, (True, True)),
    }
    try:
        pushed = [backend.one_stage_ll_launch()]
    except CannotRun as error:
        complain(backend, str(error))
        return pairs
    return {
        **pairs,
        "flags in the data (LL), no barriers": Pair(one, pushed, (True, True)),
        "flags in the data (LL), one barrier less": Pair(
            changed(one, EXIT=False), pushed, (False, True)
        ),
        "few words polled first (LL)": Pair(
            changed(pushed, PROBED=False), changed(pushed, PROBED=True), (True, True)
        ),
    }


def worst_error(backend: TritonBackend, pair: Pair, replays: list[Any]) -> float:
    """Return the largest error of the calls that have to be right, over slots and ranks."""
    assert backend._shape is not None
    references: list[Outputs] = [backend.reference(slot) for slot in range(SLOTS)]
    return max(
        (
            compare(backend, replay, references, backend._shape.dtype)[0]
            for replay, right in zip(replays, pair.right, strict=True)
            if right
        ),
        default=0.0,
    )


def difference(backend: TritonBackend, pair: Pair) -> dict[str, float] | None:
    """Return both latencies in us and the difference with its 90 % interval, None if wrong."""
    replays = [
        backend.capture_launches(launches, CALLS, GRAPH) for launches in (pair.first, pair.second)
    ]
    try:
        if not worst_error(backend, pair, replays) <= 1.0:
            return None
        for replay in replays:
            replay.replay(3)
        found = np.empty((2, ROUNDS))
        for turn in range(ROUNDS):
            for which in (0, 1) if turn % 2 else (1, 0):
                backend.exchange(None)
                mine = float(np.median(replays[which].replay(SAMPLES)))
                found[which, turn] = max(backend.exchange(mine))
        if not worst_error(backend, pair, replays) <= 1.0:
            return None
    finally:
        for replay in replays:
            replay.close()
    apart = found[1] - found[0]
    drawn = np.random.default_rng(0).choice(apart, (BOOTSTRAP, ROUNDS))
    lo, hi = np.quantile(np.median(drawn, axis=1), [0.05, 0.95])
    return {
        "without_us": round(float(np.median(found[0])), 3),
        "with_us": round(float(np.median(found[1])), 3),
        "difference_us": round(float(np.median(apart)), 3),
        "lo_us": round(float(lo), 3),
        "hi_us": round(float(hi), 3),
    }


def measured(
    backend: TritonBackend, shapes: Iterable[tuple[int, int]] = SHAPES, only: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield a row for each variant at each of the shapes (tokens, hidden); wrong ones are said.

    ``only`` leaves out the variants whose name does not have that word.
    """
    for tokens, hidden in shapes:
        backend.prepare(LiveShape(tokens, hidden, "bf16"), SLOTS, 0)
        for name, pair in variants(backend).items():
            if only not in name:
                continue
            found = difference(backend, pair)
            if found is None:
                at = f"{tokens} x {hidden}, {backend.world_size} ranks"
                complain(backend, f"{name} at {at}: wrong numbers")
                continue
            yield {
                "what": name, "world_size": backend.world_size,
                "interconnect": backend.interconnect, "tokens": tokens, "hidden_dim": hidden,
                **found,
            }  # fmt: skip


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--tp", default="2,4,8", help="World sizes.")
@click.option("--only", default="", help="Measure the pairs whose name has this word.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(tp: str, only: str, out: Path) -> None:
    try:
        measure([int(n) for n in tp.split(",")], only, out)
    except InputError as error:
        sys.exit(f"differences: {error}")


def measure(sizes: list[int], only: str, out: Path) -> None:
    """Measure every pair at every world size and shape; write each row as it comes."""
    rows: list[dict[str, Any]] = []
    labels: dict[str, Any] = {}
    for n in sizes:
        backend = TritonBackend(n)
        backend.set_up()
        labels = {"gpu": backend.environment()["gpu"], "kernels": backend.kernel_version}
        for row in measured(backend, only=only):
            rows.append(row)
            if 0 in backend.local_ranks:  # each result is kept as it comes
                out.write_text(json.dumps({**labels, "rows": rows}, indent=1) + "\n")
        first = 0 in backend.local_ranks
        backend.close()
    backend.leave()
    if first:
        heads = ["what", "ranks", "tokens", "hidden", "without", "with", "difference", "90 %"]
        cells = [
            [
                r["what"], str(r["world_size"]), str(r["tokens"]), str(r["hidden_dim"]),
                f"{r['without_us']:.2f}", f"{r['with_us']:.2f}", f"{r['difference_us']:+.2f} us",
                f"{r['lo_us']:+.2f} to {r['hi_us']:+.2f}",
            ]
            for r in rows
        ]  # fmt: skip
        print(f"triton {triton.__version__}, torch {torch.__version__}")
        print(table(cells, heads))


if __name__ == "__main__":
    main()
