"""Environment variables that change what AITER runs under an arm's name.

Read in AITER v0.1.10.post2 to e404860 (``aiter/dist``), none of them on a GPU. All are recorded in
``environment.json``; here is what each does, and which arms it would falsify.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..base import AUTO, PUSHED, SEPARATE_ARM

#: Smallest and largest input of the custom kernels, in bytes; read from v0.1.18 on. Whether a shape
#: lies between them the communicator itself is asked.
MIN_SIZE, MAX_SIZE = "AITER_CUSTOM_AR_MIN_SIZE", "AITER_CUSTOM_AR_MAX_SIZE"

#: Where torch's allocator reads its settings, each in turn.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

#: AITER's own log: INFO writes a line a rank and capture over the results.
LOG_LEVEL = "AITER_LOG_LEVEL"


@dataclass(frozen=True)
class Variable:
    """A variable, or all whose names begin with ``name``; ``off`` are values that change nothing.

    ``falsifies`` are the arms that would no longer be what their name says.
    """

    name: str
    does: str
    falsifies: tuple[str, ...] = ()
    off: tuple[str, ...] = ("",)

    def set_in(self, environ: Mapping[str, str]) -> str:
        """Return ``NAME=value`` where it is set to something that has an effect, "" elsewhere."""
        for name, value in sorted(environ.items()):
            if name.startswith(self.name) and value.strip().lower() not in self.off:
                return f"{name}={value}"
        return ""


KNOWN = (
    Variable("AITER_AR_1STAGE", "makes AITER's choice for it", (AUTO,)),
    Variable(
        "AITER_QUICK_REDUCE_QUANTIZATION",
        "puts the lossy quick reduce in the place of AITER's kernels",
        (AUTO, SEPARATE_ARM),
        ("", "none"),
    ),
    Variable(
        "AITER_FLY_AR", "puts FlyDSL's kernels in the place of AITER's", (AUTO, SEPARATE_ARM),
        ("", "0", "false"),
    ),
    Variable(
        "AITER_CUSTOM_AR_DISABLE_LL", "keeps the plain all-reduce from pushing", tuple(PUSHED),
        ("", "0", "false", "no", "off"),
    ),
    Variable("AITER_CUSTOM_AR_M", "moves the sizes that the custom kernels take"),
    Variable("AITER_AR_QUANT_", "moves the sizes that the quantising op is fused for"),
)  # fmt: skip


def reason_against(arm: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return why an arm would not be what its name says under these variables, "" if it is."""
    for variable in KNOWN:
        found = variable.set_in(environ)
        if found and arm in variable.falsifies:
            return f"{found} is set, which {variable.does}; unset it"
    return ""


def notes(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line on each variable that has an effect."""
    return [
        f"NOTE: {found} is set, which {variable.does}"
        + (f"; left out: {', '.join(variable.falsifies)}" if variable.falsifies else "")
        for variable in KNOWN
        if (found := variable.set_in(environ))
    ]


def expandable_segments(environ: Mapping[str, str] = os.environ) -> str:
    """Return the setting that lets torch's allocator grow its segments, "" where none does.

    Their pointers cannot be exported to peers: captures fail (before v0.1.20), or every call copies
    its input first (from v0.1.20 on), which is another op than the engines' (AITER #4174).
    """
    for name in ALLOCATOR:
        setting = environ.get(name, "").strip()
        if setting:
            fields = dict(field.partition(":")[::2] for field in setting.split(","))
            on = {key.strip(): value.strip().lower() for key, value in fields.items()}
            yes = on.get("expandable_segments", "") in ("true", "1", "yes", "on")
            return f"{name}={setting}" if yes else ""
    return ""
