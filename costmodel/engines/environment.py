"""AITER's environment variables: the rule where no source may be changed.

``AITER_AR_1STAGE`` = 1 or 0 forces a stage for every size. ``AITER_AR_1STAGE_MAX_KB`` sets the
limit, and from 0.1.17 to at least 0.1.20 it is compared with *bytes* in spite of its name: 512
there means 512 bytes, which turns 1-stage off. Source: AITER
``aiter/dist/device_communicators/communicator_cuda.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..data.hosts import Kind
from ..data.kernels import Kernel, parse_version
from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..rules.algebra import factors, is_byte_limit, with_version
from ..rules.by_arch import ByArch
from ..rules.condition import exact_size
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from . import comment

#: First release that reads the variable, and the last one seen to compare it with bytes.
FIRST, LAST_SEEN = "0.1.17", "0.1.20"
VARIABLE = "AITER_AR_1STAGE_MAX_KB"

_WARNING = (
    "Unit: AITER {first} to at least {last} compares AITER_AR_1STAGE_MAX_KB with BYTES, in spite "
    "of its name: 512 would mean 512 bytes and turn 1-stage off. The values below are bytes. A "
    "release that reads it as KiB would take them for 1024 times as much: check the installed "
    "source with 'costmodel audit' before relying on it, or patch the rule instead."
)


_UNSET = "unset AITER_AR_1STAGE AITER_AR_1STAGE_MAX_KB"

_FORCED = (
    "AITER_AR_1STAGE forces the fused fp8 and MXFP4 ops too, not only the op whose rule this is."
)


def script(rule: Rule, provenance: Provenance, kernel: Kernel) -> str:
    """Return a POSIX shell script that exports the rule for the TP given in ``$TP``.

    Raises :class:`InputError` for an AITER release that does not read the variable.
    """
    paragraphs = [
        comment.origin(rule, provenance),
        *_warnings(),
        comment.reproduce(provenance),
        *_unsaid(rule, kernel),
    ]
    lines = [
        *comment.as_comment(paragraphs, 0),
        'case "${TP:?set TP to the tensor-parallel size}" in',
        *(f"    {n}) {what}" for n, what in _exports(rule, kernel).items()),
        '    *) echo "no rule for TP=$TP" >&2 ;;',
        "esac",
    ]
    return "\n".join(lines) + "\n"


def script_by_gpu(rules: ByArch, provenances: Mapping[Kind, Provenance], kernel: Kernel) -> str:
    """Return a POSIX shell script for several kinds of GPU: the one that ``$GPU`` names.

    Raises :class:`InputError` as :func:`script` does.
    """
    names = [kind.name for kind in rules.kinds]
    products = "; ".join(f"{kind.name}: {', '.join(kind.products)}" for kind in rules.kinds)
    by_kind = [f"{kind.name}: {comment.origin(rule, provenances[kind])}" for kind, rule in rules]
    paragraphs = [
        *by_kind,
        *_warnings(),
        f"Nothing here looks at the cards: GPU is what you set. {products}; over xGMI alone. For "
        "any other card set neither variable.",
        comment.reproduce(provenances[rules.kinds[0]]),
        *dict.fromkeys(said for _, rule in rules for said in _unsaid(rule, kernel)),
    ]
    asked = f"${{GPU:?set GPU to {' or '.join(names)}}}/${{TP:?set TP to the tensor-parallel size}}"
    lines = [
        *comment.as_comment(paragraphs, 0),
        f'case "{asked}" in',
        *(
            f"    {kind.name}/{n}) {what}"
            for kind, rule in rules
            for n, what in _exports(rule, kernel).items()
        ),
        f"    *) {_UNSET}",
        '        echo "no rule for GPU=$GPU at TP=$TP: AITER\'s own stays" >&2 ;;',
        "esac",
    ]
    return "\n".join(lines) + "\n"


def _warnings() -> tuple[str, ...]:
    return _WARNING.format(first=FIRST, last=LAST_SEEN), _FORCED


def _unsaid(rule: Rule, kernel: Kernel) -> list[str]:
    """Return what the variables cannot say of a rule, as a sentence, [] where they say it all."""
    condition = with_version(rule.condition, kernel.version)
    first = condition.at(condition.world_sizes[0])
    unsaid = [f.words() for f in factors(first) if not is_byte_limit(f)]
    return [f"The variables cannot say: {'; '.join(unsaid)}."] if unsaid else []


def _exports(rule: Rule, kernel: Kernel) -> dict[int, str]:
    """Return the shell commands of each world size."""
    if parse_version(kernel.version) < parse_version(FIRST):
        raise InputError(
            f"AITER {kernel.version} does not read AITER_AR_1STAGE_MAX_KB (it came with {FIRST}); "
            "emit --for aiter patches the rule instead"
        )
    claimed = with_version(rule.condition, kernel.version).world_sizes
    if not claimed:
        raise InputError(f"rule '{rule.name}' claims no world size; there is nothing to emit")
    return {
        n: _export(rule, n) if n in claimed else f"{_UNSET} ;;  # no claim" for n in WORLD_SIZES
    }


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
