"""Draw the README's figures again: ``python docs/images/draw.py`` (needs Chrome or Chromium)."""

from __future__ import annotations

from pathlib import Path

import costmodel as cm
from costmodel import figures
from costmodel.data import llms
from costmodel.rules import catalogue


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
    paths = {directory / f"{name}.png": figure for name, figure in drawn.items()}
    figures.write_images(paths, scale=1.5)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent)
