"""Live measurement: run the op on the machine at hand, and keep honest numbers of it.

``tune`` is what a running engine calls (:mod:`.startup`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .startup.tune import tune as tune


def __getattr__(name: str) -> Any:
    if name == "tune":  # on first use: what measures on disk needs none of it
        from .startup.tune import tune

        return tune
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
