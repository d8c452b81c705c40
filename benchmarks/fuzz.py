"""The fuzzing campaign: hostile inputs to every reader, option and public function.

    python benchmarks/fuzz.py --seed 1 --count 100000
    python benchmarks/fuzz.py --seed 1 --number 4711      # one of them again, with its traceback

What a fault is stands in tests/fuzz_targets.py; here are the limits: for an input 10 s of processor
time, 60 s in all and 1 GB of memory. Ends with exit code 1 when there was one.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path = [p for p in sys.path if Path(p).resolve() != ROOT / "benchmarks"]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

CPU_S, WALL_S, MEMORY_KB = 10, 60, 1_000_000
#: Inputs that one process takes before a fresh one follows.
BATCH = 500


class TooLong(BaseException):
    """Raised by the clock; no ``except Exception`` swallows it."""


def _too_long(number, frame):
    raise TooLong


def one(seed, number, only, work):
    """Run one input; return (target, seconds, what went wrong or "")."""
    import fuzz_targets

    where = Path(work) / "here"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    name, call = fuzz_targets.run_one(seed, number, where, only)
    signal.signal(signal.SIGPROF, _too_long)
    signal.signal(signal.SIGALRM, _too_long)
    wrong = ""
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        call()
    except TooLong:
        wrong = "more than 10 s\n" + traceback.format_exc()
    except BaseException:
        wrong = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MEMORY_KB and not wrong:
        wrong = "more than 1 GB"
    return name, time.process_time() - start, wrong


def batch(job):
    """Run the numbers of a batch in this process; stop after one that filled the memory."""
    seed, numbers, only, debug = job
    warnings.simplefilter("ignore")
    if debug:
        os.environ["COSTMODEL_DEBUG"] = "1"
    found = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        for number in numbers:
            found.append((number, *one(seed, number, only, work)))
            if found[-1][-1].startswith("more than 1 GB"):
                break
        os.chdir("/")
    return found


def kind_of(wrong):
    """Return the last line of a traceback with the place, by which faults are counted."""
    lines = [line for line in wrong.strip().splitlines() if line.strip()]
    places = [
        line.strip() for line in lines if line.strip().startswith("File") and "costmodel/" in line
    ]
    return f"{lines[-1][:160]} | {places[-1].rpartition('/')[2] if places else ''}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--number", type=int, help="run this input alone")
    parser.add_argument("--only", default="", help="a target of tests/fuzz_targets.py")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--show", type=int, default=3, help="tracebacks of each kind of fault")
    asked = parser.parse_args()
    debug = asked.number is not None
    numbers = [asked.number] if debug else range(asked.first, asked.first + asked.count)
    import fuzz_targets
    import torch  # noqa: F401 - once, before the clocks of the inputs that need it

    fuzz_targets.run_files(), fuzz_targets.logs(), fuzz_targets.prepared()
    size = min(BATCH, -(-len(numbers) // asked.workers))
    jobs = [
        (asked.seed, numbers[i : i + size], asked.only, debug) for i in range(0, len(numbers), size)
    ]
    start, seconds, counts, faults = (
        time.monotonic(),
        defaultdict(float),
        Counter(),
        defaultdict(list),
    )
    with get_context("fork").Pool(asked.workers, maxtasksperchild=1) as pool:
        for found in pool.imap_unordered(batch, jobs):
            for number, name, spent_s, wrong in found:
                counts[name] += 1
                seconds[name] += spent_s
                if wrong:
                    kind = f"{name}: {kind_of(wrong)}"
                    faults[kind].append(number)
                    if len(faults[kind]) <= asked.show:
                        print(f"--- {kind}, --number {number}", flush=True)
                    if debug:
                        print(wrong)
    shutil.rmtree(fuzz_targets.prepared(), ignore_errors=True)
    print(f"\n{sum(counts.values())} inputs, seed {asked.seed}, {time.monotonic() - start:.0f} s")
    for name in sorted(counts):
        print(f"{name:22} {counts[name]:7} {1e3 * seconds[name] / counts[name]:8.1f} ms each")
    for kind, which in sorted(faults.items(), key=lambda kv: -len(kv[1])):
        print(f"FAULT {len(which)} x {kind}, such as --number {which[0]}")
    print("no fault" if not faults else f"{sum(map(len, faults.values()))} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
