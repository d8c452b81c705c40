"""A calibration: the posterior of the model's parameters, with the data it rests on.

The posterior is a multivariate normal in the parameters' own coordinates (logarithms for rates,
ratios and what benchmarks add; microseconds for fixed times and contrasts), so the record is a mean
and a covariance, and any consequence of the parameters gets its interval by drawing from it. The
spread tau of the contrasts between laboratories keeps the weights over which it was integrated.
Files are JSON, schema ``costmodel/calibration/2``, with a hash over their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from ..data import facts, hardware
from ..errors import InputError
from ..files import parse_json, read_text, replacing
from ..model import choose, parameters
from ..model.interface import LatencyModel
from ..model.shape import CONTRASTED, OTHERWISE, PUSHED

#: Two-sided level of every interval that the project prints, and the share beyond either end.
LEVEL = 0.90
TAIL = (1 - LEVEL) / 2

#: Degrees of freedom of the row noise (log latency) and of the harness constants' logarithms: heavy
#: tails, so that an outlying row does not pull the others, nor a source, whose logarithm outlies
#: less.
NOISE_DOF = 4.0
HARNESS_DOF = 8.0

#: Half the width of an interval at :data:`LEVEL`, in standard deviations of a normal distribution
#: and in scales of a Student-t with :data:`NOISE_DOF`: their quantiles at 1 - :data:`TAIL`. Written
#: out, as importing scipy.stats is slow.
NORMAL_HALF_WIDTH = 1.6448536269514722
NOISE_HALF_WIDTH = 2.13184678632665

#: The lower end, the middle and the upper end, in standard deviations of a normal distribution.
ENDS = NORMAL_HALF_WIDTH * np.array([-1.0, 0.0, 1.0])

#: What the model's form may miss of an arm against 1-stage, standard deviation in us. Refitted with
#: reads' smooth maximum of a power between 1.5 and 4 instead of 2, the arms' difference at the
#: cutoff moves by up to 0.16 us at 4 ranks and 0.38 at 8 (docs/evidence.md, "The knee").
FORM_US = 0.2

#: What a kernel state whose source nobody has read may add to one arm against the other, standard
#: deviation in us. An assumption: states that were read moved an arm by 0.1 to 0.7 us.
UNREAD_STATE_US = 0.4

#: ``--source`` for the typical benchmark of all sources in the place of the nearest one.
TYPICAL = "typical"

Values = dict[str, Any]


class HiddenEffectRecord(TypedDict):
    """How far the hidden size moves a latency at equal bytes, in percent per doubling, 90 %."""

    rows: int
    pct_per_doubling: float
    lo: float
    hi: float


class SetAside(TypedDict):
    """``rows`` rows of one source about one arm that a calibration does not use, and why.

    ``algorithm`` is ``1stage`` or ``2stage``, or "" or ``auto`` where the source does not say.
    """

    gpu: str
    world_size: int
    op: str
    algorithm: str
    kernel_family: str
    source: str
    reason: str
    rows: int


class Data(TypedDict, total=False):
    """The rows behind a calibration: read, used, set aside by reason; their sources and hash.

    ``aside`` says of which arms rows were set aside.
    """

    rows_read: int
    rows_used: int
    set_aside: dict[str, int]
    aside: list[SetAside]
    sources: list[str]
    sha256: str
    hidden_effect: HiddenEffectRecord | None


class ParameterRecord(TypedDict):
    """A parameter with its 90 % interval."""

    name: str
    unit: str
    estimate: float
    lo: float
    hi: float


class Coverage(Struct, frozen=True):
    """What was measured: one arm on one GPU at one world size, over a range of bytes.

    ``hidden_dims``, ``dtypes`` and ``states`` (:meth:`.Kernel.state`) are those of the rows;
    ``pairs`` counts the shapes at which the same benchmark has the arm's counterpart too, 1-stage
    for 2-stage and separate ops; ``gpu_inferred`` the rows whose source does not name the GPU.
    Files of before lack these.
    """

    gpu: str
    world_size: int
    op: str
    algorithm: str
    min_bytes: float
    max_bytes: float
    rows: int
    sources: tuple[str, ...]
    hidden_dims: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    pairs: int = 0
    gpu_inferred: int = 0


class SourceRows(Struct, frozen=True):
    """What one benchmark measured: the rows behind one harness constant.

    ``key`` is source/kernel family, and GPU where a source has several. ``timing``, ``statistic``
    and ``rank_reduction`` are as the source says, "" where it does not.
    """

    key: str
    source: str
    gpus: tuple[str, ...]
    ops: tuple[str, ...]
    world_sizes: tuple[int, ...]
    rows: int
    timing: str
    statistic: str
    rank_reduction: str


class Refusal(Struct, frozen=True):
    """A GPU and world size whose rows give no cutoff, and why: they contradict each other."""

    gpu: str
    world_size: int
    reason: str


class Calibration(Struct, frozen=True, dict=True):
    """Posterior of ``names``, then of ``harness`` (log of a constant over the typical one), then of
    ``contrast`` (us; a harness key and an arm).

    ``noise`` is the scale of log residuals per harness key, ``harness_log_sd`` the spread of the
    harness constants' logarithms over sources, ``taus`` the spread of contrasts in us with weights.
    ``data`` accounts for the rows: read, used, set aside by reason, sha256. ``families`` are those
    of other kernels among the same rows that are arms beside these (:mod:`.families`).
    """

    arch: str
    names: tuple[str, ...]
    harness: tuple[str, ...]
    contrast: tuple[tuple[str, str], ...]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    noise: dict[str, float]
    harness_log_sd: float
    taus: tuple[tuple[float, float], ...]
    sources: tuple[SourceRows, ...]
    coverage: tuple[Coverage, ...]
    refusals: tuple[Refusal, ...]
    gpus: tuple[tuple[str, str], ...]
    fabric: str
    kernel_family: str
    data: Data
    families: tuple[Calibration, ...] = ()

    def __repr__(self) -> str:
        gpus, data = ", ".join(g for _, g in self.gpus), self.data
        return (
            f"Calibration({self.id}: {gpus} over {self.fabric}, {len(self.names)} parameters, "
            f"{data.get('rows_used', '?')} rows of {len(data.get('sources', ()))} sources)"
        )

    @property
    def id(self) -> str:
        """Short name: arch and the first eight digits of the content's hash."""
        return f"{self.arch}-{self.sha256[:8]}"

    @cached_property
    def sha256(self) -> str:
        """Hash of the file content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def model(self) -> LatencyModel:
        """The latency model whose parameters these are."""
        return choose.for_fabric(self.fabric, self.kernel_family)

    @cached_property
    def values(self) -> Values:
        """Point estimates: posterior medians by parameter name, of a machine without contrasts."""
        return self._named(self.mean)

    def draw(self, count: int, seed: int = 0) -> Values:
        """Return ``count`` posterior draws, each value of shape (count, 1).

        Beside the parameters: ``harness[KEY]`` and ``harness[]``, what a calibrated and a new
        benchmark add (us); ``contrast[KEY|ARM]`` of the sources; ``contrast[ARM]``, what the arms
        2stage and separate take beyond the model on a machine that nobody has measured, relative
        to 1-stage; ``laboratory[ARM]``, the mean of the sources' contrasts; both hold what the
        model's form may miss. ``unread[ARM]``, what a kernel state that nobody has read may add.
        The contrasts of arms that push are beside the one source that has them.
        Link rates are cut at the nominal rate of the link, which no transfer can beat.
        """
        rng = np.random.default_rng(seed)
        spread = np.linalg.cholesky(self.covariance + 1e-12 * np.eye(len(self.mean)))

        def antithetic(columns: int) -> NDArray[np.float64]:
            # Pairs: the mean of the draws is the posterior mean to first order.
            half = rng.standard_normal(((count + 1) // 2, columns))
            return np.vstack([half, -half])[:count]

        drawn = self._named(self.mean + antithetic(len(self.mean)) @ spread.T)
        # A source nobody has seen: a Student-t deviation with the spread of the known ones.
        chi = rng.chisquare(HARNESS_DOF, (count, 1)) / HARNESS_DOF
        deviation = self.harness_log_sd * rng.standard_normal((count, 1)) / np.sqrt(chi)
        drawn["harness[]"] = drawn["harness_us"] * np.exp(deviation)
        tau, weight = np.array(self.taus).T
        # Every tau as often as its weight says, in random order.
        edges = np.searchsorted(np.cumsum(weight), (np.arange(count) + 0.5) / count)
        taus = rng.permutation(tau[np.minimum(edges, tau.size - 1)])[:, None]
        for arm in CONTRASTED:
            new, form, unread = (antithetic(1) for _ in range(3))
            # What one source measured holds a contrast of its own: two machines lie between.
            apart = taus * new * (np.sqrt(2.0) if arm in PUSHED else 1.0)
            drawn[f"contrast[{arm}]"] = apart + FORM_US * form
            drawn[f"laboratory[{arm}]"] = drawn.get(f"laboratory[{arm}]", 0.0) + FORM_US * form
            drawn[f"unread[{arm}]"] = UNREAD_STATE_US * unread
        return drawn

    def _named(self, x: NDArray[np.float64]) -> Values:
        """Return values by name from coordinates (p,), as numbers, or (count, p), as columns."""
        k, h = len(self.names), len(self.harness)
        columns: list[Any] = (
            x.tolist() if x.ndim == 1 else [x[:, i : i + 1] for i in range(x.shape[1])]
        )
        named: Values = {}
        for name, column, log in zip(self.names, columns, self._log, strict=False):
            value = np.exp(column) if log else column
            limit = parameters.nominal_gbps(name)
            named[name] = np.minimum(value, limit) if limit else value
        for key, column in zip(self.harness, columns[k : k + h], strict=True):
            named[f"harness[{key}]"] = named["harness_us"] * np.exp(column)
        named["harness[]"] = named["harness_us"]
        by_arm: dict[str, list[Any]] = {arm: [] for arm in OTHERWISE}
        for (key, arm), column in zip(self.contrast, columns[k + h :], strict=True):
            named[f"contrast[{key}|{arm}]"] = column
            by_arm.setdefault(arm, []).append(column)
        for arm in OTHERWISE:
            named[f"laboratory[{arm}]"] = sum(by_arm[arm]) / max(len(by_arm[arm]), 1)
        if x.ndim == 1:
            named = {name: float(value) for name, value in named.items()}
        return named

    def costs(self, gpu: str, values: Values, *, norm_kernel: str = "gemma") -> Any:
        """Return what actions cost on ``gpu`` under ``values`` (point estimates or draws).

        The object is for the terms of :attr:`model`. What the benchmark adds is ``harness[]`` of
        the values.
        """
        arch = {g: a for a, g in self.gpus}.get(gpu)
        if arch is None:
            known = ", ".join(g for _, g in self.gpus)
            raise InputError(f"this calibration has no {gpu}; it covers {known}")
        return self.model.costs(
            values, arch, gpu,
            norm_kernel=norm_kernel, hbm_gbps=hardware.hbm_gbps(gpu),
            harness_us=values["harness[]"],
        )  # fmt: skip

    def harness_key(self, source: str, gpu: str = "") -> str | None:
        """Return the harness key of a source name or key, or None when it is not calibrated.

        In any case of letters.
        """
        known = {key.lower(): key for key in self.harness}
        family = f"{source}/{self.kernel_family}"
        for key in (source, family, f"{family}/{gpu}"):
            if key.lower() in known:
                return known[key.lower()]
        asked = source.lower()
        return next((key for low, key in known.items() if low.split("/")[0] == asked), None)

    def nearest_source(self, gpu: str, op: str) -> str | None:
        """Return the harness key nearest to back-to-back calls of an op on a GPU, None for none.

        Same GPU and op; else same GPU; else a GPU of the same arch and the op. Among equals the
        one that adds least: the nearest to back-to-back kernels.
        """
        arch = {g: a for a, g in self.gpus}
        values = self.values

        def distance(rows: SourceRows) -> tuple[int, float]:
            here, same_op = gpu in rows.gpus, op in rows.ops
            kin = any(arch.get(g) == arch.get(gpu) for g in rows.gpus)
            rank = 0 if here and same_op else 1 if here else 2 if kin and same_op else 3
            return rank, values[f"harness[{rows.key}]"]

        nearest = min(self.sources, key=distance, default=None)
        return nearest.key if nearest is not None and distance(nearest)[0] < 3 else None

    @cached_property
    def _log(self) -> list[bool]:
        return parameters.is_log(self.names)

    @property
    def typical_noise(self) -> float:
        """Median scale of log residuals over the sources."""
        return float(np.median(list(self.noise.values()))) if self.noise else 0.03

    def measured(self, gpu: str, world_size: int, op: str, algorithm: str) -> Coverage | None:
        """Return the coverage record of an arm, or None when it was not measured."""
        for c in self.coverage:
            if (c.gpu, c.world_size, c.op, c.algorithm) == (gpu, world_size, op, algorithm):
                return c
        return None

    def interval(self, name: str) -> tuple[float, float, float]:
        """Return (lo, estimate, hi) of one parameter or ``harness[KEY]`` at :data:`LEVEL`.

        A link rate is cut at the link's nominal rate.
        """
        if name in self.names:
            lo, mid, hi = self.intervals[self.names.index(name)].tolist()
        else:
            key = name.removeprefix("harness[").removesuffix("]")
            weight = np.zeros(len(self.mean))
            weight[[self.names.index("harness_us"), len(self.names) + self.harness.index(key)]] = 1
            sd = float(np.sqrt(weight @ self.covariance @ weight))
            lo, mid, hi = np.exp(float(weight @ self.mean) + ENDS * sd).tolist()
        return lo, mid, hi

    @cached_property
    def intervals(self) -> NDArray[np.float64]:
        """:meth:`interval` of all parameters, (parameters, 3)."""
        k = len(self.names)
        ends = self.mean[:k, None] + ENDS * np.sqrt(np.diag(self.covariance)[:k, None])
        log = np.array(self._log)
        ends[log] = np.exp(ends[log])
        limit = [parameters.nominal_gbps(name) or np.inf for name in self.names]
        return np.minimum(ends, np.array(limit)[:, None])

    def restrict(self, arch: str) -> Calibration:
        """Return the marginal posterior that one arch needs, for a file of its own."""
        gpus = tuple((a, g) for a, g in self.gpus if a == arch)
        if not gpus:
            have = ", ".join(sorted({a for a, _ in self.gpus}))
            raise InputError(f"the measurements hold no {arch} (they have {have})")
        keep_scope = {arch, *(g for _, g in gpus)}
        others = {a for a, _ in self.gpus} | {g for _, g in self.gpus}
        keep = [
            i
            for i, n in enumerate(self.names)
            if (scope := n.partition("[")[2].rstrip("]")) not in others or scope in keep_scope
        ]
        data = self.data.copy()
        data["aside"] = [a for a in data.get("aside", ()) if a["gpu"] in keep_scope]
        index = np.array([*keep, *range(len(self.names), len(self.mean))])
        return Calibration(
            arch=arch,
            names=tuple(self.names[i] for i in keep),
            harness=self.harness,
            contrast=self.contrast,
            mean=self.mean[index],
            covariance=self.covariance[np.ix_(index, index)],
            noise=self.noise,
            harness_log_sd=self.harness_log_sd,
            taus=self.taus,
            sources=self.sources,
            coverage=self.coverage,
            refusals=tuple(r for r in self.refusals if r.gpu in {g for _, g in gpus}),
            gpus=gpus,
            fabric=self.fabric,
            kernel_family=self.kernel_family,
            data=data,
            families=tuple(c.restrict(arch) for c in self.families if arch in dict(c.gpus)),
        )

    def to_json(self) -> str:
        """Return the file content. Numbers are rounded, so that a refit gives the same file."""
        mean = [_significant(v, 8) for v in self.mean.tolist()]
        rounded = [[_significant(v, 6) for v in row] for row in self.covariance.tolist()]
        kept = replace(self, mean=np.array(mean), covariance=np.array(rounded))
        record: CalibrationRecord = {
            "schema": "costmodel/calibration/2",
            "arch": self.arch,
            "gpus": list(self.gpus),
            "fabric": self.fabric,
            "kernel_family": self.kernel_family,
            "data": self.data,
            "parameters": [
                {
                    "name": name,
                    "unit": parameters.prior(name).unit,
                    "estimate": _significant(mid, 5),
                    "lo": _significant(lo, 5),
                    "hi": _significant(hi, 5),
                }
                for name in self.names
                for lo, mid, hi in [kept.interval(name)]
            ],
            "harness": list(self.harness),
            "contrast": list(self.contrast),
            "harness_log_sd": _significant(self.harness_log_sd, 5),
            "taus": [(tau, _significant(weight, 5)) for tau, weight in self.taus],
            "sources": list(self.sources),
            "noise": {k: _significant(v, 4) for k, v in self.noise.items()},
            "coverage": list(self.coverage),
            "refusals": list(self.refusals),
            "mean": mean,
            "covariance_lower": [row[: i + 1] for i, row in enumerate(rounded)],
            "content_sha256": "",
        }
        if self.families:
            record["families"] = [json.loads(c.to_json()) for c in self.families]
        record["content_sha256"] = content_sha256(record)
        # Python's own form of numbers (1e-05): the hash of a file is the calibration's name.
        return json.dumps(record, indent=1, default=asdict) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the calibration file atomically."""
        with replacing(Path(path)) as stream:
            stream.write(self.to_json())


class FamilyRecord(TypedDict):
    """One family's kernels; ``covariance_lower`` is the lower triangle, row by row.

    ``content_sha256`` is the hash of the rest, see :func:`content_sha256`.
    """

    schema: Literal["costmodel/calibration/2"]
    arch: str
    gpus: list[tuple[str, str]]
    fabric: str
    kernel_family: str
    data: Data
    parameters: list[ParameterRecord]
    harness: list[str]
    contrast: list[tuple[str, str]]
    harness_log_sd: float
    taus: list[tuple[float, float]]
    noise: dict[str, float]
    sources: list[SourceRows]
    coverage: list[Coverage]
    refusals: list[Refusal]
    mean: list[float]
    covariance_lower: list[list[float]]
    content_sha256: str


class CalibrationRecord(FamilyRecord, total=False):
    """``costmodel/calibration/2``: ``families`` of other kernels only where there are any."""

    families: list[FamilyRecord]


def content_sha256(record: Mapping[str, Any]) -> str:
    """Return the hash of a calibration record's content, its own ``content_sha256`` left out."""
    # Through JSON once, so that tuples and records are what a reader of the file sees.
    return _sha256_as_read(json.loads(json.dumps(record, default=asdict)))


def _sha256_as_read(record: Mapping[str, Any]) -> str:
    """Return :func:`content_sha256` of a record as JSON gives it: lists, numbers and words."""
    content = {key: value for key, value in record.items() if key != "content_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(path: str | Path) -> Calibration:
    """Read a calibration file.

    Raises :class:`InputError` as :func:`.files.parse_json` does, for numbers that are no
    posterior, and for a file that was edited.
    """
    wanted = "a calibration file, as 'costmodel calibrate --out' writes it"
    text = read_text(path, wanted)
    record = parse_json(text, CalibrationRecord, str(path), wanted)
    try:
        others = tuple(map(_checked, record.get("families", ())))
        calibration = replace(_checked(record), families=others)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"{path}: not a usable calibration: {error}; give {wanted}") from None
    if _sha256_as_read(json.loads(text)) != record["content_sha256"]:
        raise InputError(
            f"{path}: edited since 'costmodel calibrate' wrote it (its content does not match its "
            f"content_sha256); give {wanted}"
        )
    # The hash is of the file as it stands.
    vars(calibration)["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return calibration


def _checked(record: FamilyRecord) -> Calibration:
    """Return the calibration of a record; raise ValueError for what cannot be one."""
    lower = record["covariance_lower"]
    size = len(lower)
    if any(len(row) != i + 1 for i, row in enumerate(lower)):
        raise ValueError("covariance_lower is not a triangle")
    covariance = np.zeros((size, size))
    for i, row in enumerate(lower):
        covariance[i, : i + 1] = row
        covariance[: i + 1, i] = row
    mean = np.array(record["mean"])
    names = tuple(p["name"] for p in record["parameters"])
    if mean.shape != (size,) or size != sum(
        map(len, (names, record["harness"], record["contrast"]))
    ):
        raise ValueError("mean, covariance and names differ in length")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("mean or covariance holds a number that is not finite")
    np.linalg.cholesky(covariance + 1e-12 * np.eye(size))
    wanted = choose.for_fabric(record["fabric"], record["kernel_family"]).parameter_names(
        record["gpus"], {n[17:-1] for n in names if n.startswith("separate_norm_us[")} or {"gemma"}
    )
    if set(names) != set(wanted):
        odd = min(set(names) ^ set(wanted))
        raise ValueError(f"the parameters are not those of its GPUs: see {odd}")
    if any(scale <= 0 or not np.isfinite(scale) for scale in record["noise"].values()):
        raise ValueError("a noise scale is not positive")
    if set(record["noise"]) != set(record["harness"]):
        raise ValueError("noise and harness name different sources")
    if {rows.key for rows in record["sources"]} != set(record["harness"]):
        raise ValueError("sources and harness name different sources")
    total = sum(weight for _, weight in record["taus"])
    if not record["taus"] or abs(total - 1) > 1e-3 or record["harness_log_sd"] <= 0:
        raise ValueError("the spreads over sources are not positive, or their weights not one")
    if any(tau <= 0 or weight < 0 for tau, weight in record["taus"]):
        raise ValueError("the spreads over sources are not positive")
    if any(c.rows < 1 or not 0 < c.min_bytes <= c.max_bytes for c in record["coverage"]):
        raise ValueError("coverage without rows or bytes")
    used = record["data"].get("rows_used")
    if used is not None and used != sum(c.rows for c in record["coverage"]):
        raise ValueError("coverage does not add up to the rows used")
    calibration = Calibration(
        arch=record["arch"],
        names=names,
        harness=tuple(record["harness"]),
        contrast=tuple(record["contrast"]),
        mean=mean,
        covariance=covariance,
        noise=record["noise"],
        harness_log_sd=record["harness_log_sd"],
        taus=tuple(record["taus"]),
        sources=tuple(record["sources"]),
        coverage=tuple(record["coverage"]),
        refusals=tuple(record["refusals"]),
        gpus=tuple(record["gpus"]),
        fabric=record["fabric"],
        kernel_family=record["kernel_family"],
        data=record["data"],
    )
    said = record["parameters"]
    follows = calibration.intervals
    stated = [(p["lo"], p["estimate"], p["hi"]) for p in said]
    off = ~np.isclose(follows, np.reshape(stated, follows.shape), rtol=1e-3, atol=1e-3).all(axis=1)
    if off.any():
        raise ValueError(f"{names[int(np.argmax(off))]} does not follow from mean and covariance")
    return calibration


def shipped(arch: str) -> Calibration:
    """Return the calibration that the package ships for an arch (:mod:`.shipped`)."""
    return load(facts.path(f"calibrations/{arch}.json"))


def _significant(value: float, digits: int) -> float:
    """Round to significant digits; what is below 1e-12 is zero (a time at its lower bound)."""
    return float(f"{value:.{digits}g}") if abs(value) > 1e-12 else 0.0
