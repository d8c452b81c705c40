"""How results show themselves in a notebook: HTML for IPython, by class.

The results know nothing of it. ``import costmodel`` inside IPython calls :func:`register`; jinja2
and the templates are read when the first result is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

#: (module, class) of a result -> its macro in ``templates/notebook.html.j2``.
SHOWN = {
    ("costmodel.calibration.posterior", "Calibration"): "calibration",
    ("costmodel.decide.decision", "Decision"): "decision",
    ("costmodel.decide.validation", "Validation"): "validation",
}


def register() -> None:
    """Tell the running IPython, if there is one, how results show as HTML."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    formatter = shell.display_formatter.formatters["text/html"]
    for (module, name), macro in SHOWN.items():
        formatter.for_type_by_name(module, name, partial(html, macro))


def html(macro: str, result: Any) -> str:
    """Return a result as HTML, all its text escaped, by a macro of ``notebook.html.j2``."""
    return str(_macros()[macro](result))


@cache
def _macros() -> dict[str, Callable[..., str]]:
    from ..model.parameters import prior
    from . import place, recommendation
    from .templating import environment

    made = environment()
    made.filters |= {
        "prior": prior,
        "machine": place.machine,
        "rests_on": recommendation.evidence,
        "interval": recommendation.interval,
        "this_kernel": recommendation.this_kernel,
    }
    return vars(made.get_template("notebook.html.j2").module)
