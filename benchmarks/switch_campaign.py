"""One campaign for one machine: a GPU for every rank, measured as its registered plans say.

    torchrun --nproc-per-node 4 benchmarks/switch_campaign.py --tp 4,2 --out run
    torchrun --nproc-per-node 4 benchmarks/switch_campaign.py --tp 4,2 --out run --resume
    torchrun --nproc-per-node 4 benchmarks/switch_campaign.py --backend gloo --out rehearsal

At each world size, in this order: a first look (``doctor``), the shapes of a calibration
(``planned``), of the registered test (``test``) and of hidden sizes that neither has (``live``),
all three as ``costmodel measure`` does; then barriers and peer copies; and, when all world sizes
are through with these, torch's and NCCL's all-reduces with a norm (``torch``).

The plans stand in ``--plans``; a plan without a shape of a world size, and a step that the back end
has not, are left out and said. ``--tp`` may name fewer ranks than processes beside all of them: the
first ones run, the others stand by. A step begins no shape once its world size has taken
``--budget`` seconds.

Everything is kept as it comes, in ``--out/STEP/tpN`` (:mod:`costmodel.live.run.directory`) or
``--out/STEP/tpN.json``. A run that was killed goes on with ``--resume``. After each step all of a
world size is packed into ``--out/tpN.tar.gz``, whose ``rows/`` are what
``benchmarks/preregistered.py score`` reads; ``--pack`` does that alone, for what a killed run left.

NVLink multicast is off, in torch's symmetric memory and in NCCL.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import registered_score

from costmodel.cli import options as shared
from costmodel.data import kernels, measurement
from costmodel.decide.pairs import pair
from costmodel.files import json_text, read_json
from costmodel.live.backends.base import Backend, load
from costmodel.live.backends.one_rank import NO_MULTICAST
from costmodel.live.run import checkup
from costmodel.live.run.directory import ENVIRONMENT, MEASUREMENTS, RUN, of_world_size
from costmodel.live.run.execution import carry_out_one, in_ranks
from costmodel.live.run.harness import COMPILE_PATIENCE, together
from costmodel.live.run.launch import start
from costmodel.live.run.options import RunOptions, read_options, world_sizes
from costmodel.live.run.peers import join, under_torchrun
from costmodel.live.run.schemas import PlanFile
from costmodel.live.run.watchdog import Watchdog
from costmodel.model.shape import FUSED
from costmodel.rules import catalogue
from costmodel.show.machine import describe_checks, describe_verdict
from costmodel.units import MIB

#: The plan of each step that measures shapes, and the back end that runs it where it is another.
PLANS = {"planned": "planned.json", "test": "plan.json", "live": "live.json", "torch": "torch.json"}
DOCTOR, BARRIERS, COPIES, TORCH = "doctor", "barriers", "copies", "torch"
#: All steps, by worth: a campaign that ends early has the first ones. Torch's come last of all
#: world sizes' steps: a fault of a library there costs nothing else.
STEPS = (DOCTOR, "planned", "test", "live", BARRIERS, COPIES, TORCH)
#: Steps that meet the GPUs themselves.
ON_GPUS = (BARRIERS, COPIES, TORCH)

#: Shapes (tokens, hidden) at which barriers are compared.
BARRIER_SHAPES = ((1, 2880), (16, 7168), (128, 7168))

#: Sets of buffers, as in the rows that the prediction rests on.
SLOTS = 2


class Place(NamedTuple):
    """One step at one world size; ``run`` is what ``costmodel measure`` would be asked for."""

    step: str
    world_size: int
    run: RunOptions | None


class Campaign:
    """What is to be done, where it is kept, and how long a world size may take."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.out: Path = options["out"]
        self.plans: Path = options["plans"]
        self.backend: str = options["backend"]
        self.budget_s: float = options["budget"]
        self.watchdog_s: float = options["watchdog"]
        self.spent_s: dict[int, float] = {}
        sizes = world_sizes(options["tp"] or ())
        self.left_out: list[str] = []
        runs = {
            step: self._runs(step, sizes, options) for step in PLANS if step in options["steps"]
        }
        self.places = [
            Place(step, n, runs.get(step, {}).get(n))
            for steps in (STEPS[:-1], STEPS[-1:])
            for n in sizes
            for step in steps
            if step in options["steps"] and self._takes(step, n, runs)
        ]

    def _runs(
        self, step: str, sizes: Sequence[int], options: Mapping[str, Any]
    ) -> dict[int, RunOptions]:
        """Return the runs of a measuring step by world size."""
        if step in ON_GPUS and self.backend == "gloo":
            return {}
        path = self.plans / PLANS[step]
        planned = {e["world_size"] for e in read_json(path, PlanFile, "a plan")["shapes"]}
        taken = tuple(n for n in sizes if n in planned)
        if not taken:
            return {}
        each = [of_world_size(self.out / step, n) for n in taken]
        runs = read_options(
            {
                **dict.fromkeys(("hidden", "tokens", "dtype", "arms", "norm", "timing", "calls")),
                **{key: options[key] for key in ("seed", "rounds", "samples", "watchdog")},
                "backend": TORCH if step == TORCH else self.backend, "tp": taken, "plan": path,
                "out": self.out / step if len(taken) > 1 else each[0], "slots": SLOTS,
                "resume": options["resume"] and any((out / RUN).exists() for out in each),
                "budget": self.budget_s,
            }
        )  # fmt: skip
        return {run.world_size: run for run in runs}

    def _takes(self, step: str, n: int, runs: Mapping[str, Mapping[int, RunOptions]]) -> bool:
        """Return whether a step is to be done; else say why not."""
        if step in ON_GPUS and self.backend == "gloo":
            self.left_out.append(f"{step}: back end gloo has none")
        elif step in PLANS and n not in runs[step]:
            self.left_out.append(f"{step}, TP{n}: the plan has no shape of it")
        elif step in (BARRIERS, COPIES) and self._result(step, n).exists():
            self.left_out.append(f"{step}, TP{n}: done before")
        else:
            return True
        return False

    def _result(self, step: str, n: int) -> Path:
        return self.out / step / f"tp{n}.json"

    def work(self, index: int, backend: Backend, watch: Watchdog) -> int:
        """Do this process's part of one step; return its exit code."""
        place = self.places[index]
        n = place.world_size
        began = time.monotonic() - self.spent_s.get(n, 0.0)
        if place.step == DOCTOR:
            code = checkup.check_up(backend, watch, of_world_size(self.out / DOCTOR, n), told)
        elif place.run is not None:
            code = carry_out_one(backend, place.run, watch, began)
        else:
            backend.set_up()
            code = self._rows(place, backend, watch, time.monotonic() - began)
        self.spent_s[n] = time.monotonic() - began
        watch.step("packing", COMPILE_PATIENCE)
        together(backend, partial(self._conclude, place, backend))
        return code

    def _rows(self, place: Place, backend: Backend, watch: Watchdog, spent_s: float) -> int:
        """Measure what is no shape of the op, row by row."""
        if backend.exchange(spent_s > self.budget_s)[0]:
            self._say(backend, f"{place.step}: the budget of {self.budget_s:g} s is spent")
            return 0
        import differences
        import peer_copies

        found = (
            differences.measured(backend, BARRIER_SHAPES)
            if place.step == BARRIERS
            else peer_copies.rates(backend)
        )
        path, rows = self._result(place.step, place.world_size), []
        partial_path = path.with_suffix(".partial.json")
        for row in found:
            watch.step(f"{place.step}, {len(rows) + 1} rows", COMPILE_PATIENCE)
            rows.append(row)
            if 0 in backend.local_ranks:
                path.parent.mkdir(parents=True, exist_ok=True)
                labels = {"gpu": backend.environment()["gpu"], "kernels": backend.kernel_version}
                partial_path.write_text(json_text({**labels, "rows": rows}))
        if 0 in backend.local_ranks:
            partial_path.replace(path)
        self._say(backend, f"{place.step}: {len(rows)} rows in {path}")
        return 0

    def _conclude(self, place: Place, backend: Backend) -> None:
        """Pack what there is, and say what a rule would have lost on the live shapes."""
        if 0 not in backend.local_ranks:
            return
        if place.step == "live":
            print(self._judged(place), flush=True)
        spent = self.spent_s[place.world_size]
        size = pack(self.out, place.world_size, self.plans.name)
        print(
            f"TP{place.world_size}, {place.step}: done, {spent:.0f} s so far; "
            f"{size / MIB:.2f} MiB packed",
            flush=True,
        )

    def _judged(self, place: Place) -> str:
        rule = catalogue.load(self.plans / "rule.json")
        path = of_world_size(self.out / "live", place.world_size) / MEASUREMENTS
        pairs = pair(measurement.read(path), FUSED)
        if not len(pairs):
            return "live: no shape has both arms"
        choice = pairs.use_1stage(rule, kernels.LATEST)
        agreed, regret = registered_score.worth(pairs, choice)
        right = "" if agreed.agree_outside_tie is None else f"{agreed.agree_outside_tie:.0%} of "
        return (
            f"live: rule {rule.name} takes the faster arm on {right}{agreed.outside_tie} calls "
            f"whose arms are apart; mean regret {regret:.2f} %"
        )

    @staticmethod
    def _say(backend: Backend, line: str) -> None:
        if 0 in backend.local_ranks:
            print(line, flush=True)

    def carry_out(self) -> int:
        """Do this process's part of all steps; return the exit code."""
        if os.environ["RANK"] == "0":
            for line in self.left_out:
                print(f"left out: {line}", flush=True)
        kinds = [TORCH if p.step == TORCH else self.backend for p in self.places]
        backends = [load(k)(p.world_size) for k, p in zip(kinds, self.places, strict=True)]
        return in_ranks(
            backends, join(), self.watchdog_s,
            lambda index, watch: self.work(index, backends[index], watch),
        )  # fmt: skip


def told(checks: Sequence[checkup.Check]) -> None:
    """Print what a first look found."""
    print(f"{describe_checks(checks)}\n{describe_verdict(checkup.to_do(checks))}", flush=True)


def packed(out: Path, world_size: int, source: str) -> dict[str, bytes]:
    """Return by name what a world size's archive holds: every file, and the rows for scoring.

    ``rows/`` has each step's table under one source, beside the environment it was measured in.
    """
    held: dict[str, bytes] = {}
    for step in STEPS:
        here = of_world_size(out / step, world_size)
        for path in sorted(here.glob("*")):
            if path.is_file():
                held[f"{step}/{path.name}"] = path.read_bytes()
        for path in sorted((out / step).glob(f"tp{world_size}*.json")):
            held[f"rows/{step}-{path.name}"] = path.read_bytes()
        if (here / MEASUREMENTS).exists():
            held[f"rows/{step}-tp{world_size}.csv"] = of_source(here / MEASUREMENTS, source)
        if (here / ENVIRONMENT).exists():
            name = f"rows/{step}-tp{world_size}.environment.json"
            held[name] = (here / ENVIRONMENT).read_bytes()
    return held


def of_source(path: Path, source: str) -> bytes:
    """Return a table whose rows all say one source."""
    with path.open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    at = head.index("source")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    # A line that a kill has torn stands last.
    writer.writerows([*r[:at], source, *r[at + 1 :]] for r in rows if len(r) == len(head))
    return out.getvalue().encode()


def pack(out: Path, world_size: int, source: str) -> int:
    """Write ``tpN.tar.gz`` anew; return its size in bytes."""
    path = out / f"tp{world_size}.tar.gz"
    new = path.with_name(f".{path.name}.new")
    with tarfile.open(new, "w:gz") as archive:
        for name, content in packed(out, world_size, source).items():
            entry = tarfile.TarInfo(f"tp{world_size}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    os.replace(new, path)
    return path.stat().st_size


def listed(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Read the list of steps."""
    names = tuple(word.strip() for word in value.split(",") if word.strip())
    unknown = [name for name in names if name not in STEPS]
    if unknown or not names:
        raise click.BadParameter(f"'{', '.join(unknown)}'; steps are {', '.join(STEPS)}")
    return names


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory.")
@click.option("--tp", type=shared.INTEGERS, help="World sizes.  [default: the processes]")
@click.option(
    "--plans", type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(__file__).parents[1] / "measurements" / "h200-switch", show_default=True,
    help="Directory of the plans and of rule.json.",
)  # fmt: skip
@click.option("--backend", type=click.Choice(["triton", "gloo"]), default="triton")
@click.option("--steps", callback=listed, default=",".join(STEPS), show_default=True)
@click.option("--budget", type=float, default=540.0, show_default=True, help="Seconds a size.")
@click.option("--resume", is_flag=True, help="Go on with the campaign in --out.")
@click.option("--pack", "only_pack", is_flag=True, help="Pack what --out holds, measure nothing.")
@click.option("--seed", type=int)
@click.option("--rounds", type=int)
@click.option("--samples", type=int)
@shared.watchdog
def main(only_pack: bool, **options: Any) -> None:
    if only_pack:
        sizes = options["tp"] or tuple(
            n for n in (2, 4, 8) if any(options["out"].glob(f"*/tp{n}*"))
        )
        for n in sizes:
            size = pack(options["out"], n, options["plans"].name)
            print(f"{options['out']}/tp{n}.tar.gz: {size / MIB:.2f} MiB")
        sys.exit(0 if sizes else 2)
    if not under_torchrun():
        print(
            "switch_campaign: needs a process a rank; start it as torchrun --nproc-per-node 4 "
            "benchmarks/switch_campaign.py --out run",
            file=sys.stderr,
        )
        sys.exit(2)
    os.environ.update(NO_MULTICAST)
    sys.exit(start(options, lambda given: [Campaign(given)], lambda one, _: one[0].carry_out(), ""))


if __name__ == "__main__":
    main()
