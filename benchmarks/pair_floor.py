"""Two GPUs, one rank each: the fused op, torch's and NCCL's all-reduce with a norm, and the floor.

    torchrun --nproc-per-node 2 benchmarks/pair_floor.py --hidden 7168 --tokens 1 --tokens 512

At each shape all of these are checked against the fp32 reference and then timed in the same rounds,
in random order: the project's fused 1-stage and 2-stage, torch's one-shot and two-shot over
symmetric memory and NCCL's all-reduce, each with a separate norm, an empty kernel with the two
barriers of the fused 1-stage (its grid too), and peer copies.

The floor is that empty kernel and what the bytes add to a peer copy: at 2 ranks either algorithm
brings S bytes to each rank over the link, so S bytes are copied from the peer by the copy engine
(``Tensor.copy_``) and by a kernel, both ranks at once, and the lesser of both counts, less the time
of the same copy of 16 bytes. The floor knows no local bytes, no reduction and no norm.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np

try:
    import torch
    import triton
    from triton_floor import COPY_BLOCK_BYTES, copy
except ImportError as error:
    sys.exit(f"pair_floor: {error.name} is not installed; nothing to measure")

from costmodel.errors import InputError
from costmodel.live.backends.base import (
    SEPARATE_ARM,
    SEPARATE_STAGES,
    Backend,
    CannotRun,
    LiveShape,
    Timed,
)
from costmodel.live.backends.device import TorchGpu, led
from costmodel.live.backends.torch.adapter import TorchBackend
from costmodel.live.backends.triton import kernels
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.backends.triton.memory import symmetric_bytes
from costmodel.live.repetition import CALLS, GRAPH, SLOTS, Repetition
from costmodel.live.run.harness import compare, timed_rounds
from costmodel.live.run.statistics import Latency, summarize
from costmodel.model.shape import ONE_STAGE, TWO_STAGE
from costmodel.show.table import table
from costmodel.units import kib

#: What is timed at a shape, in the words of the table.
FUSED = {"fused 1-stage": ONE_STAGE, "fused 2-stage": TWO_STAGE}
OTHERS = {
    "one-shot + norm": SEPARATE_STAGES[0], "two-shot + norm": SEPARATE_STAGES[1],
    "NCCL + norm": SEPARATE_ARM,
}  # fmt: skip
BARRIERS = "two barriers"
#: Peer copies by what does them; each of the shape's bytes, and of next to none.
COPIERS = ("copy engine", "copy kernel")
NEXT_TO_NOTHING = 16


class Looped(Timed):
    """Calls of something that is no arm, captured; an untimed call of ``together`` leads them.

    ``kept`` is the memory that the graph uses.
    """

    def __init__(
        self, call: Callable[[int], None], together: Callable[[], None], kept: Any = None
    ) -> None:
        self._device = TorchGpu()
        self._kept = (call, together, kept)
        self._graph, self._lead = self._device.graph(), self._device.graph()

        def issue() -> None:
            for index in range(CALLS):
                call(index)

        issue()
        together()
        self._device.synchronize()
        with self._device.capture(self._graph, None):
            issue()
        with self._device.capture(self._lead, None):
            together()

    def replay(self, samples: int) -> Any:
        self._graph.replay()
        return led(self._device, self._lead.replay, self._graph.replay, samples) / CALLS


def barriers(ours: TritonBackend) -> Callable[[], None]:
    """Return the launch of the empty kernel on the grid of the fused 1-stage."""
    (fused,) = ours._launches(ONE_STAGE)
    kept = ("RANKS", "LOCAL", "SCOPE", "HIP", "num_warps")
    launch = fused._replace(
        kernel=kernels.barriers_alone,
        arguments=(ours.local_ranks[0], ours._spin_limit),
        options={"BARRIERS": 2, **{name: fused.options[name] for name in kept}},
    )
    return lambda: launch(ours._slots[0].table)


def copies(ours: TritonBackend, size_bytes: int) -> tuple[dict[str, Callable[[int], None]], Any]:
    """Return copies of ``size_bytes`` from the peer by copier, one of :data:`SLOTS` buffers a call.

    Beside them stands the shared memory, which lives as long as they run.
    """
    import torch.distributed._symmetric_memory as symmetric

    words = max(size_bytes // 4, 4)
    shared = symmetric_bytes(SLOTS * words * 4).view(torch.float32).view(SLOTS, words)
    handle = symmetric.rendezvous(shared, ours._memory.group.group_name)
    shared.zero_()
    peer = handle.get_buffer(1 - ours.local_ranks[0], (SLOTS, words), torch.float32)
    mine = torch.empty_like(shared)
    block = COPY_BLOCK_BYTES // 4

    def by_engine(call: int) -> None:
        mine[call % SLOTS].copy_(peer[call % SLOTS], non_blocking=True)

    def by_kernel(call: int) -> None:
        at = call % SLOTS
        copy[(triton.cdiv(words, block),)](mine[at], peer[at], words, BLOCK=block, num_warps=8)

    return dict(zip(COPIERS, (by_engine, by_kernel), strict=True)), (shared, handle)


def first_rank() -> bool:
    """Return whether this process speaks and writes for both."""
    return os.environ["RANK"] == "0"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print once for both processes."""
    if first_rank():
        print(text, file=stream, flush=True)


def floor_us(us: Mapping[str, float]) -> float:
    """Return the barriers and what the bytes add to the faster copy, from latencies by name."""
    bytes_us = min(us[f"{copier}, S"] - us[f"{copier}, 16 bytes"] for copier in COPIERS)
    return us[BARRIERS] + max(bytes_us, 0.0)


def measured(
    ours: TritonBackend, theirs: TorchBackend, shape: LiveShape, repetition: Repetition, seed: int
) -> dict[str, Latency]:
    """Return the latency of everything at one shape, by name; wrong arms are left out, and said."""
    timed: dict[str, Timed] = {}
    arms: list[tuple[Backend, dict[str, str]]] = [(ours, FUSED), (theirs, OTHERS)]
    for backend, named in arms:
        backend.prepare(shape, SLOTS, repetition.seed)
        references = [backend.reference(slot) for slot in range(SLOTS)]
        for name, arm in named.items():
            try:
                ready = backend.capture(arm, CALLS, GRAPH)
            except CannotRun as error:
                say(f"{name} at {shape}: {error}")
                continue
            worst, _ = compare(backend, ready, references, shape.dtype)
            if worst > 1.0:
                say(f"{name} at {shape} is wrong: left out")
                ready.close()
                continue
            timed[name] = ready
    together = barriers(ours)
    timed[BARRIERS] = Looped(lambda call: together(), together)
    for size_bytes, words in ((shape.bytes, "S"), (NEXT_TO_NOTHING, "16 bytes")):
        calls, kept = copies(ours, size_bytes)
        for name, call in calls.items():
            timed[f"{name}, {words}"] = Looped(call, together, kept)
    samples = timed_rounds(timed, repetition, seed)
    latencies = {
        name: summarize(np.concatenate(ours.exchange(samples[name]), axis=2)) for name in timed
    }
    for ready in timed.values():
        ready.close()
    ours.release()
    theirs.release()
    return latencies


def line(shape: LiveShape, found: Mapping[str, Latency]) -> dict[str, float | int | str]:
    """Return a line of the table."""
    us = {name: latency.latency_us for name, latency in found.items()}
    best = {
        title: min((us[name] for name in names if name in us), default=float("nan"))
        for title, names in (("fused", FUSED), ("torch", list(OTHERS)[:2]))
    }
    floor = floor_us(us)
    return {
        "hidden": shape.hidden_dim,
        "tokens": shape.tokens,
        "size": kib(float(shape.bytes)),
        **{name: f"{us.get(name, float('nan')):.2f}" for name in (*FUSED, *OTHERS, BARRIERS)},
        "floor": f"{floor:.2f}",
        "fused / torch": f"{best['fused'] / best['torch']:.2f}",
        "fused / floor": f"{best['fused'] / floor:.2f}",
    }


@click.command(help=__doc__.splitlines()[0])
@click.option("--hidden", type=int, multiple=True, default=(2880, 7168), show_default=True)
@click.option(
    "--tokens", type=int, multiple=True, default=(1, 8, 64, 128, 256, 512), show_default=True
)
@click.option("--dtype", default="bf16", show_default=True)
@click.option("--norm", default=TorchBackend.norm, show_default=True, help="compiled or triton.")
@click.option("--rounds", default=10, show_default=True)
@click.option("--samples", default=5, show_default=True)
@click.option("--budget", type=float, default=float("inf"), help="Seconds; shapes after are left.")
@click.option("--out", type=click.Path(path_type=Path), help="Every latency as CSV.")
def main(
    hidden: tuple[int, ...],
    tokens: tuple[int, ...],
    dtype: str,
    norm: str,
    rounds: int,
    samples: int,
    budget: float,
    out: Path | None,
) -> None:
    began = time.monotonic()
    if os.environ.get("WORLD_SIZE") != "2":
        sys.exit("pair_floor: start it as torchrun --nproc-per-node 2 benchmarks/pair_floor.py")
    if norm not in TorchBackend.norms:
        sys.exit(f"pair_floor: --norm is {' or '.join(TorchBackend.norms)}, not '{norm}'")
    ours, theirs = TritonBackend(2), TorchBackend(2)
    theirs.norm = norm
    repetition = Repetition(seed=1, rounds=rounds, samples=samples)
    lines, rows = [], []
    try:
        repetition.check()
        theirs.set_up()  # it switches multicast off, before either has memory
        ours.set_up()
        for hidden_dim in hidden:
            for count in tokens:
                if max(ours.exchange(time.monotonic() - began)) > budget:
                    continue
                shape = LiveShape(count, hidden_dim, dtype)
                found = measured(ours, theirs, shape, repetition, len(lines))
                lines.append(line(shape, found))
                rows += [
                    {
                        "hidden": hidden_dim, "tokens": count, "dtype": dtype,
                        "bytes": shape.bytes, "what": name, "latency_us": round(each.latency_us, 3),
                        "lower_us": round(each.lower_us, 3), "upper_us": round(each.upper_us, 3),
                        "clean": each.clean,
                    }
                    for name, each in found.items()
                ]  # fmt: skip
                say("  ".join(f"{name} {value}" for name, value in lines[-1].items()))
                if out and first_rank():
                    with out.open("w", newline="", encoding="utf-8") as stream:
                        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
                        writer.writeheader()
                        writer.writerows(rows)
    except InputError as error:
        say(f"pair_floor: {error}", sys.stderr)
        sys.exit(1)
    if 0 in ours.local_ranks and lines:
        known = theirs.environment()
        print(
            f"2 x {known['gpu']}, us, graph replay; {ours.kernel_version}; {theirs.kernel_version}"
        )
        print(table([each.values() for each in lines], list(lines[0]), right=True))
    theirs.close()
    ours.close()
    ours.leave()


if __name__ == "__main__":
    main()
