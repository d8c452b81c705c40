"""What became of a prediction of :mod:`preregistered`: hits and misses, rules, aims."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from registered_questions import ANCHOR, ARMS, FEWEST, TIE, WORLD_SIZES, ask, rule_of

import costmodel
from costmodel.calibration.crossing import last_crossing
from costmodel.data import kernels, measurement
from costmodel.data.measurement import Measurements
from costmodel.data.workload import Workload
from costmodel.decide.measured_regret import Agreement, agreement
from costmodel.decide.pairs import Pairs, pair
from costmodel.model.shape import FUSED
from costmodel.rules.catalogue import load
from costmodel.rules.rule import Rule
from costmodel.show.table import table
from costmodel.units import kib


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


def crossed(found: dict[tuple, float], hidden: int) -> tuple[float | None, str]:
    """Return where straight lines through 1-stage minus 2-stage last cross zero; bytes and words.

    Where 2-stage is faster from the smallest measured size on, it is below that size, which stands
    for it; None where 1-stage is never overtaken.
    """
    points = sorted(
        (2 * hidden * tokens, us - found[h, tokens, dtype, "2stage"])
        for (h, tokens, dtype, arm), us in found.items()
        if h == hidden
        and arm == "1stage"
        and dtype == "bf16"
        and (h, tokens, dtype, "2stage") in found
    )
    if not points:
        return None, "not measured"
    at = last_crossing(*zip(*points, strict=True))
    if at is None and all(gap >= 0 for _, gap in points):
        return float(points[0][0]), f"below {kib(points[0][0])}"
    return at, "none" if at is None else kib(round(at))


def score(place: Path) -> None:
    """Print what became of the prediction, for each campaign."""
    predicted = json.loads((place / "prediction.json").read_text())
    for name in ("test", "repeat", "another"):
        errors: list[list[str]] = []
        crossings: list[list[str]] = []
        for n in WORLD_SIZES:
            if not (place / f"{name}-tp{n}.csv").exists():
                continue
            found = measured(place, name, n)
            shapes = [r for r in predicted["rows"] if r["world_size"] == n]
            left = [r for r in shapes if not all((*call(r), arm) in found for arm in ARMS)]
            shapes = [r for r in shapes if r not in left]
            for r in left:
                print(f"{name}, TP{n}: {call(r)} had an arm that was not clean, left out")
            if len(shapes) < FEWEST:
                print(f"{name}, TP{n}: {len(shapes)} shapes measured, fewer than {FEWEST}: void")
                continue
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
            places_of = [places[r["hidden_dim"]] for r in shapes]
            middle = np.array([c.get("middle", c["bytes"]) for c in places_of])
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
                at, words = crossed(found, hidden)
                hit = at is not None and c["bytes_lo"] <= at <= c["bytes_hi"]
                crossings.append([
                    f"TP{n}", str(hidden), words,
                    kib(c["bytes"]), f"{kib(c['bytes_lo'])} to {kib(c['bytes_hi'])}",
                    ("hit" if hit else "miss") if c["counts"] else "known before",
                ])  # fmt: skip
        if not errors:
            continue
        heads = ["ranks", "arm", "shapes", "median", "bias", "after offset", "held"]
        print(table(errors, heads))
        print(table(crossings, ["ranks", "hidden", "measured", "predicted", "90 %", ""]))
        if predicted.get("fabric"):
            judge(place, name, predicted)


class Answer(NamedTuple):
    """What one calibration says: us by call (ranks, hidden, tokens, dtype) and arm, and a rule."""

    by: str
    us: dict[tuple, dict[str, float]]
    rule: Rule


def judge(place: Path, name: str, predicted: dict) -> None:
    """Print how the aims were met: by the prediction, and by a calibration of the rows there.

    The rules of both are judged on the test's calls and on those of ``live-*.csv``.
    """
    for line in anchor(place):
        print(line)
    by_call = {
        (r["world_size"], *call(r)): {arm: r[arm][0] for arm in ARMS} for r in predicted["rows"]
    }
    answers = [Answer("predicted", by_call, load(place / "rule.json"))]
    planned = rows_of(place, "planned")
    if planned is not None:
        hidden = {c["hidden_dim"] for c in predicted["crossovers"]}
        answers.append(calibrated(planned, by_call, hidden))
    found = {kind: pair(rows, FUSED) for kind in (name, "live") if (rows := rows_of(place, kind))}
    aims, lines = predicted["aims"], []
    for answer in answers:
        test = found[name]
        asked = np.array([c in answer.us for c in calls_of(test)])
        for n in np.unique(test.world_size[asked]).tolist():
            mine = test.select(asked & (test.world_size == n))
            said = [answer.us[c] for c in calls_of(mine)]
            off = [
                np.array([each[arm] for each in said]) / us - 1
                for arm, us in zip(ARMS, (mine.one_us, mine.two_us), strict=True)
            ]
            middle = 100 * float(np.median(np.abs(off)))
            aim = aims[f"{answer.by}_median_error"]
            lines.append([answer.by, f"median error, TP{n}", name, *against(middle, aim)])
        # The arm that each call's own latencies choose, as a rule without a form would.
        mine = test.select(asked)
        said = [answer.us[c] for c in calls_of(mine)]
        choice = np.array([each["1stage"] < each["2stage"] for each in said])
        lines += chosen(answer.by, "the faster arm", name, mine, choice, aims)
        for kind, pairs in found.items():
            choice = pairs.use_1stage(answer.rule, kernels.LATEST)
            lines += chosen(answer.by, "its rule", kind, pairs, choice, aims)
    print(table(lines, ["by", "what", "rows", "is", "aim", ""]))


def chosen(
    by: str, what: str, rows: str, pairs: Pairs, choice: NDArray[np.bool_], aims: dict[str, float]
) -> list[list[str]]:
    """Return the lines of a choice: right where the arms are apart, and its mean regret."""
    agreed, regret = worth(pairs, choice)
    lines = [[by, f"{what}: regret", rows, *against(regret, aims["regret"])]]
    if agreed.agree_outside_tie is not None:
        right = against(100 * agreed.agree_outside_tie, aims["right"], least=True)
        lines.insert(0, [by, f"{what}: right, of {agreed.outside_tie} calls", rows, *right])
    return lines


def worth(pairs: Pairs, choice: NDArray[np.bool_]) -> tuple[Agreement, float]:
    """Return how often a choice takes the faster arm, and its mean regret in percent."""
    regret = 100 * float((pairs.chosen_us(choice) / pairs.fastest_us - 1).mean())
    return agreement(pairs, choice, 100 * TIE), regret


def calibrated(planned: Measurements, calls: Iterable[tuple], hidden: Iterable[int]) -> Answer:
    """Return what a calibration of the rows measured there says of the test's calls."""
    (family,) = set(planned.kernel_family.used)
    calibration, _ = costmodel.calibrate(costmodel.observe(planned, family=family))
    settings = {dtype: ask(calibration, dtype) for dtype in ("bf16", "fp16")}
    us = {}
    for n, hidden_dim, tokens, dtype in calls:
        setting = settings[dtype]
        shapes = setting.shapes([tokens], hidden_dim, n)
        us[n, hidden_dim, tokens, dtype] = {
            arm: float(setting.latency_us(shapes, arm)[0]) for arm in ARMS
        }
    decision = costmodel.recommend(settings["bf16"], Workload.of(sorted(hidden)))
    for cutoff in decision.cutoffs:
        if not cutoff.claimed:
            print(
                f"calibrated, TP{cutoff.world_size}: no rule is claimed; judged is its best cutoff"
            )
    return Answer("calibrated", us, rule_of(decision, "calibrated"))


def against(value: float, aim: float, *, least: bool = False) -> tuple[str, str, str]:
    """Return a figure in percent, its aim, and whether it is met."""
    met = value >= aim if least else value <= aim
    return f"{value:.2f} %", f"{'at least' if least else 'at most'} {aim:g} %", (
        "met" if met else "NOT MET"
    )  # fmt: skip


def anchor(place: Path) -> list[str]:
    """Return in words what 2 ranks took there, beside the same calls of calibration.csv."""
    path = place / "planned-tp2.csv"
    if not path.exists():
        return [f"no {path.name}: nothing says whether these GPUs are those of before"]
    before, now = (pair(measurement.read(p), FUSED) for p in (place / "calibration.csv", path))
    lines = []
    for arm, was, us in zip(
        ARMS, (before.one_us, before.two_us), (now.one_us, now.two_us), strict=True
    ):
        known = dict(zip(calls_of(before), was.tolist(), strict=True))
        ratio = [x / known[c] for c, x in zip(calls_of(now), us, strict=True) if c in known]
        middle = float(np.median(ratio)) - 1 if ratio else np.nan
        verdict = "as before" if abs(middle) <= ANCHOR else "ANOTHER MACHINE"
        lines.append(f"anchor, TP2 {arm}: {middle:+.1%} over {len(ratio)} calls: {verdict}")
    return lines


def rows_of(place: Path, name: str) -> Measurements | None:
    """Return the clean rows of ``name-tp*.csv``, None where there is no such file."""
    tables = [measurement.read(path) for path in sorted(place.glob(f"{name}-tp*.csv"))]
    if not tables:
        return None
    rows = measurement.stacked(tables)
    return rows.select(rows.quality == "clean")


def calls_of(pairs: Pairs) -> list[tuple]:
    """Return (ranks, hidden, tokens, dtype) of each pair."""
    columns = (pairs.world_size, pairs.hidden_dim, pairs.tokens, pairs.dtype)
    return list(zip(*(c.tolist() for c in columns), strict=True))
