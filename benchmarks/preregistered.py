"""Predictions committed before their measurement, and what became of them.

    python benchmarks/preregistered.py predict measurements/h200-pair/revision-2
    python benchmarks/preregistered.py score measurements/h200-pair

``predict`` reads ``calibration.json`` and writes ``plan.json``, the shapes to be measured, and
``prediction.json``: both arms' latencies and the crossovers with 90 % intervals, the guards that
make a run void, and a hash of the calibration. ``score`` reads measured rows (``test-*.csv``) and
prints hits and misses beside the prediction, which it never writes.

The crossovers' intervals carry the parameters and the form: how far the ratio of the arms was off
on rows that a fit had left out, a hidden size of a world size at a time, or, for a world size that
no row has, a world size at a time. The first two predictions of each revision took the draws of
*this kernel* and the error over all rows; the third is of *this machine*, whose rows these are, and
takes the mean error of a group's rows near its crossover, which is what moves one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import costmodel
from costmodel.calibration import posterior
from costmodel.calibration.crossing import last_crossing
from costmodel.data import measurement
from costmodel.decide.pairs import pair
from costmodel.decide.setting import DRAWS, Setting
from costmodel.model.shape import FUSED
from costmodel.show.table import table
from costmodel.units import kib

HIDDEN = (2048, 2880, 4096, 5120, 7168, 8192)
WORLD_SIZES = (4, 8)
ARMS = ("1stage", "2stage")
#: Crossovers of these were known before the prediction: they do not count. At 4 ranks they were
#: calibrated on; at 8, calls of these sizes were seen while the kernels of revision 2 were tuned.
KNOWN = {(4, 2880), (4, 7168), (8, 2880), (8, 7168)}
#: Tokens on which calibration.csv has a row at 4 ranks, of hidden 2880 and 7168.
CALIBRATED = {(4, h, t) for h in (2880, 7168) for t in (1, 8, 32, 64, 128, 512)}
#: Sizes, as multiples of the predicted crossover, of the shapes near it; and those of the others.
NEAR = (0.5, 0.6, 0.71, 0.85, 1.0, 1.19, 1.41, 1.7, 2.0)
FAR_TOKENS = (1, 3, 24, 96, 384)
#: Hidden sizes that are measured in fp16 too.
BOTH_DTYPES = (2304, 2880, 5120, 5376, 6144)
#: Arms nearer to each other than this tell of the crossover.
NEAR_CROSSING = 0.10
#: Two arms closer than this are a tie.
TIE = 0.03
GUARDS = (
    "the GPUs are two H200 joined by NVLink and nvidia-smi reports no throttling",
    "the kernels are those of calibration.csv, on 2 sets of buffers, graph replay",
    "an arm with wrong results, or noisy by the harness's A/A or drift, is no row of the test",
    "a world size with fewer than 40 shapes measured is not judged",
)


def setting_of(place: Path, dtype: str = "bf16") -> Setting:
    """Return the question: the pair, by its calibration, as its own harness measures."""
    return ask(posterior.load(place / "calibration.json"), dtype)


def ask(calibration: posterior.Calibration, dtype: str = "bf16") -> Setting:
    """Return the question to a calibration of the pair alone, as its one source measures."""
    (source,) = {rows.source for rows in calibration.sources}
    return Setting(calibration, "H200", source=source, dtype=dtype)


def form_errors(place: Path) -> dict[int, tuple[float, int]]:
    """Return, by world size, how far log(1-stage / 2-stage) is off beyond the parameters.

    (root mean square, groups left out), of calibration.csv's pairs near a crossover, each predicted
    by a fit without its group: a hidden size at its world size, or a whole world size for one that
    no row has. A group counts with its mean.
    """
    table = measurement.read(place / "calibration.csv")
    (family,) = set(table.kernel_family.used)
    seen = set(table.world_size.tolist())
    found = {}
    for n in WORLD_SIZES:
        names = ("world_size", "hidden_dim") if n in seen else ("world_size",)
        number, first = table.numbered(names)
        groups = [g for g, row in enumerate(first) if n not in seen or table.world_size[row] == n]
        off = [left_out(table, number == group, family) for group in groups]
        means = np.array([rows.mean() for rows in off if rows.size])
        found[n] = (float(np.sqrt(np.mean(means**2))), means.size)
    return found


def left_out(
    table: measurement.Measurements, group: NDArray[np.bool_], family: str
) -> NDArray[np.float64]:
    """Return how far a fit without a group's rows is off on the ratio of its arms, as logarithms.

    One number a pair of the group whose arms differ by less than :data:`NEAR_CROSSING`.
    """
    fit, _ = costmodel.calibrate(costmodel.observe(table.select(~group), family=family))
    setting = ask(fit)
    pairs = pair(table.select(group), FUSED)
    shapes = setting.shapes(pairs.tokens, pairs.hidden_dim, pairs.world_size)
    said = setting.latency_us(shapes, "1stage") / setting.latency_us(shapes, "2stage")
    measured = pairs.one_us / pairs.two_us
    return np.log(said / measured)[np.abs(np.log(measured)) < np.log1p(NEAR_CROSSING)]


def crossover(
    setting: Setting, world_size: int, hidden: int, form: tuple[float, int]
) -> tuple[float, float, float, float]:
    """Return point, lo and hi in bytes of the size above which 2-stage is faster, and P(none).

    Draw by draw where straight lines through 1-stage minus 2-stage, on a fine grid of tokens, last
    cross zero; one token's bytes where 2-stage is always faster. ``form`` widens the ratio of the
    arms, see :func:`form_errors`.
    """
    tokens = np.unique(np.round(np.geomspace(1, 2048, 160)).astype(int))
    shapes = setting.shapes(tokens, hidden, world_size)
    size, groups = form
    more = np.random.default_rng(0).standard_t(groups, DRAWS)[:, None]

    def crossings(values: Any, widened: Any) -> NDArray[np.float64]:
        one, two = (setting.latency_us(shapes, arm, values) for arm in ARMS)
        ahead = np.atleast_2d(one * widened - two)
        found = (last_crossing(shapes.bytes, row) for row in ahead)
        return np.array([np.nan if at is None else at for at in found])

    drawn = crossings(setting.draws, np.exp(size * more))
    one_token = float(shapes.bytes[0])
    (point,) = np.nan_to_num(crossings(setting.point, 1.0), nan=one_token)
    lo, hi = np.quantile(np.nan_to_num(drawn, nan=one_token), [0.05, 0.95])
    return float(point), float(lo), float(hi), float(np.isnan(drawn).mean())


def predict(place: Path, hidden_dims: tuple[int, ...]) -> None:
    """Write plan.json and prediction.json."""
    setting, forms = setting_of(place), form_errors(place)
    crossovers, entries = [], []
    for n in WORLD_SIZES:
        for hidden in hidden_dims:
            point, lo, hi, none = crossover(setting, n, hidden, forms[n])
            crossovers.append(
                {
                    "world_size": n, "hidden_dim": hidden, "bytes": point, "bytes_lo": lo,
                    "bytes_hi": hi, "no_1stage_probability": none,
                    "counts": (n, hidden) not in KNOWN,
                }
            )  # fmt: skip
            # Where the point is one token, the shapes spread over the interval instead.
            middle = max(point, (max(lo, 1) * hi) ** 0.5)
            near = {max(1, round(middle * m / (2 * hidden))) for m in NEAR}
            tokens = sorted(near | set(FAR_TOKENS))
            for dtype in ("bf16", "fp16") if hidden in BOTH_DTYPES else ("bf16",):
                some = tokens if dtype == "bf16" else sorted(near)
                entries += [
                    {
                        "op": "fused_ar_rmsnorm", "arms": ["1stage", "2stage"], "world_size": n,
                        "tokens": t, "hidden_dim": hidden, "dtype": dtype,
                    }
                    for t in some
                    if (n, hidden, t) not in CALIBRATED
                ]  # fmt: skip
    write(place / "plan.json", {"schema": "costmodel/plan/1", "shapes": entries})
    rows = []
    by_dtype = {dtype: setting_of(place, dtype) for dtype in ("bf16", "fp16")}
    for entry in entries:
        here = by_dtype[entry["dtype"]]
        shapes = here.shapes([entry["tokens"]], entry["hidden_dim"], entry["world_size"])
        found = {k: entry[k] for k in ("world_size", "tokens", "hidden_dim", "dtype")}
        for arm in ("1stage", "2stage"):
            said = costmodel.predict(here, shapes, arm)
            ends = (said.latency_us, said.kernel_lo_us, said.kernel_hi_us)
            found[arm] = [round(float(v[0]), 3) for v in ends]
        rows.append(found)
    content = (place / "calibration.json").read_bytes()
    record = {
        "calibration_sha256": hashlib.sha256(content).hexdigest(),
        "guards": GUARDS, "tie": TIE, "form_errors": forms, "crossovers": crossovers, "rows": rows,
    }  # fmt: skip
    write(place / "prediction.json", record)
    show(crossovers)


def write(path: Path, record: dict) -> None:
    """Write a record; refuse to touch one that exists."""
    if path.exists():
        raise SystemExit(f"{path} exists: a prediction is made once")
    path.write_text(json.dumps(record, indent=1) + "\n")


def show(crossovers: list[dict]) -> None:
    """Print the predicted crossovers."""
    rows = [
        [
            f"TP{c['world_size']}", str(c["hidden_dim"]), kib(c["bytes"]),
            f"{kib(c['bytes_lo'])} to {kib(c['bytes_hi'])}", f"{c['no_1stage_probability']:.0%}",
        ]
        for c in crossovers
    ]  # fmt: skip
    print(table(rows, ["ranks", "hidden", "crossover", "90 %", "2-stage throughout"]))


def measured(place: Path, name: str, world_size: int) -> dict[tuple, float]:
    """Return latencies of clean rows by (hidden, tokens, dtype, arm)."""
    with (place / f"{name}-tp{world_size}.csv").open() as stream:
        return {
            (int(r["hidden_dim"]), int(r["tokens"]), r["dtype"], r["algorithm"]): float(
                r["latency_us"]
            )
            for r in csv.DictReader(stream)
            if r["quality"] == "clean"
        }


def call(row: dict) -> tuple:
    """Return what names a call of one world size in the measured rows."""
    return row["hidden_dim"], row["tokens"], row["dtype"]


def crossed(found: dict[tuple, float], hidden: int) -> float | None:
    """Return where straight lines through 1-stage minus 2-stage last cross zero, in bytes.

    One token's bytes where 2-stage is faster throughout, as predicted; None where 1-stage is.
    """
    points = sorted(
        (2 * hidden * tokens, us - found[h, tokens, dtype, "2stage"])
        for (h, tokens, dtype, arm), us in found.items()
        if h == hidden
        and arm == "1stage"
        and dtype == "bf16"
        and (h, tokens, dtype, "2stage") in found
    )
    at = last_crossing(*zip(*points, strict=True))
    return float(points[0][0]) if at is None and points[0][1] > 0 else at


def score(place: Path) -> None:
    """Print what became of the prediction, for each campaign."""
    predicted = json.loads((place / "prediction.json").read_text())
    for name in ("test", "repeat"):
        if not (place / f"{name}-tp4.csv").exists():
            continue
        errors, crossings = [], []
        for n in WORLD_SIZES:
            found = measured(place, name, n)
            shapes = [r for r in predicted["rows"] if r["world_size"] == n]
            left = [r for r in shapes if not all((*call(r), arm) in found for arm in ARMS)]
            shapes = [r for r in shapes if r not in left]
            for r in left:
                print(f"{name}, TP{n}: {call(r)} had an arm that was not clean, left out")
            places = {c["hidden_dim"]: c for c in predicted["crossovers"] if c["world_size"] == n}
            us = {arm: np.array([found[(*call(r), arm)] for r in shapes]) for arm in ARMS}
            for arm in us:
                said = np.array([r[arm] for r in shapes])
                off = said[:, 0] / us[arm] - 1
                held = (said[:, 1] <= us[arm]) & (us[arm] <= said[:, 2])
                shifted = np.abs(off - np.median(off))
                errors.append([
                    f"TP{n}", arm, str(len(off)), f"{100 * np.median(np.abs(off)):.1f} %",
                    f"{100 * np.median(off):+.1f} %", f"{100 * np.median(shifted):.1f} %",
                    f"{100 * held.mean():.0f} %",
                ])  # fmt: skip
            size = np.array([2 * r["tokens"] * r["hidden_dim"] for r in shapes])
            middle = np.array([places[r["hidden_dim"]]["bytes"] for r in shapes])
            apart = np.abs(us["1stage"] / us["2stage"] - 1) > predicted["tie"]
            near = apart & (size >= middle / 2) & (size <= middle * 2)
            picks = np.array([r["1stage"][0] < r["2stage"][0] for r in shapes])
            right = picks == (us["1stage"] < us["2stage"])
            chosen = np.where(picks, us["1stage"], us["2stage"])
            regret = 100 * (chosen / np.minimum(us["1stage"], us["2stage"]) - 1).mean()
            print(
                f"{name}, TP{n}: the chosen arm is right on {right[near].sum()} of {near.sum()} "
                f"shapes near the predicted crossover, ties apart; mean regret {regret:.2f} %"
            )
            for hidden, c in places.items():
                at = crossed(found, hidden)
                hit = at is not None and c["bytes_lo"] <= at <= c["bytes_hi"]
                crossings.append([
                    f"TP{n}", str(hidden), "none" if at is None else kib(round(at)),
                    kib(c["bytes"]), f"{kib(c['bytes_lo'])} to {kib(c['bytes_hi'])}",
                    ("hit" if hit else "miss") if c["counts"] else "known before",
                ])  # fmt: skip
        heads = ["ranks", "arm", "shapes", "median", "bias", "after offset", "held"]
        print(table(errors, heads))
        print(table(crossings, ["ranks", "hidden", "measured", "predicted", "90 %", ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["predict", "score"])
    parser.add_argument("place", type=Path)
    parser.add_argument(
        "--hidden",
        type=lambda text: tuple(map(int, text.split(","))),
        default=HIDDEN,
        metavar="LIST",
    )
    options = parser.parse_args()
    if options.what == "predict":
        predict(options.place, options.hidden)
    else:
        score(options.place)


if __name__ == "__main__":
    main()
