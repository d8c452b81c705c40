"""What a barrier, an exit barrier, a second launch and release/acquire cost, one call in two ways.

    torchrun --nproc-per-node 2 benchmarks/differences.py --tp 2,4,8 --out differences.json
    python benchmarks/differences.py --tp 2,4,8 --out differences.json       # ranks on one GPU

Every row is a pair of the project's Triton kernels that differ in one thing, at one shape: rounds
of both, alternating, replayed from captured graphs; the difference of a round's medians, its median
over the rounds and the interval that a bootstrap over rounds gives. Numbers are not checked here:
a variant without its order or its exit barrier may compute wrong ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from costmodel.live.repetition import GRAPH
from costmodel.show.table import table

try:
    import torch
    import triton
except ImportError as error:
    sys.exit(f"differences: {error.name} is not installed; nothing to measure")

from costmodel.live.backends.base import LiveShape
from costmodel.live.backends.triton import kernels
from costmodel.live.backends.triton.adapter import TritonBackend

SHAPES = ((1, 2880), (16, 2880), (128, 2880), (1, 7168), (16, 7168), (128, 7168))
CALLS, SAMPLES, ROUNDS, BOOTSTRAP = 16, 5, 12, 2000


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


def variants(backend: TritonBackend) -> dict[str, tuple[list[Any], list[Any]]]:
    """Return pairs of calls, by what the second one has that the first one has not."""
    one, two = backend._launches("1stage"), backend._launches("2stage")
    apart = [
        backend._flat_launch(kernels.reduce_scatter_to_peers, backend.world_size),
        backend._norm_launch(),
    ]
    return {
        "a barrier": (barriers(backend, 1), barriers(backend, 2)),
        "three more barriers": (barriers(backend, 1), barriers(backend, 4)),
        "the 1-stage's exit barrier": (changed(one, EXIT=False), one),
        "release/acquire in the 2-stage": (changed(two, ORDERED=False), two),
        "the 2-stage's norm in a launch of its own": (two, apart),
    }


def difference(backend: TritonBackend, pair: tuple[list[Any], list[Any]]) -> dict[str, float]:
    """Return both latencies in us and the difference with its 90 % interval."""
    replays = [backend.capture_launches(launches, CALLS, GRAPH) for launches in pair]
    for replay in replays:
        replay.replay(3)
    found = np.empty((2, ROUNDS))
    for turn in range(ROUNDS):
        for which in (0, 1) if turn % 2 else (1, 0):
            backend.exchange(None)
            mine = float(np.median(replays[which].replay(SAMPLES)))
            found[which, turn] = max(backend.exchange(mine))
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


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--tp", default="2,4,8", help="World sizes.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(tp: str, out: Path) -> None:
    rows: list[dict[str, Any]] = []
    labels: dict[str, Any] = {}
    for n in map(int, tp.split(",")):
        backend = TritonBackend(n)
        backend.set_up()
        labels = {"gpu": backend.environment()["gpu"], "kernels": backend.kernel_version}
        for tokens, hidden in SHAPES:
            backend.prepare(LiveShape(tokens, hidden, "bf16"), 2, 0)
            for name, pair in variants(backend).items():
                rows.append(
                    {
                        "what": name, "world_size": n, "interconnect": backend.interconnect,
                        "tokens": tokens, "hidden_dim": hidden, **difference(backend, pair),
                    }
                )  # fmt: skip
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
