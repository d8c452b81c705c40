"""Replays in tests of a live back end: every one of them computes what the reference does."""

from __future__ import annotations

from costmodel.live.backends.base import Backend, LiveShape, Timed
from costmodel.live.backends.reference import worst_error


def right_replay_after_replay(backend: Backend, timed: Timed, shape: LiveShape) -> None:
    """Assert it of three replays into outputs that are poisoned before each, in both slots."""
    for _ in range(3):
        backend.poison()
        assert timed.replay(2).shape == (2, 1)
        for slot in range(2):
            reference = backend.reference(slot)
            for found in backend.outputs(slot):
                assert worst_error(found, reference, shape.dtype) <= 1.0
