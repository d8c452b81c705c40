"""One rank of a tuning inside an engine's start-up: a real process over gloo.

    python rank.py RANK WORLD_SIZE STORE CASE...

For each case, in turn and in step with the other ranks, it prints what :func:`costmodel.live.tune`
returned and logged, a line of JSON.
"""

import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from costmodel.data import kernels
from costmodel.live import tune
from costmodel.live.backends.replay import ReplayBackend
from costmodel.live.startup.rule import StartupRule

RANK, WORLD_SIZE = int(sys.argv[1]), int(sys.argv[2])
LAST = WORLD_SIZE - 1
OWN = "the engine's own"


class Stated(ReplayBackend):
    """A stated model that passes for a machine: nothing of the rule says it was replayed."""

    genuine = True


class Foreign(ReplayBackend):
    """A machine that is unlike any that the model knows."""

    def capture(self, arm, calls, timing):
        timed = super().capture(arm, calls, timing)
        timed.latency_us *= 1 + (0.02 * self._shape.tokens if arm == "2stage" else 0.0)
        timed.latency_us *= 3.0 if self._shape.tokens % 16 else 1.0
        return timed


def backend(kind=ReplayBackend, spec="MI355X:17"):
    os.environ["COSTMODEL_REPLAY"] = spec
    made = kind(WORLD_SIZE)
    made.set_up()
    return made


class Troubled(ReplayBackend):
    """``rank`` has its ``trouble`` when it comes to its shape number ``at``."""

    rank, at = LAST, 2
    shapes = 0

    def prepare(self, shape, slots, seed):
        self.shapes += 1
        if (RANK, self.shapes) == (self.rank, self.at):
            self.trouble()
        super().prepare(shape, slots, seed)

    def trouble(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Dying(Troubled):
    """The last rank is killed at its third shape."""

    at = 3


class FirstDying(Troubled):
    """The first rank is killed at its second shape."""

    rank = 0


class Stuck(Troubled):
    """The last rank never comes back from its second shape."""

    def trouble(self):
        time.sleep(3600)


class Failing(ReplayBackend):
    """An op that fails on the last rank, as a device does."""

    def prepare(self, shape, slots, seed):
        if RANK == LAST:
            raise RuntimeError("HIP error: an illegal memory access was encountered")
        super().prepare(shape, slots, seed)


def gloo_ops():
    """Return two functions that really run a collective, on buffers made once."""
    most = torch.zeros(512 * 8192)
    out = torch.zeros(WORLD_SIZE * 512 * 8192)

    def gathered(tokens, hidden):
        part = most[: tokens * hidden]
        dist.all_gather_into_tensor(out[: WORLD_SIZE * tokens * hidden], part)

    def reduced(tokens, hidden):
        dist.all_reduce(most[: tokens * hidden])

    return {"1stage": gathered, "2stage": reduced}


def broken_ops():
    """Return functions of which one fails on every rank alike, before any collective."""

    def broken(tokens, hidden):
        raise ValueError("this engine\nhas no such op")

    return {"1stage": broken, "2stage": broken}


HIDDEN = [2880, 4096, 7168]

#: The run-time table of the session.
TABLE = Path(sys.argv[3]).with_name("table.json")


def spoilt(text):
    """Return the table's path, once its first rank has put something else there."""
    if RANK == 0:
        TABLE.write_text(text)
    return {"table": TABLE}


FUNCTIONS = {"gpu": "MI355X", "aiter_version": "0.1.19"}

#: Case -> (ops, budget in s, other arguments).
CASES = {
    "replay": lambda: (backend(), 20.0, {}),
    "stated": lambda: (backend(Stated), 20.0, {}),
    "dying": lambda: (backend(Dying), 2.0, {}),
    "first-dying": lambda: (backend(FirstDying), 2.0, {}),
    "stuck": lambda: (backend(Stuck), 2.0, {}),
    "failing": lambda: (backend(Failing), 20.0, {}),
    "no-model": lambda: (backend(Foreign), 20.0, {}),
    "versions": lambda: (
        backend(), 20.0, {"aiter_version": "0.1.17" if RANK == LAST else "0.1.19"},
    ),
    "no-budget": lambda: (backend(), 0.0, {}),
    "one-without-budget": lambda: (backend(), 0.0 if RANK == LAST else 1.0, {}),
    "short": lambda: (backend(), 0.001, {}),
    "late": lambda: (backend(), 20.0, {}),
    "absent": lambda: (backend(), 0.5, {}),
    "functions": lambda: (gloo_ops(), 4.0, FUNCTIONS),
    "broken": lambda: (broken_ops(), 20.0, FUNCTIONS),
    "one-broken": lambda: (
        broken_ops() if RANK == LAST else gloo_ops(), 2.0, FUNCTIONS,
    ),
    "unknown-gpu": lambda: (gloo_ops(), 20.0, {**FUNCTIONS, "gpu": "H200"}),
    "pcie": lambda: (gloo_ops(), 20.0, {**FUNCTIONS, "gpu": "MI350P"}),
    "no-gpu": lambda: (gloo_ops(), 20.0, {}),
    "no-ops": lambda: (None, 20.0, FUNCTIONS),
    "one-op": lambda: ({"1stage": print}, 20.0, FUNCTIONS),
    "no-version": lambda: (gloo_ops(), 20.0, {**FUNCTIONS, "aiter_version": "main"}),
    "logger": lambda: (backend(), 20.0, {"log": lambda line: 1 // 0}),
    "kept": lambda: (backend(Stated), 20.0, {"table": TABLE}),
    "found": lambda: (backend(Stated), 20.0, {"table": str(TABLE)}),
    "other": lambda: (backend(Stated), 20.0, {"table": TABLE, "aiter_version": f"{kernels.LATEST}+local"}),
    "damaged": lambda: (backend(Stated), 20.0, spoilt("{")),
    "nowhere": lambda: (backend(Stated), 20.0, {"table": TABLE / "no" / "table.json"}),
    "replayed": lambda: (backend(), 20.0, {"table": TABLE.with_name("replayed.json")}),
    "table": lambda: (backend(), 20.0, {"table": 7}),
    "hidden": lambda: (backend(), 20.0, {}),
    "budget": lambda: (backend(), float("nan"), {}),
}  # fmt: skip

#: Cases in which a rank, or the ranks' step in the op's own group, is lost: the last of a session.
LOSSES = ("dying", "first-dying", "one-broken")


def one(case, group):
    """Tune once; return what came of it."""
    said = []
    ops, budget, more = CASES[case]()
    hidden = {"hidden": []}.get(case, HIDDEN)
    if case not in ("late", "absent"):
        dist.barrier(group)
    elif RANK == LAST:
        time.sleep(1.0)
    began = time.monotonic()
    rule = tune(group, ops, hidden, budget, **{"own": OWN, "log": said.append, **more})
    seconds = time.monotonic() - began
    tuned = isinstance(rule, StartupRule)
    return {
        "case": case,
        "rank": RANK,
        "own": rule == OWN,
        "rule": rule.text if tuned else None,
        "sha256": rule.sha256 if tuned else None,
        "max_bytes": rule.max_bytes if tuned else None,
        "decides": [rule(rule.max_bytes), rule(rule.max_bytes + 1)] if tuned else None,
        "said": said,
        "late": seconds > budget + 1.0,  # a busy machine may hold a process up
        "scipy": "scipy" in sys.modules,
        "waits_for": [t.name for t in threading.enumerate() if not t.daemon],
    }


def main():
    dist.init_process_group(
        "gloo", init_method=f"file://{sys.argv[3]}", rank=RANK, world_size=WORLD_SIZE,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
    # As in an engine: a group of its own beside that in which the op runs.
    group = dist.new_group(list(range(WORLD_SIZE)))
    for case in sys.argv[4:]:
        report = one(case, group)
        if case not in LOSSES:
            # What an engine does next: its group is still in step.
            given = torch.full((4,), float(RANK))
            dist.all_reduce(given, group=group)
            report["in_step"] = bool(given[0] == sum(range(WORLD_SIZE)))
        print(json.dumps(report), flush=True)
    # The others may still ask the first rank's store, and call an op of this one.
    time.sleep(3.0 if case == "one-broken" else 1.0 if RANK == 0 else 0.0)
    os._exit(0)  # a rank may be lost or stuck: no good-bye


if __name__ == "__main__":
    main()
