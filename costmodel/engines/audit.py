"""Audit an engine's source: which dispatch rule is in force, does it hold its units, what it loses.

The rule is read from the source (see :mod:`costmodel.engines`), stated in one line, compared with
another rule as that would stand in the same place, and scored when a calibrated model is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from msgspec import Struct, field
from msgspec.structs import replace

from ..data import kernels
from ..data.engine_calls import FusedCalls
from ..data.hosts import Host, Kind, host_of
from ..data.kernels import Kernel
from ..decide.decision import Decision
from ..decide.regret import Score
from ..errors import InputError
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.adapt import Adapted, adapt, left_to_kernel
from ..rules.algebra import all_of, on_full_mesh, with_version
from ..rules.boundary import first_difference
from ..rules.catalogue import catalogue
from ..rules.condition import Always, Condition
from ..rules.rule import Rule
from .consulted import Consulted, consulted
from .consumers import Consumer, consumers
from .gates import Gates, read_gates
from .host_gate import kinds_in
from .kernel_version import of_tree
from .module import Module
from .overrides import Override
from .reader import NotRecognisedError, find_dispatch, read_dispatch
from .schemas import AuditRecord, CutoffInWords
from .source import Tree
from .unit_checks import UnitMismatch, check


class InstalledRule(Struct, frozen=True):
    """A rule as it stands in a source: where, what it says, and what to know about it.

    ``overrides`` are settings that would replace it or its limit, ``assumed`` conditions that
    could not be read and were taken as met, ``known_as`` the catalogue's rule that decides alike,
    if any; ``moved`` tells that it was found elsewhere than in the known releases. ``by_gpu`` holds
    the rules for kinds of GPU that the source has besides, by their names; ``rule`` is the one on
    the GPU that was asked about, or on a host that is none of them.
    """

    engine: str
    version: str
    file: str
    line: int
    function: str
    rule: Rule
    overrides: tuple[Override, ...]
    assumed: tuple[str, ...]
    findings: tuple[UnitMismatch, ...]
    known_as: str
    moved: bool
    by_gpu: dict[str, Rule] = field(default_factory=dict)

    def statement(self) -> str:
        """Return the rule in one line: engine, version, place, rule with units."""
        engine = f"{self.engine} {self.version}".strip()
        return f"{engine}, {self.file}:{self.line}: {self.rule.op}: {self.rule.words()}"


class Audit(Struct, frozen=True):
    """The audit of one engine.

    ``installed`` holds the rules of every op, the one that is compared first; ``gates`` what
    decides beside them. ``against`` is the rule it is compared with as that would stand there;
    ``scores`` holds, per world size, what it would save; ``consulted`` are the files that ask a
    run-time table first, for which ``installed`` is what holds without an entry. ``others`` are
    functions beside ``installed`` that choose or ask its first rule, ``elsewhere`` packages of
    engines below the path that were not read.
    """

    tree: Tree
    installed: tuple[InstalledRule, ...]
    gates: Gates
    against: Adapted | None = None
    scores: dict[int, Score] = field(default_factory=dict)
    consulted: tuple[Consulted, ...] = ()
    others: tuple[Consumer, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def rule(self) -> Rule:
        """The installed rule that is compared: the fused op's, where no other op is asked for."""
        return self.installed[0].rule

    @property
    def loses_pct(self) -> float | None:
        """What the installed rule loses at its worst world size, in percentage points of regret."""
        return max((s.saved_pct.value for s in self.scores.values()), default=None)

    def to_dict(
        self,
        hidden_dims: Sequence[int],
        dtype: str,
        fail_above: float | None,
        calls: FusedCalls | None = None,
    ) -> AuditRecord:
        """Return the ``costmodel/audit/1`` record; ``calls`` are those of a decode step."""
        return {
            "schema": "costmodel/audit/1",
            "path": str(self.tree.path),
            "engine": self.tree.engine.name,
            "version": self.tree.version,
            "kind": self.tree.kind,
            "rules": [
                {
                    "file": one.file,
                    "line": one.line,
                    "function": one.function,
                    "words": one.rule.words(),
                    "known_as": one.known_as,
                    "moved": one.moved,
                    "overrides": [o.name for o in one.overrides],
                    "settings": [
                        {"name": o.name, "line": o.line, "replaces": o.replaces, "unit": o.unit}
                        for o in one.overrides
                    ],
                    "assumed": list(one.assumed),
                    "findings": [
                        {"check": f.check, "line": f.line, "text": f.text} for f in one.findings
                    ],
                    "op": one.rule.op,
                    "condition": one.rule.to_json()["condition"],
                    "by_gpu": [
                        {"gpu": name, "words": own.words(), "condition": own.to_json()["condition"]}
                        for name, own in one.by_gpu.items()
                    ],
                }
                for one in self.installed
            ],
            "gates": [gate.to_dict() for gate in self.gates.present],
            "gates_absent": list(self.gates.absent),
            "consultations": [one.to_dict() for one in self.consulted],
            "others": [
                {
                    "file": one.file,
                    "line": one.line,
                    "function": one.function,
                    "op": one.op,
                    "asks": one.asks,
                    "hidden": one.hidden,
                    "words": one.own.words() if one.own is not None else None,
                }
                for one in self.others
            ],
            "elsewhere": list(self.elsewhere),
            "against": self.against.rule.to_json() if self.against else None,
            "comparison": [
                {
                    "world_size": n,
                    "installed": _cutoff(self.rule, n),
                    "against": _cutoff(self.against.rule, n) if self.against else None,
                    "max_tokens": {
                        str(h): {
                            "installed": self.rule.max_tokens(h, n, dtype=dtype),
                            "against": self.against.rule.max_tokens(h, n, dtype=dtype)
                            if self.against
                            else None,
                        }
                        for h in hidden_dims
                    },
                }
                for n in WORLD_SIZES
            ],
            "regret": [
                {
                    "world_size": n,
                    "installed_pct": s.other_regret_pct.to_dict(),
                    "against_pct": s.regret_pct.to_dict(),
                    "loses_pct": s.saved_pct.to_dict(),
                    "loses_us_per_call": s.saved_us.to_dict(),
                    "loses_us_per_step": s.saved_us.times(calls.per_step).to_dict()
                    if calls
                    else None,
                    "share_decided_otherwise": s.differ,
                }
                for n, s in sorted(self.scores.items())
            ],
            "calls": calls.to_dict() if calls else None,
            "loses_pct": self.loses_pct,
            "passed": self.passed(fail_above),
        }

    def passed(self, fail_above: float | None) -> bool:
        """Tell whether the installed rule loses no more than ``fail_above`` percent."""
        return fail_above is None or self.loses_pct is None or self.loses_pct <= fail_above


def audit(
    tree: Tree,
    *,
    against: Rule | None = None,
    decision: Decision | None = None,
    aiter_version: str = kernels.LATEST,
    op: str = FUSED,
) -> Audit:
    """Audit one engine (see :func:`costmodel.engines.source.open_trees`).

    The installed rule is compared with ``against`` (default: the decision's rule) as that would
    stand in its place, and scored beside it by the decision's arms where that makes a claim. ``op``
    is whose rule is compared. Raises :class:`InputError` for a file that does not parse, and for a
    rule that is not where it was looked for.
    """
    host = host_of(decision.setting.gpu, decision.setting.arch) if decision is not None else None
    installed = read_installed(tree, op, host)
    gates = read_gates(tree)
    if against is None and decision is not None:
        against = decision.unguarded_rule
    beside = _others(tree, installed, host), tree.elsewhere()
    if against is None:
        return Audit(tree, installed, gates, None, {}, _consulted(tree, installed), *beside)
    kernel = decision.setting.kernel if decision else kernels.aiter(aiter_version)
    adapted = adapt(against, installed[0].rule.condition, kernel)
    scores = {
        c.world_size: c.arms.score(adapted.rule, installed[0].rule)
        for c in (decision.cutoffs if decision else ())
        if c.world_size not in adapted.unclaimed
    }
    return Audit(tree, installed, gates, adapted, scores, _consulted(tree, installed), *beside)


def _others(
    tree: Tree, installed: Sequence[InstalledRule], host: Host | None
) -> tuple[Consumer, ...]:
    """Return who else chooses or asks the first rule, but for the installed rules themselves."""
    module, dispatch = find_dispatch(tree, installed[0].rule.op, host)
    known = {(one.file, one.function) for one in installed}
    found = consumers(tree, module, dispatch)
    return tuple(one for one in found if one.hidden or (one.file, one.function) not in known)


def _consulted(tree: Tree, installed: Sequence[InstalledRule]) -> tuple[Consulted, ...]:
    files = dict.fromkeys(one.file for one in installed)
    return tuple(found for file in files if (found := consulted(tree, file)) is not None)


def read_installed(
    tree: Tree, first: str = FUSED, host: Host | None = None
) -> tuple[InstalledRule, ...]:
    """Read the rules of an engine: that of the op ``first``, and those of other ops if they choose.

    ``host`` is what it runs on, where a rule goes by that.
    Raises :class:`InputError` when the rule of ``first`` is not recognised.
    """
    ops = dict.fromkeys((first, *(site.op for site in tree.engine.call_sites)))
    rules: list[InstalledRule] = []
    for op in ops:
        try:
            module, dispatch = find_dispatch(tree, op, host)
        except NotRecognisedError:
            if op == first:
                raise
            continue
        if any((i.file, i.function) == (module.name, dispatch.name) for i in rules):
            continue
        rule = Rule(
            "installed",
            dispatch.condition,
            f"{tree.engine.title} {tree.version}".strip(),
            engine=tree.engine.name,
            op=op,
            status="installed",
        )
        by_gpu = {
            kind.name: replace(rule, condition=_on(module, dispatch.name, kind))
            for kind in kinds_in(module)
        }
        gated = any(own != rule for own in by_gpu.values())
        rules.append(
            InstalledRule(
                tree.engine.title,
                tree.version,
                module.name,
                dispatch.line,
                dispatch.name,
                rule,
                dispatch.overrides,
                dispatch.assumed,
                tuple(check(module, dispatch)),
                known_as(rule, of_tree(tree).kernel),
                all(module.name != tree.name(p.file) for p in tree.engine.call_sites),
                by_gpu if gated else {},
            )
        )
    return tuple(rules)


def _on(module: Module, function: str, kind: Kind) -> Condition:
    """Return the rule of a function on the GPUs of a kind."""
    return read_dispatch(module, function, constant=True, host=kind.hosts[0]).condition


def known_as(rule: Rule, kernel: Kernel | None = None) -> str:
    """Return the name of the catalogue's rule for this op that decides alike, or "".

    The engine's own rules come first, and of those one that is alike everywhere. Two rules that
    differ only where ``kernel`` runs 2-stage by itself are the same: some engines leave it to it.
    """
    taken = Always() if kernel is None else left_to_kernel(kernel)
    known = [k for k in catalogue() if k.op == rule.op and k.fabric == "xgmi"]
    own = [k for k in known if k.engine == rule.engine]
    others = [k for k in known if k.engine != rule.engine]
    for among, limits in product((own, others), dict.fromkeys((Always(), taken))):
        here = Rule("", on_full_mesh(all_of(rule.condition, limits)))
        for one in among:
            try:
                condition = one.condition
                if kernel is not None:
                    condition = with_version(condition, kernel.version)
                there = Rule("", on_full_mesh(all_of(condition, limits)))
                if first_difference(here, there) is None:
                    return one.name
            except InputError:
                # A rule that depends on the kernel version cannot be told from a source alone.
                continue
    return ""


def _cutoff(rule: Rule, world_size: int) -> CutoffInWords:
    cutoff = rule.cutoff_bytes(world_size)
    op, value = cutoff if cutoff is not None else (None, None)
    return {"sizes": rule.sizes(world_size), "compare": op, "bytes": value}
