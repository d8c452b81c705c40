"""``costmodel tune``: from a machine to a pull request."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from ..data import kernels, llms, ops
from ..decide.objective import MEAN
from ..decide.setting import alternative
from ..decide.stopping import StoppingLimits
from ..engines.call_sites import serving_engine
from ..engines.source import open_tree
from ..errors import CannotWriteError, InputError, one_line
from ..live.backends.base import BACKENDS, load
from ..live.backends.replay import stated, stated_truth
from ..live.repetition import Repetition
from ..live.run.exit_codes import BAD_INPUT, CANNOT_WRITE, FINISHED, WRONG_RESULTS
from ..live.run.options import check_open_options, world_sizes
from ..live.run.peers import join, under_torchrun
from ..model.eligibility import check_hidden
from ..model.shape import FUSED, SEPARATE_OPS, Shapes
from ..rules import ENGINES
from ..tuning.knowledge import TUNED, tuned_op
from ..tuning.session import SETTINGS, Session, TuningSettings
from ..units import ELEMENT_BYTES, read_dtype
from . import options, question

#: Ops that can be tuned, as people call them; folders of several are named so.
_OP_NAMES = tuple(op.names[0] for op in map(ops.vocabulary().__getitem__, TUNED))


@click.command()
@click.option(
    "--backend", metavar="NAME", help=f"What runs the op: {', '.join(BACKENDS)}.",
    shell_complete=options.offering(BACKENDS),
)  # fmt: skip
@options.world_sizes
@click.option(
    "--op", "op_list", metavar="LIST", default="fused", show_default=True,
    shell_complete=options.offering(_OP_NAMES),
    help=f"{', '.join(_OP_NAMES)}; of several, a tuning each in a folder of --out.",
)  # fmt: skip
@click.option(
    "--dtype", metavar="LIST", shell_complete=options.offering(ELEMENT_BYTES),
    help=f"{', '.join(ELEMENT_BYTES)}; of several, a tuning each in a folder of --out.  "
    "[default: the model's, or bf16]",
)  # fmt: skip
@question.workload_options
@question.ENGINE
@question.OTHERWISE
@question.OBJECTIVE
@click.option("--source", metavar="PATH", help="The engine's tree: rule.patch is a diff of it.")
@click.option("--budget", type=float, metavar="SECONDS", help="Time for all measuring.")
@click.option(
    "--shapes", type=click.IntRange(min=3), default=StoppingLimits().shapes, show_default=True,
    help="Most shapes to learn from, a world size.",
)  # fmt: skip
@click.option(
    "--limit", type=float, default=StoppingLimits().contested_pct, show_default=True,
    metavar="PERCENT",
    help="Expected regret on contested calls that is small enough.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory.")
@click.option("--resume", is_flag=True, help="Go on with the tuning in --out.")
@click.option("--finish", is_flag=True, help="Conclude from what --out holds, measure nothing.")
@click.option("--seed", type=click.IntRange(min=0), help="Fixes inputs and orders.")
@click.option("--rounds", type=int, help=f"Rounds of every arm.  [default: {Repetition().rounds}]")
@click.option("--samples", type=int, help=f"Replays a round.  [default: {Repetition().samples}]")
@click.option("--unchecked", is_flag=True, help="Tune without a look at the machine first.")
@options.watchdog
@click.pass_context
def command(
    ctx: click.Context,
    backend: str | None,
    tp: tuple[int, ...],
    op_list: str,
    source: str | None,
    budget: float | None,
    shapes: int,
    limit: float,
    out: Path,
    resume: bool,
    finish: bool,
    **given: Any,
) -> None:
    """Learn the rule for this machine, judge it on shapes it did not learn from, write it down.

    Looks at the machine as doctor does, starts from the published calibration, measures the shape
    that helps most, calibrates again, and goes on until the expected regret on contested calls is
    below --limit, the interval no longer narrows, or the budget ends. Where the rule fails on the
    judging shapes, or the model has none, calls are measured in full and decide by themselves.
    --out then holds measurements, calibration, rule, patch and tests (--for), a report (--model),
    and summary.md. Several ops and dtypes are a tuning each, in one start and one budget.

    \b
    COSTMODEL_REPLAY=MI355X:17 costmodel tune --backend replay --tp 4,8 --for sglang --out pr
    torchrun --nproc-per-node=8 -m costmodel tune --backend aiter --tp 8 \\
        --model gpt-oss-120b,deepseek-v3 --for sglang --source ~/sglang --budget 300 --out pr

    Exit codes: 0 decided at every world size, 1 not so, the machine is not ready, or an arm gave
    wrong results, 2 bad input, 3 a rank was lost or hung, 4 the results could not be written.
    """
    run = {k: given.pop(k) for k in ("seed", "rounds", "samples", "watchdog", "unchecked")}
    try:
        if resume and finish:
            raise InputError("give one of --resume and --finish")
        if budget is not None and not budget > 0:
            raise InputError(f"--budget is {budget:g}; give seconds, more than 0")
        if not 0 < limit < 100:
            raise InputError(f"--limit is {limit:g}; give percent, more than 0")
        if not op_list.strip(" ,"):
            raise InputError(f"--op names no op; give some of {', '.join(_OP_NAMES)}")
        ops_asked, dtypes = _listed(op_list, tuned_op), _listed(given["dtype"] or "", read_dtype)
        wanted = _Wanted(backend, tp, ops_asked, dtypes, shapes, limit, source, given)
        if resume or finish:
            sessions = _going_on(ctx, out, wanted)
        else:
            sessions = _beginning(out, wanted, run, named=bool(options.given(ctx, ["tp"])))
    except InputError:
        _leave_it_to_the_first_to_say()
        raise
    code = FINISHED
    if not finish:
        from ..tuning.ranks import measure

        code = measure(sessions, {**run, "backend": sessions[0].settings["backend"]}, budget)
        # None: a machine that is not ready.
        nothing = not any(map(_holds_shapes, sessions))
        if code not in (FINISHED, WRONG_RESULTS) or _is_follower() or (code and nothing):
            ctx.exit(code)
    begun = [session for session in sessions if session.started()]
    if not begun:
        raise InputError(f"{out}: nothing was measured there; go on with --resume")
    for session in begun:
        code = max(code, _concluded(ctx, session, source))
    for session in sessions:
        if session not in begun:
            code = max(code, WRONG_RESULTS)
            words = f"{session.directory}: nothing was measured there yet; go on with --resume"
            click.echo(f"costmodel: note: {words}", err=True)
    ctx.exit(code)


@dataclass(frozen=True)
class _Wanted:
    """What the options ask for, the lists read; ``given`` are the others, by their names."""

    backend: str | None
    tp: tuple[int, ...]
    ops: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: int
    limit: float
    source: str | None
    given: question.Asked

    def settings(self, backend: str, op: str, dtype: str | None) -> TuningSettings:
        """Return what the tuning of one op and dtype is started with; None: the model's dtype."""
        asked = {**self.given, "dtype": dtype}
        return _settings(backend, self.tp, op, self.shapes, self.limit, asked)


def _going_on(ctx: click.Context, out: Path, wanted: _Wanted) -> list[Session]:
    """Open the tunings of ``out``; raise :class:`InputError` where others are asked for."""
    sessions, named = [], bool(options.given(ctx, ["op_list"]))
    for place in _places(out):
        had = Session.open(place).settings
        op = wanted.ops[0] if named and had["op"] not in wanted.ops else had["op"]
        dtype = had["dtype"] if had["dtype"] in wanted.dtypes else next(iter(wanted.dtypes), None)
        asked = wanted.settings(wanted.backend or had["backend"], op, dtype)
        repeated = {key: asked[key] for key in _named(ctx)}  # type: ignore[literal-required]
        sessions.append(Session.open(place, repeated))
        _check_source(wanted.source, had["engine"])
    _check_all_there(ctx, out, sessions, wanted)
    return sessions


def _beginning(out: Path, wanted: _Wanted, run: Mapping[str, Any], *, named: bool) -> list[Session]:
    """Start a tuning for each op and dtype; ``named``: world sizes were."""
    backend = wanted.backend
    if not backend:
        raise InputError(f"--backend is missing; one of {', '.join(BACKENDS)}")
    if backend == "replay":
        stated_truth()  # a truth that nobody stated must not leave a tuning begun
    check_open_options({**run, "backend": backend, "ops": wanted.ops})
    wanted = replace(wanted, tp=_on_the_ranks(backend, wanted.tp, named=named))
    every = [
        wanted.settings(backend, op, dtype)
        for op in wanted.ops
        for dtype in wanted.dtypes or (None,)
    ]
    _check_source(wanted.source, every[0]["engine"])
    begin = Session if _is_follower() else Session.start
    if len(every) > 1 and not _is_follower():
        Session.check_vacant(out)
    return [begin(out / _folder(one, wanted), one) for one in every]


def _holds_shapes(session: Session) -> bool:
    return any(map(session.shapes, session.started()))


def _concluded(ctx: click.Context, session: Session, source: str | None) -> int:
    """Conclude a tuning from what it holds, write and say it; return an exit code."""
    from ..tuning.conclusion import conclude
    from ..tuning.handover import write
    from ..tuning.summary import text

    found = conclude(session)
    assert found is not None  # a run was started
    try:
        written = write(found, _command_line(session, source), source)
    except CannotWriteError as error:
        kept = "what was measured is kept: make room, then give --finish"
        click.echo(f"costmodel: error: {one_line(str(error))}; {kept}", err=True)
        ctx.exit(CANNOT_WRITE)
    options.say(text(found, written.files))
    for note in written.notes:
        click.echo(f"costmodel: note: {note}", err=True)
    return FINISHED if found.decided else WRONG_RESULTS


def _listed(text: str, read: Callable[[str], str]) -> tuple[str, ...]:
    """Return what a list of names with commas means, each once, () for none."""
    return tuple(dict.fromkeys(read(part) for part in text.split(",") if part.strip()))


def _folder(settings: TuningSettings, wanted: _Wanted) -> Path:
    """Return the folder of one of several tunings: ``plain``, ``bf16``, ``plain/bf16``."""
    op, dtype = ops.vocabulary()[settings["op"]].names[0], settings["dtype"]
    return Path(*[op] * (len(wanted.ops) > 1), *[dtype] * (len(wanted.dtypes) > 1))


def _places(out: Path) -> list[Path]:
    """Return where the tunings of ``out`` stand: there, or in a folder for each op and dtype."""
    if (out / SETTINGS).exists():
        return [out]
    folders = [out / op / dtype for op in ("", *_OP_NAMES) for dtype in ("", *ELEMENT_BYTES)]
    return [folder for folder in folders if (folder / SETTINGS).exists()] or [out]


def _check_all_there(
    ctx: click.Context, out: Path, sessions: Sequence[Session], wanted: _Wanted
) -> None:
    """Raise :class:`InputError` where an op or a dtype is named of which there is no tuning."""
    for option, key, names in (("op_list", "op", wanted.ops), ("dtype", "dtype", wanted.dtypes)):
        there = [session.settings[key] for session in sessions]  # type: ignore[literal-required]
        more = [name for name in names if name not in there]
        if more and options.given(ctx, [option]):
            raise InputError(
                f"{out} holds no tuning of {', '.join(more)}, only of "
                f"{', '.join(dict.fromkeys(there))}; give another --out for more"
            )


#: Parameters of the command -> what a tuning keeps of them, which going on may only repeat.
_SETTLED = {
    "backend": ("backend",),
    "tp": ("world_sizes",),
    "op_list": ("op",),
    "dtype": ("dtype",),
    "hidden": ("hidden",),
    "model_name": ("model", "hidden", "dtype"),
    "config_file": ("hidden", "dtype"),
    "engine": ("engine",),
    "otherwise": ("otherwise",),
    "objective": ("objective",),
    "limit": ("contested_pct",),
    "shapes": ("shapes",),
}


def _named(ctx: click.Context) -> list[str]:
    """Return the settings of a tuning that the command line names itself."""
    stated = options.given(ctx, _SETTLED)
    return list(dict.fromkeys(key for parameter in stated for key in _SETTLED[parameter]))


def _settings(
    backend: str, tp: tuple[int, ...], op: str, shapes: int, limit: float, asked: question.Asked
) -> TuningSettings:
    """Return what a tuning by these options is started with."""
    engine = asked["engine"].lower()
    if engine and engine not in ENGINES:
        raise InputError(f"unknown engine '{engine}'; one of {', '.join(ENGINES)}")
    family = load(backend).kernel_family
    if engine and family in kernels.families() and family not in kernels.AITER_FAMILIES:
        raise InputError(
            f"back end {backend} measures {family}'s kernels, which {engine} does not run; "
            "leave --for out"
        )
    otherwise = asked["otherwise"].lower()
    if op != FUSED and alternative(engine, otherwise, op) == SEPARATE_OPS:
        raise InputError(
            f"--otherwise {SEPARATE_OPS} goes with the fused op, which alone can give way to "
            f"separate ops, not with {op}; leave one of them out"
        )
    model = asked["model_name"] or ""
    asked = _of_models(asked)
    sizes = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    if sizes:
        calls = Shapes.of(1, list(sizes), 2, op=op, dtype=question.dtype_of(asked))
        check_hidden(calls, kernels.aiter())
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    replayed = f"replayed-{stated().replace(':', '-')}"
    return {
        "schema": "costmodel/tuning/1",
        "name": replayed if backend == "replay" else f"tune-{stamp}",
        "backend": backend,
        "world_sizes": list(tp),
        "op": op,
        "dtype": question.dtype_of(asked),
        "hidden": list(sizes or ()),
        "model": model,
        "engine": engine,
        "otherwise": otherwise,
        "objective": asked["objective"].lower(),
        "contested_pct": limit,
        "shapes": shapes,
    }


def _of_models(asked: question.Asked) -> question.Asked:
    """Return the options with the hidden sizes and the dtype of several models for their names."""
    names = llms.several(asked["model_name"] or "")
    if len(names) < 2:
        return asked
    if asked["hidden"] or asked["config_file"]:
        raise InputError("give one of --hidden, --model and --config")
    models = [llms.find(name) for name in names]
    dtypes = sorted({model.dtype for model in models})
    if len(dtypes) > 1 and not asked["dtype"]:
        raise InputError(f"these models run in {' and '.join(dtypes)}; give --dtype")
    sizes = tuple(sorted({model.hidden_size for model in models}))
    return {**asked, "model_name": None, "hidden": sizes, "dtype": asked["dtype"] or dtypes[0]}


def _check_source(source: str | None, engine: str) -> None:
    """Raise :class:`InputError` for a tree that no patch can be made of, before any measuring."""
    if source is None:
        return
    if not engine:
        raise InputError("--source is an engine's tree: name the engine with --for")
    open_tree(source, serving_engine(engine))


def _on_the_ranks(backend: str, tp: tuple[int, ...], *, named: bool) -> tuple[int, ...]:
    """Return the world sizes to tune: those named, else those that torchrun's ranks make up."""
    if not under_torchrun():
        if load(backend).launch == "torchrun":
            raise InputError(
                f"back end {backend} needs one process a GPU; start it as torchrun "
                f"--nproc-per-node={max(tp)} -m costmodel tune ..."
            )
        return tp
    ranks, share = world_sizes(()), load(backend).ranks_share_gpus
    if not named and ranks and not share:
        tp = tuple(size for size in tp if size <= ranks[0])
    return world_sizes(tp, share)


def _leave_it_to_the_first_to_say() -> None:
    """End this one of torchrun's ranks, on all of which something is wrong, if another says it."""
    if under_torchrun() and not join().first_to_say():
        raise click.exceptions.Exit(BAD_INPUT) from None


def _is_follower() -> bool:
    """Return whether this is one of torchrun's ranks other than the first."""
    return under_torchrun() and os.environ.get("RANK", "0") != "0"


def _command_line(session: Session, source: str | None) -> str:
    """Return the command that starts such a tuning again."""
    s = session.settings
    words = {
        "--backend": s["backend"],
        "--tp": s["world_sizes"],
        "--op": s["op"] if s["op"] != FUSED else None,
        "--dtype": s["dtype"] if s["dtype"] != "bf16" else None,
        "--model": s["model"],
        "--hidden": None if s["model"] else s["hidden"],
        "--for": s["engine"],
        "--otherwise": s["otherwise"],
        "--objective": s["objective"] if s["objective"] != MEAN else None,
        "--source": Path(source).name if source else None,
    }
    return shlex.join(["costmodel", "tune", *question.words(words)])
