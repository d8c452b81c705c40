"""What answers cost beside what a user would otherwise run, as ratios of CPU time in one run.

    python benchmarks/speed.py [--short] [--out benchmarks/speed.json]

One BLAS thread; the least of several repetitions, which take turns, so that a busy machine slows
all of them alike. Cold starts are whole processes with compiled bytecode, after one that is not
counted. Rows of measurements are drawn from the model. ``--short`` is for CI: fewer repetitions
and sizes. Figures depend on the machine, which the record describes; ratios do less.

Goals that are not met, and what bounds them on the machine of the committed record. A pass of numpy
over numbers in the cache takes 0.2 ns each, a square root 1.1, a logarithm or an exponential 0.9, a
look-up 0.8 to 1.1, and a + S/w 0.44. A 2-stage latency needs three square roots, a logarithm, an
exponential and some 25 passes: 12 ns where all calls have one world size. So calls of equal bytes
are evaluated once (:mod:`costmodel.model.counted`). Of 524 thousand calls that is 2.6 ns each to
find which of them differ, 2.3 to evaluate these 80 thousand, 2.8 to look each call up, and the
memory. Terms are six arrays to look up and write. Of a cold start, numpy with its random and masked
arrays (numpy.unique imports these), click, msgspec and json, csv and hashlib take 1.53 times
``import numpy`` before a module of the project is read, and 1.6 (``recommend``) to 1.69 times
(``explain``) with the modules. What ``recommend`` computes takes 0.8 of it: a quarter is latencies
over 256 draws, a quarter curves of regret over them, a sixth memory that is touched first.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.posterior import shipped
from costmodel.data.measurement import COLUMNS
from costmodel.decide.prediction import predict
from costmodel.decide.setting import Setting
from costmodel.show.table import table
from costmodel.simulation import Conditions, Skew, simulate
from costmodel.simulation import machine as machine_of
from costmodel.simulation.flows import completion_times
from costmodel.simulation.topology import build

#: Command, and the goal as a multiple of ``import numpy``.
COLD = {
    "recommend --arch gfx942": 1.8,
    "predict --gpu MI355X --tp 4 --hidden 2880 --tokens 8:64:8 --terms": 1.8,
    "explain --arch gfx942 --tp 8 --hidden 2880 --tokens 32": 1.8,
    "worth --model gpt-oss-120b --tp 8 --from sglang --to recommended": 2.0,
    "emit --for table --rule sglang-first": 2.0,
    "simulate --arch gfx950 --ranks 8 --tokens 32 --hidden 7168 --skew normal:20": 2.0,
    "plan --arch gfx942 --shapes 4": 6.0,
}

HIDDEN = (1024, 2048, 2880, 4096, 5120, 7168, 8192)


def process(arguments: list[str]) -> tuple[float, float]:
    """Run Python once; return its CPU time in seconds and its largest memory in MB."""
    # A process of its own in between: the largest memory of children is kept over all of them.
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    status, cpu_s, most_kb = done.stdout.split()
    if int(status) not in (0, 1):
        raise RuntimeError(f"{' '.join(arguments)} ended with {status}: {done.stderr}")
    return float(cpu_s), float(most_kb) / 1024


def least(calls: dict[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """Return the least CPU time of each call in seconds; they take turns."""
    found = dict.fromkeys(calls, np.inf)
    for _ in range(times):
        for name, call in calls.items():
            began = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - began)
    return found


def line(what: str, value: float, beside: str, other: float, goal: str = "") -> dict[str, Any]:
    """Return one line of the table: both in seconds of CPU time."""
    return {
        "what": what, "cpu_s": value, "beside": beside, "beside_cpu_s": other,
        "ratio": value / other, "goal": goal,
    }  # fmt: skip


def cold_starts(times: int) -> list[dict[str, Any]]:
    """Time whole commands beside ``import numpy``."""
    commands = {name: ["-m", "costmodel", *name.split()] for name in COLD}
    commands["import numpy"] = ["-c", "import numpy"]
    for arguments in commands.values():
        process(arguments)
    found = dict.fromkeys(commands, np.inf)
    for _ in range(times):
        for name, arguments in commands.items():
            found[name] = min(found[name], process(arguments)[0])
    base = found["import numpy"]
    return [
        line(f"costmodel {name.split()[0]}", found[name], "import numpy", base, f"{goal:g}x")
        for name, goal in COLD.items()
    ]


def predictions(count: int, times: int) -> list[dict[str, Any]]:
    """Time predictions beside a + S/w and numpy.interp on the same shapes."""
    setting = Setting.shipped("MI355X")
    rng = np.random.default_rng(0)
    # Tokens of a multiple of eight, which leave no rest for the 2-stage at any world size.
    shapes = setting.shapes(
        8 * rng.integers(1, 65, count),
        8 * rng.integers(64, 1025, count),
        rng.choice([2, 4, 8], count),
    )
    some = shapes.select(slice(0, max(count // 64, 1)))
    size = shapes.bytes.astype(float)
    knots, level = np.geomspace(1e3, 2e7, 30), np.linspace(5, 100, 30)
    found = least(
        {
            "line": lambda: 3.0 + size / 5e4,
            "interp": lambda: np.interp(size, knots, level),
            "total": lambda: setting.latency_us(shapes, "2stage"),
            "terms": lambda: setting.terms(shapes, "2stage"),
            "intervals": lambda: predict(setting, some, "2stage"),
        },
        times,
    )
    found["intervals"] *= count / len(some)
    return [
        line("predictions, total", found["total"], "a + S/w", found["line"], "10x"),
        line("predictions, with terms", found["terms"], "a + S/w", found["line"], "12x"),
        line("predictions, total", found["total"], "numpy.interp", found["interp"]),
        line(
            f"predictions, intervals, {count / found['intervals'] / 1e6:.3f} million a second",
            found["intervals"], "numpy.interp", found["interp"], "0.15 million a second",
        ),
    ]  # fmt: skip


def simulations(ranks: tuple[int, ...]) -> list[dict[str, Any]]:
    """Time one phase of reads through a switch, ranks starting apart, beside half the ranks.

    The ratio is that of the times; 16 is an exponent of 2 in flows.
    """
    lines = []
    before: dict[int, float] = {}
    for n in ranks:
        fabric = build("switch", n, 400.0)
        start = np.random.default_rng(0).uniform(0, 30, n)
        a, b = np.divmod(np.arange(n * n), n)
        pair = np.flatnonzero(a != b)
        arguments = (start[b[pair]], np.full(pair.size, 2e5), fabric.paths[pair], fabric.capacity)
        before[n] = least({"": lambda: completion_times(*arguments)}, 2)[""]  # noqa: B023
        if n // 2 in before:
            goal = "0.1 s" if n == 256 else "16x"
            what = f"simulator, {n} ranks apart, {pair.size} flows"
            lines.append(line(what, before[n], f"{n // 2} ranks", before[n // 2], goal))
    return lines


def collectives(ranks: tuple[int, int]) -> list[dict[str, Any]]:
    """Time a 2-stage collective through a switch whose ranks arrive apart, beside a smaller one."""
    calibration = shipped("gfx950")
    spent = []
    for n in ranks:
        found = machine_of(calibration, "MI355X", fabric="switch", ranks=n)
        late = Conditions(arrivals_us=Skew("normal", 20.0).draw(n, 1)[0])
        spent.append(
            least({"": lambda: simulate(found, "2stage", 64, 7168, conditions=late)}, 3)[""]  # noqa: B023
        )
    few, many = ranks
    what = f"simulator, {many} ranks with skew"
    return [line(what, spent[1], f"{few} ranks", spent[0], "2 s" if many == 1024 else "")]


def rows_file(path: Path, count: int) -> None:
    """Write rows drawn from the model: both arms over sizes, ranks and hidden sizes, repeated."""
    setting = Setting.shipped("MI355X")
    rng = np.random.default_rng(1)
    tokens, hidden, ranks = (
        a.ravel() for a in np.meshgrid(np.arange(1, 513), HIDDEN, (2, 4, 8), indexing="ij")
    )
    shapes = setting.shapes(tokens, hidden, ranks)
    mean = [setting.latency_us(shapes, arm) for arm in ("1stage", "2stage")]
    with path.open("w") as stream:
        stream.write(",".join(COLUMNS) + "\n")
        for i, at in enumerate(rng.integers(0, tokens.size, count).tolist()):
            us = float(mean[i % 2][at] * np.exp(0.02 * rng.standard_normal()))
            t, h, n = int(tokens[at]), int(hidden[at]), int(ranks[at])
            stream.write(
                f"mine,https://example.org/pull/1,2026-10-01,MI355X,stated,gfx950,xgmi,{n},"
                f"fused_ar_rmsnorm,{i % 2 + 1}stage,aiter,0.1.20.post1,{t},{h},bf16,{2 * t * h},"
                f"{us!r},median,max,graph,clean\n"
            )


def readers(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Time ``validate`` and the reader alone beside pandas, with memory."""
    lines = []
    with tempfile.TemporaryDirectory() as place:
        for count in counts:
            path = Path(place, f"{count}.csv")
            rows_file(path, count)
            other, other_mb = process(["-c", f"import pandas; pandas.read_csv({str(path)!r})"])
            read = f"import costmodel; costmodel.read({str(path)!r})"
            for what, arguments, goal in (
                ("read", ["-c", read], ""),
                (
                    "validate",
                    ["-m", "costmodel", "validate", "--gpu", "MI355X", str(path)],
                    {10**6: "5 s, 500 MB", 10**7: "1 GB"}.get(count, ""),
                ),
            ):
                spent, most_mb = process(arguments)
                found = line(f"{what} {count} rows", spent, "pandas.read_csv", other, goal)
                lines.append({**found, "mb": most_mb, "beside_mb": other_mb})
            path.unlink()
    return lines


def machine() -> dict[str, Any]:
    """Describe the machine, without its name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        model = next(s.split(":")[1].strip() for s in text.splitlines() if "model name" in s)
    except (OSError, StopIteration):
        model = platform.machine()
    return {
        "processor": model, "cores": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "numpy": np.__version__,
        "load_1min": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="small sizes, for CI")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the record as JSON")
    options = parser.parse_args()
    short = options.short
    lines = [
        *cold_starts(2 if short else 7),
        *predictions(2**16 if short else 2**19, 3 if short else 7),
        *simulations((16, 32) if short else (16, 32, 64, 128, 256)),
        *collectives((16, 64) if short else (256, 1024)),
        *readers((10**3, 10**4) if short else (10**3, 10**4, 10**5, 10**6, 10**7)),
    ]
    record = {"machine": machine(), "short": short, "lines": lines}
    shown = [
        [
            n["what"], f"{n['cpu_s']:.4g}", n["beside"], f"{n['beside_cpu_s']:.4g}",
            f"{n['ratio']:.2f}x", f"{n['mb']:.0f}" if "mb" in n else "", n["goal"],
        ]
        for n in lines
    ]  # fmt: skip
    print(", ".join(f"{k} {v}" for k, v in record["machine"].items()))
    print(table(shown, ["what", "CPU s", "beside", "CPU s", "ratio", "MB", "goal"]))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
