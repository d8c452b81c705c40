"""``costmodel emit``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from ..data import hardware, kernels
from ..decide.objective import MEAN
from ..decide.recommendation import recommend
from ..errors import InputError, nearest
from ..files import check_free, json_text
from ..model.shape import FUSED, SEPARATE_OPS, WORLD_SIZES, op_key, read_op
from ..rules import ENGINES
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from . import emit_by_arch, emit_table, options, question, targets

if TYPE_CHECKING:
    from ..decide.batch_invariance import OneKernels
    from ..decide.decision import Decision, HiddenLoss
    from ..engines.description import Note
    from ..engines.kernel_version import RunningKernel
    from ..engines.patch import Emitted
    from ..engines.source import Tree

TARGETS = (*ENGINES, "env", "json", "table", "arms")
#: Engines without a rule of their own.
_LEAVE_IT = ("atom",)

AITER = click.option(
    "--aiter-version", default="", metavar="VERSION",
    help="Whose kernels run: a release, a commit that an image pins, or unknown.  "
    "[default: what --source says, else the newest]",
)  # fmt: skip


@click.command()
@click.option(
    "--for", "wanted", required=True, metavar="TARGET", help=f"{', '.join(TARGETS)}.",
    shell_complete=options.offering(TARGETS),
)  # fmt: skip
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
@AITER
@question.OTHERWISE
@question.OBJECTIVE
@click.option(
    "--hidden-set",
    is_flag=True,
    help="1-stage only for hidden sizes of known models (or of --hidden), as SGLang did first.",
)
@question.BATCH_INVARIANT
@question.workload_options
@click.option(
    "--tp", "ranks", type=options.RanksOf(), multiple=True,
    help="World sizes: some of 2, 4 and 8; the engine's own rule stays at others. MI355X:2,4 are "
    "those of one GPU of a list.  [default: 2,4,8]",
)  # fmt: skip
@click.option(
    "--gate", is_flag=True,
    help="Ask the host for one arch or GPU too: on others the engine's own rule stays.",
)  # fmt: skip
@click.option(
    "--source", metavar="PATH", help="Package directory, checkout or wheel to make a diff from."
)
@click.option(
    "--revert", is_flag=True, help="Make the diff that takes an applied patch out of --source."
)
@click.option(
    "--runtime-table",
    is_flag=True,
    help="Make the engine ask a file of sizes, with its own rule where the file has none.",
)
@click.option(
    "--runtime",
    "fills",
    is_flag=True,
    help="The same, and the engine fills that file itself: at start-up it tunes with costmodel.",
)
@click.option(
    "--table-out", "table_file", metavar="FILE", help="Write that file, with the rule in it."
)
@click.option("--out", metavar="FILE", help="Write here instead of to standard output.")
@click.option("--tests", "tests_file", metavar="FILE", help="Write a test file of boundary cases.")
@click.option("--force", is_flag=True, help="Overwrite --out, --tests and --table-out.")
@options.verbose
def command(
    wanted: str,
    rule_name: str | None,
    hidden_set: bool,
    batch_invariant: bool,
    ranks: tuple[tuple[str, tuple[int, ...]], ...],
    gate: bool,
    source: str | None,
    revert: bool,
    runtime_table: bool,
    fills: bool,
    table_file: str | None,
    out: str | None,
    tests_file: str | None,
    force: bool,
    verbose: bool,
    **asked: Any,
) -> None:
    """Write the recommended rule, or one of the field, where it belongs.

    For sglang, vllm and aiter: a snippet, or with --source a unified diff made from the source
    that is there, with paths relative to PATH. A diff over an applied one replaces it; --revert
    takes it out. A list of archs, or of GPUs, makes one diff with the rule of each, by the host's
    GPUs and links. With --runtime-table the diff makes the engine ask a JSON file of sizes, which
    --table-out writes; its own rule holds where that has none. With --runtime the engine fills
    that file itself. For env: AITER's environment variables. For json and table: the rule for
    programs and for people; these three take lists too. For arms: the recommended choice among all
    arms, 1-stage, 2-stage and those beside them, for programs.

    \b
    costmodel emit --for sglang --arch gfx950
    costmodel emit --for vllm --gpu MI355X --source ~/vllm --out rule.patch --tests test_rule.py
    patch -p1 -d ~/vllm < rule.patch && pytest test_rule.py
    costmodel emit --for vllm --source ~/vllm --revert | patch -p1 -d ~/vllm
    costmodel emit --for aiter --arch gfx942,gfx950 --source ~/aiter --out both.patch
    costmodel emit --for sglang --runtime-table --arch gfx942 --table-out mi300x.json
    costmodel emit --for vllm --runtime --source ~/vllm --out tunes.patch
    costmodel emit --for table --rule vllm
    costmodel emit --for arms --gpu MI355X --out arms.json
    """
    wanted = wanted.lower()
    if wanted in _LEAVE_IT:
        from ..engines.callers import refusal

        raise InputError(refusal(wanted, source))
    if wanted not in TARGETS:
        raise InputError(
            f"unknown --for '{wanted}'{nearest(wanted, TARGETS)}; one of {', '.join(TARGETS)}"
        )
    if wanted not in ENGINES and (source or tests_file):
        given = "--source" if source else "--tests"
        raise InputError(f"{given} goes with --for {', '.join(ENGINES)}, not {wanted}")
    files = emit_table.Files(out, tests_file, table_file)
    option = "--runtime" if fills else "--runtime-table"
    runtime_table = runtime_table or fills
    if table_file and not runtime_table:
        raise InputError("--table-out goes with --runtime-table")
    if runtime_table and (wanted not in ENGINES or hidden_set or revert):
        given = f"--for {wanted}" if wanted not in ENGINES else ""
        given = given or ("--hidden-set" if hidden_set else "--revert, which takes any patch out")
        raise InputError(f"{option} goes with --for {', '.join(ENGINES)}, not {given}")
    for file in (out, tests_file, table_file):
        if file:
            check_free(file, force)
    files.check_apart()
    if batch_invariant and rule_name:
        raise InputError("give --rule or --batch-invariant, which makes a rule of its own")
    if revert:
        _write(out, _reverted(wanted, source, tests_file, asked["op"]))
        return
    kinds = targets.several(asked, least=1 if gate else 2)
    if gate and not kinds:
        raise InputError("--gate needs --arch or --gpu: which GPUs the rule is for")
    if wanted == "arms" and (rule_name or batch_invariant or hidden_set or kinds):
        given = "--rule" if rule_name else "--hidden-set" if hidden_set else ""
        given = given or ("--batch-invariant" if batch_invariant else "a list of GPUs")
        raise InputError(f"--for arms writes the recommended choice for one GPU, not with {given}")
    if kinds:
        emit_by_arch.check(wanted, rule_name, source)
    tp_of = targets.world_sizes(ranks, kinds)
    tp = tp_of[None]
    tree = _tree(wanted, source)
    running = _running(asked["aiter_version"], tree)
    command_line = _command_line(
        wanted, rule_name, hidden_set, batch_invariant, ranks, gate, asked, running
    )
    asked["aiter_version"] = running.kernel.version
    if kinds and runtime_table:
        raise InputError(f"{option} is for one GPU a call: its file holds a part for each")
    if kinds:
        make = partial(_invariant, wanted) if batch_invariant else _recommended
        made = {
            kind: make(hidden_set, tp_of[kind], targets.one(asked, kind), command_line)
            for kind in kinds
        }
        _tell(emit_by_arch.write(wanted, made, running, tree, out, tests_file, asked, verbose))
        return
    if wanted == "arms":
        _write(out, _of_arms(tp, asked, command_line))
        return
    for_gpu = any(asked[key] for key in ("arch", "gpu", "calibration_file"))
    if runtime_table and not (for_gpu or rule_name or table_file):
        _tell(emit_table.emit(wanted, None, "", running, tree, files, _write, fills=fills))
        return
    if runtime_table:
        command_line += f" {option}"
    if rule_name:
        rule, provenance = _named(rule_name, hidden_set, asked), Provenance(command_line)
        said: Callable[[], list[Note]] = list
    elif batch_invariant:
        rule, provenance, found = _invariant(wanted, hidden_set, tp, dict(asked), command_line)
        said = partial(_price, found)
    else:
        rule, provenance, decision = _recommended(hidden_set, tp, dict(asked), command_line)
        said = partial(_losses, decision, rule)
    if runtime_table:
        source_of_rule = emit_table.with_gpu(provenance, asked["arch"], asked["gpu"])
        whole, dtype = (rule, source_of_rule), question.dtype_of(asked)
        emitted = emit_table.emit(wanted, whole, dtype, running, tree, files, _write, fills=fills)
    elif wanted in ENGINES:
        fixed = bool(rule_name or batch_invariant)
        separate = partial(_against_separate, fixed, tp, asked)
        done = _emit_engine(
            wanted, rule, provenance, running, tree, out, tests_file, separate,
            lambda: [*said(), *_elsewhere(rule, fixed, tp, asked)],
        )  # fmt: skip
        _tell(done.told(verbose))
        return
    else:
        emitted = ()
        _write(out, _listing(wanted, rule, provenance, running.kernel, asked))
    _tell([*(note.text for note in said()), *emitted])


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"costmodel: note: {note}", err=True)


def _tree(wanted: str, source: str | None) -> Tree | None:
    from ..engines.call_sites import serving_engine
    from ..engines.source import open_tree

    return open_tree(source, serving_engine(wanted)) if source is not None else None


def _running(version: str, tree: Tree | None) -> RunningKernel:
    """Return the kernels that are meant: asked for, else the tree's, else the newest."""
    from ..engines import kernel_version

    if version.lower() == "unknown":
        return kernel_version.unknown("asked for")
    if version or tree is None:
        return kernel_version.asked_for(version or kernels.LATEST)
    return kernel_version.of_tree(tree)


def _reverted(wanted: str, source: str | None, tests_file: str | None, op: str) -> str:
    from ..engines.patch import revert

    tree = _tree(wanted, source) if wanted in ENGINES else None
    if tree is None or tests_file:
        given = "not with --tests" if tests_file else "and needs --source"
        raise InputError(f"--revert goes with --for {', '.join(ENGINES)} {given}")
    return revert(tree, op_key(op))


def _against_separate(fixed: bool, tp: tuple[int, ...], asked: question.Asked) -> Rule | None:
    """Return what would be recommended where separate ops are the alternative, if anything.

    A ``fixed`` rule is the same there.
    """
    if fixed:
        return None
    try:
        return _recommended(False, tp, {**asked, "otherwise": SEPARATE_OPS}, "")[0]
    except InputError:
        # No cutoff is identified against separate ops: the note says how to ask.
        return None


def _elsewhere(rule: Rule, fixed: bool, tp: tuple[int, ...], asked: question.Asked) -> list[Note]:
    """Return what the rule loses on the other archs, where the engine runs it too."""
    if fixed:
        return []
    from ..decide import elsewhere
    from ..engines.description import Note

    workload = question.workload_of(dict(asked))
    setting = question.setting_of({**asked, "op": read_op(asked["op"])})
    gpus = elsewhere.other_archs(setting.arch)
    said = []
    for one in elsewhere.elsewhere(rule, setting, gpus, workload, tp):
        text = f"nothing gates it: {one.words()}"
        said.append(
            Note(text, text, brief=f"nothing gates it: {one.brief()}" if one.brief() else "")
        )
    if not said:
        return []
    gate = f"--arch {','.join(hardware.GPUS)} writes a rule for each arch"
    told = gate if any(note.brief for note in said) else ""
    return [*said, Note(gate, gate, brief=told)]


def _losses(decision: Decision, rule: Rule) -> list[Note]:
    """Return where the one cutoff loses to one of a hidden size's own, in words.

    A hidden size of which the rule sends no call to 1-stage (--hidden-set) has no cutoff here.
    """
    from ..decide.adequacy import NAMED
    from ..engines.description import Note

    setting = decision.setting

    def sent(loss: HiddenLoss) -> bool:
        one = setting.shapes([1], loss.hidden_dim, loss.world_size)
        return bool(rule.use_1stage(one, kernel_version=setting.aiter_version)[0])

    notes = []
    for n in decision.world_sizes:
        most = sorted(
            (x for x in decision.losses_by_hidden if x.world_size == n and sent(x)),
            key=lambda x: -x.loss_pct,
        )
        if not most:
            continue
        named = ", ".join(str(loss.hidden_dim) for loss in most[:NAMED])
        more = f" and {len(most) - NAMED} more" if len(most) > NAMED else ""
        pct = " to ".join(dict.fromkeys(f"{x.loss_pct:.1f}" for x in (most[-1], most[0])))
        text = (
            f"at hidden {named}{more}, TP{n}, this cutoff is expected to lose {pct} % more on "
            "contested calls than one of a hidden size's own would"
        )
        notes.append(Note(text, text))
    return notes


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
    running: RunningKernel,
    tree: Tree | None,
    out: str | None,
    tests_file: str | None,
    against_separate: Callable[[], Rule | None],
    more: Callable[[], list[Note]],
) -> Emitted:
    """Write the patch or the snippet, and its tests.

    A rule that is in force is not written again.
    """
    from ..engines import boundary_tests
    from ..engines import patch as engine
    from ..engines.call_sites import serving_engine
    from ..engines.reader import NotRecognisedError

    target = serving_engine(wanted)
    if tree is None:
        emitted = engine.snippet(target, rule, provenance, running.kernel, more=more)
    else:
        try:
            emitted = engine.patch(
                tree,
                rule,
                provenance,
                running.kernel,
                running=running,
                against_separate=against_separate,
                more=more,
            )
        except NotRecognisedError:
            # The rule is not lost: it goes to standard output, and the error says what was sought.
            if rule.op == FUSED:
                text = engine.snippet(target, rule, provenance, running.kernel).text
                click.echo(text, nl=False)
            raise
    if emitted.text:
        tests = boundary_tests.of(emitted, provenance, target, tree) if tests_file else ""
        _write(out, emitted.text)
        if tests_file:
            _write(tests_file, tests)
    return emitted


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
) -> tuple[Rule, Provenance, Decision]:
    """Return the recommended rule, where it comes from, and the decision behind it.

    The engine's guards join it from the source that is patched.
    """
    workload = question.workload_of(asked)
    asked["op"] = read_op(asked["op"])
    decision = recommend(question.setting_of(asked), workload, world_sizes=tp)
    rule = decision.unguarded_rule
    if hidden_set:
        rule = rule.only_for(decision.hidden_set if workload is None else workload.hidden_dims())
    setting = decision.setting
    provenance = Provenance(
        command_line, setting.calibration.id, setting.calibration.sha256, setting.arch,
        setting.gpu, decision.evidence,
    )  # fmt: skip
    return rule, provenance, decision


def _no_rule_of_arms(decision: Decision) -> str:
    """Return why there is no choice among all arms to write."""
    setting, of_two = decision.setting, "--for json writes the rule of the two"
    if not any(c.three_way for c in decision.cutoffs):
        return (
            f"no arm beside 1-stage and 2-stage of {setting.op} is identified on {setting.gpu}; "
            f"{of_two}"
        )
    if any(c.claimed for c in decision.cutoffs):
        return (
            "no row of an arm beside 1-stage and 2-stage on any GPU in this calibration: priors "
            f"alone would decide; {of_two}"
        )
    return decision.refusal()


def _of_arms(tp: tuple[int, ...], asked: question.Asked, command_line: str) -> str:
    """Return the recommended choice among all arms as JSON."""
    workload = question.workload_of(asked)
    asked["op"] = read_op(asked["op"])
    decision = recommend(question.setting_of(asked), workload, world_sizes=tp)
    rule = decision.rule_of_arms
    if rule is None:
        raise InputError(_no_rule_of_arms(decision))
    return json_text(rule.made_by(command_line).to_json(), indent=2)


def _invariant(
    wanted: str, hidden_set: bool, tp: tuple[int, ...], asked: question.Asked, command_line: str
) -> tuple[Rule, Provenance, OneKernels]:
    """Return the rule of one kernel for every size, where it comes from, and what was found."""
    from ..data.deployment import Deployment
    from ..data.engine_calls import fused_calls
    from ..decide.batch_invariance import one_kernel

    workload, llm = question.workload_of(asked), question.llm_of(asked)
    asked["op"] = read_op(asked["op"])
    asked["engine"] = wanted if wanted in ENGINES else ""
    calls = fused_calls(llm, Deployment(engine=asked["engine"])).per_step if llm else 0
    decision = recommend(question.setting_of(asked), workload, world_sizes=tp)
    found = one_kernel(decision, calls or None)
    rule = found.rule
    if hidden_set:
        rule = rule.only_for(decision.hidden_set if workload is None else workload.hidden_dims())
    setting = decision.setting
    provenance = Provenance(
        command_line, setting.calibration.id, setting.calibration.sha256, setting.arch,
        setting.gpu, found.evidence,
    )  # fmt: skip
    return rule, provenance, found


def _price(found: OneKernels) -> list[Note]:
    from ..engines.description import Note
    from ..show.batch_invariance import sentences

    return [Note(text, text, brief=text) for text in sentences(found)]


def _command_line(
    wanted: str,
    rule_name: str | None,
    hidden_set: bool,
    batch_invariant: bool,
    ranks: tuple[tuple[str, tuple[int, ...]], ...],
    gate: bool,
    asked: question.Asked,
    running: RunningKernel,
) -> str:
    """Return the command that gives the same rule again, without where the output goes.

    The AITER that a tree runs is named where the newest would give another rule.
    """
    op, newest = asked["op"], kernels.aiter()
    same = running.kernel.known and replace(running.kernel, version=newest.version) == newest
    version = asked["aiter_version"] or ("" if same else running.stated or "unknown")
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
        "--hidden-set": hidden_set,
        "--batch-invariant": batch_invariant,
        "--gate": gate,
    }
    words = ["costmodel", "emit", *question.words(given)]
    for name, sizes in ranks:
        if name or sizes != WORLD_SIZES:
            numbers = ",".join(map(str, sizes))
            words += ["--tp", f"{name}:{numbers}" if name else numbers]
    return shlex.join(words)


def _write(file: str | None, text: str) -> None:
    if file is None:
        sys.stdout.write(text)
        return
    from ..files import replacing

    with replacing(file) as stream:
        stream.write(text)
