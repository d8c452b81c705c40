"""Predictions committed before their measurement, and what became of them.

    python benchmarks/preregistered.py predict measurements/h200-pair/revision-2
    python benchmarks/preregistered.py predict measurements/h200-switch --fabric switch
    python benchmarks/preregistered.py score measurements/h200-pair

``predict`` reads ``calibration.json`` and writes ``plan.json``, the shapes to be measured, and
``prediction.json``: both arms' latencies and the crossovers with 90 % intervals, the rule, the
guards that make a run void, and a hash of the calibration. ``score`` reads measured rows
(``test-*.csv``) and prints hits and misses beside the prediction, which it never writes.

Machines of one kind differ, by 1 % of the ratio of the arms near a crossover. Where a calibration
has sources of several machines, ``--source`` names the one that is asked about. So that its own few
rows can be measured last, ``prepare`` writes the plan and the form's errors before, from the rows
that are there then, and ``predict`` takes both as they are::

    python benchmarks/preregistered.py prepare PLACE --hidden 2816,3712
    python benchmarks/preregistered.py predict PLACE --source fourth

The intervals carry the parameters and the form: how far an arm's latency, and the ratio of the
arms, were off on rows that a fit had left out, a hidden size of a world size at a time, or, for a
world size that no row of the fabric has, a world size at a time. A crossover is read off the two
calls beside it, so that what counts of the ratio are the errors of single calls near one. The
predictions before the third of revision 2 took *this kernel*'s draws and the error over all rows,
those up to the fifth the mean error of a group's rows where the arms are within 10 %. Since the
third a prediction of the calibration's own fabric is of *this machine*, whose rows these are.

``--fabric`` asks about ranks that are wired otherwise than the calibration's rows, by the same
parameters: ``switch`` is a GPU for every rank. What is measured there comes in more files
(``planned-*``, ``live-*``; benchmarks/switch_campaign.py), and ``score`` judges by them what a
calibration of its own makes of the test, and the rules.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from registered_questions import (
    ARMS,
    FAR_TOKENS,
    HIDDEN,
    NEAR,
    QUESTIONS,
    TIE,
    WORLD_SIZES,
    ask,
    rule_of,
)
from registered_score import score

import costmodel
from costmodel.calibration import posterior
from costmodel.calibration.crossing import last_crossing
from costmodel.data import measurement
from costmodel.data.measurement import Measurements
from costmodel.data.workload import Workload
from costmodel.decide.pairs import Pairs, pair
from costmodel.decide.setting import DRAWS, Setting
from costmodel.model.shape import FUSED
from costmodel.show.table import table
from costmodel.units import kib

PLAN = "costmodel/plan/1"
#: The form's errors, where they were written before the prediction.
FORMS = "forms.json"
#: Arms nearer to each other than this tell of the crossover.
NEAR_CROSSING = 0.04
#: What no kernel can be faster than on the two GPUs: a prediction below it is refused.
FLOORS = Path(__file__).parents[1] / "measurements" / "h200-pair" / "pair_floor.csv"


def setting_of(place: Path, dtype: str = "bf16", fabric: str = "", source: str = "") -> Setting:
    """Return the question: these GPUs, by their calibration, as its own harness measures."""
    return ask(posterior.load(place / "calibration.json"), dtype, fabric, source)


class Form(NamedTuple):
    """How far logarithms are off beyond the parameters (root mean square), and in what groups.

    ``ratio`` of 1-stage over 2-stage, ``one`` and ``two`` of the arms.
    """

    ratio: float
    one: float
    two: float
    groups: int


def form_errors(place: Path, fabric: str = "") -> dict[int, Form]:
    """Return, by world size, how far rows are off that a fit has left out.

    Of calibration.csv's pairs, each predicted by a fit without its group: a hidden size at its
    world size, of which the pairs near a crossover count for the ratio; or a whole world size for
    one whose crossovers no two hidden sizes of the fabric show, of which all pairs count. What
    ``prepare`` has written stands.
    """
    if (place / FORMS).exists():
        written = json.loads((place / FORMS).read_text())
        return {int(n): Form(**form) for n, form in written.items()}
    table = measurement.read(place / "calibration.csv")
    seen = set() if fabric else shown(table)
    found = {}
    for n in WORLD_SIZES:
        names = ("world_size", "hidden_dim") if n in seen else ("world_size",)
        number, first = table.numbered(names)
        groups = [g for g, row in enumerate(first) if n not in seen or table.world_size[row] == n]
        off = [left_out(table, number == group) for group in groups]
        ratio, *arms = np.concatenate([errors for errors, _ in off], axis=1)
        if n in seen:
            ratio = ratio[np.concatenate([near for _, near in off])]
            groups = [group for group, (_, near) in zip(groups, off, strict=True) if near.any()]
        sizes = [float(np.sqrt(np.mean(each**2))) for each in (ratio, *arms)]
        found[n] = Form(*sizes, len(groups))
    return found


def shown(table: Measurements) -> set[int]:
    """Return the world sizes of which two hidden sizes or more have pairs near a crossover."""
    pairs = pair(table, FUSED)
    near = is_near(pairs)
    there = set(zip(pairs.world_size[near].tolist(), pairs.hidden_dim[near].tolist(), strict=True))
    counted = [n for n, _ in there]
    return {n for n in counted if counted.count(n) > 1}


def is_near(pairs: Pairs) -> NDArray[np.bool_]:
    """Return which pairs have arms so close that they tell of a crossover."""
    return np.abs(np.log(pairs.one_us / pairs.two_us)) < np.log1p(NEAR_CROSSING)


def left_out(
    table: Measurements, group: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return how far a fit without a group's rows is off on its pairs, and which are near.

    Logarithms (3, n) of what :class:`Form` names, each pair by its own source, and where the arms
    differ by less than :data:`NEAR_CROSSING`.
    """
    (family,) = set(table.kernel_family.used)
    fit, _ = costmodel.calibrate(costmodel.observe(table.select(~group), family=family))
    pairs = pair(table.select(group), FUSED)
    off = np.empty((3, len(pairs)))
    for source in set(pairs.source.tolist()):
        mine = pairs.source == source
        some, setting = pairs.select(mine), ask(fit, source=source)
        shapes = setting.shapes(some.tokens, some.hidden_dim, some.world_size)
        one, two = (
            np.log(setting.latency_us(shapes, arm) / us)
            for arm, us in zip(ARMS, (some.one_us, some.two_us), strict=True)
        )
        off[:, mine] = one - two, one, two
    return off, is_near(pairs)


def crossover(
    setting: Setting, values: Any, world_size: int, hidden: int, form: Form
) -> tuple[float, float, float, float]:
    """Return point, lo and hi in bytes of the size above which 2-stage is faster, and P(none).

    Draw by draw where straight lines through 1-stage minus 2-stage, on a fine grid of tokens, last
    cross zero; one token's bytes where 2-stage is always faster. ``values`` are the draws,
    ``form`` widens the ratio of the arms, see :func:`form_errors`.
    """
    tokens = np.unique(np.round(np.geomspace(1, 2048, 160)).astype(int))
    shapes = setting.shapes(tokens, hidden, world_size)
    more = np.random.default_rng(0).standard_t(form.groups, DRAWS)[:, None]

    def crossings(some: Any, widened: Any) -> NDArray[np.float64]:
        one, two = (setting.latency_us(shapes, arm, some) for arm in ARMS)
        ahead = np.atleast_2d(one * widened - two)
        found = (last_crossing(shapes.bytes, row) for row in ahead)
        return np.array([np.nan if at is None else at for at in found])

    drawn = crossings(values, np.exp(form.ratio * more))
    one_token = float(shapes.bytes[0])
    (point,) = np.nan_to_num(crossings(setting.point, 1.0), nan=one_token)
    lo, hi = np.quantile(np.nan_to_num(drawn, nan=one_token), [0.05, 0.95])
    return float(point), float(lo), float(hi), float(np.isnan(drawn).mean())


def calibrated_on(place: Path) -> set[tuple[int, int, int]]:
    """Return the calls (ranks, hidden, tokens) that calibration.csv has."""
    table = measurement.read(place / "calibration.csv")
    columns = (table.world_size, table.hidden_dim, table.tokens)
    return set(zip(*(c.tolist() for c in columns), strict=True))


def crossovers_of(
    place: Path, setting: Setting, hidden_dims: Iterable[int], forms: dict[int, Form], fabric: str
) -> list[dict]:
    """Return the predicted crossovers; none counts whose hidden size was known before."""
    # On another fabric than the rows' the machine is another too.
    values = setting.this_kernel if fabric else setting.draws
    seen = set() if fabric else {(n, hidden) for n, hidden, _ in calibrated_on(place)}
    known, found = seen | QUESTIONS[fabric].known, []
    for n in WORLD_SIZES:
        for hidden in hidden_dims:
            point, lo, hi, none = crossover(setting, values, n, hidden, forms[n])
            # Where the point is one token, the shapes spread over the interval instead.
            middle = max(point, (max(lo, 1) * hi) ** 0.5)
            found.append(
                {
                    "world_size": n, "hidden_dim": hidden, "bytes": point, "bytes_lo": lo,
                    "bytes_hi": hi, "no_1stage_probability": none, "middle": round(middle),
                    "counts": (n, hidden) not in known,
                }
            )  # fmt: skip
    return found


def plan_of(place: Path, crossovers: list[dict], fabric: str) -> list[dict]:
    """Return the calls to be measured: near each crossover, and far from it."""
    question = QUESTIONS[fabric]
    taken = question.taken if fabric else calibrated_on(place)
    entries = []
    for c in crossovers:
        n, hidden = c["world_size"], c["hidden_dim"]
        near = {max(1, round(c["middle"] * m / (2 * hidden))) for m in NEAR}
        tokens = sorted(near | set(FAR_TOKENS))
        for dtype in ("bf16", "fp16") if (n, hidden) in question.both_dtypes else ("bf16",):
            some = tokens if dtype == "bf16" else sorted(near)
            entries += [
                {
                    "op": "fused_ar_rmsnorm", "arms": ["1stage", "2stage"], "world_size": n,
                    "tokens": t, "hidden_dim": hidden, "dtype": dtype,
                }
                for t in some
                if (n, hidden, t) not in taken
            ]  # fmt: skip
    return entries


def prepare(place: Path, hidden_dims: tuple[int, ...], source: str) -> None:
    """Write plan.json and the form's errors, before the machine asked about has rows."""
    for name in ("plan.json", FORMS, "prediction.json"):
        vacant(place / name)
    forms = form_errors(place)
    crossovers = crossovers_of(place, setting_of(place, source=source), hidden_dims, forms, "")
    write(place / "plan.json", {"schema": PLAN, "shapes": plan_of(place, crossovers, "")})
    write(place / FORMS, {n: form._asdict() for n, form in forms.items()})
    show(crossovers)


def predict(place: Path, hidden_dims: tuple[int, ...], fabric: str, source: str) -> None:
    """Write plan.json and prediction.json; for another fabric rule.json and the plans beside."""
    from scipy.stats import t as student

    vacant(place / "prediction.json")
    prepared = (place / FORMS).exists()
    if prepared:
        entries = json.loads((place / "plan.json").read_text())["shapes"]
        hidden_dims = tuple(dict.fromkeys(entry["hidden_dim"] for entry in entries))
    else:
        vacant(place / "plan.json")
    question, forms = QUESTIONS[fabric], form_errors(place, fabric)
    setting = setting_of(place, fabric=fabric, source=source)
    crossovers = crossovers_of(place, setting, hidden_dims, forms, fabric)
    if not prepared:
        entries = plan_of(place, crossovers, fabric)
    rows = []
    by_dtype = {d: setting_of(place, d, fabric, source) for d in ("bf16", "fp16")}
    for entry in entries:
        here, form = by_dtype[entry["dtype"]], forms[entry["world_size"]]
        shapes = here.shapes([entry["tokens"]], entry["hidden_dim"], entry["world_size"])
        found = {k: entry[k] for k in ("world_size", "tokens", "hidden_dim", "dtype")}
        for arm, off in zip(ARMS, (form.one, form.two), strict=True):
            said = costmodel.predict(here, shapes, arm)
            point, *ends = (
                float(v[0]) for v in (said.latency_us, said.kernel_lo_us, said.kernel_hi_us)
            )
            # Parameters and form are independent: their widths add as squares, in logarithms.
            wide = student.ppf(1 - posterior.TAIL, form.groups) * off
            lo, hi = (np.hypot(np.log(end / point), wide) for end in ends)
            found[arm] = [round(v, 3) for v in (point, point * np.exp(-lo), point * np.exp(hi))]
        rows.append(found)
    if not fabric and (impossible := below_floor(rows, FLOORS)):
        raise SystemExit(f"faster than barriers and peer copies alone: {'; '.join(impossible)}")
    if not prepared:
        write(place / "plan.json", {"schema": PLAN, "shapes": entries})
    content = (place / "calibration.json").read_bytes()
    record = {
        "calibration_sha256": hashlib.sha256(content).hexdigest(), "fabric": fabric,
        **({"source": source} if source else {}),
        "guards": question.guards, "aims": question.aims, "tie": TIE,
        "form_errors": {n: form._asdict() for n, form in forms.items()},
        "crossovers": crossovers, "rows": rows,
    }  # fmt: skip
    if fabric:
        decision = costmodel.recommend(setting, Workload.of(hidden_dims))
        record["rule"] = [
            {
                "world_size": c.world_size, "verdict": c.verdict, "bytes": c.max_bytes,
                "expected_regret_percent": round(c.regret_pct, 3),
            }
            for c in decision.cutoffs
        ]  # fmt: skip
        write(place / "rule.json", rule_of(decision, f"{place.name}-predicted").to_json())
    for name, shapes in question.beside.items():
        write(place / f"{name}.json", {"schema": PLAN, "shapes": shapes})
    write(place / "prediction.json", record)
    show(crossovers)


def below_floor(rows: list[dict], floors: Path) -> list[str]:
    """Return in words which predicted latencies no kernel can reach.

    ``floors`` are rows of benchmarks/pair_floor.py: what two barriers and the least bytes over the
    link take, by ranks and bytes, with straight lines between.
    """
    with floors.open() as stream:
        found = [r for r in csv.DictReader(stream) if r["what"] == "floor"]
    said = []
    for row in rows:
        mine = sorted(
            (int(r["bytes"]), float(r["latency_us"]))
            for r in found
            if int(r["ranks"]) == row["world_size"]
        )
        size = 2 * row["tokens"] * row["hidden_dim"]
        floor_us = np.interp(size, *zip(*mine, strict=True)) if mine and size >= mine[0][0] else 0.0
        said += [
            f"{row['world_size']} ranks, {row['tokens']} x {row['hidden_dim']}, {arm}: "
            f"{row[arm][0]} us, floor {floor_us:.2f} us"
            for arm in ARMS
            if row[arm][0] < floor_us
        ]
    return said


def vacant(path: Path) -> Path:
    """Return a path; refuse one that exists."""
    if path.exists():
        raise SystemExit(f"{path} exists: a prediction is made once")
    return path


def write(path: Path, record: dict) -> None:
    """Write a record; refuse to touch one that exists."""
    vacant(path).write_text(json.dumps(record, indent=1) + "\n")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["prepare", "predict", "score"])
    parser.add_argument("place", type=Path)
    parser.add_argument(
        "--hidden",
        type=lambda text: tuple(map(int, text.split(","))),
        default=HIDDEN,
        metavar="LIST",
    )
    parser.add_argument("--fabric", choices=list(QUESTIONS), default="")
    parser.add_argument("--source", default="", help="the machine asked about")
    options = parser.parse_args()
    if options.what == "prepare":
        prepare(options.place, options.hidden, options.source)
    elif options.what == "predict":
        predict(options.place, options.hidden, options.fabric, options.source)
    else:
        score(options.place)


if __name__ == "__main__":
    main()
