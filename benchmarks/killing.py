"""Kill any process of a run at random moments: is anything lost, does ``--resume`` work at once?

A run is started, one of its processes (the launcher or a rank, drawn alike) is killed with SIGKILL
at a drawn moment, as often while the ranks start as while they measure, and the run is continued
without waiting. Each time is checked that

- no process of the killed run is left after ``GONE_S``;
- what was on disk when the kill came is still there, byte for byte;
- the continued run ends with exit code 0, and has the rows of a run that nobody killed, each once.

AITER is played by the strict stand-in, with every arm that there is. ``2+4`` are two world sizes in
one start.

    python benchmarks/killing.py --kills 50                       # gloo and the AITER stand-in
    python benchmarks/killing.py --kills 50 --backend aiter --ranks 2,4,8,2+4+8
    python benchmarks/killing.py --kills 6 --ranks 2 --backend gloo --seed 3
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from costmodel.data import measurement
from costmodel.live.backends.base import ARMS
from costmodel.live.run.directory import of_world_size

ROOT = Path(__file__).resolve().parent.parent

#: Longest that the other processes of a run may live on after a kill, in seconds. Two things may
#: take time: a rank that hears of it from the kernel (3 s), and a busy machine.
GONE_S = 8.0

#: What is measured: shapes short enough that a kill falls between, and into, many of them. At 160
#: tokens AITER's plain dispatch takes the 2-stage at 4 and 8 ranks.
_REPEATED = ("--slots", "2", "--calls", "2", "--seed", "1", "--hidden", "1536")
SHAPES = {
    "gloo": (
        "--tokens", "1,2,4,8,16,32", "--arms", "1stage,2stage,separate",
        "--rounds", "30", "--samples", "4", *_REPEATED,
    ),
    "aiter": (
        "--tokens", "2,4,160", "--arms", ",".join(ARMS), "--rounds", "4", "--samples", "1",
        *_REPEATED,
    ),
}  # fmt: skip

#: Names the processes of one start in their environment, which their children inherit.
MARK = "COSTMODEL_KILLING"


def command(backend: str, sizes: Sequence[int]) -> list[str]:
    """Return what starts ``costmodel measure`` with a back end, without the options of shapes."""
    named = ",".join(map(str, sizes))
    measure = ["-m", "costmodel", "measure", "--backend", backend, "--tp", named]
    if backend == "gloo":
        return [sys.executable, *measure]
    ranks = f"--nproc-per-node={max(sizes)}"
    return [sys.executable, "-m", "torch.distributed.run", ranks, *measure]


def processes(mark: str) -> list[int]:
    """Return the ids of the live processes of one start, the launcher first."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry.name)] if state not in "ZX" else []
        except (OSError, IndexError):
            continue
    return sorted(found)


@dataclass
class Campaign:
    """Starts and kills of one back end; ``failures`` is what went wrong.

    ``sizes`` are the world sizes of one start. ``rows`` are those of the first run that ended, and
    of every other.
    """

    backend: str
    sizes: Sequence[int]
    folder: Path
    random: random.Random
    failures: list[str] = field(default_factory=list)
    runs: int = 0
    starts: int = 0
    kept: dict[Path, bytes] = field(default_factory=dict)
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """The directory of the present run."""
        return self.folder / f"{self.backend}-tp{'+'.join(map(str, self.sizes))}-{self.runs}"

    @property
    def places(self) -> list[Path]:
        """The directories of the present run, one for each world size."""
        several = len(self.sizes) > 1
        return [of_world_size(self.out, n) if several else self.out for n in self.sizes]

    def start(self) -> tuple[subprocess.Popen[str], str]:
        """Start or continue the present run; return the process and its mark."""
        self.starts += 1
        mark = f"{os.getpid()}-{self.backend}-{self.out.name}-{self.starts}"
        resumes = any((place / "run.json").exists() for place in self.places)
        shapes = [] if resumes and len(self.sizes) == 1 else SHAPES[self.backend]
        options = [*shapes, *(["--resume"] if resumes else [])]
        path = [str(ROOT), *([str(ROOT / "tests/standins")] if self.backend == "aiter" else [])]
        process = subprocess.Popen(
            [*command(self.backend, self.sizes), *options, "--out", str(self.out)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                "OMP_NUM_THREADS": "1",
                MARK: mark,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return process, mark

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Wait for a run that nobody killed, and check what it left."""
        said = process.communicate(timeout=600)[1]
        if process.returncode:
            self.failures.append(f"{self.out.name}: exit code {process.returncode}: {said[-800:]}")
        self.check_kept()
        tables = [measurement.read(place / "measurements.csv") for place in self.places]
        names = ("world_size", "tokens", "op", "algorithm", "kernel_family")
        columns = [[value for t in tables for value in getattr(t, name)] for name in names]
        have = sorted(zip(*columns, strict=True))
        self.rows = self.rows or have
        if have != self.rows or len(set(have)) != len(have):
            count = f"{len(have)} rows, {len(set(have))} of them own, not {len(self.rows)}"
            self.failures.append(f"{self.out.name}: {count}")
        self.runs += 1
        self.kept = {}

    def check_kept(self) -> None:
        """Check that what was finished when the last kill came is still on disk."""
        for path, data in self.kept.items():
            if data and not path.read_bytes().startswith(data):
                name = path.relative_to(self.folder)
                self.failures.append(f"{name}: what was finished has changed")

    def kill(self, horizon_s: float) -> str | None:
        """Start, kill one process at a drawn moment; return which, None where it had ended.

        ``horizon_s`` is what the ranks take to start and to measure.
        """
        before = self.measured()
        process, mark = self.start()
        if self.random.random() < 0.5:
            while process.poll() is None and self.measured() == before:
                time.sleep(0.01)
        until = time.monotonic() + self.random.uniform(0.0, horizon_s)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        alive = processes(mark)
        if process.poll() is not None or not alive:
            self.finish(process)
            return None
        victim = self.random.choice(alive)
        os.kill(victim, signal.SIGKILL)
        self.check_kept()
        for path in self.files("samples.jsonl", "measurements.csv"):
            text = path.read_bytes()
            self.kept[path] = text[: text.rfind(b"\n") + 1]
        what = "the launcher" if victim == process.pid else f"rank {alive.index(victim) - 1}"
        if victim == process.pid and self.files("run.json"):
            again, mark_again = self.start()  # at once, while ranks may still be ending
            self.wait_gone(process, mark, what)
            if not any(line.startswith("continuing run") for line in again.stdout or ()):
                said = again.communicate()[1]
                self.failures.append(f"{self.out.name}: --resume at once: {said[-800:]}")
            for pid in processes(mark_again)[:1]:
                os.kill(pid, signal.SIGTERM)
            again.wait(60)
            self.wait_gone(again, mark_again, "SIGTERM")
        else:
            self.wait_gone(process, mark, what)
        return what

    def measured(self) -> int:
        """Return how many shapes are on disk."""
        return sum(path.read_bytes().count(b"\n") for path in self.files("samples.jsonl"))

    def files(self, *names: str) -> list[Path]:
        """Return those files of the present run that exist."""
        return [place / name for place in self.places for name in names if (place / name).exists()]

    def wait_gone(self, process: subprocess.Popen[str], mark: str, what: str) -> None:
        """Wait until no process of a start is left, at most :data:`GONE_S`."""
        killed = time.monotonic()
        while left := processes(mark):
            process.poll()
            if time.monotonic() - killed > GONE_S:
                self.failures.append(f"{self.out.name}: {left} live on {GONE_S:g} s after {what}")
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)


def campaign(
    backend: str,
    sizes: Sequence[int],
    kills: int,
    seed: int,
    folder: Path,
    horizon_s: float | None = None,
) -> tuple[dict[str, int], list[str]]:
    """Kill ``kills`` times; return how often which process was killed, and what went wrong."""
    run = Campaign(backend, sizes, folder, random.Random(seed))
    if horizon_s is None:
        began = time.monotonic()
        run.finish(run.start()[0])
        horizon_s = (time.monotonic() - began) / 2
    killed: dict[str, int] = {}
    while sum(killed.values()) < kills:
        what = run.kill(horizon_s)
        if what:
            killed[what] = killed.get(what, 0) + 1
    run.finish(run.start()[0])
    return killed, run.failures


def main() -> None:
    """Carry out the campaigns that the options name and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each back end, over all ranks")
    parser.add_argument("--ranks", default="2,4,8")
    parser.add_argument("--backend", default="gloo,aiter")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    starts = [[int(size) for size in word.split("+")] for word in given.ranks.split(",")]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for backend in given.backend.split(","):
            for i, sizes in enumerate(starts):
                kills = given.kills // len(starts) + (i < given.kills % len(starts))
                began = time.monotonic()
                killed, failures = campaign(backend, sizes, kills, given.seed, Path(folder))
                victims = ", ".join(f"{who} {count}" for who, count in sorted(killed.items()))
                ranks, took_s = "+".join(map(str, sizes)), time.monotonic() - began
                print(
                    f"{backend}, {ranks} ranks: {kills} kills in {took_s:.0f} s ({victims}): "
                    f"{len(failures)} failures",
                    flush=True,
                )
                for failure in failures:
                    print(f"    {failure}", flush=True)
                wrong += len(failures)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
