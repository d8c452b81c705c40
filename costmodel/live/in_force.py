"""Is a dispatch rule in force? Which kernel each captured batch size took, beside what it says.

In the engine's process, after capture, on every rank alike (a replay is a collective)::

    from costmodel.live import in_force
    from costmodel.rules.catalogue import named

    replays = {tokens: graph.replay for tokens, graph in captured.items()}
    seen = in_force.check(replays, named("sglang-128k"), hidden_dim=2880, world_size=8)
    if rank == 0:
        print(seen)

The kernels are read by name from a profile of one replay of each size (:func:`judge` takes names
that were read elsewhere). Buffers keep what the replays write into them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from ..data.kernel_calls import calls
from ..data.kernel_names import read
from ..errors import InputError
from ..model.shape import ALL_REDUCE, ONE_STAGE, SEPARATE_OPS, SPOKEN, Shapes
from ..rules.rule import Rule
from .profiled import launched

Names = Sequence[str]

#: A call whose name does not say its op: of RCCL, which has one kernel for every collective, or of
#: a fused kernel whose name has lost its arguments.
LIBRARY, NOT_SAID = "some collective of RCCL", "fused, op not said"


class TakenRecord(TypedDict):
    """What one captured size took: the fields of :class:`Taken`, by name."""

    tokens: int
    says: str
    ran: dict[str, int]
    plain: int
    others: dict[str, int]
    halves: int
    unknown: int
    in_force: bool


class InForceRecord(TypedDict):
    """``costmodel/in-force/1``; ``condition`` is the rule in words, ``in_force`` the verdict."""

    schema: Literal["costmodel/in-force/1"]
    rule: str
    op: str
    condition: str
    world_size: int
    hidden_dim: int
    dtype: str
    sizes: list[TakenRecord]
    in_force: bool


@dataclass(frozen=True)
class Taken:
    """What one captured size took.

    ``says`` is the arm of the rule; ``ran`` counts the calls of the rule's op by arm, ``plain`` the
    all-reduces without a norm, ``others`` those of other ops or of names that do not say which,
    ``halves`` launches of a 2-stage call whose other half was not seen, and ``unknown`` kernels
    that no name told.
    """

    tokens: int
    says: str
    ran: Mapping[str, int]
    plain: int
    others: Mapping[str, int]
    halves: int
    unknown: int

    @property
    def in_force(self) -> bool:
        """Whether every call of the op took the arm that the rule says, and there was one."""
        if self.halves:
            return False
        if self.says == SEPARATE_OPS:
            return not self.ran and (self.plain > 0 or LIBRARY in self.others)
        return set(self.ran) == {self.says}

    def to_dict(self) -> TakenRecord:
        """Return an entry of ``sizes`` in ``costmodel/in-force/1``."""
        return {
            "tokens": self.tokens, "says": self.says, "ran": dict(self.ran), "plain": self.plain,
            "others": dict(self.others), "halves": self.halves, "unknown": self.unknown,
            "in_force": self.in_force,
        }  # fmt: skip

    @property
    def words(self) -> str:
        """What ran, in words."""
        parts = [f"{SPOKEN.get(arm, arm) or 'fused'} x {n}" for arm, n in sorted(self.ran.items())]
        if not self.ran and (self.plain or self.others):
            parts.append("no call of the op")
        if self.plain:
            parts.append(f"all-reduce alone x {self.plain}")
        parts += [f"{op} x {n}" for op, n in sorted(self.others.items())]
        if self.halves:
            parts.append(f"half of a 2-stage call x {self.halves}")
        if not parts:
            return f"no all-reduce among {self.unknown} kernels" if self.unknown else "nothing seen"
        return ", ".join(parts)


@dataclass(frozen=True)
class InForce:
    """The sizes that were looked at, in order of their tokens; prints as a table."""

    rule: Rule
    hidden_dim: int
    world_size: int
    dtype: str
    sizes: tuple[Taken, ...]

    @property
    def holds(self) -> bool:
        """Whether the rule is in force at every size, and there is one."""
        return bool(self.sizes) and all(size.in_force for size in self.sizes)

    def to_dict(self) -> InForceRecord:
        """Return the ``costmodel/in-force/1`` record."""
        return {
            "schema": "costmodel/in-force/1",
            "rule": self.rule.name, "op": self.rule.op, "condition": self.rule.words(),
            "world_size": self.world_size, "hidden_dim": self.hidden_dim, "dtype": self.dtype,
            "sizes": [size.to_dict() for size in self.sizes],
            "in_force": self.holds,
        }  # fmt: skip

    def __str__(self) -> str:
        head = (
            f"{self.rule.name} ({self.rule.op}): {self.rule.words()}\n"
            f"TP{self.world_size}, hidden {self.hidden_dim}, {self.dtype}; by kernel names:"
        )
        rows = [("tokens", "rule says", "ran", "in force")]
        rows += [
            (str(s.tokens), SPOKEN.get(s.says, s.says), s.words, "yes" if s.in_force else "NO")
            for s in self.sizes
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        missed = [str(s.tokens) for s in self.sizes if not s.in_force]
        verdict = (
            "the rule is in force"
            if self.holds
            else f"NOT in force at {', '.join(missed)} tokens"
            if missed
            else "nothing was looked at"
        )
        return "\n".join([head, *(line.rstrip() for line in lines), verdict])


def check(
    replays: Mapping[int, Callable[[], object]], rule: Rule, *, hidden_dim: int, world_size: int,
    dtype: str = "bf16", kernel_version: str | None = None,
    launched: Callable[[Callable[[], object]], Names] = launched,
) -> InForce:  # fmt: skip
    """Replay each captured size once under the profiler and judge which kernels ran.

    ``replays`` maps captured tokens to what replays them; ``launched`` runs it and returns the
    names of the kernels that it launched. Raises :class:`~costmodel.errors.InputError` for a world
    size that the rule makes no claim for, and for kernels of another.
    """
    names = {tokens: [launched(replays[tokens])] for tokens in sorted(replays)}
    return judge(
        names, rule, hidden_dim=hidden_dim, world_size=world_size, dtype=dtype,
        kernel_version=kernel_version,
    )  # fmt: skip


def judge(
    kernels: Mapping[int, Iterable[Names]], rule: Rule, *, hidden_dim: int, world_size: int,
    dtype: str = "bf16", kernel_version: str | None = None,
) -> InForce:  # fmt: skip
    """Judge kernels by their names: for each number of tokens, those of each stream in order."""
    tokens = sorted(kernels)
    one = rule.use_1stage(
        Shapes.of(tokens, hidden_dim, world_size, dtype=dtype), kernel_version=kernel_version
    )
    says = [ONE_STAGE if use else rule.otherwise for use in one.tolist()]
    sizes = (
        _taken(n, s, kernels[n], rule.op, world_size) for n, s in zip(tokens, says, strict=True)
    )
    return InForce(rule, hidden_dim, world_size, dtype, tuple(sizes))


def _taken(tokens: int, says: str, streams: Iterable[Names], op: str, world_size: int) -> Taken:
    """Count what the kernels of one size did."""
    ran: Counter[str] = Counter()
    others: Counter[str] = Counter()
    plain = halves = unknown = 0
    for stream in streams:
        names = [read(name) for name in stream]
        unknown += sum(not name.known for name in names)
        for name in names:
            if name.world_size not in (None, world_size):
                raise InputError(
                    f"{tokens} tokens: {name.text[:80]} ran on {name.world_size} ranks, not "
                    f"on {world_size}; give the ranks of the profile"
                )
        for call in calls(names):
            if not call.whole:
                halves += 1
            elif call.op == op:
                ran[call.algorithm] += 1
            elif call.op == ALL_REDUCE:
                plain += 1
            else:
                others[call.op or (NOT_SAID if call.algorithm else LIBRARY)] += 1
    return Taken(tokens, says, ran, plain, others, halves, unknown)
