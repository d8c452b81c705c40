"""One patch for several kinds of GPU: the rule that holds goes by the GPUs of the host.

The cutoffs of each kind stand in a function of :mod:`.host_gate` above the one that decides, which
takes them in place of the limit that stood there and keeps that limit for every other host. What a
rule asks besides bytes has to be the same for every kind; it holds everywhere, as the limits of the
kernel do.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from ..data.hosts import Host, Kind, others
from ..data.kernels import Kernel
from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted, adapt
from ..rules.algebra import Bytes, all_of, by_world_size, byte_limit, factors, is_byte_limit
from ..rules.by_arch import ByArch
from ..rules.condition import Always, Condition
from . import host_gate
from .comment import as_comment
from .diff import Edit, split_lines
from .execution import Step
from .expression import WIDTH, SourceNames, size
from .limit import Default
from .module import Module
from .naming import not_found
from .reader import DispatchFunction
from .rewrite import Rewrite, plain, written
from .statements import value_of


class Gated(Struct, frozen=True):
    """Rules as they will be in force: by kind of GPU, and ``elsewhere``."""

    kinds: Mapping[Kind, Adapted]
    elsewhere: Adapted

    def at(self, host: Host) -> Adapted:
        """Return the rule on a host."""
        for kind, adapted in self.kinds.items():
            if kind.has(host):
                return adapted
        return self.elsewhere

    @property
    def hosts(self) -> dict[str, Host]:
        """Hosts of every kind, and one of each kind that has no rule of its own, by name."""
        own = {
            kind.name if number == 0 else f"{kind.name} {number}": host
            for kind in self.kinds
            for number, host in enumerate(kind.hosts)
        }
        return own | others(list(self.kinds))

    def words(self) -> str:
        """Return the rules in one line, with units."""
        return "; ".join(f"{kind.name}: {a.rule.words()}" for kind, a in self.kinds.items())


def gated(rules: ByArch, installed: Condition, kernel: Kernel) -> Gated:
    """Return rules as they will stand in an engine whose rule is ``installed``.

    Raises :class:`InputError` where a rule claims nothing, and where rules ask different things
    besides bytes.
    """
    kinds = {kind: adapt(rule, installed, kernel) for kind, rule in rules}
    first, plainest = next(iter(rules))[1], next(iter(kinds.values()))
    # What joins a rule that asks nothing holds elsewhere where no kind runs 1-stage.
    joining = adapt(replace(first, condition=Always()), installed, kernel)
    cases = {}
    for n in WORLD_SIZES:
        asked = {frozenset(a.asked(n)): a.asked(n) for a in kinds.values() if _any(a, n)}
        if len(asked) > 1:
            raise InputError(
                f"the rules of {' and '.join(k.name for k in kinds)} ask different things besides "
                f"bytes at TP{n}; one patch holds cutoffs by GPU alone: emit one for each"
            )
        own = byte_limit(installed.at(n))
        here = installed.at(n) if installed.at(n) == Always(False) else own or Always()
        cases[n] = all_of(here, *next(iter(asked.values()), joining.asked(n)))
    rule = replace(first, condition=by_world_size(cases))
    return Gated(kinds, replace(plainest, rule=rule, unclaimed=WORLD_SIZES))


def edits(
    module: Module, dispatch: DispatchFunction, rules: Gated, comment: list[str]
) -> list[Edit]:
    """Return the edits that make a function decide by the GPUs of its host.

    Raises :class:`NotRecognisedError` when the function is of no shape that can be changed safely.
    """
    rewrite = _rewrite(module, dispatch, rules, "The")
    made = rewrite.made()
    # Last: a change of the comment above the function starts where this is inserted.
    return [*made, _function(module, dispatch, rewrite.tables(), comment)]


def edits_of_copy(
    module: Module, copy: DispatchFunction, rules: Gated, original: str
) -> list[Edit]:
    """Return the edits that make a copy of the rule decide as the function named ``original``."""
    return _rewrite(module, copy, rules, f"As in {original}: the").made()


def _rewrite(module: Module, dispatch: DispatchFunction, rules: Gated, first: str) -> _ByHost:
    here = f"{first} cutoffs are those of {host_gate.NAME}(), else the one that stood here."
    return _ByHost(module, dispatch, rules.elsewhere, [here], rules=rules)


class _ByHost(Rewrite, kw_only=True):
    """Writes a look-up of the host's cutoffs where a rule's own would stand."""

    rules: Gated
    ends: dict[int, Step] = {}  # noqa: RUF012 - each gets one of its own

    def change_leaves(self, leaves: dict[int, Step]) -> list[Edit]:
        """Return the edits of the leaves, of a hidden set, and of what the rules ask besides."""
        self.ends = leaves
        return super().change_leaves(leaves)

    @property
    def _here(self) -> str:
        return f"{host_gate.NAME}()"

    def tables(self) -> dict[Kind, dict[int, int]]:
        """Return the cutoffs in bytes by kind and world size, as ``_op`` compares with them."""
        return {
            kind: {n: self._cutoff(adapted, n) for n in WORLD_SIZES if n not in adapted.unclaimed}
            for kind, adapted in self.rules.kinds.items()
        }

    def _cutoff(self, adapted: Adapted, world_size: int) -> int:
        return written(adapted.rule.condition.at(world_size), self._op())

    def _joined_rule(self) -> tuple[Bytes | None, list[Condition]]:
        rest = {
            n: all_of(
                *(f for f in plain(self.adapted.rule.condition.at(n)) if not is_byte_limit(f))
            )
            for n in WORLD_SIZES
        }
        # The cutoffs stand in the tables: these only say that there is one for each world size.
        return Bytes.of({n: n for n in WORLD_SIZES}, self._op()), list(factors(by_world_size(rest)))

    def _table(self, cutoffs: Bytes, env: list[str]) -> str:
        super()._table(cutoffs, env)
        return self._here

    def _default_table(self, default: Default) -> str:
        if default.scale != 1:
            raise self.fail("a limit in bytes that holds with no setting set")
        return self._here

    def _leaf_text(self, sizes: list[int], names: SourceNames) -> str | None:
        old = {byte_limit(self.dispatch.condition.at(n)) for n in sizes}
        if len(old) != 1:
            raise self.fail("one limit at the end of a branch")
        (limit,) = old
        new = {byte_limit(a.rule.condition.at(n)) for a in self.rules.kinds.values() for n in sizes}
        if new == old and all(_any(a, n) for a in self.rules.kinds.values() for n in sizes):
            return None
        text = "2**60"
        if limit is not None:
            shift = {("<", "<="): " - 1", ("<=", "<"): " + 1"}.get((limit.op, self._op()), "")
            text = f"{size(limit.value)}{shift}"
        ranks = names.world_size if len(sizes) > 1 else str(sizes[0])
        look_up = f"{names.bytes} {self._op()} {self._here}.get"
        leaf = self.ends[sizes[0]].node
        value = value_of(leaf)
        before = value.col_offset if value is not None else leaf.col_offset
        if before + len(f"{look_up}({ranks}, {text})") <= WIDTH:
            return f"{look_up}({ranks}, {text})"
        pad = f"{'':{leaf.col_offset}}"
        return f"{look_up}(\n{pad}    {ranks}, {text}\n{pad})"


def _function(
    module: Module,
    dispatch: DispatchFunction,
    tables: dict[Kind, dict[int, int]],
    comment: list[str],
) -> Edit:
    """Return the insertion of the host's function, above what decides, at module level."""
    if any(name.rsplit(".", 1)[-1] == host_gate.NAME for name in module.functions()):
        raise not_found(module, dispatch, f"a file without a {host_gate.NAME} of its own")
    top = next(n for n in module.tree.body if dispatch.node in ast.walk(n))
    lines = [*as_comment(comment, 0, WIDTH), *host_gate.source(tables), "", ""]
    start = (_first_line(module, top), 0)
    return Edit(start, start, "\n".join(lines) + "\n")


def _first_line(module: Module, statement: ast.stmt) -> int:
    """Return the first line of a statement, with decorators and the comment above it."""
    lines = split_lines(module.text)
    decorators = getattr(statement, "decorator_list", ())
    first = min([statement.lineno, *(d.lineno for d in decorators)])
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return first


def _any(adapted: Adapted, world_size: int) -> bool:
    """Tell whether any size runs 1-stage at a world size."""
    return adapted.rule.condition.at(world_size) != Always(False)
