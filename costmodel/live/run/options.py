"""What a run is asked to do: options, and on ``--resume`` what the run was started with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...data.ranges import integers
from ...errors import InputError
from ...units import read_dtype
from ..backends.base import EAGER, GRAPH, TIMINGS, load
from .directory import check_same, check_vacant, read_settings
from .harness import Settings
from .points import DEFAULT_ARMS, Point, check_arms, grid, read_plan, shuffled

#: Options that are settings of the same name.
SETTINGS = tuple(field.name for field in fields(Settings))


@dataclass(frozen=True)
class Request:
    """A run, checked as far as that goes without a device.

    ``settings.seed`` is -1 until one is drawn; ``points`` stand in the user's order until then.
    ``note`` is something that the user should know of how the options were read.
    """

    backend: str
    world_size: int
    points: tuple[Point, ...]
    ordered: bool
    settings: Settings
    out: Path
    resume: bool
    budget_s: float | None
    watchdog_s: float
    note: str = ""

    def with_seed(self, seed: int) -> Request:
        """Return the request with its seed, and its points in the order that they will run in."""
        points = self.points if self.ordered else tuple(shuffled(self.points, seed))
        return replace(
            self, points=points, ordered=True, settings=replace(self.settings, seed=seed)
        )

    def to_settings(self) -> dict[str, Any]:
        """Return the part of ``run.json`` that a resumed run must have in common."""
        return {
            "backend": self.backend,
            "world_size": self.world_size,
            **asdict(self.settings),
            "points": [point.to_json() for point in self.points],
        }


def request(options: Mapping[str, Any]) -> Request:
    """Return the request that ``options`` of ``costmodel measure`` make, by option name.

    Raises :class:`InputError` for everything that is wrong with them, without touching a device.
    """
    out = Path(options["out"])
    if options["budget"] is not None and not options["budget"] > 0:
        raise InputError(f"--budget is {options['budget']:g}; give seconds, more than 0")
    if not options["watchdog"] > 0:
        raise InputError(f"--watchdog is {options['watchdog']:g}; give seconds, more than 0")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a directory")
    if options["resume"]:
        return _resumed(options, out)
    asked = _asked(options, out, options["backend"])
    if "RANK" not in os.environ or os.environ["RANK"] == "0":  # others must not race rank 0
        check_vacant(out, asked.world_size)
    return asked


def _asked(
    options: Mapping[str, Any], out: Path, backend: str | None, seed: int | None = None
) -> Request:
    """Return the request of the options alone."""
    if not backend:
        raise InputError("--backend is missing; one of aiter, gloo, triton")
    kind = load(backend)
    timing = options["timing"] or kind.timings[0]
    if timing not in TIMINGS:
        raise InputError(f"--timing is '{timing}'; it is {GRAPH} or {EAGER}")
    if timing not in kind.timings:
        raise InputError(f"--timing {timing}: {backend} offers {', '.join(kind.timings)} only")
    given = {key: options[key] for key in SETTINGS if options.get(key) is not None}
    settings = Settings(**{**given, "timing": timing, "seed": given.get("seed", -1)})
    if settings.slots > settings.calls and options["calls"] is None:
        settings = replace(settings, calls=settings.slots)
    settings.check()
    world_size = _world_size(options["tp"])
    note = ""
    if options["plan"] is not None:
        for key in ("hidden", "tokens", "dtype", "arms"):
            if options[key]:
                raise InputError(f"--plan names the shapes and arms; leave out --{key}")
        points, world_size, others = read_plan(options["plan"], world_size)
        if others:
            note = f"{options['plan']}: {others} entries are for other world sizes; left for them"
    else:
        for key in ("tp", "hidden", "tokens"):
            if not options[key] and not (key == "tp" and world_size):
                raise InputError(
                    f"--{key} is missing; name the shapes to measure, or give a --plan"
                )
        assert world_size is not None
        points = grid(
            integers(options["tokens"], "--tokens"),
            integers(options["hidden"], "--hidden"),
            [read_dtype(word) for word in _words(options["dtype"])] or ["bf16"],
            check_arms(_words(options["arms"]) or DEFAULT_ARMS),
            world_size,
        )
    return Request(
        backend=backend,
        world_size=world_size,
        points=tuple(points),
        ordered=options["plan"] is not None,
        settings=settings,
        out=out,
        resume=False,
        budget_s=options["budget"],
        watchdog_s=options["watchdog"],
        note=note,
    )


def _resumed(options: Mapping[str, Any], out: Path) -> Request:
    """Return the request of a run that goes on: its own settings, which options may only repeat."""
    started = read_settings(out)
    same = {key: options[key] for key in SETTINGS if options.get(key) is not None}
    check_same(
        out,
        started,
        {
            **({"backend": options["backend"]} if options["backend"] else {}),
            **({"world_size": size} if (size := _world_size(options["tp"])) else {}),
            **same,
        },
    )
    if options["plan"] is not None or any(
        options[k] for k in ("hidden", "tokens", "dtype", "arms")
    ):
        asked = _asked(
            {**options, "tp": started["world_size"], "timing": started["timing"]},
            out,
            started["backend"],
        ).with_seed(started["seed"])
        check_same(out, started, {"points": [point.to_json() for point in asked.points]})
    return Request(
        backend=started["backend"],
        world_size=started["world_size"],
        points=tuple(Point.from_json(point) for point in started["points"]),
        ordered=True,
        settings=Settings(**{key: started[key] for key in SETTINGS}),
        out=out,
        resume=True,
        budget_s=options["budget"],
        watchdog_s=options["watchdog"],
    )


def _world_size(tp: int | None) -> int | None:
    """Return the world size of ``--tp`` and torchrun, None where neither says."""
    launched = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else None
    if launched in (None, 1):
        return tp
    if tp is not None and tp != launched:
        raise InputError(
            f"--tp is {tp}, but torchrun started {launched} processes; make them equal"
        )
    return launched


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
