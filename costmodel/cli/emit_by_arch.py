"""``costmodel emit`` with a list of archs or GPUs: one patch with the rule of each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..data.hosts import Kind
from ..errors import InputError
from ..files import json_text
from ..rules import ENGINES
from ..rules.by_arch import ByArch
from . import question

if TYPE_CHECKING:
    from ..engines.by_arch import Gated
    from ..engines.kernel_version import RunningKernel
    from ..engines.source import Tree
    from ..rules.evidence import Provenance
    from ..rules.rule import Rule

#: By kind of GPU: the rule, where it comes from, and the decision behind it.
Made = Mapping[Kind, "tuple[Rule, Provenance, Any]"]


def check(wanted: str, rule_name: str | None, source: str | None) -> None:
    """Raise :class:`InputError` where the rules of several GPUs cannot be written."""
    if rule_name:
        raise InputError("a rule that is named is one for every GPU; leave --arch and --gpu out")
    if wanted in ENGINES and source is None:
        raise InputError(
            "a snippet has no place for the function that knows the host's GPUs, which rules for "
            "several GPUs need; give --source the tree to change, or one arch a call"
        )


def write(
    wanted: str,
    made: Made,
    running: RunningKernel,
    tree: Tree | None,
    out: str | None,
    tests_file: str | None,
    asked: question.Asked,
    verbose: bool,
) -> tuple[str, ...]:
    """Write the patch and its tests, or the listing of all; return what to tell.

    The options are those that :func:`check` lets pass.
    """
    if wanted not in ENGINES:
        _put(out, _listing(wanted, made, running, asked))
        return ()
    assert tree is not None, "check() asks for a source"
    return _patch(wanted, made, running, tree, out, tests_file, asked, verbose)


def _patch(
    wanted: str,
    made: Made,
    running: RunningKernel,
    tree: Tree,
    out: str | None,
    tests_file: str | None,
    asked: question.Asked,
    verbose: bool,
) -> tuple[str, ...]:
    from ..engines import boundary_tests
    from ..engines.call_sites import serving_engine
    from ..engines.patch_by_arch import patch

    rules, provenances = _rules(made)

    def losses(gated: Gated) -> list[str]:
        return _on_other_cards(made, asked)

    emitted = patch(tree, rules, provenances, running.kernel, running=running, losses=losses)
    if not emitted.text:
        return emitted.told(verbose)
    where = next(iter(provenances.values()))
    tests = boundary_tests.of(emitted, where, serving_engine(wanted), tree) if tests_file else ""
    _put(out, emitted.text)
    if tests_file:
        _put(tests_file, tests)
    return emitted.told(verbose)


def _on_other_cards(made: Made, asked: question.Asked) -> list[str]:
    """Return what each arch's rule loses on the cards of that arch that it was not made for."""
    from ..decide import elsewhere
    from ..decide.decision import Decision

    said = []
    for kind, (rule, _, found) in made.items():
        if kind.gpu or not isinstance(found, Decision):
            continue
        setting = found.setting
        gpus = elsewhere.other_cards(setting.gpu, setting.arch)
        workload = question.workload_of(dict(asked))
        tp = tuple(c.world_size for c in found.cutoffs)
        said += [
            f"{kind.name}'s rule is calibrated for {setting.gpu}: {one.words()}"
            for one in elsewhere.elsewhere(rule, setting, gpus, workload, tp)
        ]
    return [*said, "--gpu with a list of GPUs tells cards apart by PCI id"] if said else []


def _rules(made: Made) -> tuple[ByArch, dict[Kind, Provenance]]:
    return (
        ByArch(tuple((kind, rule) for kind, (rule, _, _) in made.items())),
        {kind: provenance for kind, (_, provenance, _) in made.items()},
    )


def _listing(wanted: str, made: Made, running: RunningKernel, asked: question.Asked) -> str:
    if wanted == "table":
        return _tables(made, running, asked)
    rules, provenances = _rules(made)
    if wanted == "json":
        return json_text(rules.to_json(provenances), indent=2)
    from ..engines import environment

    return environment.script_by_gpu(rules, provenances, running.kernel)


def _tables(made: Made, running: RunningKernel, asked: question.Asked) -> str:
    from ..show.rule import HIDDEN_DIMS, rule_table
    from . import options

    hidden = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    return "\n".join(
        f"{kind.name}\n"
        + rule_table(
            rule,
            provenance,
            dtype=question.dtype_of(dict(asked)),
            aiter_version=running.kernel.version,
            hidden_dims=hidden or HIDDEN_DIMS,
        )
        for kind, (rule, provenance, _) in made.items()
    )


def _put(file: str | None, text: str) -> None:
    if file is None:
        sys.stdout.write(text)
        return
    from ..files import replacing

    with replacing(file) as stream:
        stream.write(text)
