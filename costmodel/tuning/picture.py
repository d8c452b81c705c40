"""The figure of a tuning's record, as ``costmodel plot tune`` and the notebook draw it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..figures.tuning import Course, Shape, tuning_course
from ..live.run.points import Point
from ..live.run.schemas import SampleLine
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
    return tuning_course(courses(session), labels["gpu"] if labels else "this machine", notice)


def courses(session: Session) -> list[Course]:
    """Return the course of a tuning at each world size that was started."""
    found = []
    for n in session.started():
        journal = session.journal(n)
        found.append(
            Course(
                n,
                journal.steps,
                _shapes(session.learnt(n)),
                _shapes(session.judged(n)),
                journal.stop["words"] if journal.stop else "",
            )
        )
    return found


def _shapes(records: Sequence[SampleLine]) -> list[Shape]:
    """Return measured shapes with the arm that was faster on each."""
    found = []
    for record in records:
        shape = Point.from_json(record["point"]).shape
        us = {
            row["algorithm"] or "separate": row["latency_us"]
            for row in record["rows"]
            if row["latency_us"]
        }
        clean = all(record["arms"][a]["clean"] for a in us if a in record["arms"])
        faster = min(us, key=lambda a: us[a]) if len(us) > 1 and clean else ""
        found.append(Shape(shape.tokens, shape.hidden_dim, shape.bytes, faster))
    return found
