"""Draw the README's figures again: ``python docs/images/draw.py`` (needs Chrome or Chromium)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from costmodel import figures
from costmodel.calibration import posterior as calibration
from costmodel.data import llms
from costmodel.decide.recommendation import recommend
from costmodel.decide.sensitivity import Setting
from costmodel.decide.worth import worth
from costmodel.rules import catalogue


def draw(directory: Path) -> None:
    """Write the figures as PNG files."""
    gfx950, gfx942 = calibration.shipped("gfx950"), calibration.shipped("gfx942")
    rule = recommend(gfx950, gpu="MI355X").rule()
    model = llms.find("gpt-oss-120b")
    changes = [
        worth(gfx950, model, n, catalogue.current("sglang"), rule, gpu="MI355X") for n in (4, 8)
    ]
    drawn = {
        "latency": figures.latency_against_bytes(Setting(gfx950, "MI355X", 4, 7168)),
        "decision-map": figures.decision_map(gfx950, gpu="MI355X", recommended=rule),
        "regret": figures.regret_over_workload(
            gfx950, gpu="MI355X", recommended=replace(rule, name="recommended")
        ),
        "call": figures.terms_of_call(Setting(gfx942, "MI300X", 8, 2880), 32),
        "worth": figures.worth_by_batch(changes),
    }
    paths = {directory / f"{name}.png": figure for name, figure in drawn.items()}
    figures.write_images(paths, scale=1.5)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent)
