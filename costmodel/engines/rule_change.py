"""What changed in the rules of an engine from one tree to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ..data.hosts import host_of
from ..decide.regret import Estimate
from ..model.shape import FUSED
from ..rules.boundary import first_difference
from .audit import InstalledRule, read_installed

if TYPE_CHECKING:
    from ..decide.decision import Decision
    from ..decide.drift_schemas import RuleShiftRecord
    from .source import Tree


class RuleShift(Struct, frozen=True):
    """The rules of one op in two trees, None where a tree has none.

    ``where`` is the first call that they decide otherwise. ``loses_pct`` is what the new one loses
    against the old one by world size, in percentage points of regret, where a decision judges it.
    """

    op: str
    old: InstalledRule | None
    new: InstalledRule | None
    where: str | None
    loses_pct: dict[int, Estimate]

    @property
    def changed(self) -> bool:
        """Whether the trees decide alike."""
        return self.where is not None or (self.old is None) != (self.new is None)

    def to_dict(self) -> RuleShiftRecord:
        """Return an entry of ``rules`` in ``costmodel/diff/1``."""
        return {
            "op": self.op,
            "old": self.old.rule.words() if self.old else None,
            "new": self.new.rule.words() if self.new else None,
            "first_difference": self.where,
            "loses": [
                {"world_size": n, "pct": pct.to_dict()} for n, pct in sorted(self.loses_pct.items())
            ],
        }


def rule_changes(old: Tree, new: Tree, decision: Decision | None = None) -> tuple[RuleShift, ...]:
    """Compare the rules of every op that either tree chooses for.

    ``decision`` judges those of its op by its arms. The trees are of one engine. Raises
    :class:`InputError` as :func:`.read_installed` does.
    """
    host = host_of(decision.setting.gpu, decision.setting.arch) if decision is not None else None
    before, after = ({one.rule.op: one for one in read_installed(t, host=host)} for t in (old, new))
    out = []
    for op in dict.fromkeys((FUSED, *before, *after)):
        was, now = before.get(op), after.get(op)
        where, loses = None, {}
        if was is not None and now is not None:
            where = first_difference(was.rule, now.rule) or _by_gpu(was, now)
            if decision is not None and decision.setting.op == op:
                loses = {
                    c.world_size: c.arms.score(was.rule, now.rule).saved_pct
                    for c in decision.cutoffs
                }
        out.append(RuleShift(op, was, now, where, loses))
    return tuple(out)


def _by_gpu(was: InstalledRule, now: InstalledRule) -> str | None:
    """Return the first call that two rules decide otherwise on GPUs that either has rules for."""
    for name in dict.fromkeys((*was.by_gpu, *now.by_gpu)):
        where = first_difference(was.by_gpu.get(name, was.rule), now.by_gpu.get(name, now.rule))
        if where is not None:
            return f"{name}, {where}"
    return None
