"""``costmodel emit``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from ..data import kernels
from ..decide.objective import MEAN
from ..decide.recommendation import recommend
from ..errors import InputError, nearest
from ..files import check_free, json_text
from ..model.shape import FUSED, WORLD_SIZES, op_key, read_op
from ..rules import ENGINES
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from . import options, question

TARGETS = (*ENGINES, "env", "json", "table")


@click.command()
@click.option("--for", "wanted", required=True, metavar="TARGET", help=f"{', '.join(TARGETS)}.")
@options.target
@click.option(
    "--rule",
    "rule_name",
    metavar="NAME|FILE",
    shell_complete=options.complete_rules,
    help="A rule of the field, or one in JSON [default: the recommended rule].",
)
@click.option("--op", default="fused", show_default=True, help="The op whose rule is emitted.")
@question.DTYPE
@question.AITER
@question.OTHERWISE
@question.OBJECTIVE
@click.option(
    "--hidden-set",
    is_flag=True,
    help="1-stage only for hidden sizes of known models (or of --hidden), as SGLang did first.",
)
@question.workload_options
@options.world_sizes
@click.option(
    "--source", metavar="PATH", help="Package directory, checkout or wheel to make a diff from."
)
@click.option("--out", metavar="FILE", help="Write here instead of to standard output.")
@click.option("--tests", "tests_file", metavar="FILE", help="Write a test file of boundary cases.")
@click.option("--force", is_flag=True, help="Overwrite --out and --tests.")
def command(
    wanted: str,
    rule_name: str | None,
    hidden_set: bool,
    tp: tuple[int, ...],
    source: str | None,
    out: str | None,
    tests_file: str | None,
    force: bool,
    **asked: Any,
) -> None:
    """Write the recommended rule, or one of the field, where it belongs.

    For sglang, vllm and aiter: a snippet, or with --source a unified diff made from the source
    that is there, with paths relative to PATH. For env: AITER's environment variables. For json
    and table: the rule for programs and for people.

    \b
    costmodel emit --for sglang --arch gfx950
    costmodel emit --for vllm --gpu MI355X --source ~/vllm --out rule.patch --tests test_rule.py
    patch -p1 -d ~/vllm < rule.patch && pytest test_rule.py
    costmodel emit --for table --rule vllm
    """
    wanted = wanted.lower()
    if wanted not in TARGETS:
        raise InputError(
            f"unknown --for '{wanted}'{nearest(wanted, TARGETS)}; one of {', '.join(TARGETS)}"
        )
    if wanted not in ENGINES and (source or tests_file):
        given = "--source" if source else "--tests"
        raise InputError(f"{given} goes with --for {', '.join(ENGINES)}, not {wanted}")
    for file in (out, tests_file):
        if file:
            check_free(file, force)
    if out and tests_file and Path(out).resolve() == Path(tests_file).resolve():
        raise InputError(f"--out and --tests name the same file {out}")
    command_line = _command_line(wanted, rule_name, hidden_set, tp, asked)
    ran = kernels.aiter(asked["aiter_version"])
    if rule_name:
        rule, provenance = _named(rule_name, hidden_set, asked), Provenance(command_line)
    else:
        rule, provenance = _recommended(hidden_set, tp, dict(asked), command_line)
    if wanted in ENGINES:
        _emit_engine(wanted, rule, provenance, ran, source, out, tests_file)
    else:
        _write(out, _listing(wanted, rule, provenance, ran, asked))


def _listing(
    wanted: str, rule: Rule, provenance: Provenance, ran: kernels.Kernel, asked: question.Asked
) -> str:
    from ..engines import environment
    from ..show.rule import HIDDEN_DIMS, rule_table

    if wanted == "env":
        return environment.script(rule, provenance, ran)
    if wanted == "json":
        return json_text(rule.to_json(provenance), indent=2)
    hidden = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    return rule_table(
        rule,
        provenance,
        dtype=question.dtype_of(asked),
        aiter_version=ran.version,
        hidden_dims=hidden or HIDDEN_DIMS,
    )


def _emit_engine(
    wanted: str,
    rule: Rule,
    provenance: Provenance,
    ran: kernels.Kernel,
    source: str | None,
    out: str | None,
    tests_file: str | None,
) -> None:
    from ..engines import boundary_tests
    from ..engines import patch as engine
    from ..engines.call_sites import serving_engine
    from ..engines.reader import NotRecognisedError
    from ..engines.source import open_tree

    target = serving_engine(wanted)
    if source is None:
        emitted = engine.snippet(target, rule, provenance, ran)
    else:
        tree = open_tree(source, target)
        try:
            emitted = engine.patch(tree, rule, provenance, ran)
        except NotRecognisedError:
            # The rule is not lost: it goes to standard output, and the error says what was sought.
            click.echo(engine.snippet(target, rule, provenance, ran).text, nl=False)
            raise
    tests = ""
    if tests_file:
        root = source if source and Path(source).is_dir() else ""
        file = emitted.file if source else f"{target.checkout}/{emitted.file}"
        tests = boundary_tests.render(
            emitted.adapted, provenance, target, file, emitted.function, root or "", emitted.patched
        )
    if emitted.text:
        _write(out, emitted.text)
    if tests_file:
        _write(tests_file, tests)
    for note in emitted.notes:
        click.echo(f"costmodel: note: {note}", err=True)


def _named(name: str, hidden_set: bool, asked: question.Asked) -> Rule:
    """Return a rule of the field, or one from a file."""
    rule = question.rule_of(name, op_key(asked["op"]))
    if not hidden_set:
        return rule
    sizes = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    if not sizes:
        raise InputError("--hidden-set with --rule needs --hidden, --model or --config")
    return rule.only_for(sizes)


def _recommended(
    hidden_set: bool, tp: tuple[int, ...], asked: question.Asked, command_line: str
) -> tuple[Rule, Provenance]:
    """Return the recommended rule and where it comes from; what it loses anywhere is said.

    The engine's guards join it from the source that is patched.
    """
    workload = question.workload_of(asked)
    asked["op"] = read_op(asked["op"])
    decision = recommend(question.setting_of(asked), workload, world_sizes=tp)
    rule = decision.unguarded_rule
    if hidden_set:
        rule = rule.only_for(decision.hidden_set if workload is None else workload.hidden_dims())
    for loss in decision.losses_by_hidden:
        click.echo(
            f"costmodel: note: at hidden {loss.hidden_dim}, TP{loss.world_size}, this cutoff is "
            f"expected to lose {loss.loss_pct:.1f} % more on contested calls than one of its own "
            "would",
            err=True,
        )
    setting = decision.setting
    return rule, Provenance(
        command_line, setting.calibration.id, setting.calibration.sha256, setting.arch,
        setting.gpu, decision.evidence,
    )  # fmt: skip


def _command_line(
    wanted: str,
    rule_name: str | None,
    hidden_set: bool,
    tp: tuple[int, ...],
    asked: question.Asked,
) -> str:
    """Return the command that gives the same rule again, without where the output goes."""
    op, version = asked["op"], asked["aiter_version"]
    given = {
        "--for": wanted,
        "--rule": rule_name,
        "--arch": asked["arch"],
        "--gpu": asked["gpu"],
        "--calibration": asked["calibration_file"],
        "--op": op if op not in ("fused", FUSED) else None,
        "--dtype": asked["dtype"],
        "--aiter-version": version if version != kernels.LATEST else None,
        "--otherwise": asked["otherwise"],
        "--objective": asked["objective"] if asked["objective"] != MEAN else None,
        "--hidden": asked["hidden"],
        "--model": asked["model_name"],
        "--config": asked["config_file"],
        "--tp": tp if tp != WORLD_SIZES else None,
        "--hidden-set": hidden_set,
    }
    return shlex.join(["costmodel", "emit", *question.words(given)])


def _write(file: str | None, text: str) -> None:
    if file is None:
        sys.stdout.write(text)
        return
    from ..files import replacing

    with replacing(file) as stream:
        stream.write(text)
