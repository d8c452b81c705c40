"""The question: on which GPU, for which op, dtype and kernels, by which calibration.

Everything that answers a question takes a :class:`Setting`. Latencies, their terms, posterior draws
and what the kernels take come from it and from nowhere else, so that two answers about one call
rest on the same numbers.

>>> setting = Setting.shipped("MI355X")
>>> setting.latency_us(setting.shapes(32, 2880, 4), "1stage")
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import force_setattr, replace
from numpy.typing import ArrayLike, NDArray

from ..calibration import posterior
from ..calibration.posterior import Calibration, Values
from ..data import hardware, kernels
from ..errors import InputError, nearest
from ..model.counted import Counted
from ..model.eligibility import eligible, lacks
from ..model.latency import MACHINE_CONTRAST, TERMS, total
from ..model.shape import (
    ALGORITHMS,
    CONTRASTED,
    FUSED,
    ONE_STAGE,
    OPS,
    OTHERWISE,
    PUSHED,
    SEPARATE,
    SEPARATE_OPS,
    TWO_STAGE,
    Shapes,
    read_algorithm,
    read_op,
)
from ..rules import ENGINES
from ..units import element_bytes, read_dtype
from .objective import MEAN, OBJECTIVES, SPOKEN_OBJECTIVE

if TYPE_CHECKING:
    from .schemas import Asked, AskedOfARule

Array = NDArray[np.float64]

#: Shapes evaluated at once, and draws of shapes: few enough that a block's arrays stay in the
#: cache, many enough that numpy's own time for a call does not count. Draws have fewer arrays of
#: full size.
BLOCK = 1 << 15
DRAWN_BLOCK = 1 << 16

#: Posterior draws behind every interval and every expected regret, and the seed that makes them
#: repeatable.
DRAWS = 256
SEED = 20260823


class Setting(Struct, frozen=True, dict=True):
    """Everything about a question but the calls. Raises :class:`InputError` for what is unknown.

    ``aiter_version`` says which of AITER's kernels run (other families have one known state).
    ``source`` is the calibrated source whose benchmark and machine are meant; "" is a machine that
    nobody has measured, with the nearest source's benchmark, "typical" one with the typical
    benchmark.
    ``engine`` is whom the rule is meant for; its guards then belong to the rule. ``otherwise`` is
    what its call site runs where 1-stage does not run, "2stage" or "separate"; "" is what the
    engine's main call site runs, the fused 2-stage for want of an engine. ``objective`` is the
    regret that its cutoffs minimise (:mod:`.objective`).
    """

    calibration: Calibration
    gpu: str
    op: str = FUSED
    dtype: str = "bf16"
    aiter_version: str = kernels.LATEST
    source: str = ""
    engine: str = ""
    otherwise: str = ""
    objective: str = MEAN

    def __post_init__(self) -> None:
        known = {gpu.lower(): gpu for _, gpu in self.calibration.gpus}
        if self.gpu.lower() not in known:
            raise InputError(
                f"this calibration has no {self.gpu}; it covers {', '.join(known.values())}"
            )
        force_setattr(self, "gpu", known[self.gpu.lower()])
        force_setattr(self, "op", read_op(self.op))
        if self.op not in OPS:
            from .unmodelled import refusal  # a question that is answered starts faster

            raise InputError(refusal(self.op, self.gpu))
        force_setattr(self, "dtype", read_dtype(self.dtype))
        if self.kernel.family == "aiter":
            force_setattr(self, "aiter_version", self.kernel.version)
        if self.source.lower() == posterior.TYPICAL:
            force_setattr(self, "source", posterior.TYPICAL)
        if self._named and self.calibration.harness_key(self.source, self.gpu) is None:
            have = self.calibration.harness
            names = (*dict.fromkeys(key.split("/")[0] for key in have), posterior.TYPICAL)
            raise InputError(
                f"source '{self.source}' is not in this calibration{nearest(self.source, names)}; "
                f"it has {', '.join(have)}, and {posterior.TYPICAL} is the pool of them"
            )
        if self.engine and self.engine not in ENGINES:
            raise InputError(
                f"unknown engine '{self.engine}'{nearest(self.engine, ENGINES)}; "
                f"one of {', '.join(ENGINES)}"
            )
        if self.engine and self.kernel.family not in kernels.AITER_FAMILIES:
            raise InputError(
                f"this calibration is of {self.kernel.title}, which {self.engine} does not run; "
                "leave the engine out"
            )
        if self.otherwise not in ("", *OTHERWISE):
            raise InputError(
                f"unknown arm '{self.otherwise}' where 1-stage does not run"
                f"{nearest(self.otherwise, OTHERWISE)}; one of {', '.join(OTHERWISE)}"
            )
        if self.objective not in OBJECTIVES:
            raise InputError(
                f"unknown objective '{self.objective}'{nearest(self.objective, OBJECTIVES)}; "
                f"one of {', '.join(OBJECTIVES)}"
            )
        if self.alternative == SEPARATE_OPS and self.op != FUSED:
            raise InputError("only the fused op can give way to separate ops; --op fused has them")

    @classmethod
    def shipped(cls, gpu: str, **more: Any) -> Setting:
        """Return the setting of a GPU with the calibration that the package ships for its arch."""
        arch, gpu = hardware.choose(None, gpu)
        return cls(posterior.shipped(arch), gpu, **more)

    @cached_property
    def kernel(self) -> kernels.Kernel:
        """The kernels that the calibration speaks for, at the AITER version."""
        return kernels.calibrated(self.calibration.kernel_family, self.aiter_version)

    @cached_property
    def alternative(self) -> str:
        """The arm that runs where 1-stage does not: ``2stage`` or ``separate``."""
        return alternative(self.engine, self.otherwise, self.op)

    @property
    def arms(self) -> tuple[str, str]:
        """The two arms that a rule chooses between: 1-stage and the alternative."""
        return ONE_STAGE, self.alternative

    @property
    def arch(self) -> str:
        """The GPU's arch."""
        return next(a for a, g in self.calibration.gpus if g == self.gpu)

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return element_bytes(self.dtype)

    def shapes(self, tokens: ArrayLike, hidden_dim: ArrayLike, world_size: ArrayLike) -> Shapes:
        """Return calls of the setting's op and dtype; the arrays are broadcast."""
        return Shapes.of(tokens, hidden_dim, world_size, op=self.op, dtype=self.dtype)

    def takes(self, shapes: Shapes, arm: str) -> NDArray[np.bool_]:
        """Return which calls an arm takes."""
        return self._eligible(shapes, arm)[0]

    def lacks(self, *arms: str) -> str:
        """Return in words which of some arms the kernels do not have, "" for none."""
        return " and ".join(filter(None, (lacks(*self.run_by(arm)) for arm in arms)))

    def run_by(self, arm: str) -> tuple[kernels.Kernel, str, str]:
        """Return the (kernel, op, algorithm) that an arm is; separate ops are the plain kernels."""
        if arm == SEPARATE_OPS:
            return self.kernel, SEPARATE, ONE_STAGE
        if arm in PUSHED:
            family = kernels.pushing(self.kernel.family, arm)
            return kernels.calibrated(family), self.op, ONE_STAGE
        return self.kernel, self.op, arm

    def takes_both(self, shapes: Shapes) -> NDArray[np.bool_]:
        """Return which calls 1-stage and the alternative take, so that there is a choice."""
        one, other = (self.takes(shapes, arm) for arm in self.arms)
        return one & other

    def limits(self, arm: str, shapes: Shapes) -> str:
        """Return in words what an arm takes of calls like these."""
        return self._eligible(shapes, arm)[1]

    def _eligible(self, shapes: Shapes, arm: str) -> tuple[NDArray[np.bool_], str]:
        if arm == SEPARATE_OPS:
            return eligible(_apart(shapes), ONE_STAGE, self.kernel)
        return eligible(shapes, read_algorithm(arm), self.kernel)

    @property
    def reference(self) -> str:
        """The harness key whose constant latencies carry, "" for the typical benchmark.

        The source that the setting names; else the nearest to back-to-back calls of this op on this
        GPU, see :meth:`.Calibration.nearest_source`.
        """
        if self.source == posterior.TYPICAL:
            return ""
        if self.source:
            return self.calibration.harness_key(self.source, self.gpu) or ""
        return self.calibration.nearest_source(self.gpu, self.op) or ""

    @cached_property
    def point(self) -> Values:
        """Point estimates, with the reference's constant and the contrasts of a named source."""
        return self._here(self.calibration.values)

    @cached_property
    def new_source(self) -> Values:
        """Posterior draws for *your machine*, its benchmark included: what it adds is drawn too.

        Nobody has measured that machine: arms differ there by more than the model says, by what
        ``contrast[2stage]`` and ``contrast[separate]`` draw (us beside 1-stage). Where the setting
        names a source, or the calibration has only one, the benchmark is that source's, and where
        its rows are of this GPU the machine too.
        """
        drawn = self.calibration.draw(DRAWS, SEED)
        return self._of_kernel(drawn if self.any_benchmark else self._here(drawn))

    @cached_property
    def draws(self) -> Values:
        """The same draws with the reference's constant, which all arms share."""
        return {**self.new_source, "harness[]": self.new_source[self._constant]}

    @cached_property
    def this_kernel(self) -> Values:
        """The same draws as if measured in the sources' laboratories: *this kernel*."""
        laboratories = {f"contrast[{arm}]": self.draws[f"laboratory[{arm}]"] for arm in CONTRASTED}
        return self._of_kernel({**self.draws, **laboratories})

    def _of_kernel(self, drawn: Values) -> Values:
        """Return draws with what a kernel state that nobody has read adds, wherever it runs."""
        if self.kernel.known:
            return drawn
        arms = {f"contrast[{arm}]": drawn[f"unread[{arm}]"] for arm in CONTRASTED}
        return {**drawn, **{name: drawn[name] + more for name, more in arms.items()}}

    def laboratory_shift_us(self, arm: str) -> Array | float:
        """Return what an arm takes in the sources' laboratories above your machine, (draws, 1)."""
        op = SEPARATE if arm == SEPARATE_OPS else self.op
        name = self._contrast(op, arm)
        return self.this_kernel[name] - self.draws[name] if name in self.draws else 0.0

    @property
    def _named(self) -> bool:
        """Whether the question names one calibrated source."""
        return self.source not in ("", posterior.TYPICAL)

    @property
    def any_benchmark(self) -> bool:
        """Whether latencies on *your machine* may be measured by any benchmark: none is named."""
        return not (self._named or self.machine)

    @property
    def _constant(self) -> str:
        return f"harness[{self.reference}]" if self.reference else "harness_us"

    @property
    def machine(self) -> str:
        """The harness key whose machine is asked about, "" for one that nobody has measured.

        It is the named source's, or that of the only one, where its rows are of this GPU: no other
        card is that machine.
        """
        if not self._named and len(self.calibration.sources) > 1:
            return ""
        here = {rows.key for rows in self.calibration.sources if self.gpu in rows.gpus}
        return self.reference if self.reference in here else ""

    def _here(self, values: Values) -> Values:
        """Return values with the reference's constant and the contrasts of a measured machine."""
        known = {
            f"contrast[{arm}]": values[key]
            for arm in OTHERWISE
            if (key := f"contrast[{self.machine}|{arm}]") in values
        }
        if self.machine:
            known = {f"contrast[{arm}]": 0.0 * values["harness_us"] for arm in OTHERWISE} | known
        return {**values, **known, "harness[]": values[self._constant]}

    def terms(self, shapes: Shapes, arm: str, values: Values | None = None) -> dict[str, Any]:
        """Return an arm's named terms in us: like the shapes, or (draws, n) for ``values``.

        ``values`` defaults to the point estimates. A term that no shape changes may be a scalar.
        ``machine_contrast`` stands only where the values hold one for the arm. Separate ops have
        the terms of the algorithm that the plain all-reduce's own dispatch takes.
        """
        drawn = values is not None
        values = values or self.point
        costs = self._costs(values)
        if drawn or shapes.tokens.ndim != 1 or len(shapes) <= BLOCK:
            return self._terms(shapes, arm, values, costs)
        found: dict[str, Any] = {}
        if counted := self._counted(shapes, arm):
            found = counted.spread(lambda some: self.terms(some, arm))
            return {name: found[name] for name in TERMS if name in found}
        rooms: Iterator[Array] = iter(())
        for places, some in shapes.blocks(BLOCK):
            terms = self._terms(some, arm, values, costs)
            if not found:
                found = {name: term for name, term in terms.items() if not np.ndim(term)}
                rooms = _rooms(len(terms), len(shapes))
            for name in {**found, **terms}:
                _place(found, name, places, terms.get(name, 0.0), rooms)
        return {name: found[name] for name in TERMS if name in found}

    def _costs(self, values: Values) -> Any:
        """Return what actions cost, see :meth:`.Calibration.costs`.

        Kept for the values that were asked last: every block of calls asks of the same draws.
        """
        kept = vars(self).get("_kept_costs")
        if kept is None or kept[0] is not values:
            norm_kernel = self.kernel.norm_kernel
            kept = values, self.calibration.costs(self.gpu, values, norm_kernel=norm_kernel)
            vars(self)["_kept_costs"] = kept
        return kept[1]

    def _terms(self, shapes: Shapes, arm: str, values: Values, costs: Any) -> dict[str, Any]:
        if arm == SEPARATE_OPS:
            return self._terms_apart(_apart(shapes), values, costs)
        algorithm, model = read_algorithm(arm), self.calibration.model
        terms = model.terms(model.geometry(shapes, algorithm, self.kernel, self.arch), costs)
        contrast = self._contrast(shapes.op, algorithm)
        return {**terms, MACHINE_CONTRAST: values[contrast]} if contrast in values else terms

    def _contrast(self, op: str, algorithm: str) -> str:
        """Return the name of an arm's contrast; the op's own 1-stage is what others differ from."""
        if op == SEPARATE and self.op != SEPARATE:
            return "contrast[separate]"
        return "contrast[2stage]" if algorithm == TWO_STAGE else ""

    def _terms_apart(self, apart: Shapes, values: Values, costs: Any) -> dict[str, Any]:
        one, two = (self._terms(apart, algorithm, values, costs) for algorithm in ALGORITHMS)
        taken = self.kernel.auto_is_1stage(apart.world_size, apart.bytes)
        names = [name for name in TERMS if name in one or name in two]
        return {n: np.where(taken, one.get(n, 0.0), two.get(n, 0.0)) for n in names}

    def latency_us(self, shapes: Shapes, arm: str, values: Values | None = None) -> Array:
        """Return an arm's latencies in us: like the shapes, or (draws, n) for ``values``."""
        if values is None:
            if counted := self._counted(shapes, arm):
                return counted.spread(lambda some: {"": self._evaluated(some, arm, None)})[""]
            return self._evaluated(shapes, arm, None)
        alike = shapes.tokens.ndim == 1 and (shapes.world_size == shapes.world_size[:1]).all()
        if not alike or not self._by_bytes(arm):
            return self._evaluated(shapes, arm, values)
        # Hidden sizes with factors in common make many calls of equal bytes.
        first, which = shapes.distinct_bytes()
        if first.size == which.size:
            return self._evaluated(shapes, arm, values)
        return self._evaluated(shapes.select(first), arm, values).take(which, axis=-1)

    def _counted(self, shapes: Shapes, arm: str) -> Counted | None:
        """Return many calls by their bytes, None where these do not decide or most calls differ."""
        many = shapes.tokens.ndim == 1 and len(shapes) > BLOCK
        return Counted.of(shapes) if many and self._by_bytes(arm) else None

    def _by_bytes(self, arm: str) -> bool:
        """Return whether calls of equal bytes over as many ranks take equally long."""
        by_bytes = self.calibration.model.by_bytes
        if arm == SEPARATE_OPS:
            return all(by_bytes(SEPARATE, algorithm) for algorithm in ALGORITHMS)
        return by_bytes(self.op, read_algorithm(arm))

    def _evaluated(self, shapes: Shapes, arm: str, values: Values | None) -> Array:
        drawn = () if values is None else np.shape(values["launch_us"])[:1]
        values = values or self.point
        costs = self._costs(values)
        most = max(1, DRAWN_BLOCK // drawn[0]) if drawn else BLOCK
        if shapes.tokens.ndim != 1 or len(shapes) <= most:
            return _latency_us(shapes, self._terms(shapes, arm, values, costs), drawn)
        latency_us = np.empty((*drawn, len(shapes)))
        for places, some in shapes.blocks(most):
            terms = self._terms(some, arm, values, costs)
            latency_us[..., places] = _latency_us(some, terms, drawn)
        return latency_us

    def about(self) -> Asked:
        """Return the part of a JSON record that says what was asked."""
        return {
            "arch": self.arch,
            "gpu": self.gpu,
            "op": self.op,
            "dtype": self.dtype,
            "aiter_version": self.aiter_version,
            "kernel": self.kernel.title,
            "calibration": {"id": self.calibration.id, "sha256": self.calibration.sha256},
        }

    def about_its_rule(self) -> AskedOfARule:
        """Return the part of a JSON record that says what was asked of a rule."""
        return {**self.about(), "otherwise": self.alternative, "objective": self.objective}

    def but(self, **changes: Any) -> Setting:
        """Return the setting with some of it changed."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        apart = "else separate ops" if self.alternative == SEPARATE_OPS else ""
        aim = SPOKEN_OBJECTIVE[self.objective] if self.objective != MEAN else ""
        more = "".join(f", {word}" for word in (self.source, self.engine, apart, aim) if word)
        return (
            f"Setting({self.gpu}, {self.op}, {self.dtype}, {self.kernel.title}, "
            f"calibration {self.calibration.id}{more})"
        )


def alternative(engine: str, otherwise: str = "", op: str = FUSED) -> str:
    """Return the arm that a call site runs where it does not run 1-stage, as a setting means it."""
    if otherwise or not engine or op != FUSED:
        return otherwise or TWO_STAGE
    from ..rules.catalogue import current

    return current(engine, op).otherwise


def _rooms(terms: int, count: int) -> Iterator[Array]:
    """Yield room for the values of ``count`` calls, that for so many terms in one piece.

    The memory of many pieces is given back at once, and had from the system anew page by page.
    """
    yield from np.empty((terms, count))
    while True:  # a term that the first calls lack
        yield np.empty(count)


def _place(
    found: dict[str, Any], name: str, places: Any, term: Any, rooms: Iterator[Array]
) -> None:
    """Write a term of some calls; it is a scalar while all have the same."""
    had = found.setdefault(name, 0.0)
    if np.ndim(had) == np.ndim(term) == 0 and had == term:
        return
    if np.ndim(had) == 0:
        found[name] = next(rooms)
        found[name].fill(had)
    found[name][places] = term


def _latency_us(shapes: Shapes, terms: dict[str, Any], drawn: tuple[int, ...]) -> Array:
    """Return the sum of an arm's terms, like the shapes or (draws, n)."""
    latency = np.asarray(total(terms))
    # Draws are columns: a single call without an axis of its own gets one, and loses it.
    calls = shapes.tokens.shape or (1,) * len(drawn)
    return np.broadcast_to(latency, (*drawn, *calls)).reshape((*drawn, *shapes.tokens.shape))


def _apart(shapes: Shapes) -> Shapes:
    """Return the calls of the fused op as separate ops."""
    return Shapes(SEPARATE, shapes.dtype, shapes.tokens, shapes.hidden_dim, shapes.world_size)
