"""A rule of more than two arms as data: which arm runs which sizes, for each world size.

Beside 1-stage and 2-stage stand separate ops of the fused op, and LL and LL128 of the plain one. A
:class:`RuleOfArms` lists cases for each world size: an arm, and a condition of the same language as
a :class:`~.rule.Rule`'s. The first case that holds says what runs. So a window of sizes is a case
whose bytes end where the next one's begin, and a call whose window's arm does not take it goes on
to the next case. A condition looks at what every rank knows alike, so all ranks run one arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..data.ranges import sizes
from ..errors import InputError, nearest
from ..files import read_json
from ..model.shape import ALGORITHMS, BESIDE, FUSED, SPOKEN, WORLD_SIZES, Shapes
from ..units import read_dtype
from .algebra import all_of, byte_limit, from_json, no_claim
from .condition import Always, Calls, Compare, Condition, exact_size
from .evidence import Provenance
from .outside import writable
from .schemas import RuleOfArmsRecord


class ArmCase(Struct, frozen=True):
    """An arm, and the condition on a call under which it runs."""

    arm: str
    condition: Condition

    @property
    def max_bytes(self) -> int | None:
        """The largest size that the case takes, None without a limit."""
        limit = byte_limit(self.condition)
        return None if limit is None else limit.value - (limit.op == "<")


class RuleOfArms(Struct, frozen=True):
    """A choice among all arms of an op: by world size, cases in the order in which they are asked.

    It was weighed over calls of ``dtype`` at ``hidden_dims``; ``regret_pct`` is its expected regret
    above the fastest arm there, a mean over the calls, by world size.

    Raises :class:`InputError` for an arm that the op does not have, for a world size without cases,
    for cases whose bytes do not ascend (a later one would never run), and for sizes and regrets
    that are none.
    """

    name: str
    cases: tuple[tuple[int, tuple[ArmCase, ...]], ...]
    op: str = FUSED
    dtype: str = "bf16"
    hidden_dims: tuple[int, ...] = ()
    regret_pct: tuple[tuple[int, float], ...] = ()
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        writable(self.name, "the rule's name")
        read_dtype(self.dtype)
        if self.op not in BESIDE:
            raise InputError(
                f"op '{self.op}' has no arms beside its two{nearest(self.op, tuple(BESIDE))}; "
                f"{' and '.join(BESIDE)} have"
            )
        if self.hidden_dims:
            sizes(list(self.hidden_dims), "hidden_dim")
        known = (*ALGORITHMS, *BESIDE[self.op])
        for world_size, cases in self.cases:
            if world_size not in WORLD_SIZES or not cases:
                raise InputError(f"no cases for world size {world_size}: know 2, 4 and 8")
            for case in cases:
                if case.arm not in known:
                    raise InputError(
                        f"unknown arm '{case.arm}' of {self.op}{nearest(case.arm, known)}; "
                        f"one of {', '.join(known)}"
                    )
            ends = [most for _, most in self.windows(world_size)]
            for before, after in pairwise(ends):
                if before is not None and after is not None and after <= before:
                    raise InputError(
                        f"TP{world_size}: a case up to {exact_size(after)} behind one up to "
                        f"{exact_size(before)} never runs; let the bytes ascend"
                    )
        for world_size, pct in self.regret_pct:
            if world_size not in self.world_sizes or not pct >= 0:
                raise InputError(f"a regret of {pct:g} % at world size {world_size} says nothing")

    @classmethod
    def of_windows(
        cls,
        name: str,
        windows: Mapping[int, Sequence[tuple[str, int | None]]],
        takes: Mapping[str, Condition],
        **about: Any,
    ) -> RuleOfArms:
        """Build from windows by world size: (arm, largest bytes) ascending, None for no limit.

        ``takes`` is what each arm takes, usually :func:`.adapt.validity` of its kernel. A call
        that its window's arm does not take runs the next larger window's that does; where there is
        none the next smaller one's, and last an arm of ``takes`` that has no window, the last
        first. ``about`` sets the rule's other fields.
        """
        cases = []
        for world_size, several in sorted(windows.items()):
            own = [
                ArmCase(a, all_of(takes[a], *([] if b is None else [Compare("bytes", "<=", b)])))
                for a, b in several
            ]
            known = dict.fromkeys([*(a for a, _ in reversed(several)), *reversed(tuple(takes))])
            own += [case for a in known if (case := ArmCase(a, takes[a])) not in own]
            runs = tuple(case for case in own if case.condition != Always(False))
            cases.append((world_size, runs))
        return cls(name, tuple(cases), **about)

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """World sizes for which the rule makes a claim."""
        return tuple(n for n, _ in self.cases)

    def at(self, world_size: int) -> tuple[ArmCase, ...]:
        """Return the cases of a world size; raise :class:`InputError` where there is no claim."""
        for n, cases in self.cases:
            if n == world_size:
                return cases
        raise no_claim(world_size, self.world_sizes)

    def windows(self, world_size: int) -> tuple[tuple[str, int | None], ...]:
        """Return (arm, largest bytes) by size, None for no limit, of calls that each arm takes."""
        out = []
        for case in self.at(world_size):
            out.append((case.arm, case.max_bytes))
            if case.max_bytes is None:
                break
        return tuple(out)

    def arm(
        self, shapes: Shapes, *, kernel_version: str | None = None, fully_connected: bool = True
    ) -> NDArray[np.str_]:
        """Return the arm of each call, an array of the shapes' shape.

        Raises :class:`InputError` for a world size the rule makes no claim for, and for a call of
        which no case holds: no arm takes it.
        """
        calls = Calls.of(shapes, kernel_version=kernel_version, fully_connected=fully_connected)
        out = np.full(shapes.tokens.shape, "", dtype=f"U{max(map(len, SPOKEN))}")
        for world_size in np.unique(shapes.world_size).tolist():
            left = np.asarray(shapes.world_size == world_size)
            for case in self.at(world_size):
                mine = left & case.condition.at(world_size).holds(calls)
                out[mine] = case.arm
                left = left & ~mine
            if left.any():
                tokens, hidden = shapes.tokens[left][0], shapes.hidden_dim[left][0]
                raise InputError(
                    f"rule {self.name}: no arm takes {tokens} tokens x hidden {hidden} "
                    f"({shapes.dtype}) at TP{world_size}"
                )
        return out

    def made_by(self, command: str) -> RuleOfArms:
        """Return the rule with the command line that makes it again in its provenance."""
        return replace(self, provenance=replace(self.provenance or Provenance(""), command=command))

    def words(self) -> str:
        """Return the rule in one line, with units."""
        return "; ".join(
            f"TP{n} "
            + ", ".join(
                f"{SPOKEN[arm]} {'above' if most is None else f'<= {exact_size(most)}'}"
                if len(self.windows(n)) > 1
                else f"{SPOKEN[arm]} always"
                for arm, most in self.windows(n)
            )
            for n in self.world_sizes
        )

    def to_json(self) -> RuleOfArmsRecord:
        """Return the ``costmodel/rule-of-arms/1`` record, which :func:`load` reads back."""
        record: Any = {
            "schema": "costmodel/rule-of-arms/1",
            "name": self.name,
            "op": self.op,
            "weighed": {
                "dtype": self.dtype,
                "hidden_dims": list(self.hidden_dims),
                "regret_pct": {str(n): pct for n, pct in self.regret_pct},
            },
            "cases": {
                str(n): [{"arm": c.arm, "condition": c.condition.to_json()} for c in cases]
                for n, cases in self.cases
            },
        }
        if self.provenance is not None:
            record["provenance"] = self.provenance.to_json()
        rule: RuleOfArmsRecord = record
        return rule

    @classmethod
    def from_json(cls, record: RuleOfArmsRecord, where: str) -> RuleOfArms:
        """Return the rule of a record; raise :class:`InputError` that names ``where``."""
        weighed, came = record["weighed"], record.get("provenance")
        try:
            cases = tuple(
                (n, tuple(ArmCase(c["arm"], from_json(c["condition"])) for c in several))
                for n, several in sorted(record["cases"].items())
            )
            return cls(
                record["name"],
                cases,
                record["op"],
                weighed["dtype"],
                tuple(weighed["hidden_dims"]),
                tuple(sorted(weighed["regret_pct"].items())),
                None if came is None else Provenance.from_json(came),
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def load(path: str | Path) -> RuleOfArms:
    """Read a rule of arms from a JSON file; raise :class:`InputError` for one that is damaged."""
    record = read_json(
        path, RuleOfArmsRecord, "a rule of arms, as 'costmodel emit --for arms' writes it"
    )
    return RuleOfArms.from_json(record, str(path))
