"""Where a function's source changes so that it decides as a rule does.

Two shapes are known. Where the function branches on the number of ranks (vLLM), the *leaves* of
that branch change: ``return total_bytes < 256 * 1024``. Otherwise (SGLang, AITER) the *assignment*
of the decision changes: ``use_1stage_ar = total_bytes <= 128 * 1024``. Everything else stays.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction

from msgspec import Struct, field

from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.algebra import (
    Bytes,
    all_of,
    asks_for_mesh,
    by_world_size,
    byte_limit,
    factors,
)
from ..rules.condition import Always, Compare, Condition, Member, OnFullMesh, WholePacks
from .comment import as_comment
from .diff import Edit
from .evaluation import Comparison
from .execution import Step
from .expression import WIDTH, SourceNames, dictionary, expression, is_simple, size
from .layout import call, laid_out, spliced, wrapped
from .limit import Default, default_of
from .module import Module, source_of
from .naming import names_at, not_found
from .reader import DispatchFunction, NotRecognisedError
from .statements import in_loop, mentions_world, own_nodes, parents, target_of, value_of
from .symbols import UNLIMITED


def edits(
    module: Module, dispatch: DispatchFunction, adapted: Adapted, comment: list[str]
) -> list[Edit]:
    """Return the edits that make the function decide as ``adapted``.

    Raises :class:`NotRecognisedError` when the function is of neither shape.
    """
    wanted, there = adapted.rule.condition, dispatch.condition
    if all(set(factors(wanted.at(n))) == set(factors(there.at(n))) for n in WORLD_SIZES):
        return []
    return Rewrite(module, dispatch, adapted, comment).made()


class Rewrite(Struct):
    """The changing of one function; :mod:`.by_arch` writes other cutoffs in the same places.

    ``asked`` is what guards that stay have asked before the changed expression.
    """

    module: Module
    dispatch: DispatchFunction
    adapted: Adapted
    comment: list[str]
    of_default: list[Edit] = field(default_factory=list)
    asked: set[Condition] = field(default_factory=set)

    def made(self) -> list[Edit]:
        """Return the edits of the function."""
        leaves = self.leaves()
        made = self.change_leaves(leaves) if leaves else self.change_assignment()
        return [*made, *self.of_default]

    def fail(self, sought: str) -> NotRecognisedError:
        """Return the error for a function in which something was not found."""
        return not_found(self.module, self.dispatch, sought)

    # A branch on the number of ranks.

    def leaves(self) -> dict[int, Step]:
        """Return, per world size, the statement that a branch on the ranks ends in."""
        above = parents(self.dispatch.node)
        leaves: dict[int, Step] = {}
        for step in self.dispatch.steps:
            parent = above.get(step.node)
            if not isinstance(parent, ast.If) or not mentions_world(parent.test):
                continue
            if not self._decides(value_of(step.node)):
                continue
            if all_of(step.path, OnFullMesh()) == Always(False):
                continue
            if in_loop(step.node, above):
                if self.dispatch.returns:
                    raise self.fail("a choice that is not returned from inside a loop")
                return {}
            if leaves.setdefault(step.world_size, step).node is not step.node:
                raise self.fail(f"one leaf for TP{step.world_size}, there are several")
        # A branch that some world sizes pass by (an exception for TP8) is no dispatch on them.
        return leaves if set(leaves) == set(WORLD_SIZES) else {}

    def _decides(self, value: ast.expr | None) -> bool:
        if isinstance(value, ast.Constant):
            return isinstance(value.value, bool)
        return any(c.node is value for c in self.dispatch.comparisons)

    def change_leaves(self, leaves: dict[int, Step]) -> list[Edit]:
        """Return the edits of the leaves, of a hidden set, and of what the rule asks besides."""
        out = []
        for node in dict.fromkeys(step.node for step in leaves.values()):
            sizes = [n for n, step in leaves.items() if step.node is node]
            new = self._leaf_text(sizes, self.names(leaves[sizes[0]]))
            value = value_of(node)
            if new is not None and value is not None:
                out.append(Edit.of(value, new))
        first = min(leaves.values(), key=lambda s: s.node.lineno)
        names = self.names(first)
        added = self._added()
        replaced, rest = self._replace_hidden_set(added, names)
        out += replaced
        chain = self._top_of_branch(first.node)
        indent = chain.col_offset
        lines = as_comment(self.comment, indent, WIDTH)
        if rest and self.dispatch.returns:
            refused = [expression(f.negated(), names) for f in rest]
            test = wrapped(refused, indent, len("if :"), "or")
            lines += [f"{'':{indent}}if {test}:", f"{'':{indent}}    return False"]
        elif rest:
            statement, decision = self._last_assignment()
            terms = [*self._terms_of(decision), *(_joined(f, names) for f in rest)]
            target = f"{target_of(statement)} = "
            new = wrapped(terms, statement.col_offset, len(target))
            out.append(Edit.of(statement, target + new))
        out.append(Edit((chain.lineno, 0), (chain.lineno, 0), "\n".join(lines) + "\n"))
        return out

    def _leaf_text(self, sizes: list[int], names: SourceNames) -> str | None:
        new = {n: byte_limit(self.adapted.rule.condition.at(n)) for n in sizes}
        old = {n: byte_limit(self.dispatch.condition.at(n)) for n in sizes}
        if new == old:
            return None
        kinds = list(dict.fromkeys(new.values()))
        if len(kinds) == 1:
            return "True" if kinds[0] is None else expression(kinds[0], names)
        parts = {n: f if f is not None else all_of() for n, f in new.items()}
        return expression(by_world_size(parts), names)

    def _added(self) -> list[Condition]:
        """Return what the rule asks besides bytes that the function does not ask yet."""
        new = [set(_others(self.adapted.rule.condition.at(n))) for n in WORLD_SIZES]
        old = set().union(*(_others(self.dispatch.condition.at(n)) for n in WORLD_SIZES))
        shared = set.intersection(*new)
        own = set().union(*new) - shared - old
        if any(not isinstance(f, OnFullMesh) for f in own):
            raise self.fail("a rule that asks the same of every world size besides bytes")
        first = _others(self.adapted.rule.condition.at(WORLD_SIZES[0]))
        return [f for f in first if f in shared and f not in old]

    def _replace_hidden_set(
        self, added: list[Condition], names: SourceNames
    ) -> tuple[list[Edit], list[Condition]]:
        gone = self.adapted.hidden_set
        if gone is None or gone in _others(self.adapted.rule.condition.at(8)):
            return [], added
        # A set goes first: at the end of a line a formatter would open it up.
        about_hidden = sorted(
            (f for f in added if _is_about_hidden(f)), key=lambda f: not isinstance(f, Member)
        )
        nodes = {m.node: m for m in self.dispatch.memberships if m.condition == gone}
        if len(nodes) != 1:
            raise self.fail(f"one test for {gone.words()}")
        node = next(iter(nodes))
        statement, _ = self._statement_of(node)
        before = node.col_offset - statement.col_offset
        terms = [_joined(f, names) for f in about_hidden] or ["True"]
        text = wrapped(terms, statement.col_offset, before)
        return [Edit.of(node, text)], [f for f in added if f not in about_hidden]

    def _top_of_branch(self, node: ast.stmt) -> ast.stmt:
        """Return the statement that opens the chain of branches on the ranks."""
        above = parents(self.dispatch.node)
        top: ast.AST = node
        while True:
            parent = above.get(top)
            if not isinstance(parent, ast.If) or not mentions_world(parent.test):
                break
            top = parent
        if not isinstance(top, ast.stmt):
            raise self.fail("the branch on the ranks")
        return top

    def _terms_of(self, decision: ast.expr) -> list[str]:
        """Return the source of what an expression joins by ``and``."""
        parts = [decision]
        if isinstance(decision, ast.BoolOp) and isinstance(decision.op, ast.And):
            parts = decision.values
        texts = [self.module.segment(part) for part in parts]
        return [f"({text})" if " or " in text else text for text in texts]

    def _last_assignment(self) -> tuple[ast.stmt, ast.expr]:
        for step in reversed(self.dispatch.steps):
            for decision in self.dispatch.decisions:
                value = value_of(step.node)
                if value is not None and target_of(step.node) == source_of(decision):
                    return step.node, value
        raise self.fail("the assignment of the decision")

    # One assignment.

    def change_assignment(self) -> list[Edit]:
        """Return the edits of the statements that assign the decision."""
        targets = {source_of(d) for d in self.dispatch.decisions if isinstance(d, ast.Name)}
        steps = [s for s in self.dispatch.steps if target_of(s.node) in targets]
        if len(targets) > 1 or (targets and not steps):
            raise self.fail(f"one variable that holds the decision, found {sorted(targets)}")
        if not targets:
            return self._change_in_place()
        (target,) = targets
        first = steps[0].node
        block = self._block_of(first)
        top: ast.stmt | None = first
        while top is not None and not all(
            any(step.node in ast.walk(s) for s in block) for step in steps
        ):
            top = self._statement_around(top)
            block = self._block_of(top) if top is not None else block
        held = [s for s in block if any(step.node in ast.walk(s) for step in steps)]
        at = block.index(held[0])
        if block[at : at + len(held)] != held or not all(
            any(step.node in ast.walk(s) for s in held) for step in steps
        ):
            raise self.fail(f"the statements that assign {target} one after another")
        value = value_of(steps[0].node)
        if value is None:
            raise self.fail(f"a value assigned to {target}")
        names = self.names(steps[0])
        indent = held[0].col_offset
        before = as_comment(self.comment, indent, WIDTH)
        live = self._live(value)
        if self._only_the_limit(live) and self._change_default(names, self.comment)[0] is None:
            return []
        if live is not value:
            return self._change_inside(live, held[0], names)
        lines, terms = self._terms(names, indent)
        text = wrapped(terms, indent, len(f"{target} = "))
        code = [*before, *lines, f"{'':{indent}}{target} = {text}"]
        new = "\n".join(code)
        last = held[-1]
        start = (held[0].lineno, 0)
        end = (last.end_lineno or last.lineno, last.end_col_offset or 0)
        return [Edit(start, end, new), *self._drop_unused(block[:at], held, new)]

    def _statement_around(self, node: ast.stmt) -> ast.stmt | None:
        """Return the branch or loop that a statement stands in, None for any other or none."""
        above = parents(self.dispatch.node).get(node)
        return above if isinstance(above, ast.If | ast.For | ast.While) else None

    def _change_in_place(self) -> list[Edit]:
        decisions = self.dispatch.decisions
        if self.dispatch.returns:
            # What a predicate returns early is a guard, which stays.
            decisions = [d for d in decisions if not isinstance(d, ast.Constant)]
        if len(decisions) != 1:
            what = "return of a choice" if self.dispatch.returns else "use_1stage argument"
            raise self.fail(f"one {what}, found {len(decisions)}")
        (decision,) = decisions
        statement, step = self._statement_of(decision)
        paths = [set(factors(s.path)) for s in self.dispatch.steps if s.node is statement]
        self.asked = set.intersection(*paths)
        names, live = self.names(step), self._live(decision)
        if self._only_the_limit(live) and self._change_default(names, self.comment)[0] is None:
            return []
        return self._change_inside(live, statement, names)

    def _change_inside(
        self, decision: ast.expr, statement: ast.stmt, names: SourceNames
    ) -> list[Edit]:
        """Return the edits that change one expression, with what it needs before its statement."""
        indent = statement.col_offset
        lines, terms = self._terms(names, indent)
        if isinstance(statement, ast.Return) and statement.value is decision:
            changed = Edit.of(statement, f"return {wrapped(terms, indent, len('return '))}")
        else:
            text = terms[0]
            if len(terms) > 1 or " or " in text:
                text = self._free_name("fits_1stage", "takes_1stage", "fits_1stage_")
                value = wrapped(terms, indent, len(f"{text} = "))
                lines = [*lines, f"{'':{indent}}{text} = {value}"]
            new = spliced(self.module.text, statement, Edit.of(decision, text))
            if text.isidentifier():
                # Brackets that the expression needed are needed no more.
                new = re.sub(rf"(?<![\w)\]])\({text}\)", text, new)
            changed = Edit.of(statement, laid_out(new, indent))
        before = [*as_comment(self.comment, indent, WIDTH), *lines]
        start = (statement.lineno, 0)
        return [Edit(start, start, "\n".join(before) + "\n"), changed]

    def _live(self, value: ast.expr) -> ast.expr:
        """Return the part of a conditional expression that an unset environment leaves."""
        while value in self.dispatch.live:
            value = self.dispatch.live[value]
        return value

    def _joined_rule(self) -> tuple[Bytes | None, list[Condition]]:
        """Return the byte cutoffs and the other factors of the rule.

        The mesh is left out: a communicator of more than two ranks disables itself without one.
        """
        op, replaceable = self._op(), self._limit_settings()
        kept = {
            n: all_of(*(with_op(op, f) for f in plain(self.adapted.rule.condition.at(n))))
            for n in WORLD_SIZES
        }
        if replaceable:
            # No size at all is a limit too, so that a setting can replace it.
            never = Compare("bytes", op, 1 if op == "<" else 0)
            kept = {n: never if c == Always(False) else c for n, c in kept.items()}
        whole = by_world_size(kept)
        parts = factors(whole)
        sized = [f for f in parts if isinstance(f, Bytes)]
        others = [f for f in parts if f not in sized]
        if replaceable and not sized:
            return Bytes.of(dict.fromkeys(WORLD_SIZES), op), others
        return (sized[0] if sized else None), others

    def _limit_settings(self) -> list[str]:
        """Return the names of settings that replace the limit."""
        return [o.name for o in self.dispatch.overrides if o.replaces == "limit"]

    def _op(self) -> str:
        """Return the comparison to write: that of the rule's own cutoffs, or of the limit that
        settings replace."""
        if self._limit_settings():
            installed = (byte_limit(self.dispatch.condition.at(n)) for n in WORLD_SIZES)
            return next((f.op for f in installed if f is not None), "<=")
        claimed = [n for n in WORLD_SIZES if n not in self.adapted.unclaimed]
        own = [byte_limit(self.adapted.rule.condition.at(n)) for n in claimed]
        return next((f.op for f in own if f is not None), "<=")

    def _terms(self, names: SourceNames, indent: int) -> tuple[list[str], list[str]]:
        """Return the rule as terms to join by ``and``, and the statements they need before."""
        cutoffs, others = self._joined_rule()
        terms = [_joined(f, names) for f in others if f not in self.asked]
        if cutoffs is None:
            return [], terms or ["True"]
        env = self._limit_settings()
        if env:
            lines, text = self._change_default(names, [])
            if text:
                if isinstance(self._limit().limit_node, ast.IfExp | ast.BoolOp | ast.NamedExpr):
                    text = f"({text})"
                return lines or [], [*terms, f"{names.bytes} {cutoffs.op} {text}"]
        sizes = {c for _, c in cutoffs.cutoffs}
        always = tuple(n for n, c in cutoffs.cutoffs if c is None)
        if len(sizes) == 1 and not env:
            (only,) = sizes
            term = "True" if only is None else f"{names.bytes} {cutoffs.op} {size(only)}"
            return [], [*terms, term]
        lines = self._limits(cutoffs, names, indent, env)
        term = f"{names.bytes} {cutoffs.op} {self._limit_name()}"
        if always and not env:
            term = f"{expression(Member('world_size', always), names)} or {term}"
        if terms and " or " in term:
            # Under a name of its own: formatters break brackets at the end of a line otherwise.
            name = self._free_name("small_enough", "fits_1stage", "small_enough_")
            value = wrapped(term.split(" or "), indent, len(f"{name} = "), "or")
            return [*lines, f"{'':{indent}}{name} = {value}"], [*terms, name]
        return lines, [*terms, term]

    def _only_the_limit(self, decision: ast.expr) -> bool:
        """Tell whether the decision is the limit's comparison alone, and may stay as it is."""
        if not self._limit_settings():
            return False
        _, others = self._joined_rule()
        return not others and decision is self._limit().node

    def _change_default(
        self, names: SourceNames, comment: list[str]
    ) -> tuple[list[str] | None, str]:
        """Change the limit that holds with no setting set.

        Return the statements that it needs before, and the source of the whole limit; "" where the
        default does not stand in this function. Where it stands in a statement of its own, the
        edits are remembered, with the comment, and the statements are None.
        """
        installed = self._limit()
        default = default_of(self.module, self.dispatch, installed)
        text = self.module.segment(installed.limit_node)
        if default is None or not text or installed.size.factor != 1:
            return [], ""
        at = default.statement
        lines, new = self._new_default(default, names)
        if default.node in ast.walk(installed.limit_node):
            return lines, spliced(
                self.module.text, installed.limit_node, Edit.of(default.node, new)
            )
        before = [*as_comment(comment, at.col_offset, WIDTH), *lines]
        changed = spliced(self.module.text, at, Edit.of(default.node, new))
        self.of_default = [Edit.of(at, laid_out(changed, at.col_offset))]
        if before:
            start = (at.lineno, 0)
            self.of_default.insert(0, Edit(start, start, "\n".join(before) + "\n"))
        return None, text

    def _new_default(self, default: Default, names: SourceNames) -> tuple[list[str], str]:
        """Return ``{4: ..., 8: ...}.get(world_size, <the default that stood there>)``.

        Where that is too long for its line, it is a statement before, and its name.
        """
        old = self.module.segment(default.node)
        if not old:
            raise self.fail("the limit that holds with no setting set")
        table, arguments = f"{self._default_table(default)}.get", f"{names.world_size}, {old}"
        line = self.module.text.split("\n")[default.node.lineno - 1].encode()
        around = line[: default.node.col_offset] + line[default.node.end_col_offset :]
        whole = f"{table}({arguments})"
        if default.node.end_lineno == default.node.lineno and len(around.decode() + whole) <= WIDTH:
            return [], whole
        name = self._limit_name() if default.scale == 1 else self._free_name("limit", "limit_")
        indent = default.statement.col_offset
        return call(f"{'':{indent}}{name} = {table}", arguments, indent), name

    def _default_table(self, default: Default) -> str:
        """Return the cutoffs by world size in the unit of the default."""
        cutoffs, _ = self._joined_rule()
        if cutoffs is None:
            raise self.fail("the limit that holds with no setting set")
        unlimited = "2**60" if default.whole else 'float("inf")'
        entries = []
        for n, cutoff in cutoffs.cutoffs:
            own = None if cutoff is None else Fraction(cutoff) / default.scale
            if own is not None and own.denominator != 1:
                raise self.fail(f"a limit of {cutoff} bytes in its unit of {default.scale} bytes")
            if n not in self.adapted.unclaimed:
                entries.append(f"{n}: {unlimited if own is None else size(int(own))}")
        return f"{{{', '.join(entries)}}}"

    def _limits(self, cutoffs: Bytes, names: SourceNames, indent: int, env: list[str]) -> list[str]:
        """Return ``max_bytes = {4: ..., 8: ...}.get(world_size, <what stood there>)``."""
        table, old = self._table(cutoffs, env), self._old_limit(cutoffs.op, names, env)
        arguments = f"{names.world_size}, {old}"
        if not env:
            return call(f"{'':{indent}}{self._limit_name()} = {table}.get", arguments, indent)
        pad, inner = f"{'':{indent}}", f"{'':{indent + 4}}"
        is_set = " or ".join(f'"{name}" in os.environ' for name in env)
        return [
            f"{pad}{self._limit_name()} = (",
            f"{inner}{old}",
            f"{inner}if {is_set}",
            *call(f"{inner}else {table}.get", arguments, indent + 4),
            f"{pad})",
        ]

    def _limit_name(self) -> str:
        """Return a name for the limit that the function does not use yet."""
        return self._free_name("max_bytes", "max_1stage_bytes", "max_bytes_")

    def _free_name(self, *names: str) -> str:
        used = {n.id for n in ast.walk(self.dispatch.node) if isinstance(n, ast.Name)}
        return next(n for n in names if n not in used)

    def _table(self, cutoffs: Bytes, env: list[str]) -> str:
        # Where nothing is claimed, the table is silent and the old limit holds.
        own = [(n, c) for n, c in cutoffs.cutoffs if n not in self.adapted.unclaimed]
        sized = {n: c for n, c in own if c is not None}
        table = dictionary(sized)
        if env:
            if not re.search(r"^import os\b", self.module.text, re.MULTILINE):
                raise self.fail(f"'import os' beside the override {env[0]}")
            if any("." in name for name in env):
                raise self.fail(f"the limit that holds while {env[0]} is not set")
            every = [f'{n}: float("inf")' for n, c in own if c is None]
            table = "{" + ", ".join([*every, table[1:-1]] if sized else every) + "}"
        return table

    def _limit(self) -> Comparison:
        """Return the installed comparison of bytes with a limit."""
        for comparison in self._byte_comparisons().values():
            return comparison
        raise self.fail("a comparison of total bytes with a limit")

    def _byte_comparisons(self) -> dict[ast.Compare, Comparison]:
        """Return the comparisons of bytes that decide, of this function, by their nodes.

        What stands in a loop, a lambda or a comprehension has names that are not known outside.
        """
        own = set(own_nodes(self.dispatch.node.body, (ast.For, ast.While)))
        found: dict[ast.Compare, Comparison] = {}
        for comparison in self.dispatch.decisive:
            if comparison.size.name == "bytes" and comparison.node in own:
                found.setdefault(comparison.node, comparison)
        return found

    def _old_limit(self, op: str, names: SourceNames, env: list[str]) -> str:
        """Return the source of the installed limit, as the right side of ``op``."""
        comparisons = list(self._byte_comparisons().values())
        text = self.module.segment(comparisons[0].limit_node) if comparisons else ""
        one_limit = bool(text) and len(comparisons[0].node.ops) == 1
        plainly = one_limit and comparisons[0].size.factor == 1
        there = {n: self.dispatch.condition.at(n) for n in WORLD_SIZES}
        kept = {n: written(there[n], op) for n in self.adapted.unclaimed}
        by_one = plainly and all(byte_limit(c) is not None for c in there.values())
        if not env and not (by_one and (not kept or len(comparisons) == 1)):
            # No one expression holds it for every size: another unit, or it goes by the ranks.
            every = set((kept or {n: written(c, op) for n, c in there.items()}).values())
            if len(every) == 1 or not kept:
                return size(min(every))
            return f"{dictionary(kept)}.get({names.world_size}, 0)"
        if not one_limit:
            raise self.fail("a comparison of bytes with one limit")
        factor = next(
            f for n in WORLD_SIZES if (f := byte_limit(self.dispatch.condition.at(n))) is not None
        )
        # Bytes are whole numbers, so < x is <= x - 1.
        shift = {("<", "<="): " - 1", ("<=", "<"): " + 1"}.get((factor.op, op), "")
        return f"{text}{shift}"

    def _drop_unused(
        self, before: list[ast.stmt], replaced: list[ast.stmt], text: str
    ) -> list[Edit]:
        """Return edits that remove assignments which only the replaced statements used."""
        out = []
        inside = {n for s in replaced for n in ast.walk(s)}
        for statement in before:
            target = target_of(statement)
            if target is None or not target.isidentifier() or re.search(rf"\b{target}\b", text):
                continue
            names = [
                n
                for n in ast.walk(self.dispatch.node)
                if isinstance(n, ast.Name) and n.id == target
            ]
            loads = [n for n in names if isinstance(n.ctx, ast.Load)]
            if len(names) - len(loads) > 1:
                # What sets it anew may ask for it: limit *= 2.
                continue
            if loads and all(n in inside for n in loads):
                last = statement.end_lineno or statement.lineno
                out.append(Edit((statement.lineno, 0), (last + 1, 0), ""))
        return out

    # Names and statements.

    def names(self, step: Step) -> SourceNames:
        """Return the source text of every quantity at a statement."""
        return names_at(self.module, self.dispatch, step)

    def _block_of(self, node: ast.stmt) -> list[ast.stmt]:
        for parent in ast.walk(self.dispatch.node):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(parent, name, None)
                if isinstance(block, list) and node in block:
                    return block
        raise self.fail("the block of the decision")

    def _statement_of(self, expr: ast.expr) -> tuple[ast.stmt, Step]:
        for step in self.dispatch.steps:
            if expr in ast.walk(step.node):
                return step.node, step
        raise self.fail("a statement with the decision")


def _joined(condition: Condition, names: SourceNames) -> str:
    text = expression(condition, names)
    return text if is_simple(condition) else f"({text})"


def with_op(op: str, condition: Condition) -> Condition:
    """Return a byte comparison written with ``op``; bytes are whole, so < x is <= x - 1."""
    if condition != byte_limit(condition) or not isinstance(condition, Compare):
        return condition
    shift = {("<", "<="): -1, ("<=", "<"): 1}.get((condition.op, op), 0)
    return Compare("bytes", op, condition.value + shift)


def written(condition: Condition, op: str) -> int:
    """Return the size that bytes are compared with by ``op`` where a condition holds."""
    if condition == Always(False):
        return 1 if op == "<" else 0
    limit = byte_limit(condition)
    if limit is None:
        return UNLIMITED
    compared = with_op(op, limit)
    assert isinstance(compared, Compare)
    return compared.value


def plain(condition: Condition) -> list[Condition]:
    """Return the factors of a condition that do not ask for a mesh."""
    return [f for f in factors(condition) if not asks_for_mesh(f)]


def _others(condition: Condition) -> list[Condition]:
    limit = byte_limit(condition)
    return [f for f in factors(condition) if f != limit]


def _is_about_hidden(condition: Condition) -> bool:
    if isinstance(condition, Compare | Member):
        return condition.quantity in ("hidden_dim", "packs", "row_bytes")
    return isinstance(condition, WholePacks)
