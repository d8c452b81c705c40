"""Draw the README's figures again: ``python docs/images/draw.py`` (needs Chrome or Chromium)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import costmodel as cm
from costmodel import figures
from costmodel.data import llms
from costmodel.rules import catalogue
from costmodel.tuning.picture import picture
from costmodel.tuning.session import Session


def draw(directory: Path) -> None:
    """Write the figures as PNG files."""
    mi355x, mi300x = cm.Setting.shipped("MI355X"), cm.Setting.shipped("MI300X")
    decision = cm.recommend(mi355x)
    model, now = llms.find("gpt-oss-120b"), catalogue.current("sglang")
    drawn = {
        "latency": figures.latency_against_bytes(decision, world_size=4, hidden_dim=7168),
        "decision-map": figures.decision_map(decision),
        "regret": figures.regret_over_workload(decision),
        "call": figures.terms_of_call(cm.explain(mi300x, mi300x.shapes(32, 2880, 8))),
        "worth": figures.worth_by_batch(
            [cm.worth(mi355x, model, n, now, decision.rule) for n in (4, 8)]
        ),
    }
    drawn["plan"] = figures.cutoffs_after_plan(cm.plan(mi300x, cm.Budget(shapes=6)))
    with tempfile.TemporaryDirectory() as made:
        drawn["tune"] = picture(_replayed(Path(made) / "tuned"))
    paths = {directory / f"{name}.png": figure for name, figure in drawn.items()}
    figures.write_images(paths, scale=1.5)


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
