"""Max-min sharing and flow completion against SimGrid, an independent simulator.

SimGrid is not a dependency: where no interpreter at hand imports it, these tests are skipped.
Debian and Ubuntu: apt-get install -y --no-install-recommends python3-simgrid
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from costmodel.simulation.flows import completion_times

SETS = 220

#: Run under an interpreter that has simgrid: flow sets as JSON in, completion times as JSON out.
#: The options turn off everything but fair sharing: no TCP model, no cross traffic, no startup. A
#: flow's own limit is a link of its own.
DRIVER = """
import json, sys
import simgrid as sg

sets = json.load(open(sys.argv[1]))
engine = sg.Engine(["flows", *(f"--cfg={o}" for o in (
    "network/crosstraffic:0", "network/TCP-gamma:0", "network/latency-factor:1",
    "network/bandwidth-factor:1", "network/weight-S:0", "surf/precision:1e-12",
    "maxmin/precision:1e-12")), "--log=root.thresh:warning"])
ends = [[0.0] * len(s["size"]) for s in sets]
root = sg.NetZone.create_full_zone("root")

def sender(number, flows, hosts):
    order = sorted(range(len(flows["size"])), key=lambda i: flows["start"][i])
    comms = []
    for i in order:
        sg.this_actor.sleep_until(flows["start"][i])
        comm = sg.Comm.sendto_init(hosts[2 * i], hosts[2 * i + 1])
        comm.set_payload_size(flows["size"][i])
        comms.append(comm.start())
    for i, comm in zip(order, comms):
        comm.wait()
        ends[number][i] = comm.finish_time

for number, flows in enumerate(sets):
    zone = sg.NetZone.create_full_zone(f"set{number}")
    zone.set_parent(root)
    links = []
    for i, rate in enumerate(flows["capacity"] + [x for x in flows["limit"] if x]):
        link = zone.create_link(f"link{number}.{i}", rate)
        link.set_latency(0.0)
        link.seal()
        links.append(link)
    hosts = [zone.create_host(f"host{number}.{i}", 1e9) for i in range(2 * len(flows["size"]))]
    own = iter(range(len(flows["capacity"]), len(links)))
    for i, path in enumerate(flows["paths"]):
        path = path + [next(own)] if flows["limit"][i] else path
        zone.add_route(hosts[2 * i].netpoint, hosts[2 * i + 1].netpoint, None, None,
                       [sg.LinkInRoute(links[p]) for p in path], False)
    zone.seal()
    sg.Actor.create(f"sender{number}", hosts[0], sender, number, flows, hosts)
root.seal()
engine.run()
json.dump(ends, open(sys.argv[2], "w"))
"""


def interpreter() -> str | None:
    """Return an interpreter whose simgrid has what DRIVER calls: this one, or the system's."""
    probe = "import simgrid as s; s.NetZone.create_full_zone, s.Comm.finish_time"
    for python in (sys.executable, "/usr/bin/python3", shutil.which("python3")):
        if python is None:
            continue
        found = subprocess.run([python, "-c", probe], capture_output=True)
        if found.returncode == 0:
            return python
    return None


def flow_set(rng):
    """Return a random flow set: links, paths of 1 to 4 distinct links, staggered starts, limits."""
    links = int(rng.integers(2, 9))
    flows = int(rng.integers(2, 15))
    paths = [
        rng.choice(links, int(rng.integers(1, min(4, links) + 1)), replace=False).tolist()
        for _ in range(flows)
    ]
    together = rng.random() < 0.3
    return {
        "capacity": (1e6 * rng.uniform(0.2, 4.0, links)).tolist(),
        "paths": paths,
        "size": rng.integers(100_000, 5_000_000, flows).tolist(),
        "start": (np.zeros(flows) if together else np.round(rng.uniform(0, 3, flows), 6)).tolist(),
        "limit": np.where(rng.random(flows) < 0.3, 1e6 * rng.uniform(0.05, 1, flows), 0).tolist(),
    }


def ours(flows):
    """Return our completion times for a flow set."""
    filler = len(flows["capacity"])
    hops = max(map(len, flows["paths"]))
    paths = np.array([p + [filler] * (hops - len(p)) for p in flows["paths"]])
    limit = np.array(flows["limit"])
    return completion_times(
        np.array(flows["start"]),
        np.array(flows["size"]),
        paths,
        np.array([*flows["capacity"], np.inf]),
        limit=np.where(limit > 0, limit, np.inf),
    )


def test_completion_times_agree_with_simgrid(tmp_path):
    python = interpreter()
    if python is None:
        pytest.skip("no interpreter imports simgrid (Debian: apt-get install python3-simgrid)")
    rng = np.random.default_rng(20260901)
    sets = [flow_set(rng) for _ in range(SETS)]
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    (tmp_path / "driver.py").write_text(DRIVER)
    done = subprocess.run(
        [python, "driver.py", "sets.json", "ends.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads((tmp_path / "ends.json").read_text())
    worst = max(
        float(np.max(np.abs(ours(s) / np.array(end) - 1.0)))
        for s, end in zip(sets, theirs, strict=True)
    )
    assert worst < 1e-6
