"""Two GPUs: the fused op, other people's, and the floor.

    torchrun --nproc-per-node 2 benchmarks/pair_floor.py --hidden 7168 --tokens 1 --tokens 512
    torchrun --nproc-per-node 2 benchmarks/pair_floor.py --tp 2,4,8 --out pair_floor.csv
    torchrun --nproc-per-node 2 benchmarks/pair_floor.py --flashinfer --out flashinfer_floor.csv

At each shape all of these are checked against the fp32 reference and then timed in the same rounds,
in random order: the project's fused 1-stage and 2-stage, torch's one-shot and two-shot over
symmetric memory and NCCL's all-reduce, each with a separate norm, FlashInfer's fused one-shot and
two-shot where it is asked for, an empty kernel with the two barriers of the fused 1-stage (its grid
too), and peer copies. Other people's operators want a GPU for every rank, so that 4 and 8 ranks,
split over the two, have the project's kernels alone.

The floor is that empty kernel and what the bytes add to a peer copy: the algorithm that moves least
brings N S / 2 bytes over the link to each GPU (2-stage; at 2 ranks either). They are copied from
the peer by the copy engine (``Tensor.copy_``) and by a kernel, both GPUs at once, and the lesser of
both counts, less the time of the same copy of 16 bytes. The floor knows no local bytes, no
reduction and no norm.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import click
import numpy as np

try:
    from peer_copies import COPIERS, Looped, Shared, barriers
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
from costmodel.live.backends.flashinfer.adapter import FlashInferBackend
from costmodel.live.backends.torch.adapter import TorchBackend
from costmodel.live.backends.triton.adapter import TritonBackend
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
FLASHINFER = {"FlashInfer one-shot": ONE_STAGE, "FlashInfer two-shot": TWO_STAGE}
BARRIERS = "two barriers"
FLOOR = "floor"
#: Peer copies are of the shape's bytes, and of next to none.
NEXT_TO_NOTHING = 16


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


def crossing_bytes(shape: LiveShape, ranks: int) -> int:
    """Return what the algorithm that moves least brings to each of two GPUs over the link.

    Half the ranks on each read and are written by the others' half: 2 (N/2)^2 S / N in 2-stage,
    which is less than 1-stage's (N/2)^2 S from 4 ranks on.
    """
    return ranks * shape.bytes // 2


def measured(
    ours: TritonBackend,
    others: Sequence[tuple[Backend, Mapping[str, str]]],
    shape: LiveShape,
    repetition: Repetition,
    seed: int,
) -> dict[str, Latency]:
    """Return the latency of everything at one shape, by name; wrong arms are left out, and said."""
    timed: dict[str, Timed] = {}
    for backend, named in ((ours, FUSED), *others):
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
    crossing, peer = crossing_bytes(shape, ours.world_size), 1 - int(os.environ["RANK"])
    for size_bytes, words in ((crossing, "S"), (NEXT_TO_NOTHING, "16 bytes")):
        shared = Shared(ours, size_bytes, SLOTS)
        for name, call in shared.reading((peer,)).items():
            timed[f"{name}, {words}"] = Looped(call, together, shared)
    samples = timed_rounds(timed, repetition, seed)
    latencies = {
        name: summarize(np.concatenate(ours.exchange(samples[name]), axis=2)) for name in timed
    }
    for ready in timed.values():
        ready.close()
    for backend in (ours, *(other for other, _ in others)):
        backend.release()
    return latencies


def line(ranks: int, shape: LiveShape, found: Mapping[str, Latency]) -> dict[str, int | str]:
    """Return a line of the table; what was not measured is empty."""
    us = {name: latency.latency_us for name, latency in found.items()}
    fused, torchs, flashinfers = (
        min((us[name] for name in names if name in us), default=float("nan"))
        for names in (FUSED, list(OTHERS)[:2], FLASHINFER)
    )
    floor = floor_us(us)
    named = (*FUSED, *OTHERS, *FLASHINFER, BARRIERS)
    return {
        "ranks": ranks,
        "hidden": shape.hidden_dim,
        "tokens": shape.tokens,
        "size": kib(float(shape.bytes)),
        **{name: f"{us[name]:.2f}" if name in us else "" for name in named},
        FLOOR: f"{floor:.2f}",
        "fused / torch": f"{fused / torchs:.2f}" if torchs == torchs else "",
        "fused / FlashInfer": f"{fused / flashinfers:.2f}" if flashinfers == flashinfers else "",
        "fused / floor": f"{fused / floor:.2f}",
    }


@click.command(help=__doc__.splitlines()[0])
@click.option("--tp", default="2", show_default=True, help="World sizes, 4 and 8 split.")
@click.option("--hidden", type=int, multiple=True, default=(2880, 7168), show_default=True)
@click.option(
    "--tokens", type=int, multiple=True, default=(1, 8, 64, 128, 256, 512), show_default=True
)
@click.option("--dtype", default="bf16", show_default=True)
@click.option("--norm", default=TorchBackend.norm, show_default=True, help="compiled or triton.")
@click.option("--flashinfer", is_flag=True, help="FlashInfer's fused op too; it compiles first.")
@click.option("--rounds", default=10, show_default=True)
@click.option("--samples", default=5, show_default=True)
@click.option("--budget", type=float, default=float("inf"), help="Seconds; shapes after are left.")
@click.option("--out", type=click.Path(path_type=Path), help="Every latency as CSV.")
def main(
    tp: str,
    hidden: tuple[int, ...],
    tokens: tuple[int, ...],
    dtype: str,
    norm: str,
    flashinfer: bool,
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
    theirs = TorchBackend(2)
    theirs.norm = norm
    others: list[tuple[Backend, dict[str, str]]] = [(theirs, OTHERS)]
    if flashinfer:
        others.append((FlashInferBackend(2), FLASHINFER))
    repetition = Repetition(seed=1, rounds=rounds, samples=samples)
    lines, rows = [], []
    try:
        repetition.check()
        for other, _ in others:
            other.set_up()  # it switches multicast off, before anybody has memory
        for ranks in map(int, tp.split(",")):
            ours = TritonBackend(ranks)
            ours.set_up()
            for hidden_dim, count in ((h, t) for h in hidden for t in tokens):
                if max(ours.exchange(time.monotonic() - began)) > budget:
                    continue
                shape = LiveShape(count, hidden_dim, dtype)
                fit = others if ranks == theirs.world_size else ()
                found = measured(ours, fit, shape, repetition, len(lines))
                lines.append(line(ranks, shape, found))
                rows += [
                    {
                        "ranks": ranks, "hidden": hidden_dim, "tokens": count, "dtype": dtype,
                        "bytes": shape.bytes, "what": name, "latency_us": round(each.latency_us, 3),
                        "lower_us": round(each.lower_us, 3), "upper_us": round(each.upper_us, 3),
                        "clean": each.clean,
                    }
                    for name, each in found.items()
                ]  # fmt: skip
                rows.append({**rows[-1], **dict.fromkeys(("lower_us", "upper_us", "clean"))})
                rows[-1] |= {"what": FLOOR, "latency_us": lines[-1][FLOOR]}
                say("  ".join(f"{name} {value}" for name, value in lines[-1].items() if value))
                if out and first_rank():
                    with out.open("w", newline="", encoding="utf-8") as stream:
                        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
                        writer.writeheader()
                        writer.writerows(rows)
            ours.close()
    except InputError as error:
        say(f"pair_floor: {error}", sys.stderr)
        sys.exit(1)
    if lines:
        known = theirs.environment()
        versions = "; ".join(each.kernel_version for each in (ours, *(b for b, _ in others)))
        say(f"2 x {known['gpu']}, us, graph replay; {versions}")
        say(table([each.values() for each in lines], list(lines[0]), right=True))
    for other, _ in others:
        other.close()
    ours.leave()


if __name__ == "__main__":
    main()
