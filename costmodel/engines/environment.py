"""AITER's environment variables: the rule where no source may be changed.

``AITER_AR_1STAGE`` = 1 or 0 forces a stage for every size. ``AITER_AR_1STAGE_MAX_KB`` sets the
limit, and from 0.1.17 to at least 0.1.20 it is compared with *bytes* in spite of its name: 512
there means 512 bytes, which turns 1-stage off. Source: AITER
``aiter/dist/device_communicators/communicator_cuda.py``.
"""

from __future__ import annotations

from ..data.kernels import Kernel, parse_version
from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..rules.algebra import factors, is_byte_limit, with_version
from ..rules.condition import exact_size
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from . import comment

#: First release that reads the variable, and the last one seen to compare it with bytes.
FIRST, LAST_SEEN = "0.1.17", "0.1.20"

_WARNING = (
    "Unit: AITER {first} to at least {last} compares AITER_AR_1STAGE_MAX_KB with BYTES, in spite "
    "of its name: 512 would mean 512 bytes and turn 1-stage off. The values below are bytes. A "
    "release that reads it as KiB would take them for 1024 times as much: check the installed "
    "source with 'costmodel audit' before relying on it, or patch the rule instead."
)


_FORCED = (
    "AITER_AR_1STAGE forces the fused fp8 and MXFP4 ops too, not only the plain norm whose rule "
    "this is."
)


def script(rule: Rule, provenance: Provenance, kernel: Kernel) -> str:
    """Return a POSIX shell script that exports the rule for the TP given in ``$TP``.

    Raises :class:`InputError` for an AITER release that does not read the variable.
    """
    if parse_version(kernel.version) < parse_version(FIRST):
        raise InputError(
            f"AITER {kernel.version} does not read AITER_AR_1STAGE_MAX_KB (it came with {FIRST}); "
            "emit --for aiter patches the rule instead"
        )
    condition = with_version(rule.condition, kernel.version)
    claimed = condition.world_sizes
    if not claimed:
        raise InputError(f"rule '{rule.name}' claims no world size; there is nothing to emit")
    paragraphs = [
        comment.origin(rule, provenance),
        _WARNING.format(first=FIRST, last=LAST_SEEN),
        _FORCED,
        comment.reproduce(provenance),
    ]
    unsaid = [f.words() for f in factors(condition.at(claimed[0])) if not is_byte_limit(f)]
    if unsaid:
        paragraphs.append(f"The variables cannot say: {'; '.join(unsaid)}.")
    body = []
    for n in WORLD_SIZES:
        if n in claimed:
            body.append(f"{n}) {_export(rule, n)}")
        else:
            body.append(f"{n}) unset AITER_AR_1STAGE AITER_AR_1STAGE_MAX_KB ;;  # no claim")
    lines = [
        *comment.as_comment(paragraphs, 0),
        'case "${TP:?set TP to the tensor-parallel size}" in',
        *(f"    {line}" for line in body),
        '    *) echo "no rule for TP=$TP" >&2 ;;',
        "esac",
    ]
    return "\n".join(lines) + "\n"


def _export(rule: Rule, world_size: int) -> str:
    cutoff = rule.cutoff_bytes(world_size)
    if cutoff is None:
        force = {"every size": 1, "no size": 0}.get(rule.sizes(world_size))
        if force is None:
            raise InputError(
                f"rule '{rule.name}' goes by tokens and hidden size at TP{world_size}; the "
                "variables cannot say that, emit --for aiter can"
            )
        return f"export AITER_AR_1STAGE={force}; unset AITER_AR_1STAGE_MAX_KB ;;"
    op, value = cutoff
    # AITER takes sizes up to and with the limit; bytes are whole, so < x is <= x - 1.
    limit = value if op == "<=" else value - 1
    words = f"{'up to' if op == '<=' else 'below'} {exact_size(value)}"
    return f"export AITER_AR_1STAGE_MAX_KB={limit}; unset AITER_AR_1STAGE ;;  # bytes: {words}"
