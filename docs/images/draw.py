"""Draw the documents' figures again: ``python docs/images/draw.py`` (needs Chrome or Chromium)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import costmodel as cm
from costmodel import figures
from costmodel.calibration.crossing import last_crossing
from costmodel.decide.pairs import pair
from costmodel.figures.registered import Registered, prediction_against_measurement
from costmodel.model.shape import FUSED
from costmodel.tuning.picture import picture
from costmodel.tuning.session import Session

if TYPE_CHECKING:
    import plotly.graph_objects as go


def draw(directory: Path) -> None:
    """Write the figures as PNG files."""
    mi355x, mi300x = cm.Setting.shipped("MI355X"), cm.Setting.shipped("MI300X")
    decision = cm.recommend(mi355x)
    drawn = {
        "latency": figures.latency_against_bytes(decision, world_size=4, hidden_dim=7168),
    }
    measured = directory.parents[1] / "measurements"
    drawn["h200-pair"] = _pair(measured / "h200-pair", 1)
    drawn["h200-pair-2"] = _pair(measured / "h200-pair" / "revision-2", 2)
    drawn["h200-pair-3"] = _pair(measured / "h200-pair" / "revision-2" / "third", 2, 3840)
    drawn["h200-pair-5"] = _pair(measured / "h200-pair" / "revision-3", 3, 3840)
    drawn["h200-pair-6"] = _pair(measured / "h200-pair" / "revision-3" / "machines", 3, 4992)
    drawn["plan"] = figures.cutoffs_after_plan(cm.plan(mi300x, cm.Budget(shapes=6)))
    with tempfile.TemporaryDirectory() as made:
        drawn["tune"] = picture(_replayed(Path(made) / "tuned"))
    paths = {directory / f"{name}.png": figure for name, figure in drawn.items()}
    figures.write_images(paths, scale=1.5)


def _pair(place: Path, revision: int, curve_hidden: int = 4096) -> go.Figure:
    """Return a prediction for kernels of a revision on two H200 beside its measurement."""
    said = json.loads((place / "prediction.json").read_text())
    parts = []
    hidden_dims = [c["hidden_dim"] for c in said["crossovers"]]
    for ranks in (4, 8):
        rows = [r for r in said["rows"] if (r["world_size"], r["dtype"]) == (ranks, "bf16")]
        curve = [r for r in rows if r["hidden_dim"] == curve_hidden]
        table = cm.read(place / f"test-tp{ranks}.csv")
        pairs = pair(table.select((table.dtype == "bf16") & (table.quality == "clean")), FUSED)
        pairs = pairs.select(np.lexsort((pairs.hidden_dim, pairs.bytes)))
        one, two, size, hidden = pairs.one_us, pairs.two_us, pairs.bytes, pairs.hidden_dim
        places = [c for c in said["crossovers"] if c["world_size"] == ranks]
        crossed = []
        for each in np.unique(hidden):
            mine = hidden == each
            at = last_crossing(size[mine], (one - two)[mine])
            crossed += [] if at is None else [at]
        parts.append(
            Registered(
                ranks,
                np.array([2.0 * r["tokens"] * r["hidden_dim"] for r in curve]),
                {a: np.array([r[a] for r in curve]) for a in ("1stage", "2stage")},
                size, {"1stage": one, "2stage": two},
                (min(c["bytes_lo"] for c in places), max(c["bytes_hi"] for c in places)), crossed,
            )
        )  # fmt: skip
    return prediction_against_measurement(
        parts,
        "Two H200 over NVLink, the ranks split over them, kernels of revision "
        f"{revision}, bf16. Lines and bands: predicted for hidden {curve_hidden} with 90 % "
        f"intervals. Marks: measured, hidden {min(hidden_dims)} to {max(hidden_dims)}. Grey: "
        "predicted crossovers of all hidden sizes; dotted: where they are.",
    )


def _replayed(out: Path) -> Session:
    """Tune a stated model in the place of a machine, and return the record."""
    command = [sys.executable, "-m", "costmodel", "tune", "--backend", "replay", "--tp", "4,8"]
    subprocess.run(
        [*command, "--seed", "7", "--out", str(out)], check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "COSTMODEL_REPLAY": "MI355X:17"},
    )  # fmt: skip
    return Session.open(out)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent)
