"""What the page's explorer shows: both arms at every captured batch size, as plain numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..data import llms
from ..data.workload import captured_batch_sizes
from ..decide.explanation import decisions
from ..decide.sensitivity import Setting
from ..errors import InputError
from ..figures.terms import TERM_COLOUR
from ..model.latency import TERMS
from ..model.shape import ALGORITHMS, ONE_STAGE
from ..rules.rule import ENGINES, Rule, catalogue, current
from ..show.words import arm, term
from ..units import kib
from .case import Case
from .pictures import setting


def explorer(case: Case) -> dict[str, Any]:
    """Return the explorer's data: per world size and hidden size, arrays over the batch sizes."""
    batch = captured_batch_sizes()
    rules: list[Rule] = [replace(case.new, name="proposed")]
    for engine in ENGINES:
        rules.append(current(engine))
    proposed = [
        r for r in catalogue()
        if r.status == "proposed" and r.op == "fused_ar_rmsnorm" and r.fabric == "xgmi"
    ]  # fmt: skip
    rules += proposed
    sizes = sorted({case.llm.hidden_size, *llms.hidden_dims()})
    calls: dict[str, dict[str, Any]] = {}
    hidden: list[int] = []
    for w in case.by_world_size:
        first = setting(case, w.world_size)
        by_hidden: dict[str, Any] = {}
        for h in sizes:
            one = replace(first, hidden_dim=h)
            if not all(one.runs(batch, a).all() for a in ALGORITHMS):
                continue
            by_hidden[str(h)] = _calls(one, rules)
            if h not in hidden:
                hidden.append(h)
        calls[str(w.world_size)] = by_hidden
    return {
        "batch": batch.tolist(),
        "hidden": hidden,
        "start": {
            "worldSize": str(case.by_world_size[-1].world_size),
            "hidden": str(case.llm.hidden_size if case.llm.hidden_size in hidden else hidden[0]),
            "batch": 6,
        },
        "terms": {name: {"name": term(name), "colour": TERM_COLOUR[name]} for name in TERMS},
        "arms": {a: arm(a) for a in ALGORITHMS},
        "rules": [{"name": r.name, "words": r.words()} for r in rules],
        "calls": calls,
    }


def _calls(one: Setting, rules: list[Rule]) -> dict[str, Any]:
    decided = decisions(one)
    shapes = one.shapes(decided.tokens)
    terms = {
        a: {
            name: _short(np.broadcast_to(us, decided.tokens.shape))
            for name, us in one.terms(decided.tokens, a).items()
        }
        for a in ALGORITHMS
    }
    return {
        "size": [kib(int(b)) for b in shapes.bytes],
        "terms": terms,
        "margin": _short(decided.margin_us),
        "lo": _short(decided.margin_lo_us),
        "hi": _short(decided.margin_hi_us),
        "wins": _short(decided.probability_1stage, 3),
        "choice": "".join("1" if c == ONE_STAGE else "2" for c in decided.choice),
        "rules": [_decides(r, one, shapes) for r in rules],
    }


def _decides(rule: Rule, one: Setting, shapes: Any) -> str:
    """Return what a rule runs at each batch: a string of 1 and 2, empty without a claim."""
    try:
        use = rule.use_1stage(shapes, kernel_version=one.aiter_version)
    except InputError:
        return ""
    return "".join("1" if u else "2" for u in use)


def _short(values: Any, digits: int = 2) -> list[float] | float:
    """Return numbers rounded; a single one where all are equal."""
    rounded = np.round(np.asarray(values, float), digits)
    if (rounded == rounded[0]).all():
        return float(rounded[0])
    return [float(v) for v in rounded]
