"""What the page's explorer shows: both arms at every captured batch size, as plain numbers.

"1" is 1-stage, "2" what runs otherwise: 2-stage, or separate ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from ..data import llms
from ..data.workload import captured_batch_sizes
from ..decide.explanation import choices
from ..errors import InputError
from ..figures.terms import TERM_COLOUR
from ..model.latency import TERMS
from ..model.shape import ONE_STAGE, Shapes
from ..rules import ENGINES
from ..rules.catalogue import catalogue, current
from ..rules.rule import Rule
from ..show.words import arm, benchmark, term
from ..units import kib
from .case import Case


def explored(cases: Sequence[Case]) -> dict[str, Any]:
    """Return what can be explored, by GPU; GPUs whose kernels take too little are left out."""
    found = {case.gpu: explorer(case) for case in cases}
    return {gpu: data for gpu, data in found.items() if data["hidden"]}


def explorer(case: Case) -> dict[str, Any]:
    """Return the explorer's data: per world size and hidden size, arrays over the batch sizes.

    Hidden sizes are those of which both arms take every batch at every world size; old kernels may
    take none.
    """
    batch = captured_batch_sizes()
    rules: list[Rule] = [replace(case.new, name="proposed")] if case.claims else []
    for engine in ENGINES:
        rules.append(current(engine))
    proposed = [
        r for r in catalogue()
        if r.status == "proposed" and r.op == "fused_ar_rmsnorm" and r.fabric == "xgmi"
    ]  # fmt: skip
    rules += proposed
    ranks = [w.world_size for w in case.by_world_size]
    hidden = [
        h for h in sorted({case.llm.hidden_size, *llms.hidden_dims()})
        if all(case.setting.takes_both(case.setting.shapes(batch, h, n)).all() for n in ranks)
    ]  # fmt: skip
    calls = {str(n): {str(h): _calls(case, h, n, rules) for h in hidden} for n in ranks}
    return {
        "batch": batch.tolist(),
        "hidden": hidden,
        "start": {
            "worldSize": str((case.headline or case.crossing)[0].world_size),
            "hidden": str(
                case.llm.hidden_size if case.llm.hidden_size in hidden else min(hidden, default="")
            ),
            "batch": 6,
        },
        "terms": {name: {"name": term(name), "colour": TERM_COLOUR[name]} for name in TERMS},
        "arms": {str(i): arm(a) for i, a in enumerate(case.setting.arms, start=1)},
        "note": (
            f"Latencies {benchmark(case.setting.reference)}; harness is what it adds, the same for "
            "both."
        ),
        "rules": [{"name": r.name, "words": r.words()} for r in rules],
        "calls": calls,
    }


def _calls(case: Case, hidden_dim: int, world_size: int, rules: list[Rule]) -> dict[str, Any]:
    setting = case.setting
    chosen = choices(setting, hidden_dim, world_size, decision=case.decision)
    shapes = chosen.calls
    terms = {
        str(i): {
            name: _short(np.broadcast_to(us, shapes.tokens.shape))
            for name, us in setting.terms(shapes, a).items()
        }
        for i, a in enumerate(setting.arms, start=1)
    }
    return {
        "size": [kib(int(b)) for b in shapes.bytes],
        "terms": terms,
        "margin": _short(chosen.margin_us),
        "lo": _short(chosen.margin_lo_us),
        "hi": _short(chosen.margin_hi_us),
        "wins": _short(chosen.probability_1stage, 3),
        "choice": "".join("1" if c == ONE_STAGE else "2" for c in chosen.choice),
        "rules": [_decides(r, setting.aiter_version, shapes) for r in rules],
    }


def _decides(rule: Rule, aiter_version: str, shapes: Shapes) -> str:
    """Return what a rule runs at each batch: a string of 1 and 2, empty without a claim."""
    try:
        use = rule.use_1stage(shapes, kernel_version=aiter_version)
    except InputError:
        return ""
    return "".join("1" if u else "2" for u in use)


def _short(values: Any, digits: int = 2) -> list[float] | float:
    """Return numbers rounded; a single one where all are equal."""
    rounded = np.round(np.asarray(values, float), digits)
    if (rounded == rounded[0]).all():
        return float(rounded[0])
    return [float(v) for v in rounded]
