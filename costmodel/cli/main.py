"""Entry point of the ``costmodel`` command; each subcommand is imported only when it is run."""

from __future__ import annotations

import importlib
import os
import sys

import click

from .. import __version__
from ..errors import InputError

#: Subcommand -> (module under costmodel.cli, one line of help).
COMMANDS = {
    "recommend": ("recommend", "The dispatch rule for an arch: cutoff per world size, evidence."),
    "predict": ("predict", "Latency of an arm for shapes, with terms and intervals."),
    "calibrate": ("calibrate", "Fit the model to measurements and write a calibration file."),
    "validate": ("validate", "Model and every rule of the field against measurements."),
    "worth": ("worth", "Microseconds per decode step that a change of rule is worth."),
    "emit": ("emit", "The rule in an engine's idiom: snippet, patch, boundary tests."),
    "audit": ("audit", "Read the rule out of an installed engine and judge it."),
    "measure": ("measure", "Measure both arms on this machine's GPUs."),
    "import": ("import_", "Other harnesses' output as schema 1 measurements."),
    "simulate": ("simulate", "The collective under skew, faults and other fabrics."),
    "explain": ("explain", "One decision in words and numbers."),
    "plan": ("plan", "Which shapes to measure next."),
    "report": ("report", "A report to attach to a pull request."),
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
        module = importlib.import_module(f"{__package__}.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer the nearest name for an unknown subcommand."""
        from ..errors import nearest

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"no command '{args[0]}'{nearest(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="costmodel")
def cli() -> None:
    """Which all-reduce + RMSNorm algorithm is faster on AMD Instinct over xGMI, and from where on.

    \b
    costmodel recommend --arch gfx942
    costmodel predict --arch gfx950 --tp 4,8 --hidden 2880 --tokens 1,2,4,8:64:8
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line; errors of input are one line and exit code 2."""
    try:
        status = cli.main(args=argv, prog_name="costmodel", standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except click.exceptions.Abort:
        click.echo("costmodel: interrupted", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.UsageError as error:
        hint = (
            f" (see costmodel {error.ctx.info_name} --help)"
            if error.ctx and error.ctx.parent
            else ""
        )
        _fail(error.format_message().rstrip(".") + hint)
    except click.ClickException as error:
        _fail(error.format_message())
    except BrokenPipeError:
        # The reader of a pipe went away (``| head``): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    line = " ".join(message.split())
    click.echo(f"costmodel: error: {line}", err=True)
    sys.exit(2)
