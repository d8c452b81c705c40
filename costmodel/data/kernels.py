"""What a kernel family can do at one version: limits, barriers and dispatch, from the fact files.

``facts/kernels.csv`` holds the launch geometry, ``facts/aiter_kernels.csv`` what each AITER release
changed, ``facts/kernel_states.csv`` the state that each published source measured.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, nearest
from ..units import PACK_BYTES
from . import facts

#: Newest AITER release whose kernels the facts describe: its ``.cuh`` is that of 0.1.19.post1.
LATEST = "0.1.20.post1"

#: The project's own kernels, written in Triton: revision 1, whose fused 2-stage has AITER's two
#: launches, revision 2, whose 2-stage is one launch, and revision 3, whose 2-stage waits for data
#: and not at a barrier, which the back end runs.
OWN_FAMILIES = ("costmodel", "costmodel-2", "costmodel-3")
OWN_FAMILY = OWN_FAMILIES[-1]

#: Kernels that are neither AITER's nor the project's, and the back end that runs them; it can force
#: both stages of their plain op.
OTHER_BACKENDS = {"torch_symm_mem": "torch", "flashinfer": "flashinfer"}

#: Families whose rows a calibration takes unless it is asked for another: AITER's, with those of
#: the same form. Any other family gets a calibration of its own.
AITER_FAMILIES = ("aiter", "vllm", OWN_FAMILIES[0])
#: Libraries that choose their own algorithm: their kernels are neither arm, 1-stage or 2-stage.
LIBRARY_FAMILIES = ("rccl", "nccl")


def kind(op: str) -> str:
    """Return in the facts' words whose kernels run an op: ``fused``, else the ``plain`` op's."""
    return "fused" if op == "fused_ar_rmsnorm" else "plain"


class Kernel(Struct, frozen=True):
    """One kernel family at one version.

    Limits of what a kernel takes: ``fused_1stage_max_packs`` and ``fused_2stage_min_packs`` bound
    hidden_dim in 16-byte packs, ``fused_1stage_hidden_dims`` lists the only sizes (empty: any),
    ``fused_1stage_max_tokens`` bounds tokens (None: no bound). ``plain_1stage_below_bytes`` is the
    plain all-reduce's own dispatch: (world size, bytes) below which it takes 1-stage.

    ``max_workgroups`` and ``threads`` are its launch grid: the most workgroups, and the threads of
    each. ``push_line`` is set where 1-stage writes to its peers, instead of reading, and waits for
    no rank: bytes of a line on the link, and those of them that are data and not flags.
    """

    family: str
    version: str
    max_workgroups: int
    threads: int
    lanes_split_over_ranks: bool
    plain_1stage: bool
    plain_2stage: bool
    fused_1stage: bool
    fused_2stage: bool
    fused_1stage_hidden_dims: tuple[int, ...]
    fused_1stage_max_packs: int
    fused_1stage_max_tokens: int | None
    fused_2stage_min_packs: int
    fused_1stage_exit_barrier: bool
    fused_2stage_exit_barrier: bool
    release_acquire: bool
    plain_double_buffer: bool
    plain_1stage_exit_barrier: bool
    plain_write_mode_above_bytes: int | None
    plain_1stage_below_bytes: tuple[tuple[int, int], ...]
    norm_kernel: str = "gemma"
    fused_2stage_max_packs: int | None = None
    #: The packs of a row are a multiple of this; others run, and leave the outputs unwritten.
    fused_2stage_pack_multiple: int = 1
    #: Whether 2-stage reduces only where tokens x packs is a multiple of the ranks.
    fused_2stage_whole_parts: bool = False
    #: What the plain all-reduce takes: its input in whole multiples of so many bytes, and the
    #: dtypes, empty for any.
    plain_multiple_bytes: int = PACK_BYTES
    plain_dtypes: tuple[str, ...] = ()
    #: Largest input in bytes that the custom kernels take, None where there is no such limit.
    custom_max_bytes: int | None = None
    push_line: tuple[int, int] | None = None
    #: Whether one launch holds both stages of the fused 2-stage, the norm behind the barrier.
    fused_2stage_one_launch: bool = False
    #: Whether a program has the loads of all ranks in flight before its first sum.
    ranks_loaded_together: bool = False
    #: Whether the fused 2-stage waits for its peers' data, which marks tell from what was there,
    #: instead of meeting them between the stages; a turn norms the row of the turn before.
    fused_2stage_marked: bool = False
    #: Whether a launch has no more programs than divide the rows evenly among turns.
    even_turns: bool = False

    @property
    def title(self) -> str:
        """What people call it."""
        return f"AITER {self.version}" if self.family == "aiter" else f"{self.family}'s kernels"

    @property
    def known(self) -> bool:
        """Whether the facts describe this version; a newer one is taken to be like the newest."""
        return (
            self.family != "aiter"
            or not _RELEASE.fullmatch(self.version)
            or (parse_version(self.version) <= parse_version(LATEST))
        )

    def runs(self, op: str, algorithm: str) -> bool:
        """Whether the family has this kernel; separate ops have the plain op's."""
        return bool(getattr(self, f"{kind(op)}_{algorithm}"))

    def on_grid(self, workgroups: int | None, threads: int | None) -> Kernel:
        """Return the kernel on the launch grid that a row states, None where it is silent."""
        return replace(
            self,
            max_workgroups=workgroups or self.max_workgroups,
            threads=threads or self.threads,
        )

    @property
    def thread_ratio(self) -> float:
        """Threads of a workgroup over those of the family's own grid."""
        return self.threads / int(_facts_of(self.family)["threads"])

    def state(self, op: str, algorithm: str) -> str:
        """Return what an arm's latency hangs on, as words: rows of other states are other kernels.

        The plain op's algorithms serve separate ops too, before a norm kernel of their own. A grid
        is named where it is not the family's own; the threads of a fused 1-stage follow the row.
        """
        fused, one_stage = op == "fused_ar_rmsnorm", algorithm == "1stage"
        if one_stage and self.push_line:
            words = ["flags in the data"]
        elif fused and one_stage:
            words = ["exit barrier" if self.fused_1stage_exit_barrier else "no exit barrier"]
        elif fused and self.fused_2stage_exit_barrier:
            words = ["release/acquire" if self.release_acquire else "relaxed exit barrier"]
        elif fused:
            words = ["no exit barrier"]
        elif one_stage:
            words = ["exit barrier" if self.plain_1stage_exit_barrier else "no exit barrier"]
            words += ["double buffer"] if self.plain_double_buffer else []
        else:
            words = [
                "reads" if self.plain_write_mode_above_bytes is None else "reads, writes if large"
            ]
        if fused and not one_stage and self.fused_2stage_one_launch:
            words.append("one launch")
            words += ["marked data"] if self.fused_2stage_marked else []
        if op == "ar_then_rmsnorm":
            words.append(f"{self.norm_kernel} norm")
        if self.max_workgroups != int(_facts_of(self.family)["max_workgroups"]):
            words.append(f"{self.max_workgroups} workgroups")
        if self.thread_ratio != 1 and not (fused and one_stage):
            words.append(f"{self.threads} threads")
        return ", ".join(words if self.family == "aiter" else [self.family, *words])

    def auto_is_1stage(self, world_size: ArrayLike, size_bytes: ArrayLike) -> NDArray[np.bool_]:
        """Return what the plain all-reduce's own dispatch chooses, for arrays that broadcast.

        Two ranks always run 1-stage; otherwise strictly below the limit of kernels.csv.
        """
        ranks, size = np.asarray(world_size), np.asarray(size_bytes)
        below = {2: np.inf, **dict(self.plain_1stage_below_bytes)}
        return np.any([(ranks == n) & (size < limit) for n, limit in below.items()], axis=0)


_RELEASE = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:\.post(\d+))?")


#: A release as rows state it: all by itself, or first, or after AITER's name (``aiter v0.1.17``).
#: Any other number may be ROCm's or the engine's.
_STATED = re.compile(
    r"(?:^|aiter)[\W_]*(?:version|release)?[\W_]*v?(\d+\.\d+\.\d+(?:\.post\d+)?)\b", re.IGNORECASE
)


def parse_version(text: str) -> tuple[int, int, int, int]:
    """Return (major, minor, patch, post) of an AITER version such as ``0.1.19.post1``."""
    match = _RELEASE.fullmatch(text.strip())
    if not match:
        raise InputError(
            f"AITER version '{text}' is not understood; write it as 0.1.17 or 0.1.19.post1"
        )
    major, minor, patch, post = match.groups()
    return int(major), int(minor), int(patch), int(post or 0)


def aiter(version: str = LATEST) -> Kernel:
    """Return AITER's kernels at a release, named alike however it is written: ``v0.1.17 `` too.

    Raises :class:`InputError` for a version before the fused op existed.
    """
    release, first = parse_version(version), first_release("fused_2stage")
    if release < parse_version(first):
        raise InputError(f"AITER {version} has no fused all-reduce + RMSNorm; it came with {first}")
    on = {
        row["feature"]: row["value"]
        for row in facts.rows("aiter_kernels.csv")
        if parse_version(row["since_release"]) <= release
    }
    *numbers, post = release
    return _kernel("aiter", ".".join(map(str, numbers)) + (f".post{post}" if post else ""), on)


@cache
def first_release(feature: str) -> str:
    """Return the AITER release that brought a feature of ``aiter_kernels.csv``."""
    return next(
        row["since_release"] for row in facts.rows("aiter_kernels.csv") if row["feature"] == feature
    )


@cache
def values(feature: str) -> tuple[int, ...]:
    """Return the whole numbers that a feature of ``aiter_kernels.csv`` has had."""
    rows = (row for row in facts.rows("aiter_kernels.csv") if row["feature"] == feature)
    return tuple(int(row["value"]) for row in rows if row["value"])


@cache
def lifted(feature: str) -> str:
    """Return the AITER release that took a limit of ``aiter_kernels.csv`` away."""
    return next(
        row["since_release"]
        for row in facts.rows("aiter_kernels.csv")
        if row["feature"] == feature and not row["value"]
    )


@cache
def at_date(family: str, date: str, norm_kernel: str = "") -> Kernel:
    """Return a family's kernels as they stood on the development branch at an ISO date."""
    on = {}
    if family == "aiter":
        on = {
            row["feature"]: row["value"]
            for row in facts.rows("aiter_kernels.csv")
            if row["since_date"] <= date
        }
    return _kernel(family, date, on, norm_kernel or "gemma")


def calibrates(family: str) -> str:
    """Return the family whose calibration takes rows of ``family``: AITER's, or its own."""
    return "aiter" if family in AITER_FAMILIES else family


def calibrated(family: str, aiter_version: str = LATEST) -> Kernel:
    """Return the kernels that a calibration of ``family`` speaks for.

    AITER's at a release; of any other family one state is known. Raises :class:`InputError` for a
    family whose geometry is not known.
    """
    return aiter(aiter_version) if family == "aiter" else at_date(read_family(family), "")


def pushing(family: str, arm: str) -> str:
    """Return the family of the kernels that an arm of ``family``'s plain op pushes with."""
    return f"{family}-{arm}"


def since(family: str) -> str:
    """Return in words which state of the library brought a family's kernels, "" where not known."""
    return _facts_of(family).get("since", "")


class State(Struct, frozen=True):
    """The kernel state that a published source measured."""

    family: str
    as_of: str
    norm_kernel: str


@cache
def states() -> dict[tuple[str, str, str], State]:
    """Return the recorded state of each published (source, kernel_version, algorithm or "")."""
    return {
        (row["source"], row["kernel_version"], row["algorithm"]): State(
            row["family"], row["as_of"], row["norm_kernel"]
        )
        for row in facts.rows("kernel_states.csv")
    }


def _state(source: str, kernel_version: str, algorithm: str) -> State | None:
    """Return the state that a published source measured, None where none is recorded."""
    known = states()
    return known.get((source, kernel_version, algorithm)) or known.get((source, kernel_version, ""))


def ran(family: str, source: str, kernel_version: str, algorithm: str) -> str:
    """Return the family of the kernel that a row ran: the recorded one, else the row's own."""
    state = _state(source, kernel_version, algorithm)
    return state.family if state else family


def of_row(
    family: str, source: str, kernel_version: str, date: str, algorithm: str = ""
) -> Kernel | None:
    """Return the kernel that a measurement ran, or None when its family is not modelled.

    A published source is looked up in ``kernel_states.csv``. Otherwise AITER's release in
    ``kernel_version`` decides, then the date of the row, then the newest release.
    """
    state = _state(source, kernel_version, algorithm)
    if state is not None:
        return at_date(state.family, state.as_of, state.norm_kernel)
    if family not in families():
        return None
    if family != "aiter":
        return at_date(family, date)
    match = _STATED.search(kernel_version)
    if match and parse_version(match[1]) >= parse_version(first_release("fused_2stage")):
        return aiter(match[1])
    return at_date("aiter", date) if date else aiter()


@cache
def families() -> tuple[str, ...]:
    """Kernel families whose geometry is known."""
    return tuple(dict.fromkeys(row["family"] for row in facts.rows("kernels.csv")))


def read_family(name: str) -> str:
    """Return a family's name as the facts write it.

    Raises :class:`InputError` for a family whose geometry is not known.
    """
    key = name.strip().lower()
    if key not in families():
        raise InputError(
            f"unknown kernel family '{name}'{nearest(key, families())}; "
            f"known are {', '.join(families())}"
        )
    return key


@cache
def _facts_of(family: str) -> dict[str, str]:
    """Return what kernels.csv says of a family, value by quantity."""
    own = (row for row in facts.rows("kernels.csv") if row["family"] == family)
    return {row["quantity"]: row["value"] for row in own}


def _kernel(family: str, version: str, dated: dict[str, str], norm_kernel: str = "gemma") -> Kernel:
    """Return the kernels of a family with the features that its version has beside its facts."""
    on = {**_facts_of(family), **dated}

    def flag(name: str) -> bool:
        return on.get(name) == "1"

    def limit(name: str) -> int | None:
        return int(on[name]) if on.get(name) else None

    line, payload = limit("push_line_bytes"), limit("push_line_payload_bytes")
    return Kernel(
        family=family,
        version=version,
        max_workgroups=int(on["max_workgroups"]),
        threads=int(on["threads"]),
        lanes_split_over_ranks=flag("lanes_split_over_ranks"),
        plain_1stage=flag("plain_1stage"),
        plain_2stage=flag("plain_2stage"),
        fused_1stage=flag("fused_1stage"),
        fused_2stage=flag("fused_2stage"),
        fused_1stage_hidden_dims=tuple(map(int, on.get("fused_1stage_hidden_dims", "").split())),
        fused_1stage_max_packs=limit("fused_1stage_max_packs") or 0,
        fused_1stage_max_tokens=limit("fused_1stage_max_tokens"),
        fused_2stage_min_packs=limit("fused_2stage_min_packs") or 0,
        fused_1stage_exit_barrier=flag("fused_1stage_exit_barrier"),
        fused_2stage_exit_barrier=flag("fused_2stage_exit_barrier"),
        release_acquire=flag("release_acquire"),
        plain_double_buffer=flag("plain_double_buffer"),
        plain_1stage_exit_barrier=flag("plain_1stage_exit_barrier"),
        plain_write_mode_above_bytes=limit("plain_write_mode_above_bytes"),
        plain_1stage_below_bytes=tuple(
            (n, below) for n in (4, 8) if (below := limit(f"plain_1stage_below_bytes_tp{n}"))
        ),
        norm_kernel=norm_kernel,
        fused_2stage_max_packs=limit("fused_2stage_max_packs"),
        fused_2stage_pack_multiple=limit("fused_2stage_pack_multiple") or 1,
        fused_2stage_whole_parts=flag("fused_2stage_whole_parts"),
        plain_multiple_bytes=limit("plain_multiple_bytes") or PACK_BYTES,
        plain_dtypes=tuple(on.get("plain_dtypes", "").split()),
        custom_max_bytes=limit("custom_max_bytes"),
        push_line=(line, payload) if line and payload else None,
        fused_2stage_one_launch=flag("fused_2stage_one_launch"),
        ranks_loaded_together=flag("ranks_loaded_together"),
        fused_2stage_marked=flag("fused_2stage_marked"),
        even_turns=flag("even_turns"),
    )
