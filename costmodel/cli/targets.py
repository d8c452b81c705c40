"""Several archs or GPUs in one question: ``--arch gfx942,gfx950``, ``--gpu MI300X,MI308X``."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import hardware
from ..data.hosts import Kind
from ..errors import InputError
from ..model.shape import WORLD_SIZES
from .question import Asked


def several(asked: Asked, *, least: int = 2) -> tuple[Kind, ...]:
    """Return the kinds of GPU that the options name, () where they name fewer than ``least``.

    ``gpu`` of a kind is "" where its arch was named. Raises :class:`InputError` for a list of both,
    and for an arch or a GPU that is unknown.
    """
    archs, gpus = (_names(asked[option]) for option in ("arch", "gpu"))
    if max(len(archs), len(gpus)) < least:
        return ()
    if archs and gpus:
        raise InputError("give a list to one of --arch and --gpu, and leave the other out")
    if archs:
        found = tuple(Kind(_arch(name)) for name in archs)
    else:
        found = tuple(Kind(*hardware.choose(None, name)) for name in gpus)
    if len(set(found)) != len(found):
        raise InputError(
            f"--{'arch' if archs else 'gpu'} names one twice: {', '.join(archs or gpus)}"
        )
    for kind in found:
        if not kind.keys:
            raise InputError(
                f"no PCI device id of {kind.gpu} is known (facts/pci_ids.csv), so no patch can "
                "tell it from other cards; give --arch a list"
            )
    return found


def one(asked: Asked, kind: Kind) -> Asked:
    """Return the options of the question about one kind."""
    return {**asked, "arch": kind.arch, "gpu": kind.gpu or None}


def world_sizes(
    given: Sequence[tuple[str, tuple[int, ...]]], kinds: Sequence[Kind]
) -> dict[Kind | None, tuple[int, ...]]:
    """Return the world sizes of each kind, and under None those of what has no name of its own.

    ``given`` are names with world sizes, "" for all that are not named. Raises :class:`InputError`
    for a name that is not among the kinds, or twice.
    """
    found: dict[Kind | None, tuple[int, ...]] = {}
    for name, sizes in given:
        kind = _named(name, kinds) if name else None
        if kind in found:
            raise InputError(f"--tp twice for {name or 'all'}; give each one list")
        found[kind] = sizes
    every = found.setdefault(None, WORLD_SIZES)
    return {**dict.fromkeys(kinds, every), **found}


def _named(name: str, kinds: Sequence[Kind]) -> Kind:
    if not kinds:
        raise InputError(f"--tp {name}: a name before world sizes goes with a list of GPUs")
    arch_or_gpu = name.lower() if name.lower() in hardware.GPUS else hardware.choose(None, name)[1]
    for kind in kinds:
        if arch_or_gpu == (kind.gpu or kind.arch):
            return kind
    raise InputError(f"--tp {name}: not among {', '.join(kind.name for kind in kinds)}")


def _arch(name: str) -> str:
    if name.lower() not in hardware.GPUS:
        hardware.choose(name, None)
        raise InputError(f"--arch {name}: a list of archs names archs; for cards give --gpu a list")
    return name.lower()


def _names(option: str | None) -> list[str]:
    return [name.strip() for name in (option or "").split(",") if name.strip()]
