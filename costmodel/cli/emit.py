"""``costmodel emit``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..data import kernels as kernel
from ..errors import InputError, nearest
from ..files import check_free
from ..model.shape import WORLD_SIZES, op_key, read_op
from ..rules.condition import Compare, Member, WholePacks, all_of, factors
from ..rules.rule import CutoffEvidence, Provenance, Rule, load, named, validity
from . import options

ENGINES = ("sglang", "vllm", "aiter")
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
@options.world_sizes
@options.dtype_option
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@click.option(
    "--hidden-set",
    is_flag=True,
    help="1-stage only for hidden sizes of known models (or of --hidden), as SGLang did first.",
)
@options.model_shape
@click.option(
    "--source", metavar="PATH", help="Package directory, checkout or wheel to make a diff from."
)
@click.option("--out", metavar="FILE", help="Write here instead of to standard output.")
@click.option("--tests", "tests_file", metavar="FILE", help="Write a test file of boundary cases.")
@click.option("--force", is_flag=True, help="Overwrite --out and --tests.")
def command(
    wanted: str,
    rule_name: str | None,
    op: str,
    dtype: str,
    aiter_version: str,
    source: str | None,
    out: str | None,
    tests_file: str | None,
    force: bool,
    **chosen: Any,
) -> None:  # fmt: skip
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
    found = kernel.aiter(aiter_version)
    rule, provenance = _rule(wanted, rule_name, op, dtype, found, chosen)
    if wanted in ENGINES:
        _emit_engine(wanted, rule, provenance, found, source, out, tests_file)
    else:
        _write(out, _listing(wanted, rule, provenance, dtype, found, chosen))


def _listing(
    wanted: str,
    rule: Rule,
    provenance: Provenance,
    dtype: str,
    found: kernel.Kernel,
    chosen: dict[str, Any],
) -> str:
    from ..engines import environment, listing

    if wanted == "env":
        return environment.script(rule, provenance, found)
    if wanted == "json":
        return listing.as_json(rule, provenance)
    hidden = options.hidden_sizes(chosen["hidden"], chosen["model_name"], chosen["config_file"])
    return listing.as_table(
        rule,
        provenance,
        dtype=dtype,
        aiter_version=found.version,
        hidden_dims=hidden or listing.HIDDEN_DIMS,
    )


def _emit_engine(
    wanted: str,
    rule: Rule,
    provenance: Provenance,
    found: kernel.Kernel,
    source: str | None,
    out: str | None,
    tests_file: str | None,
) -> None:
    from ..engines import boundary
    from ..engines import patch as engine
    from ..engines.call_sites import engine as engine_named
    from ..engines.source import open_tree

    target = engine_named(wanted)
    if source is None:
        emitted = engine.snippet(target, rule, provenance, found)
    else:
        tree = open_tree(source, target)
        try:
            emitted = engine.patch(tree, rule, provenance, found)
        except engine.NotRecognisedError:
            # The rule is not lost: it goes to standard output, and the error says what was sought.
            click.echo(engine.snippet(target, rule, provenance, found).text, nl=False)
            raise
    tests = ""
    if tests_file:
        root = source if source and Path(source).is_dir() else ""
        file = emitted.file if source else f"{target.checkout}/{emitted.file}"
        tests = boundary.render(
            emitted.adapted, provenance, target, file, emitted.function, root or ""
        )
    if emitted.text:
        _write(out, emitted.text)
    if tests_file:
        _write(tests_file, tests)
    for note in emitted.notes:
        click.echo(f"costmodel: note: {note}", err=True)


def _rule(
    wanted: str,
    rule_name: str | None,
    op: str,
    dtype: str,
    found: kernel.Kernel,
    chosen: dict[str, Any],
) -> tuple[Rule, Provenance]:
    """Return the rule to emit and where it comes from."""
    known_op = op_key(op)
    hidden = options.hidden_sizes(chosen["hidden"], chosen["model_name"], chosen["config_file"])
    command_line = _command_line(wanted, rule_name, known_op, dtype, found, chosen)
    if rule_name:
        is_file = rule_name.endswith(".json") or Path(rule_name).is_file()
        rule = load(rule_name) if is_file else named(rule_name, op=known_op)
        provenance = Provenance(command_line)
        hidden_set = hidden
    else:
        from ..decide.recommendation import recommended_rule

        calibration, arch, gpu = options.load_target(
            chosen["arch"], chosen["gpu"], chosen["calibration_file"]
        )
        rule, answer = recommended_rule(
            arch,
            gpu,
            calibration=calibration,
            op=read_op(op),
            dtype=dtype,
            aiter_version=found.version,
            hidden_dims=hidden,
            world_sizes=chosen["tp"],
        )
        provenance = Provenance(
            command_line,
            answer.calibration.id,
            answer.calibration.sha256,
            answer.arch,
            answer.gpu,
            {
                c.world_size: CutoffEvidence(c.verdict, c.max_bytes_lo, c.max_bytes_hi, c.reason)
                for c in answer.cutoffs
            },
        )
        # What the kernel takes and no engine checks for it: token cap and hidden set of old ones.
        limits = [f for f in factors(validity(found)) if _is_old_limit(f)]
        rule = replace(rule, condition=all_of(rule.condition, *limits))
        hidden_set = hidden or answer.hidden_set
    if known_op != rule.op and not rule_name:
        rule = replace(rule, op=known_op)
    if chosen["hidden_set"]:
        if not hidden_set:
            raise InputError("--hidden-set with --rule needs --hidden, --model or --config")
        member = Member("hidden_dim", tuple(sorted(hidden_set)))
        rule = replace(rule, condition=all_of(rule.condition, member))
    return rule, provenance


def _is_old_limit(condition: object) -> bool:
    packs = isinstance(condition, Compare) and condition.quantity == "packs"
    return not (packs or isinstance(condition, WholePacks))


def _command_line(
    wanted: str,
    rule_name: str | None,
    op: str,
    dtype: str,
    found: kernel.Kernel,
    chosen: dict[str, Any],
) -> str:
    """Return the command that gives the same rule again, without where the output goes."""
    given: list[str] = ["costmodel", "emit", "--for", wanted]
    options_given = {
        "--rule": rule_name,
        "--arch": chosen["arch"],
        "--gpu": chosen["gpu"],
        "--calibration": chosen["calibration_file"],
        "--op": op if op != "fused_ar_rmsnorm" else None,
        "--dtype": dtype if dtype != "bf16" else None,
        "--aiter-version": found.version if found.version != kernel.LATEST else None,
        "--tp": ",".join(map(str, chosen["tp"])) if chosen["tp"] != WORLD_SIZES else None,
        "--hidden": ",".join(map(str, chosen["hidden"])) if chosen["hidden"] else None,
        "--model": chosen["model_name"],
        "--config": chosen["config_file"],
    }
    for name, value in options_given.items():
        if value:
            given += [name, str(value)]
    if chosen["hidden_set"]:
        given.append("--hidden-set")
    return shlex.join(given)


def _write(file: str | None, text: str) -> None:
    if file is None:
        sys.stdout.write(text)
        return
    from ..files import replacing

    with replacing(file) as stream:
        stream.write(text)
