"""One rule for each of several kinds of GPU, for an engine that runs on all of them.

Elsewhere (another arch, GPUs without xGMI, an unlisted card) the engine's own rule stays in force.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from ..data.hosts import Host, Kind
from ..errors import InputError
from .evidence import Provenance
from .rule import Rule
from .schemas import RuleOfGpu, RulesByGpu


class ByArch(Struct, frozen=True):
    """Rules of one op by kind of GPU: all by arch, or all by card."""

    rules: tuple[tuple[Kind, Rule], ...]

    def __post_init__(self) -> None:
        kinds = [kind for kind, _ in self.rules]
        if len(set(kinds)) != len(kinds):
            raise InputError(f"a rule for {kinds[0].name} twice; name each arch or GPU once")
        if len({bool(kind.gpu) for kind in kinds}) > 1:
            raise InputError("name archs or GPUs: one test cannot ask for both")
        if len({(rule.op, rule.otherwise) for _, rule in self.rules}) > 1:
            raise InputError("rules for several GPUs have to be of one op and one alternative")

    def __iter__(self) -> Iterator[tuple[Kind, Rule]]:
        return iter(self.rules)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of GPU, in the order given."""
        return tuple(kind for kind, _ in self.rules)

    @property
    def op(self) -> str:
        """The op that every rule governs."""
        return self.rules[0][1].op

    def at(self, host: Host) -> Rule | None:
        """Return the rule for the GPUs of a host, None where the engine's own stays."""
        return next((rule for kind, rule in self.rules if kind.has(host)), None)

    def words(self) -> str:
        """Return the rules in one line, with units."""
        return "; ".join(f"{kind.name}: {rule.words()}" for kind, rule in self.rules)

    def to_json(self, provenances: Mapping[Kind, Provenance]) -> RulesByGpu:
        """Return the rules as JSON data, each with its kind of GPU and where it comes from."""
        rules: list[RuleOfGpu] = [
            {
                "arch": kind.arch,
                "gpu": kind.gpu,
                "products": list(kind.products),
                "rule": rule.to_json(provenances[kind]),
            }
            for kind, rule in self.rules
        ]
        return {"schema": "costmodel/rules-by-gpu/1", "rules": rules}
