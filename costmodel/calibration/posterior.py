"""A calibration: the posterior of the model's parameters, with the data it rests on.

The posterior is a multivariate normal in the parameters' own coordinates (logarithms for rates
and ratios, microseconds for fixed times), so the record is a mean and a covariance, and any
consequence of the parameters gets its interval by drawing from it. Files are JSON, schema
``costmodel/calibration/1``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..data import facts, hardware
from ..errors import InputError
from ..files import parse_json, read_text, replacing
from ..model import choose, parameters
from ..model.interface import LatencyModel

#: Two-sided level of every interval that the project prints, and the share beyond either end.
LEVEL = 0.90
TAIL = (1 - LEVEL) / 2

#: Degrees of freedom of the row noise (log latency) and of the harness constants: heavy tails, so
#: that an outlying row or source does not pull the others.
NOISE_DOF = 4.0
HARNESS_DOF = 3.0

#: Half the width of an interval at :data:`LEVEL`, in standard deviations of a normal distribution
#: and in scales of a Student-t with :data:`NOISE_DOF`: their quantiles at 1 - :data:`TAIL`. Written
#: out, as importing scipy.stats is slow.
NORMAL_HALF_WIDTH = 1.6448536269514722
NOISE_HALF_WIDTH = 2.13184678632665

Values = dict[str, Any]


class HiddenEffectRecord(TypedDict):
    """How far the hidden size moves a latency at equal bytes, in percent per doubling, 90 %."""

    rows: int
    pct_per_doubling: float
    lo: float
    hi: float


class Data(TypedDict, total=False):
    """The rows behind a calibration: read, used, set aside by reason; their sources and hash."""

    rows_read: int
    rows_used: int
    set_aside: dict[str, int]
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


@dataclass(frozen=True)
class Coverage:
    """What was measured: one arm on one GPU at one world size, over a range of bytes."""

    gpu: str
    world_size: int
    op: str
    algorithm: str
    min_bytes: float
    max_bytes: float
    rows: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """A GPU and world size whose rows give no cutoff, and why: they contradict each other."""

    gpu: str
    world_size: int
    reason: str


@dataclass(frozen=True)
class Calibration:
    """Posterior of the parameters ``names`` followed by ``harness`` deviations (us).

    ``noise`` is the scale of log residuals per harness key, ``harness_sd_us`` the spread of harness
    constants over sources. ``data`` accounts for the rows: read, used, set aside by reason, sha256.
    """

    arch: str
    names: tuple[str, ...]
    harness: tuple[str, ...]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    noise: dict[str, float]
    harness_sd_us: float
    coverage: tuple[Coverage, ...]
    refusals: tuple[Refusal, ...]
    gpus: tuple[tuple[str, str], ...]
    fabric: str
    kernel_family: str
    data: Data

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
        return choose.for_fabric(self.fabric)

    @property
    def values(self) -> Values:
        """Point estimates: posterior medians by parameter name."""
        found: Values = {
            name: float(np.exp(x) if log else x)
            for name, x, log in zip(self.names, self.mean, self._log, strict=False)
        }
        found.update(
            {
                f"harness[{key}]": float(v)
                for key, v in zip(self.harness, self.mean[len(self.names) :], strict=True)
            }
        )
        return found

    def draw(self, count: int, seed: int = 0) -> Values:
        """Return ``count`` posterior draws, each value of shape (count, 1), harness included.

        Link rates are cut at the nominal rate of the link, which no transfer can beat, and fixed
        times at zero.
        """
        rng = np.random.default_rng(seed)
        spread = np.linalg.cholesky(self.covariance + 1e-12 * np.eye(len(self.mean)))
        half = rng.standard_normal(((count + 1) // 2, len(self.mean))) @ spread.T
        # Antithetic pairs: the mean of the draws is the posterior mean to first order.
        sample = self.mean + np.vstack([half, -half])[:count]
        found: Values = {}
        for i, name in enumerate(self.names):
            column = sample[:, i : i + 1]
            if self._log[i]:
                column = np.exp(column)
            elif parameters.prior(name).centre > 0:
                column = np.maximum(column, 0.0)
            limit = nominal_gbps(name)
            found[name] = np.minimum(column, limit) if limit else column
        for i, key in enumerate(self.harness):
            at = len(self.names) + i
            found[f"harness[{key}]"] = sample[:, at : at + 1]
        # A source nobody has seen: a Student-t deviation with the spread of the known ones.
        chi = rng.chisquare(HARNESS_DOF, (count, 1)) / HARNESS_DOF
        found["harness[]"] = self.harness_sd_us * rng.standard_normal((count, 1)) / np.sqrt(chi)
        return found

    def costs(
        self, gpu: str, values: Values, *, norm_kernel: str = "gemma", source: str | None = None
    ) -> Any:
        """Return what actions cost on ``gpu`` under ``values`` (point estimates or draws).

        The object is for the terms of :attr:`model`.

        ``source`` picks the harness constant of a calibrated source; without it the harness is the
        typical one, and draws carry the whole spread over sources.
        """
        arch = {g: a for a, g in self.gpus}.get(gpu)
        if arch is None:
            known = ", ".join(g for _, g in self.gpus)
            raise InputError(f"this calibration has no {gpu}; it covers {known}")
        key = self.harness_key(source, gpu) if source else None
        deviation = values[f"harness[{key}]"] if key else values.get("harness[]", 0.0)
        # Even a fast harness adds no negative time beyond the launch.
        harness = np.maximum(values["harness_us"] + deviation, -values["launch_us"])
        return self.model.costs(
            values, arch, gpu,
            norm_kernel=norm_kernel, hbm_gbps=hardware.hbm_gbps(gpu), harness_us=harness,
        )  # fmt: skip

    def harness_key(self, source: str, gpu: str = "") -> str | None:
        """Return the harness key of a source name or key, or None when it is not calibrated."""
        for key in (
            source,
            f"{source}/{self.kernel_family}",
            f"{source}/{self.kernel_family}/{gpu}",
        ):
            if key in self.harness:
                return key
        return next((k for k in self.harness if k.split("/")[0] == source), None)

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
        """Return (lo, estimate, hi) of one parameter at :data:`LEVEL`.

        A link rate is cut at the link's nominal rate, a fixed time at zero.
        """
        z = NORMAL_HALF_WIDTH
        if name in self.names:
            i = self.names.index(name)
            sd = float(np.sqrt(self.covariance[i, i]))
            ends = self.mean[i] + np.array([-z, 0.0, z]) * sd
            if not self._log[i]:
                floor = 0.0 if parameters.prior(name).centre > 0 else -np.inf
                lo, mid, hi = np.maximum(ends, floor).tolist()
                return lo, mid, hi
            lo, mid, hi = np.exp(ends).tolist()
            limit = nominal_gbps(name)
            return (min(lo, limit), min(mid, limit), min(hi, limit)) if limit else (lo, mid, hi)
        i = len(self.names) + self.harness.index(name.removeprefix("harness[").removesuffix("]"))
        sd = float(np.sqrt(self.covariance[i, i]))
        lo, mid, hi = (self.mean[i] + np.array([-z, 0.0, z]) * sd).tolist()
        return lo, mid, hi

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
        index = np.array([*keep, *range(len(self.names), len(self.mean))])
        return Calibration(
            arch=arch,
            names=tuple(self.names[i] for i in keep),
            harness=self.harness,
            mean=self.mean[index],
            covariance=self.covariance[np.ix_(index, index)],
            noise=self.noise,
            harness_sd_us=self.harness_sd_us,
            coverage=self.coverage,
            refusals=tuple(r for r in self.refusals if r.gpu in {g for _, g in gpus}),
            gpus=gpus,
            fabric=self.fabric,
            kernel_family=self.kernel_family,
            data=self.data,
        )

    def to_json(self) -> str:
        """Return the file content. Numbers are rounded, so that a refit gives the same file."""
        rounded = [
            [_significant(v, 6) for v in row[: i + 1]]
            for i, row in enumerate(self.covariance.tolist())
        ]
        record: CalibrationRecord = {
            "schema": "costmodel/calibration/1",
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
                for lo, mid, hi in [self.interval(name)]
            ],
            "harness": list(self.harness),
            "harness_sd_us": _significant(self.harness_sd_us, 5),
            "noise": {k: _significant(v, 4) for k, v in self.noise.items()},
            "coverage": list(self.coverage),
            "refusals": list(self.refusals),
            "mean": [_significant(v, 8) for v in self.mean.tolist()],
            "covariance_lower": rounded,
        }
        # Python's own form of numbers (1e-05): the hash of a file is the calibration's name.
        return json.dumps(record, indent=1, default=asdict) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the calibration file atomically."""
        with replacing(Path(path)) as stream:
            stream.write(self.to_json())


class CalibrationRecord(TypedDict):
    """``costmodel/calibration/1``; ``covariance_lower`` is the lower triangle, row by row."""

    schema: Literal["costmodel/calibration/1"]
    arch: str
    gpus: list[tuple[str, str]]
    fabric: str
    kernel_family: str
    data: Data
    parameters: list[ParameterRecord]
    harness: list[str]
    harness_sd_us: float
    noise: dict[str, float]
    coverage: list[Coverage]
    refusals: list[Refusal]
    mean: list[float]
    covariance_lower: list[list[float]]


def load(path: str | Path) -> Calibration:
    """Read a calibration file.

    Raises :class:`InputError` as :func:`.files.parse_json` does, and for numbers that are no
    posterior.
    """
    wanted = "a calibration file, as 'costmodel calibrate --out' writes it"
    text = read_text(path, wanted)
    record = parse_json(text, CalibrationRecord, str(path), wanted)
    lower = record["covariance_lower"]
    size = len(lower)
    covariance = np.zeros((size, size))
    try:
        for i, row in enumerate(lower):
            covariance[i, : i + 1] = row
            covariance[: i + 1, i] = row
        found = Calibration(
            arch=record["arch"],
            names=tuple(p["name"] for p in record["parameters"]),
            harness=tuple(record["harness"]),
            mean=np.array(record["mean"]),
            covariance=covariance,
            noise=record["noise"],
            harness_sd_us=record["harness_sd_us"],
            coverage=tuple(record["coverage"]),
            refusals=tuple(record["refusals"]),
            gpus=tuple(record["gpus"]),
            fabric=record["fabric"],
            kernel_family=record["kernel_family"],
            data=record["data"],
        )
        if found.mean.shape != (size,) or size != len(found.names) + len(found.harness):
            raise ValueError("mean, covariance and names differ in length")
        np.linalg.cholesky(covariance + 1e-12 * np.eye(size))
        choose.for_fabric(found.fabric)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"{path}: not a usable calibration: {error}; give {wanted}") from None
    # The hash is of the file as it stands.
    object.__setattr__(found, "sha256", hashlib.sha256(text.encode()).hexdigest())
    return found


def shipped(arch: str) -> Calibration:
    """Return the calibration that the package ships for gfx942 or gfx950."""
    return load(facts.path(f"calibrations/{arch}.json"))


def nominal_gbps(name: str) -> float | None:
    """Return the nominal rate of the link a ``link_gbps[...]`` parameter stands for, if known."""
    if not name.startswith("link_gbps["):
        return None
    try:
        return hardware.number(name[10:-1], "xgmi_link_bw_unidir")
    except KeyError:
        return None


def _significant(value: float, digits: int) -> float:
    """Round to significant digits; what is below 1e-12 is zero (a time at its lower bound)."""
    return float(f"{value:.{digits}g}") if abs(value) > 1e-12 else 0.0
