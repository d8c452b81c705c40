"""How long ``costmodel.live.tune`` takes inside a start-up on real GPUs, one rank each.

    torchrun --nproc-per-node 2 benchmarks/startup_live.py --out startup_live.json

The ops are the project's Triton kernels, and they say that ``--gpu`` and xGMI are here: a prior is
known of those alone. So no rule counts that comes of it, only the time until every rank has its
answer, and that all ranks have the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

try:
    import torch.distributed as dist
except ImportError as error:
    sys.exit(f"startup_live: {error.name} is not installed; nothing to measure")

import costmodel.live
from costmodel.data.kernels import LATEST
from costmodel.live.backends.triton.adapter import TritonBackend


class Pretending(TritonBackend):
    """Back end triton that says its links are xGMI's."""

    def set_up(self) -> None:
        super().set_up()
        self.interconnect = "xgmi"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", default="MI355X")
    parser.add_argument("--budget", type=float, default=3.0)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    dist.init_process_group("cpu:gloo,cuda:nccl")
    ranks = dist.get_world_size()
    found = []
    for start in range(given.starts):
        backend = Pretending(ranks)
        backend.set_up()
        lines: list[str] = []
        dist.barrier()
        began = time.perf_counter()
        rule = costmodel.live.tune(
            None, backend, [2880, 7168], given.budget, gpu=given.gpu, aiter_version=LATEST,
            log=lines.append,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        said: list[object] = [None] * ranks
        dist.all_gather_object(said, (seconds, repr(rule)))
        if dist.get_rank() == 0:
            longest = max(s for s, _ in said)  # type: ignore[misc]
            same = len({r for _, r in said}) == 1  # type: ignore[misc]
            found.append({"start": start, "seconds": longest, "ranks agree": same, "said": lines})
            print(f"start {start}: {longest:.2f} s, ranks agree: {same}; {' '.join(lines)}")
            given.out.write_text(json.dumps({"gpu": given.gpu, "starts": found}, indent=1) + "\n")
        backend.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
