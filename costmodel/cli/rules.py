"""``costmodel rules``."""

from __future__ import annotations

from typing import Literal, TypedDict

import click

from ..rules.catalogue import catalogue
from ..rules.rule import STATUSES
from ..show.listing import Listing
from . import options


class FieldRuleRecord(TypedDict):
    """One rule of the field; ``rule`` says it in words."""

    name: str
    title: str
    engine: str
    op: str
    status: str
    fabric: str
    rule: str
    note: str
    source: str


class RulesRecord(TypedDict):
    """``costmodel/rules/1``."""

    schema: Literal["costmodel/rules/1"]
    rules: list[FieldRuleRecord]


@click.command()
@click.option("--op", metavar="NAME", help="Only rules of this op, such as fused.")
@click.option("--status", type=click.Choice(STATUSES[:3]), help="Only rules that stand like this.")
@options.listing_format
def command(op: str | None, status: str | None, style: str) -> None:
    """List the dispatch rules of the field: in words, where they stand, and whether they still do.

    The names go with --rule, --from, --to, --against and --fallback; an engine's name stands for
    its current rule.

    \b
    costmodel rules
    costmodel rules --op fused --status current --format json
    """
    from ..errors import InputError
    from ..model.shape import op_key

    ops = list(dict.fromkeys(r.op for r in catalogue()))
    wanted = op_key(op) if op else None
    if wanted and wanted not in ops:
        raise InputError(f"no rule is of op '{op}'; there are rules of {', '.join(ops)}")
    records = tuple(
        {
            "name": r.name, "title": r.title, "engine": r.engine, "op": r.op, "status": r.status,
            "fabric": r.fabric, "rule": r.words(), "note": r.note, "source": r.source,
        }
        for r in catalogue()
        if wanted in (None, r.op) and status in (None, r.status)
    )  # fmt: skip
    shown = {"name": "rule", "engine": "engine", "op": "op", "status": "status", "rule": "decides"}
    click.echo(Listing("costmodel/rules/1", records, shown).render(style))
