"""A dispatch rule as data: when a serving engine runs the 1-stage kernel, and what supports it.

A :class:`Rule` is a name, where it stands and a :class:`~.condition.Condition`;
:mod:`.catalogue` knows the rules of the field.

>>> Rule.from_cutoffs("mine", {8: 131072}).use_1stage(Shapes.of([8, 16], 7168, 8))
array([ True, False])
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import fields, replace
from numpy.typing import NDArray

from ..data.ranges import sizes
from ..errors import InputError, nearest
from ..model.shape import FUSED, OPS, OTHERWISE, SPOKEN, TWO_STAGE, WORLD_SIZES, Shapes
from .algebra import AnyOf, Bytes, all_of, by_world_size, byte_limit, factors, from_json
from .condition import Always, Calls, Condition, Member, exact_size
from .evidence import Provenance
from .outside import writable
from .schemas import About, CataloguedRule, RuleRecord

#: What a rule's ``status`` may say. ``shipped`` was in a release or on the main branch once.
STATUSES = ("shipped", "current", "proposed", "baseline", "recommended", "installed")

#: Longest batch that :meth:`Rule.switches` looks at.
MAX_TOKENS = 16384


class Rule(Struct, frozen=True):
    """A dispatch rule: 1-stage when ``condition`` holds, else ``otherwise``.

    A pure function of shape, dtype, world size, connectivity and kernel version. ``op`` names the
    operation that the rule governs where it stands; it may be evaluated on shapes of any op.
    ``otherwise`` says what runs where the condition does not hold: the ``2stage`` kernel, or
    the ``separate`` ops all-reduce and norm. ``since`` is a release or date, as the
    source tells it.
    """

    name: str
    condition: Condition
    title: str = ""
    engine: str = ""
    op: str = FUSED
    status: str = "recommended"
    fabric: str = "xgmi"
    since: str = ""
    source: str = ""
    note: str = ""
    otherwise: str = TWO_STAGE

    def __post_init__(self) -> None:
        for what in ("name", "title", "engine", "since", "source", "note"):
            writable(getattr(self, what), f"the rule's {what}")
        if self.status not in STATUSES:
            raise InputError(f"unknown status '{self.status}'{nearest(self.status, STATUSES)}")
        if self.otherwise not in OTHERWISE:
            raise InputError(
                f"unknown arm '{self.otherwise}' where the rule does not run 1-stage"
                f"{nearest(self.otherwise, OTHERWISE)}; one of {', '.join(OTHERWISE)}"
            )

    @classmethod
    def from_cutoffs(
        cls,
        name: str,
        cutoffs: Mapping[int, int | None],
        *,
        inclusive: bool = True,
        hidden_dims: Collection[int] | None = None,
        requires: Condition | None = None,
        **about: str,
    ) -> Rule:
        """Build a rule from a byte cutoff per world size.

        ``cutoffs[n]`` is None where 1-stage is always used; leave a world size out to make no
        claim for it. ``inclusive`` takes a size equal to the cutoff. ``hidden_dims`` restricts
        1-stage to a set of hidden sizes; ``requires`` adds a condition, usually
        :func:`.adapt.validity` of the kernel. ``about`` sets the rule's other fields.
        """
        if not cutoffs:
            raise InputError(f"rule {name}: no cutoff for any world size")
        parts: list[Condition] = [Bytes.of(cutoffs, "<=" if inclusive else "<")]
        if hidden_dims is not None:
            held = sizes(list(hidden_dims), "hidden_dim")
            parts.append(Member("hidden_dim", tuple(np.unique(held).tolist())))
        if requires is not None:
            parts.append(requires)
        # A rule that is always 1-stage keeps its claim: all_of() would drop no Bytes part.
        return cls(name, all_of(*parts), **about)

    def check_op(self, op: str) -> None:
        """Raise :class:`InputError` where the rule is for another op than ``op``."""
        if self.op != op:
            raise InputError(
                f"rule '{self.name}' is for op '{self.op}', asked is '{op}': one says nothing of "
                "the other (costmodel rules lists ops)"
            )

    def only_for(self, hidden_dims: Collection[int]) -> Rule:
        """Return the rule with 1-stage only for a set of hidden sizes."""
        member = Member("hidden_dim", tuple(sorted({int(h) for h in hidden_dims})))
        return replace(self, condition=all_of(self.condition, member))

    def use_1stage(
        self, shapes: Shapes, *, kernel_version: str | None = None, fully_connected: bool = True
    ) -> NDArray[np.bool_]:
        """Return where the rule runs 1-stage, a bool array of the shapes' shape.

        Raises :class:`InputError` for a world size the rule makes no claim for, and when the rule
        depends on the kernel version and none is given.
        """
        return self.condition.holds(
            Calls.of(shapes, kernel_version=kernel_version, fully_connected=fully_connected)
        )

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """World sizes for which the rule makes a claim."""
        return self.condition.world_sizes

    def completed_by(self, other: Rule) -> Rule:
        """Return this rule, deciding as ``other`` does where this one makes no claim."""
        cases = {
            n: (self if n in self.world_sizes else other).condition.at(n)
            for n in WORLD_SIZES
            if n in self.world_sizes or n in other.world_sizes
        }
        return replace(self, condition=by_world_size(cases))

    def cutoff_bytes(self, world_size: int) -> tuple[str, int] | None:
        """Return (comparison, bytes) of the rule's cutoff at a world size.

        None when the rule has no byte cutoff there (always, never, or by tokens alone).
        """
        limit = byte_limit(self.condition.at(world_size))
        return None if limit is None else (limit.op, limit.value)

    def sizes(self, world_size: int) -> str:
        """Return which sizes are 1-stage at a world size, in words: ``<= 448 KiB``."""
        cutoff = self.cutoff_bytes(world_size)
        if cutoff is not None:
            return f"{cutoff[0]} {exact_size(cutoff[1])}"
        here = self.condition.at(world_size)
        if here == Always(False):
            return "no size"
        by_tokens = any(isinstance(part, AnyOf) for part in factors(here))
        return "by tokens and hidden" if by_tokens else "every size"

    def switches(
        self,
        hidden_dim: int,
        world_size: int,
        *,
        dtype: str = "bf16",
        kernel_version: str | None = None,
        fully_connected: bool = True,
    ) -> list[tuple[int, bool]]:
        """Return the decision against tokens as steps: [(first token count, 1-stage?), ...].

        The first step starts at 1 token; ``[(1, True), (10, False)]`` is 1-stage up to 9 tokens.
        Token counts up to :data:`MAX_TOKENS` are looked at.
        """
        tokens = np.arange(1, MAX_TOKENS + 1)
        # Shapes knows fewer ops than rules do; a rule never looks at it.
        op = self.op if self.op in OPS else FUSED
        shapes = Shapes.of(tokens, hidden_dim, world_size, op=op, dtype=dtype)
        one = self.use_1stage(
            shapes, kernel_version=kernel_version, fully_connected=fully_connected
        )
        starts = np.flatnonzero(np.r_[True, one[1:] != one[:-1]])
        return [(int(tokens[i]), bool(one[i])) for i in starts]

    def max_tokens(self, hidden_dim: int, world_size: int, **how: Any) -> int | None:
        """Return the largest token count up to which every batch is 1-stage.

        0 when a single token is 2-stage, None when there is no limit. Options as for
        :meth:`switches`.
        """
        steps = self.switches(hidden_dim, world_size, **how)
        if not steps[0][1]:
            return 0
        return steps[1][0] - 1 if len(steps) > 1 else None

    def words(self) -> str:
        """Return the rule in one line, with units."""
        if self.condition in (Always(), Always(False)):
            never = SPOKEN[self.otherwise]
            return f"{'1-stage' if self.condition == Always() else never} always"
        words = f"1-stage when {self.condition.words()}"
        return words if self.otherwise == TWO_STAGE else f"{words}, else {SPOKEN[self.otherwise]}"

    def to_json(self, provenance: Provenance | None = None) -> RuleRecord:
        """Return the rule as JSON data, with where it comes from when that is given.

        :func:`.catalogue.load` reads the rule back. ``otherwise`` is left out where it is 2-stage.
        """
        keys = ("name", *About.__annotations__)
        # What is empty is left out, unless a reader would take something else for it.
        usual = {field.name: field.default for field in fields(self)}
        about = {key: getattr(self, key) for key in keys if getattr(self, key) or usual[key]}
        if self.otherwise == TWO_STAGE:
            del about["otherwise"]
        data: Any = {"schema": "costmodel/rule/1", **about, "condition": self.condition.to_json()}
        if provenance is not None:
            data["provenance"] = provenance.to_json()
        record: RuleRecord = data
        return record

    @classmethod
    def from_json(cls, record: CataloguedRule, where: str) -> Rule:
        """Return the rule of a record; raise :class:`InputError` that names ``where``."""
        about: dict[str, Any] = {k: v for k, v in record.items() if k in About.__annotations__}
        try:
            return cls(record["name"], from_json(record["condition"]), **about)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
