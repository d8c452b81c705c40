"""What a simulation costs, against ranks and workgroups, and beside SimGrid on the same flows.

    python benchmarks/simulator.py [--ranks 8,64,256,1024] [--quick]

Prints milliseconds (best of several). Targets: one collective of 8 ranks in
5 ms, one of 1024 ranks on a switch in seconds. SimGrid is measured where an interpreter imports it
(Debian: apt-get install -y --no-install-recommends python3-simgrid); its time is that of the event
loop alone, driven from Python actors, without building its platform.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from costmodel.calibration.posterior import shipped
from costmodel.show.table import table
from costmodel.simulation import Conditions, Skew, machine, simulate
from costmodel.simulation.flows import completion_times
from costmodel.simulation.topology import build

#: One phase of a switched collective: every rank reads from every other, each at its own time.
DRIVER = """
import json, sys, time
import simgrid as sg

s = json.load(open(sys.argv[1]))
engine = sg.Engine(["flows", *(f"--cfg={o}" for o in (
    "network/crosstraffic:0", "network/TCP-gamma:0", "network/latency-factor:1",
    "network/bandwidth-factor:1", "network/weight-S:0", "surf/precision:1e-12",
    "maxmin/precision:1e-12")), "--log=root.thresh:critical"])
zone = sg.NetZone.create_full_zone("switch")
hosts, up, down = [], [], []
for r in range(s["ranks"]):
    hosts.append(zone.create_host(f"h{r}", 1e9))
    for side, name in ((up, "up"), (down, "down")):
        link = zone.create_link(f"{name}{r}", s["gbps"] * 1e3)
        link.set_latency(0.0)
        link.seal()
        side.append(link)
for a in range(s["ranks"]):
    for b in range(s["ranks"]):
        if a != b:
            zone.add_route(hosts[a].netpoint, hosts[b].netpoint, None, None,
                           [sg.LinkInRoute(up[a]), sg.LinkInRoute(down[b])], False)
zone.seal()

def reader(rank):
    sg.this_actor.sleep_until(s["start"][rank])
    comms = []
    for peer in range(s["ranks"]):
        for _ in range(s["workgroups"] if peer != rank else 0):
            comm = sg.Comm.sendto_init(hosts[peer], hosts[rank])
            comm.set_payload_size(s["size"])
            comms.append(comm.start())
    for comm in comms:
        comm.wait()

for r in range(s["ranks"]):
    sg.Actor.create(f"r{r}", hosts[r], reader, r)
began = time.perf_counter()
engine.run()
print(json.dumps([time.perf_counter() - began, engine.clock]))
"""


def best(call: Callable[[], object], times: int) -> float:
    """Return the shortest of several durations in ms."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return 1e3 * min(found)


def collectives(sizes: list[int], times: int) -> str:
    """Time whole collectives: meshes of 2 to 8 ranks, then a switch."""
    calibration = shipped("gfx950")
    rows = []
    for fabric, ranks in [("full_mesh", n) for n in (2, 4, 8)] + [("switch", n) for n in sizes]:
        found = machine(calibration, "MI355X", fabric=fabric, ranks=ranks)
        late = Conditions(arrivals_us=Skew("normal", 20.0).draw(ranks, 1)[0])
        for algorithm in ("1stage", "2stage"):
            repeat = times if ranks <= 64 else 1
            even = best(lambda m=found, a=algorithm: simulate(m, a, 64, 7168), repeat)
            skewed = best(
                lambda m=found, a=algorithm, c=late: simulate(m, a, 64, 7168, conditions=c),
                repeat,
            )
            events = simulate(found, algorithm, 64, 7168).run.events if ranks <= 64 else ""
            rows.append([fabric, ranks, algorithm, f"{even:.1f}", f"{skewed:.1f}", events])
    return table(rows, ["fabric", "ranks", "algorithm", "ms", "ms, skewed", "events"], right=True)


def turns(times: int) -> str:
    """Time 8 ranks against turns, and with every workgroup by itself."""
    found = machine(shipped("gfx950"), "MI355X", ranks=8)
    rows = []
    for tokens in (8, 80, 96, 512, 4096):
        line: list[object] = [tokens]
        for algorithm in ("1stage", "2stage"):
            line.append(f"{best(lambda a=algorithm: simulate(found, a, tokens, 7168), times):.1f}")  # noqa: B023
        alone = best(lambda: simulate(found, "1stage", tokens, 7168, split=True), 1)  # noqa: B023
        rows.append([*line, f"{alone:.0f}"])
    head = ["tokens", "1stage ms", "2stage ms", "1stage ms, workgroup by workgroup"]
    return table(rows, head, right=True)


def beside_simgrid(times: int) -> str:
    """Time one phase of reads with ranks starting apart, here and in SimGrid."""
    python = next((p for p in (sys.executable, "/usr/bin/python3") if _imports(p)), None)
    rows = []
    for ranks, workgroups in ((8, 1), (16, 1), (32, 1), (8, 8), (16, 8)):
        gbps, size = 400.0, 200_000
        fabric = build("switch", ranks, gbps)
        start = np.round(np.random.default_rng(0).uniform(0, 30, ranks), 3)
        a, b = np.divmod(np.arange(ranks * ranks), ranks)
        pair = np.flatnonzero(a != b)
        arguments = (
            start[b[pair]], np.full(pair.size, float(size)), fabric.paths[pair], fabric.capacity,
            np.full(pair.size, float(workgroups)),
        )  # fmt: skip
        grouped = best(lambda: completion_times(*arguments), times)  # noqa: B023
        single = (
            np.repeat(arguments[0], workgroups), np.repeat(arguments[1], workgroups),
            np.repeat(arguments[2], workgroups, axis=0), arguments[3],
        )  # fmt: skip
        one_by_one = best(lambda: completion_times(*single), times)  # noqa: B023
        ends = completion_times(*single)
        row = [ranks, workgroups, ends.size, f"{grouped:.1f}", f"{one_by_one:.1f}"]
        if python:
            spent, clock = _simgrid(python, ranks, workgroups, gbps, size, start)
            agree = abs(clock / ends.max() - 1)
            row += [f"{spent:.1f}", f"{spent / one_by_one:.1f}", f"{agree:.0e}"]
        rows.append(row)
    head = ["ranks", "workgroups", "flows", "ms, equal flows as one", "ms, each flow"]
    if python:
        head += ["SimGrid ms", "SimGrid / each flow", "last end differs by"]
    text = table(rows, head, right=True)
    return text if python else text + "\n(no interpreter imports simgrid)"


def _simgrid(
    python: str, ranks: int, workgroups: int, gbps: float, size: int, start: np.ndarray
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as place:
        case = {
            "ranks": ranks, "workgroups": workgroups, "gbps": gbps, "size": size,
            "start": start.tolist(),
        }  # fmt: skip
        Path(place, "case.json").write_text(json.dumps(case))
        Path(place, "driver.py").write_text(DRIVER)
        done = subprocess.run(
            [python, "driver.py", "case.json"], cwd=place, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
    spent, clock = json.loads(done.stdout.splitlines()[-1])
    return 1e3 * spent, clock


def _imports(python: str) -> bool:
    return subprocess.run([python, "-c", "import simgrid"], capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ranks", default="16,64,256,1024", help="switched domains to time")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    times = 3 if options.quick else 15
    print("one collective, 64 tokens x 7168")
    print(collectives([int(n) for n in options.ranks.split(",")], times), end="\n\n")
    print("8 ranks against tokens (turns)")
    print(turns(times), end="\n\n")
    print("one phase of reads through a switch, ranks starting apart")
    print(beside_simgrid(times))


if __name__ == "__main__":
    main()
