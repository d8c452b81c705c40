"""Dispatch rules: when a serving engine runs the 1-stage kernel, as data.

A :class:`Rule` is a name, its provenance and a :mod:`~.condition`. ``facts/rules.json``
holds every rule that SGLang, vLLM, AITER and their peers ship, shipped or proposed, each with the
pull request or file it stands in.

>>> rules.named("sglang").use_1stage(Shapes.of([8, 16], 7168, 8))
array([ True, False])
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import facts
from ..data.kernels import Kernel
from ..errors import InputError, nearest
from ..model.shape import FUSED, WORLD_SIZES, Shapes
from .condition import (
    Always,
    AnyOf,
    Bytes,
    Calls,
    Compare,
    Condition,
    Member,
    WholePacks,
    all_of,
    by_world_size,
    exact_size,
    factors,
    from_json,
)

SCHEMA = "costmodel/rule/1"

#: Engines whose current rule goes by the engine's name.
ENGINES = ("sglang", "vllm", "aiter")

#: What a rule's ``status`` may say. ``shipped`` was in a release or on the main branch once.
STATUSES = ("shipped", "current", "proposed", "baseline", "recommended", "installed")

#: Longest batch that :meth:`Rule.switches` looks at.
MAX_TOKENS = 16384


@dataclass(frozen=True)
class Rule:
    """A dispatch rule: 1-stage when ``condition`` holds, else 2-stage.

    A pure function of shape, dtype, world size, connectivity and kernel version. ``op`` names the
    operation that the rule governs where it stands; it may be evaluated on shapes of any op.
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
        :func:`validity` of the kernel. ``about`` sets title, engine, op, since, source, note.
        """
        if not cutoffs:
            raise InputError(f"rule {name}: no cutoff for any world size")
        parts: list[Condition] = [Bytes.of(cutoffs, "<=" if inclusive else "<")]
        if hidden_dims is not None:
            parts.append(Member("hidden_dim", tuple(sorted(set(hidden_dims)))))
        if requires is not None:
            parts.append(requires)
        # A rule that is always 1-stage keeps its claim: all_of() would drop no Bytes part.
        return cls(name, all_of(*parts), **about)

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
        found = self.condition.at(world_size)
        parts = getattr(found, "parts", (found,))
        for part in parts:
            if isinstance(part, Compare) and part.quantity == "bytes" and part.op in ("<", "<="):
                return part.op, part.value
        return None

    def sizes(self, world_size: int) -> str:
        """Return which sizes are 1-stage at a world size, in words: ``<= 448 KiB``."""
        cutoff = self.cutoff_bytes(world_size)
        if cutoff is not None:
            return f"{cutoff[0]} {exact_size(cutoff[1])}"
        found = self.condition.at(world_size)
        if found == Always(False):
            return "no size"
        by_tokens = any(isinstance(part, AnyOf) for part in factors(found))
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
        shapes = Shapes.of(tokens, hidden_dim, world_size, op=_shape_op(self.op), dtype=dtype)
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
            return f"{'1' if self.condition == Always() else '2'}-stage always"
        return f"1-stage when {self.condition.words()}"

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON data."""
        about = {k: getattr(self, k) for k in ("name", *_ABOUT) if getattr(self, k)}
        return {"schema": SCHEMA, **about, "condition": self.condition.to_json()}


_ABOUT = ("title", "engine", "op", "status", "fabric", "since", "source", "note")

ALWAYS_1STAGE = Rule("always-1stage", Always(), "always 1-stage", status="baseline")
ALWAYS_2STAGE = Rule("always-2stage", Always(False), "always 2-stage", status="baseline")


@dataclass(frozen=True)
class CutoffEvidence:
    """What supports the cutoff of one world size.

    ``verdict`` is measured, transferred, not_identified or always_1stage; ``lo`` and ``hi`` bound
    the cutoff in bytes (90 %), None where there is none.
    """

    verdict: str
    lo: float | None = None
    hi: float | None = None
    reason: str = ""

    def words(self) -> str:
        """Return the evidence in a few words: ``measured, 90 % interval 380 to 520 KiB``."""
        from ..units import kib

        text = self.verdict.replace("_", " ").replace("1stage", "1-stage")
        if self.lo is not None and self.hi is not None:
            text += f", 90 % interval {kib(self.lo)} to {kib(self.hi)}"
        return text


@dataclass(frozen=True)
class Provenance:
    """Where a rule comes from: calibration, and the command line that reproduces it."""

    command: str
    calibration_id: str = ""
    calibration_sha256: str = ""
    arch: str = ""
    gpu: str = ""
    evidence: Mapping[int, CutoffEvidence] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as JSON data."""
        return {
            "command": self.command,
            "calibration": {"id": self.calibration_id, "sha256": self.calibration_sha256},
            "arch": self.arch,
            "gpu": self.gpu,
            "evidence": {
                str(n): {"verdict": e.verdict, "lo": e.lo, "hi": e.hi, "reason": e.reason}
                for n, e in sorted(self.evidence.items())
            },
        }


@cache
def catalogue() -> tuple[Rule, ...]:
    """Return every rule of ``facts/rules.json``, in the file's order."""
    data = json.loads(facts.text("rules.json"))
    return tuple(_read(entry, f"facts/rules.json: {entry['name']}") for entry in data["rules"])


def shipped(op: str | None = None, *, fabric: str = "xgmi") -> list[Rule]:
    """Return the rules that ship or shipped on a fabric (proposals and peers' left out)."""
    return [
        rule
        for rule in catalogue()
        if rule.status in ("shipped", "current") and rule.fabric == fabric and op in (None, rule.op)
    ]


def current(engine: str, op: str = FUSED) -> Rule:
    """Return the rule that an engine ships now for an op."""
    for rule in catalogue():
        if rule.engine == engine and rule.op == op and rule.status == "current":
            return rule
    known = sorted({r.op for r in catalogue() if r.engine == engine and r.status == "current"})
    if not known:
        raise InputError(f"no rule of engine '{engine}'{nearest(engine, ENGINES)}")
    raise InputError(f"{engine} has no current rule for op '{op}'; it has {', '.join(known)}")


def named(name: str, *, op: str = FUSED) -> Rule:
    """Return a rule by name, in any case.

    ``sglang``, ``vllm`` and ``aiter`` are those engines' current rules for ``op``;
    ``always-1stage`` and ``always-2stage`` are the constant ones. Raises :class:`InputError`
    with the nearest names for an unknown one.
    """
    key = name.strip().lower()
    if key in ENGINES:
        return current(key, op)
    known = {r.name: r for r in (*catalogue(), ALWAYS_1STAGE, ALWAYS_2STAGE)}
    if key in known:
        return known[key]
    names = [*ENGINES, *known]
    raise InputError(f"unknown rule '{name}'{nearest(name, names)}; known: {', '.join(names)}")


def load(path: str | Path) -> Rule:
    """Read a rule from a JSON file as ``costmodel emit --for json`` writes it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a rule in JSON") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    return rule_from_json(data, str(path))


def rule_from_json(data: Any, where: str = "rule") -> Rule:
    """Read a rule from JSON data; raise :class:`InputError` that names ``where``."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: a rule is a JSON object")
    if data.get("schema") != SCHEMA:
        raise InputError(f"{where}: schema is {data.get('schema')!r}, this version reads {SCHEMA}")
    return _read(data, where)


def validity(kernel: Kernel) -> Condition:
    """Return what the fused 1-stage kernel of one AITER version takes, as a condition.

    The limits come from the kernel facts (see :mod:`costmodel.data.kernels`).
    """
    parts: list[Condition] = [
        WholePacks(),
        Compare("packs", "<=", kernel.fused_1stage_max_packs),
    ]
    if kernel.fused_1stage_hidden_dims:
        parts = [Member("hidden_dim", kernel.fused_1stage_hidden_dims)]
    if kernel.fused_1stage_max_tokens is not None:
        parts.append(Compare("tokens", "<=", kernel.fused_1stage_max_tokens))
    return all_of(*parts) if kernel.fused_1stage else Always(False)


def _read(entry: Mapping[str, Any], where: str) -> Rule:
    missing = [key for key in ("name", "condition") if key not in entry]
    if missing:
        raise InputError(f"{where}: no {' and no '.join(missing)}")
    about = {key: str(entry[key]) for key in _ABOUT if key in entry}
    if about.get("status", "current") not in STATUSES:
        raise InputError(
            f"{where}: unknown status '{about['status']}'{nearest(about['status'], STATUSES)}"
        )
    return Rule(str(entry["name"]), from_json(entry["condition"], where), **about)


def _shape_op(op: str) -> str:
    """Return an op that :class:`Shapes` takes; a rule never looks at it."""
    from ..model.shape import OPS

    return op if op in OPS else FUSED


__all__: Sequence[str] = (
    "ALWAYS_1STAGE",
    "ALWAYS_2STAGE",
    "CutoffEvidence",
    "Provenance",
    "Rule",
    "catalogue",
    "current",
    "load",
    "named",
    "rule_from_json",
    "shipped",
    "validity",
)
