"""Both arms on fewer programs than fit: does the model know what a launch grid does?

    torchrun --nproc-per-node 2 benchmarks/workgroups.py --tp 2,4,8 --out workgroups.csv
    python benchmarks/workgroups.py --tp 2,4,8 --out workgroups.csv       # ranks on one GPU

The project's Triton kernels at a few shapes, each checked against the reference and timed by the
harness that measures everything else, once for each limit on a rank's programs. Rows of schema 1,
whose ``workgroups`` say the limit; ``costmodel validate workgroups.csv --calibration C`` holds a
calibration, which knows no such row, against them. Each shape is kept as it comes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from costmodel.data.measurement import Measurements
from costmodel.live.backends.base import LiveShape
from costmodel.live.repetition import Repetition
from costmodel.live.run.execution import in_ranks
from costmodel.live.run.harness import measure_point
from costmodel.live.run.peers import join
from costmodel.live.run.points import DEFAULT_ARMS, Point
from costmodel.live.run.records import labels, schema_rows, to_record
from costmodel.live.run.watchdog import Watchdog
from costmodel.show.table import table

try:
    import torch
    import triton
except ImportError as error:
    sys.exit(f"workgroups: {error.name} is not installed; nothing to measure")

from costmodel.live.backends.triton.adapter import TritonBackend

LIMITS = (8, 16, 32, 64, 160)
SHAPES = tuple((tokens, hidden) for hidden in (2880, 7168) for tokens in (16, 64, 160, 384))
WATCHDOG_S = 60.0
REPETITION = Repetition(rounds=8, samples=6, slots=2)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--tp", default="2,4,8", help="World sizes.")
@click.option("--source", default="workgroups", help="Name of the rows' source.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(tp: str, source: str, out: Path) -> None:
    rows: list[dict] = []
    backends = [TritonBackend(n) for n in map(int, tp.split(","))]

    def work(place: int, watch: Watchdog) -> int:
        backend = backends[place]
        backend.set_up()
        said = labels(backend)
        for tokens, hidden in SHAPES:
            for limit in [at for at in LIMITS if at <= tokens or at == LIMITS[-1]]:
                backend.workgroups = limit
                point = Point(LiveShape(tokens, hidden, "bf16"), DEFAULT_ARMS)
                found = measure_point(backend, point, REPETITION, len(rows), watch)
                record = to_record(len(rows), point, found, 0.0)
                grid = {"workgroups": limit} if limit < LIMITS[-1] else {}
                new = schema_rows(record, source, said, backend.world_size, REPETITION.timing)
                rows.extend({**row, **grid} for row in new)
            if 0 in backend.local_ranks:
                Measurements.from_rows(rows).write(out)
        return 0

    peers = join()
    in_ranks(backends, peers, WATCHDOG_S, work)
    if peers.rank == 0:
        heads = ["ranks", "tokens", "hidden", "programs", "arm", "latency", ""]
        cells = [
            [
                str(r["world_size"]), str(r["tokens"]), str(r["hidden_dim"]),
                str(r.get("workgroups", "own")), r["algorithm"], f"{r['latency_us']:.2f} us",
                "" if r["quality"] == "clean" else r["quality"],
            ]
            for r in rows
        ]  # fmt: skip
        print(f"triton {triton.__version__}, torch {torch.__version__}")
        print(table(cells, heads))


if __name__ == "__main__":
    main()
