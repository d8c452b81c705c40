"""What the tests of emit share: rules, provenance, applying a patch, comparing decisions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

from costmodel.data import kernels as kernel
from costmodel.engines import patch as engine
from costmodel.engines.source import open_trees
from costmodel.engines.stand_in import decider
from costmodel.model.shape import WORLD_SIZES
from costmodel.rules.condition import Calls
from costmodel.rules.evidence import CutoffEvidence, Provenance
from costmodel.rules.rule import Rule

PROVENANCE = Provenance(
    "costmodel emit --for sglang --arch gfx950",
    "gfx950-0123abcd",
    "0123abcd4567ef89",
    "gfx950",
    "MI355X",
    {
        2: CutoffEvidence("always_1stage"),
        4: CutoffEvidence("measured", 390_000, 540_000),
        8: CutoffEvidence("not_identified"),
    },
)

#: Rules of every kind that a recommendation or a user may ask for.
RULES = {
    "recommended": Rule.from_cutoffs("recommended", {2: None, 4: 458752, 8: 229376}),
    "partly_claimed": Rule.from_cutoffs("partly_claimed", {2: None, 4: 458752}),
    "strict": Rule.from_cutoffs("strict", {2: 900_000, 8: 131_074}, inclusive=False),
    "hidden_set": Rule.from_cutoffs(
        "hidden_set", {2: None, 4: 320 * 1024, 8: 96 * 1024}, hidden_dims={2880, 5120, 7168}
    ),
    "one_cutoff": Rule.from_cutoffs("one_cutoff", dict.fromkeys(WORLD_SIZES, 64 * 1024)),
}


def emit(root: Path, rule: Rule, provenance: Provenance = PROVENANCE) -> engine.Emitted:
    """Emit a rule for the one engine at ``root``."""
    (tree,) = open_trees(root)
    return engine.patch(tree, rule, provenance, kernel.aiter())


def apply(diff: str, root: Path, tool: str) -> None:
    """Apply a diff to a tree with ``patch`` or ``git``; both must be silent about fuzz."""
    if tool == "patch":
        command = ["patch", "-p1", "--fuzz=0", "-d", str(root)]
    else:
        command = ["git", "apply", "--whitespace=nowarn", "-"]
    done = subprocess.run(command, input=diff.encode(), cwd=root, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"offset" not in done.stdout


def tools() -> list[str]:
    """Return which of patch and git this machine has; at least one."""
    found = [tool for tool in ("patch", "git") if shutil.which(tool)]
    assert found, "neither patch nor git is installed"
    return found


def random_calls(count: int, seed: int = 7) -> list[tuple[int, str, int, int, bool]]:
    """Return random (world size, dtype, hidden, elements, mesh), half of them near a boundary."""
    rng = np.random.default_rng(seed)
    hidden = rng.choice(
        [512, 1024, 2048, 2880, 2884, 2888, 4096, 5120, 6144, 7168, 7176, 8192, 8200, 12288], count
    )
    tokens = np.maximum(1, np.exp(rng.uniform(0, np.log(600), count)).astype(int))
    sizes = rng.choice([2, 2, 4], count)
    near = (
        rng.choice([64, 80, 96, 128, 192, 224, 256, 320, 448, 896], count)
        * 1024
        // (hidden * sizes)
    )
    tokens = np.where(rng.random(count) < 0.5, tokens, np.maximum(1, near))
    tokens = np.maximum(1, tokens + rng.integers(-1, 2, count))
    dtype = np.where(sizes == 4, "fp32", rng.choice(["bf16", "fp16"], count))
    n = rng.choice(WORLD_SIZES, count)
    mesh = rng.random(count) < 0.9
    return list(
        zip(
            n.tolist(), dtype.tolist(), hidden.tolist(), (tokens * hidden).tolist(),
            mesh.tolist(), strict=True,
        )
    )  # fmt: skip


def rule_says(rule: Rule, calls: list[tuple[int, str, int, int, bool]]) -> list[bool]:
    """Return what a rule decides for each call."""
    out = []
    for n, dtype, hidden, elements, mesh in calls:
        one = Calls(
            dtype, np.array([elements // hidden]), np.array([hidden]), np.array([elements]),
            np.array([n]), fully_connected=mesh,
        )  # fmt: skip
        out.append(bool(rule.condition.at(n).holds(one)[0]))
    return out


def function_says(text: str, function: str, calls: list[tuple[int, str, int, int, bool]]):
    """Return what a function, cut out of its source and run on stand-ins, decides."""
    decide = decider(text, function)
    return [decide(*call) for call in calls]
