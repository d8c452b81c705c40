"""What a rule becomes inside an engine: the kernel's limits, and what stands there and must stay.

The kernel's guards that the engine checks (dtype, packs, token cap, mesh) are kept: they say what
the kernel takes, not when it is faster. Limits of the kernel version that no engine checks (a token
cap that throws, a set of hidden sizes) join the rule at every world size, those that it makes no
claim for included; there the engine's cutoff stays. A hidden set is a choice and gives way to the
rule's; where the rule has none, the kernel's own limit on the hidden size replaces it.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from ..data import kernels
from ..data.kernels import Kernel
from ..errors import InputError
from ..model.shape import FUSED, ONE_STAGE, WORLD_SIZES
from .algebra import (
    AnyOf,
    all_of,
    asks_for_mesh,
    by_world_size,
    factors,
    is_byte_limit,
    with_version,
)
from .condition import (
    Always,
    Compare,
    Condition,
    Member,
    MultipleOf,
    OnFullMesh,
    WholePacks,
    WholeParts,
)
from .rule import Rule


def validity(kernel: Kernel, op: str = FUSED, algorithm: str = ONE_STAGE) -> Condition:
    """Return what a kernel of one family and version takes, as a condition.

    The limits come from the kernel facts (see :mod:`costmodel.data.kernels`); it holds where
    :func:`costmodel.model.eligibility.eligible` does.
    """
    if not kernel.runs(op, algorithm):
        return Always(False)
    parts: list[Condition]
    if op != FUSED:
        parts = [MultipleOf("bytes", kernel.plain_multiple_bytes)]
        return all_of(*parts, *_held("dtype", kernel.plain_dtypes))
    if algorithm == ONE_STAGE:
        parts = [*_held("hidden_dim", kernel.fused_1stage_hidden_dims)]
        parts = parts or [WholePacks(), Compare("packs", "<=", kernel.fused_1stage_max_packs)]
        if kernel.fused_1stage_max_tokens is not None:
            parts.append(Compare("tokens", "<=", kernel.fused_1stage_max_tokens))
        return all_of(*parts)
    parts = [WholePacks(), Compare("packs", ">=", kernel.fused_2stage_min_packs)]
    if kernel.fused_2stage_max_packs is not None:
        parts.append(Compare("packs", "<=", kernel.fused_2stage_max_packs))
    if kernel.fused_2stage_pack_multiple > 1:
        parts.append(MultipleOf("packs", kernel.fused_2stage_pack_multiple))
    return all_of(*parts, *([WholeParts()] if kernel.fused_2stage_whole_parts else []))


def left_to_kernel(kernel: Kernel) -> Condition:
    """Return what AITER's own dispatch asks before it runs 1-stage; elsewhere it runs 2-stage.

    Packs, and in old kernels a set of hidden sizes; above a token cap it throws instead. Source:
    dispatchFusedAllReduceRMSNorm in csrc/include/custom_all_reduce.cuh, v0.1.10.post2 to e404860.
    """
    parts = factors(validity(kernel))
    return all_of(*(f for f in parts if not isinstance(f, Compare) or f.quantity != "tokens"))


def kernel_limits(kernel: Kernel) -> Condition:
    """Return what the 1-stage kernel takes and no engine checks for it.

    Old kernels have a token cap and a set of hidden sizes; whole packs and their number are checked
    by every engine that needs them.
    """
    return all_of(*(f for f in factors(validity(kernel)) if not _is_about_packs(f)))


class Adapted(Struct, frozen=True):
    """A rule as it will be in force: ``rule``, and what was kept of the engine's own.

    ``guards`` are the engine's that stay, ``limits`` the kernel's that join them, ``unclaimed``
    the world sizes that keep their cutoff, ``hidden_set`` the installed hidden set that gives way,
    if there was one; ``kernel`` is what runs below the rule.
    """

    rule: Rule
    guards: tuple[Condition, ...]
    limits: tuple[Condition, ...]
    unclaimed: tuple[int, ...]
    hidden_set: Member | None
    kernel: Kernel

    @property
    def caps_tokens(self) -> bool:
        """Whether no batch above the token cap of any release reaches the 1-stage kernel."""
        cap = token_cap()
        return all(
            Always(False) == here or any(_is_cap(f, cap) for f in factors(here))
            for here in (self.rule.condition.at(n) for n in WORLD_SIZES)
        )

    def asked(self, world_size: int) -> list[Condition]:
        """Return what the rule asks of a call at a world size besides its bytes."""
        here = factors(self.rule.condition.at(world_size))
        return [f for f in here if not is_byte_limit(f)]

    def releases(self) -> str:
        """Return in words on which AITER releases the rule may run."""
        release, cap = kernels.lifted("fused_1stage_max_tokens"), token_cap()
        throws = f"AITER before {release} throws above {cap} tokens"
        if self.caps_tokens:
            return f"AITER {kernels.first_release('fused_1stage')} and later ({throws})"
        return f"AITER {release} and later only ({throws})"

    def notes(self, engine: str) -> list[str]:
        """Return what a reader must know about the difference to the rule that was asked for."""
        notes = []
        if self.guards:
            kept = ", ".join(g.words() for g in self.guards)
            notes.append(f"{engine}'s guards stay: {kept}")
        if self.unclaimed:
            names = " and ".join(f"TP{n}" for n in self.unclaimed)
            notes.append(f"{names}: no claim, {engine}'s cutoff stays")
        if self.hidden_set:
            notes.append(f"{engine}'s {self.hidden_set.words()} gives way")
        return notes


def adapt(rule: Rule, installed: Condition, kernel: Kernel) -> Adapted:
    """Return ``rule`` as it will stand in an engine whose rule is ``installed``.

    Raises :class:`InputError` when the rule claims no world size at all.
    """
    wanted = with_version(rule.condition, kernel.version)
    claimed = [n for n in WORLD_SIZES if n in wanted.world_sizes]
    if not claimed:
        raise InputError(f"rule '{rule.name}' claims no world size; there is nothing to emit")
    guards = tuple(f for f in factors(installed) if is_guard(f))
    hidden_set = next((f for f in factors(installed) if _is_hidden_set(f)), None)
    # What the rule asks at every size it claims, it asks of the unclaimed ones too.
    common = [f for f in factors(wanted.at(claimed[0])) if not _is_size(f)]
    common = [f for f in common if all(f in factors(wanted.at(n)) for n in claimed)]
    if hidden_set and not any(_is_hidden_set(f) for f in common):
        common += [f for f in factors(validity(kernel)) if f not in guards]
    limits = [f for f in factors(kernel_limits(kernel)) if not _is_kept(f, guards)]
    if any(_is_hidden_set(f) for f in common):
        limits = [f for f in limits if not _is_hidden_set(f)]
    common += [f for f in limits if f not in common]
    cases = {}
    for n in WORLD_SIZES:
        own = wanted.at(n) if n in claimed else all_of(*_without(installed.at(n), hidden_set))
        cases[n] = all_of(own, *common, *(g.at(n) for g in guards))
    return Adapted(
        rule=replace(rule, condition=by_world_size(cases)),
        guards=guards,
        limits=tuple(limits),
        unclaimed=tuple(n for n in WORLD_SIZES if n not in claimed),
        hidden_set=hidden_set if isinstance(hidden_set, Member) else None,
        kernel=kernel,
    )


def token_cap() -> int:
    """Return the smallest number of tokens above which some release's 1-stage kernel throws."""
    return min(kernels.values("fused_1stage_max_tokens"))


def _held(quantity: str, values: tuple[int | str, ...]) -> tuple[Condition, ...]:
    """Return that a quantity is of a set, nothing for an empty one."""
    return (Member(quantity, values),) if values else ()


def _is_kept(limit: Condition, guards: tuple[Condition, ...]) -> bool:
    """Tell whether a guard that stays asks for a limit, or for a tighter one, at every size."""
    return any(all_of(guard, limit) == guard for guard in guards)


def _is_cap(condition: Condition, cap: int) -> bool:
    if not isinstance(condition, Compare) or condition.quantity != "tokens":
        return False
    most = {"<=": condition.value, "<": condition.value - 1, "==": condition.value}
    return most.get(condition.op, cap + 1) <= cap


def _without(condition: Condition, factor: Condition | None) -> list[Condition]:
    return [f for f in factors(condition) if f != factor]


def _is_size(condition: Condition) -> bool:
    return isinstance(condition, Compare) and condition.quantity in ("bytes", "elements")


def _is_about_packs(condition: Condition) -> bool:
    packs = isinstance(condition, Compare) and condition.quantity == "packs"
    return packs or isinstance(condition, WholePacks)


def _is_hidden_set(condition: Condition) -> bool:
    return isinstance(condition, Member) and condition.quantity == "hidden_dim"


def is_guard(condition: Condition) -> bool:
    """Tell a limit of the kernel from a choice."""
    if isinstance(condition, Compare):
        return condition.quantity in ("tokens", "packs", "row_bytes", "hidden_dim")
    if isinstance(condition, Member):
        return condition.quantity == "dtype"
    if isinstance(condition, AnyOf):
        return asks_for_mesh(condition)
    return isinstance(condition, WholePacks | OnFullMesh | MultipleOf | WholeParts)
