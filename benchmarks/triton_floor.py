"""How far the Triton kernels are from the floor: launch + compulsory bytes at the copy rate.

    python benchmarks/triton_floor.py --tp 8 --hidden 2880 --tokens 1 --tokens 64 --tokens 512

Each rank must read its input and residual once and write two outputs: 4 S bytes a rank, 4 N S in
loopback. The floor is the time of a plain copy kernel that reads and writes just as many bytes,
captured in a graph and rotated over as many buffers as the op, so that it finds the caches in the
same state; its own launch is in it. The floor knows no barrier, no second launch and no reduction,
so 1 is out of reach: what a ratio tells is how much of a latency those cost.

``issued`` is what a kernel loads and stores over the time beyond one launch: (N + 3) N S bytes in
the 1-stage, 6 N S in the 2-stage, most of it served by the L2 cache.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from costmodel.live.repetition import GRAPH
from costmodel.show.table import table

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as error:
    sys.exit(f"triton_floor: {error.name} is not installed; nothing to measure")

from costmodel.errors import InputError
from costmodel.live.backends.base import LiveShape
from costmodel.model.shape import ONE_STAGE, TWO_STAGE
from costmodel.units import kib

#: Bytes that one program of the copy kernel moves.
COPY_BLOCK_BYTES = 8192


@triton.jit
def copy(destination, source, elements, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(destination + at, tl.load(source + at, mask=at < elements), mask=at < elements)


@triton.jit
def nothing(pointer):  # type: ignore[no-untyped-def]
    pass


def issued_bytes(arm: str, world_size: int, size_bytes: int) -> int:
    """Return what all ranks of a loopback load and store in one call."""
    loads_and_stores = {ONE_STAGE: world_size + 3, TWO_STAGE: 6}[arm]
    return loads_and_stores * world_size * size_bytes


def calls_of(slots: int) -> int:
    """Return the calls of one replay: about 16, every slot equally often."""
    return slots * max(1, 16 // slots)


def replay_us(run: Callable[[], None], calls: int, samples: int) -> float:
    """Return the median time of one of ``calls`` launches in a captured graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(samples):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        times.append((start, stop))
    torch.cuda.synchronize()
    graph.reset()
    return float(np.median([start.elapsed_time(stop) * 1e3 / calls for start, stop in times]))


def copy_floor_us(size_bytes: int, slots: int, samples: int) -> float:
    """Return the time to read and write ``size_bytes`` in all, rotating over ``slots`` buffers."""
    elements = max(size_bytes // 2 // 4, 1)
    buffers = [
        (torch.rand(elements, device="cuda"), torch.empty(elements, device="cuda"))
        for _ in range(slots)
    ]
    block = COPY_BLOCK_BYTES // 4
    grid = (triton.cdiv(elements, block),)

    def run() -> None:
        for call in range(calls_of(slots)):
            source, destination = buffers[call % slots]
            copy[grid](destination, source, elements, BLOCK=block, num_warps=8)

    return replay_us(run, calls_of(slots), samples)


def launch_us(samples: int) -> float:
    """Return the time of a kernel that does nothing."""
    word = torch.zeros(1, device="cuda")

    def run() -> None:
        for _ in range(16):
            nothing[(132,)](word)

    return replay_us(run, 16, samples)


def rows(
    tp: int, shapes: list[LiveShape], slots: int, samples: int
) -> list[dict[str, float | int | str]]:
    """Measure both fused arms at every shape, beside the floor."""
    from costmodel.live.backends.triton.adapter import TritonBackend

    backend = TritonBackend(tp)
    backend.set_up()
    launch = launch_us(samples)
    table: list[dict[str, float | int | str]] = []
    for shape in shapes:
        floor = copy_floor_us(4 * tp * shape.bytes, slots, samples)
        backend.prepare(shape, slots, seed=0)
        for arm in (ONE_STAGE, TWO_STAGE):
            timed = backend.capture(arm, calls_of(slots), GRAPH)
            timed.replay(3)
            latency = float(np.median(timed.replay(samples)))
            timed.close()
            issued = issued_bytes(arm, tp, shape.bytes)
            table.append(
                {
                    "tp": tp,
                    "hidden": shape.hidden_dim,
                    "tokens": shape.tokens,
                    "bytes": shape.bytes,
                    "dtype": shape.dtype,
                    "slots": slots,
                    "arm": arm,
                    "latency_us": round(latency, 2),
                    "floor_us": round(floor, 2),
                    "gap_us": round(latency - floor, 2),
                    "ratio": round(latency / floor, 2),
                    "issued_gbps": round(issued / max(latency - launch, 1e-3) / 1e3),
                }
            )
        backend.release()
    backend.close()
    return table


@click.command(help=__doc__.splitlines()[0])
@click.option("--tp", type=int, multiple=True, default=(8,), show_default=True)
@click.option("--hidden", type=int, multiple=True, default=(2880, 8192), show_default=True)
@click.option(
    "--tokens", type=int, multiple=True, default=(1, 8, 32, 64, 128, 256, 512), show_default=True
)
@click.option("--dtype", default="bf16", show_default=True)
@click.option(
    "--slots", default=8, show_default=True, help="Sets of buffers that calls rotate over."
)
@click.option("--samples", default=30, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the table as CSV.")
def main(
    tp: tuple[int, ...],
    hidden: tuple[int, ...],
    tokens: tuple[int, ...],
    dtype: str,
    slots: int,
    samples: int,
    out: Path | None,
) -> None:
    if not torch.cuda.is_available():
        sys.exit("triton_floor: this torch sees no CUDA or ROCm GPU; nothing to measure")
    shapes = [LiveShape(m, h, dtype) for h in hidden for m in tokens]
    try:
        found = [row for ranks in tp for row in rows(ranks, shapes, slots, samples)]
    except InputError as error:
        sys.exit(f"triton_floor: {error}")
    print(f"{torch.cuda.get_device_name()}: all ranks on this GPU, {slots} slots, graph replay")
    shown = [{**row, "bytes": kib(float(row["bytes"]))} for row in found]
    print(table([row.values() for row in shown], list(shown[0]), right=True))
    if out:
        with out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
