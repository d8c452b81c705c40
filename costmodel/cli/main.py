"""Entry point of the ``costmodel`` command; each subcommand is imported only when it is run."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import importlib
import io
import os
import sys
from types import ModuleType
from typing import IO, TYPE_CHECKING

import click

from .. import __version__
from ..errors import InputError, cut_short, nearest, one_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Environment variables: tracebacks of unexpected errors; the shell's question for completions.
DEBUG = "COSTMODEL_DEBUG"
COMPLETE = "_COSTMODEL_COMPLETE"

#: Exit codes: EX_SOFTWARE of sysexits.h, and what a shell reports for SIGPIPE (128 + 13).
INTERNAL, READER_GONE = 70, 141

#: How the system says that output has nowhere to go; errors of files carry their name.
LOST = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

#: Subcommand -> (module under costmodel.cli, one line of help).
COMMANDS = {
    "recommend": ("recommend", "The dispatch rule for an arch: cutoff per world size, evidence."),
    "predict": ("predict", "Latency of an arm for shapes, with terms and intervals."),
    "calibrate": ("calibrate", "Fit the model to measurements and write a calibration file."),
    "validate": ("validate", "Model and every rule of the field against measurements."),
    "worth": ("worth", "Microseconds per decode step that a change of rule is worth."),
    "emit": ("emit", "The rule in an engine's idiom: snippet, patch, boundary tests."),
    "audit": ("audit", "Read the rule out of an installed engine and judge it."),
    "diff": ("diff", "What changed between two calibrations, tables or engine trees."),
    "in-force": ("in_force", "Which kernel each captured batch took, beside what a rule says."),
    "measure": ("measure", "Measure both arms on this machine's GPUs."),
    "tune": ("tune", "Learn the rule of this machine: measure, calibrate, judge, hand over."),
    "import": ("import_", "Other harnesses' output as schema 1 measurements."),
    "simulate": ("simulate", "The collective under skew, faults and other fabrics."),
    "explain": ("explain", "One decision in words and numbers."),
    "plan": ("plan", "Which shapes to measure next."),
    "report": ("report", "A report to attach to a pull request."),
    "plot": ("plot", "One figure of the report as an image, a page or JSON."),
    "models": ("models", "Models of the catalogue: hidden size, layers, dtype, source."),
    "rules": ("rules", "Rules of the field: what they say, where they stand."),
    "statements": ("statements", "Cutoffs that others state without a table: never fitted."),
    "gpus": ("gpus", "GPUs: arch, links, calibration, source."),
    "data": ("data", "Measurements: rows used and set aside, by source."),
    "schemas": ("schemas", "JSON Schemas of what commands print and write."),
    "doctor": ("doctor", "What this machine can do, and what to install."),
}


class LazyGroup(click.Group):
    """A group that knows its subcommands' names and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the subcommands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand, or None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = _imported(f"{__package__}.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        if not any(parameter.name == "debug" for parameter in command.params):
            command.params.append(_debug_option())
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the subcommands from the table, so that completing imports none of them."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer the nearest name for an unknown subcommand."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command '{args[0]}'{nearest(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)


def _imported(name: str) -> ModuleType:
    """Import a module; at a start without looking for garbage among what lives to the end.

    Nor does the end look for it: that would take a seventh of a short command.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    atexit.register(gc.freeze)
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, is_eager=True, callback=_set_debug,
        help="Show the traceback of an unexpected error.",
    )  # fmt: skip


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        os.environ[DEBUG] = "1"  # started ranks inherit it


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value:
        return
    from ..calibration.posterior import shipped
    from ..data import hardware, kernels, measurement

    calibrations = ", ".join(shipped(arch).id for arch in hardware.GPUS)
    newest = max(measurement.published().date.tolist())
    click.echo(
        f"costmodel, version {__version__}\n"
        f"calibrations: {calibrations}\n"
        f"published measurements: up to {newest}\n"
        f"AITER: kernels known up to {kernels.LATEST}"
    )
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[_debug_option()],
    epilog="\b\nShell completion (bash; zsh_source and fish_source alike):\n  "
    'eval "$(_COSTMODEL_COMPLETE=bash_source costmodel)"',
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
    help="Show the version, the calibrations, the data's date and the newest AITER known.",
)  # fmt: skip
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Which all-reduce + RMSNorm algorithm is faster on AMD Instinct over xGMI, and from where on.

    \b
    costmodel recommend --arch gfx942
    costmodel predict --arch gfx950 --tp 4,8 --hidden 2880 --tokens 1,2,4,8:64:8
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit.

    0 done; 1 a verdict against what was judged; 2 wrong input, or nowhere to write; 70 an error of
    costmodel's own (``--debug`` shows its traceback); 130 Ctrl-C; 141 the reader of the output went
    away. A command that has more says so in its help. Errors are one line on standard error.
    """
    # The model's matrices are small: threads of numpy's own would cost more than they spare.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Until glibc has seen a large block go, it gives the memory of every other back to the system
    # at once (mallopt(3), "dynamic mmap threshold"), and the next one is had page by page: a tenth
    # of a short command's time. Nothing of this one is ever touched.
    bytes(16 << 20)
    code = _run(list(sys.argv[1:] if argv is None else argv))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:  # else it would come up when the interpreter ends
        code = _output_lost(error) if code in (0, 1) else code
        _drop(sys.stdout)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold anything
    try:
        return _command(arguments)
    except InputError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _fail("interrupted", 130, kind="")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        named = error.ctx.info_name if error.ctx and error.ctx.parent else None
        hint = f" (see costmodel {named} --help)" if named else ""
        return _fail(error.format_message().rstrip(".") + hint)
    except click.ClickException as error:
        return _fail(error.format_message())
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in LOST:
            return _output_lost(error)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _fail(f"{error.filename}: {error.strerror}")
        return _unexpected(error, arguments)


def _command(arguments: list[str]) -> int:
    """Run the command, or answer the shell's question how its line may go on."""
    asked = os.environ.get(COMPLETE)
    if asked:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "costmodel", COMPLETE, asked)
    # None lets click colour terminals only; see https://no-color.org.
    color = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
    # Not cli.main(): it ends a broken pipe with exit code 1, which is for verdicts.
    try:
        with cli.make_context("costmodel", arguments, color=color) as context:
            status = cli.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return status if isinstance(status, int) else 0


def _unexpected(error: Exception, arguments: list[str]) -> int:
    debug = os.environ.get(DEBUG, "0") not in ("", "0") or "--debug" in arguments
    if debug:
        import traceback

        traceback.print_exception(error)
    again = "" if debug else "run again with --debug for the traceback, and "
    return _fail(
        f"{type(error).__name__}: {error}; {again}keep the output of 'costmodel doctor'",
        INTERNAL,
        kind="internal error: ",
    )


def _output_lost(error: OSError) -> int:
    """Return the exit code where standard output takes no more; the rest of it is dropped."""
    _drop(sys.stdout)
    if error.errno == errno.EPIPE:  # ``| head``: not an error of ours
        return READER_GONE
    return _fail(f"cannot write the output: {error.strerror}")


def _drop(stream: IO[str]) -> None:
    """Send what a stream still holds nowhere, so that it cannot fail again at the very end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(message: str, code: int = 2, kind: str = "error: ") -> int:
    """Say in one line what is wrong; return the exit code."""
    try:
        click.echo(cut_short(f"costmodel: {kind}{one_line(message)}"), err=True)
    except OSError:
        _drop(sys.stderr)
    return code
