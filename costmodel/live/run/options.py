"""What a run is asked to do: the command's options, and what a resumed run was started with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from ...data.ranges import integers
from ...errors import InputError
from ...units import read_dtype
from ..backends.base import load
from ..repetition import EAGER, GRAPH, TIMINGS, Repetition
from .directory import RUN, check_same, check_vacant, of_world_size, read_settings
from .points import Point, check_arms, grid, read_plan, shuffled

#: Options of the command that are fields of :class:`Repetition` under the same name.
REPETITION = Repetition.__struct_fields__


@dataclass(frozen=True)
class RunOptions:
    """What to run, checked as far as that goes without a device.

    ``repetition.seed`` is -1 until one is drawn; ``points`` stand in the user's order until then.
    ``note`` is something that the user should know of how the options were read.
    """

    backend: str
    world_size: int
    points: tuple[Point, ...]
    ordered: bool
    repetition: Repetition
    out: Path
    resume: bool
    budget_s: float | None
    watchdog_s: float
    note: str = ""
    retry_skipped: bool = False
    #: Norm of separate ops where it is not the back end's first.
    norm: str = ""

    def with_seed(self, seed: int) -> RunOptions:
        """Return the options with a seed, and the points in the order that they will run in."""
        points = self.points if self.ordered else tuple(shuffled(self.points, seed))
        repetition = structs.replace(self.repetition, seed=seed)
        return replace(self, points=points, ordered=True, repetition=repetition)

    def to_settings(self) -> dict[str, Any]:
        """Return the part of ``run.json`` that a resumed run must have in common."""
        return {
            "backend": self.backend,
            "world_size": self.world_size,
            **({"norm": self.norm} if self.norm else {}),
            **structs.asdict(self.repetition),
            "points": [point.to_json() for point in self.points],
        }


def read_options(options: Mapping[str, Any]) -> list[RunOptions]:
    """Return what the options of ``costmodel measure`` ask for: a run for each world size.

    Several world sizes have a directory each in ``out``. With ``resume`` those that were started
    before go on, the others start. Raises :class:`InputError` for everything that is wrong with
    them, without touching a device.
    """
    share = bool(options["backend"]) and load(options["backend"]).ranks_share_gpus
    sizes, out = world_sizes(options["tp"] or (), share), Path(options["out"])
    if options.get("retry_skipped") and not options["resume"]:
        raise InputError("--retry-skipped asks again what an earlier run skipped: give --resume")
    if len(sizes) < 2:
        return [_read_one({**options, "tp": sizes[0] if sizes else None})]
    if (out / RUN).exists():
        raise InputError(
            f"{out} holds a run of one world size; give another --out for several, or --tp "
            f"{read_settings(out)['world_size']}"
        )
    each = {size: of_world_size(out, size) for size in sizes}
    begun = [size for size in sizes if (each[size] / RUN).exists()]
    if options["resume"] and not begun:
        read_settings(out)
    runs = [
        _read_one({**options, "tp": n, "out": each[n], "resume": options["resume"] and n in begun})
        for n in sizes
    ]
    kinds = {run.backend for run in runs}
    if len(kinds) > 1:
        raise InputError(f"{out}: its runs are of several back ends: {', '.join(sorted(kinds))}")
    return runs


def _read_one(options: Mapping[str, Any]) -> RunOptions:
    """Return what the options ask for at one world size."""
    out = Path(options["out"])
    if options["budget"] is not None and not options["budget"] > 0:
        raise InputError(f"--budget is {options['budget']:g}; give seconds, more than 0")
    _check_watchdog(options)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a directory")
    if options["resume"]:
        return _resumed(options, out)
    new = _new(options, out, options["backend"])
    if "RANK" not in os.environ or os.environ["RANK"] == "0":  # others must not race rank 0
        check_vacant(out, new.world_size)
    return new


def read_open_options(options: Mapping[str, Any]) -> list[RunOptions]:
    """Return runs whose shapes are chosen on the way, by world size; those that exist go on.

    ``options`` are ``backend``, ``tp`` (world sizes), ``out`` (a directory of several), ``budget``,
    ``watchdog`` and those of :class:`Repetition`.
    """
    _check_watchdog(options)
    return [_read_open(options, size) for size in options["tp"]]


def _read_open(options: Mapping[str, Any], world_size: int) -> RunOptions:
    out = of_world_size(Path(options["out"]), world_size)
    resume = (out / RUN).exists()
    if resume:
        started = read_settings(out)
        same = {key: options[key] for key in REPETITION if options.get(key) is not None}
        wanted = {"backend": options["backend"], "world_size": world_size, **same}
        check_same(out, started, wanted)
        repetition = msgspec.convert(started, Repetition)
    else:
        repetition = _repetition(options, options["backend"])
        if os.environ.get("RANK", "0") == "0":
            check_vacant(out, world_size)
    return RunOptions(
        backend=options["backend"],
        world_size=world_size,
        points=(),
        ordered=True,
        repetition=repetition,
        out=out,
        resume=resume,
        budget_s=options["budget"],
        watchdog_s=options["watchdog"],
    )


def check_open_options(options: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` for what :func:`read_open_options` refuses in a new run.

    For who makes a directory first: ``tp`` and ``out`` need not be there. ``ops`` are those between
    whose stages is to be chosen.
    """
    _check_watchdog(options)
    _repetition(options, options["backend"])
    forced = load(options["backend"]).forced_ops
    for op in options["ops"]:
        if op not in forced:
            raise InputError(
                f"back end {options['backend']} cannot force both stages of {op} at one shape, so "
                f"it cannot be tuned there; it can those of {', '.join(forced)}"
            )


def _check_watchdog(options: Mapping[str, Any]) -> None:
    if not options["watchdog"] > 0:
        raise InputError(f"--watchdog is {options['watchdog']:g}; give seconds, more than 0")


def _repetition(options: Mapping[str, Any], backend: str) -> Repetition:
    """Return how often everything is repeated, as the options and the back end say."""
    kind = load(backend)
    timing = options.get("timing") or kind.timings[0]
    if timing not in TIMINGS:
        raise InputError(f"--timing is '{timing}'; it is {GRAPH} or {EAGER}")
    if timing not in kind.timings:
        raise InputError(f"--timing {timing}: {backend} offers {', '.join(kind.timings)} only")
    given = {key: options[key] for key in REPETITION if options.get(key) is not None}
    repetition = Repetition(**{**given, "timing": timing, "seed": given.get("seed", -1)})
    if repetition.slots > repetition.calls and options.get("calls") is None:
        repetition = structs.replace(repetition, calls=repetition.slots)
    repetition.check()
    return repetition


def _new(
    options: Mapping[str, Any], out: Path, backend: str | None, seed: int | None = None
) -> RunOptions:
    """Return what the options alone ask for."""
    if not backend:
        raise InputError("--backend is missing; one of aiter, gloo, torch, triton")
    repetition = _repetition(options, backend)
    world_size = options["tp"]
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
            check_arms(_words(options["arms"]) or load(backend).stages),
            world_size,
        )
    return RunOptions(
        backend=backend,
        world_size=world_size,
        points=tuple(points),
        ordered=options["plan"] is not None,
        norm=_norm(options.get("norm"), backend),
        repetition=repetition,
        out=out,
        resume=False,
        budget_s=options["budget"],
        watchdog_s=options["watchdog"],
        note=note,
    )


def _resumed(options: Mapping[str, Any], out: Path) -> RunOptions:
    """Return the options of a run that goes on: its own, which those given may only repeat."""
    started = read_settings(out)
    norm = started.get("norm", "")
    if options.get("norm") and _norm(options["norm"], started["backend"]) != norm:
        first = load(started["backend"]).norms[0]
        check_same(out, {"norm": norm or first}, {"norm": options["norm"]})
    same = {key: options[key] for key in REPETITION if options.get(key) is not None}
    check_same(
        out,
        started,
        {
            **({"backend": options["backend"]} if options["backend"] else {}),
            **({"world_size": options["tp"]} if options["tp"] else {}),
            **same,
        },
    )
    if options["plan"] is not None or any(
        options[k] for k in ("hidden", "tokens", "dtype", "arms")
    ):
        again = _new(
            {**options, "tp": started["world_size"], "timing": started["timing"]},
            out,
            started["backend"],
        ).with_seed(started["seed"])
        check_same(out, started, {"points": [point.to_json() for point in again.points]})
    return RunOptions(
        backend=started["backend"],
        world_size=started["world_size"],
        points=tuple(Point.from_json(point) for point in started["points"]),
        ordered=True,
        repetition=msgspec.convert(started, Repetition),
        out=out,
        resume=True,
        budget_s=options["budget"],
        watchdog_s=options["watchdog"],
        retry_skipped=bool(options.get("retry_skipped")),
        norm=norm,
    )


def _norm(given: str | None, backend: str) -> str:
    """Return the norm that is named, "" for the back end's first."""
    on_offer = load(backend).norms
    if not given:
        return ""
    if given not in on_offer:
        offers = f"offers {', '.join(on_offer)}" if on_offer else "has one norm alone"
        raise InputError(f"--norm {given}: {backend} {offers}")
    return "" if given == on_offer[0] else given


def world_sizes(named: Sequence[int], share: bool = False) -> tuple[int, ...]:
    """Return the world sizes of ``--tp``, each once; torchrun's where it names none, else ().

    Under torchrun each must be a part of its processes, and the largest all of them; or a multiple
    of them where ranks may share a GPU.
    """
    launched = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else 1
    sizes = tuple(dict.fromkeys(named))
    if launched == 1:
        return sizes
    if share and not any(size % launched and launched % size for size in sizes):
        return sizes or (launched,)
    if sizes and (max(sizes) != launched or any(launched % size for size in sizes)):
        several = len(sizes) > 1
        raise InputError(
            f"--tp is {','.join(map(str, sizes))}, but torchrun started {launched} processes; "
            + ("make its largest equal, the others parts of it" if several else "make them equal")
        )
    return sizes or (launched,)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
