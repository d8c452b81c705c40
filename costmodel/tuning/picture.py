"""The figure of a tuning's record, as ``costmodel plot tune`` and the notebook draw it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data import ops
from ..figures.tuning import Course, Shape, tuning_course
from ..live.backends.base import arm_of
from ..live.run.points import Point
from ..live.run.schemas import SampleLine
from ..model.shape import FUSED
from .session import Session

if TYPE_CHECKING:
    import plotly.graph_objects as go


def picture(session: Session) -> go.Figure:
    """Draw what a tuning knew after each shape, with the shapes in their order.

    Raises :class:`InputError` where nothing was learnt yet.
    """
    labels = session.labels()
    notice = ""
    if labels is not None and session.machine(labels).replayed:
        notice = f"Replayed from a stated model ({session.settings['name']}), not measured."
    where = labels["gpu"] if labels else "this machine"
    op = session.question.op
    if op != FUSED:
        where += f", {ops.vocabulary()[op].title}"
    return tuning_course(courses(session), where, notice)


def courses(session: Session) -> list[Course]:
    """Return the course of a tuning at each world size that was started."""
    found = []
    for n in session.started():
        journal = session.journal(n)
        end = journal.stop["words"] if journal.stop else ""
        if journal.survey:
            end = f"then {len(session.surveyed(n))} calls in full, without the model"
        found.append(
            Course(
                n,
                journal.steps,
                _shapes(session.learnt(n)),
                _shapes(session.judged(n)),
                end,
            )
        )
    return found


def _shapes(records: Sequence[SampleLine]) -> list[Shape]:
    """Return measured shapes with the arm that was faster on each."""
    found = []
    for record in records:
        shape = Point.from_json(record["point"]).shape
        rows = [row for row in record["rows"] if row["latency_us"]]
        us = {row["algorithm"] or "separate": row["latency_us"] for row in rows}
        ran = (arm_of(row["op"], row["algorithm"]) for row in rows)
        clean = all(record["arms"][a]["clean"] for a in ran if a in record["arms"])
        faster = min(us, key=lambda a: us[a]) if len(us) > 1 and clean else ""
        found.append(Shape(shape.tokens, shape.hidden_dim, shape.bytes, faster))
    return found
