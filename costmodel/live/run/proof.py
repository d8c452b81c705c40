"""Did an arm run its own kernels? Judged by the names of those that one replay launched.

A forced stage can be another one: a library may fall back without a word, and two arms may turn out
to be one kernel. Timed, they would pass for what they are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...data.kernel_calls import calls
from ...data.kernel_names import read
from ...model.shape import ALL_REDUCE, FUSED, ONE_STAGE, SEPARATE, SPOKEN, TWO_STAGE
from ..backends.base import AUTO, PUSHED, op_and_algorithm

Names = Sequence[str]


def distinct(names: Names) -> tuple[str, ...]:
    """Return the kernels of a replay by name, each once, in the order of their first launch."""
    return tuple(dict.fromkeys(names))


def refusals(ran: Mapping[str, Sequence[Names]], world_size: int) -> dict[str, str]:
    """Return the arms that ran something else than they are named for, each with the reason.

    ``ran`` holds, for each arm, the names of one replay's kernels in each process. Names that no
    table knows prove nothing, unless two arms share them; processes that read none are left out.
    ``auto`` may run what it likes.
    """
    forced = {arm: names for arm, names in ran.items() if arm != AUTO}
    reasons: dict[str, str] = {}
    for arm, processes in forced.items():
        for process, names in enumerate(processes):
            wrong = _wrong(arm, names, world_size)
            if wrong:
                where = f" on rank {process}" if len(processes) > 1 else ""
                reasons[arm] = f"{wrong}{where}: {_listed(names)}"
                break
    for arm, other in _pairs([arm for arm in forced if arm not in reasons]):
        alike = [
            names
            for names, others in zip(forced[arm], forced[other], strict=True)
            if names and set(names) == set(others)
        ]
        if alike:
            for one, two in ((arm, other), (other, arm)):
                said = f"it ran the same kernels as {_spoken(two)}: {_listed(alike[0])}"
                reasons.setdefault(one, said)
    return reasons


def _wrong(arm: str, names: Names, world_size: int) -> str:
    """Return what is wrong with the kernels of an arm, "" where nothing is or can be known."""
    known = [read(name) for name in names]
    for name in known:
        if name.world_size not in (None, world_size):
            return f"a kernel for {name.world_size} ranks ran, not for {world_size}"
    wanted_op, wanted = op_and_algorithm(arm)
    collective = ALL_REDUCE if wanted_op == SEPARATE else wanted_op
    pushed = [name.transport for name in known if name.transport in PUSHED.values()]
    if wanted_op == ALL_REDUCE and set(pushed) != ({PUSHED[arm]} if arm in PUSHED else set()):
        what = " and ".join(sorted(map(str.upper, set(pushed)))) or "no kernel of that name"
        return f"{_spoken(arm)} was asked for and {what} ran"
    for call in calls(known):
        if wanted_op == SEPARATE and call.op == FUSED:
            return "a fused kernel ran"
        if wanted not in (ONE_STAGE, TWO_STAGE):
            continue
        if call.algorithm and call.algorithm != wanted:
            return f"{_spoken(wanted)} was asked for and {_spoken(call.algorithm)} ran"
        if not call.whole:
            return "half of a 2-stage call ran"
        if not call.algorithm or (call.op and _kind(call.op) != _kind(collective)):
            return f"{_spoken(wanted)} was asked for and another op ran"
    return ""


def _kind(op: str) -> str:
    """Return an op without what it quantises to: names of kernels do not always tell that."""
    return FUSED if op.startswith(FUSED) else op


def _pairs(arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, arm in enumerate(arms):
        for other in arms[place + 1 :]:
            yield arm, other


def _spoken(arm: str) -> str:
    return SPOKEN.get(arm, arm)


def _listed(names: Names) -> str:
    bare = (name.replace("(anonymous namespace)::", "") for name in distinct(names))
    return ", ".join(name.partition("(")[0][:120] for name in bare)
