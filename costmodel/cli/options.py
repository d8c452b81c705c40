"""Options that several subcommands share, and how their values are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..data import hardware, ops
from ..data.ranges import integers
from ..errors import InputError, printable
from ..files import json_text
from ..model.shape import ALGORITHMS, PUSHED, WORLD_SIZES, read_algorithm, read_arm, read_op
from ..units import ELEMENT_BYTES, read_dtype

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..calibration.posterior import Calibration

Command = Callable[..., Any]


class IntegerList(click.ParamType):
    """Whole numbers as :func:`~costmodel.data.ranges.integers` reads them."""

    name = "LIST"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Return the integers in order, each once."""
        if isinstance(value, tuple):
            return value
        try:
            return integers(str(value))
        except InputError as error:
            self.fail(str(error), param)


class Finite(click.FloatRange):
    """A number of a range; what is no number or has no end would switch off what it limits."""

    name = "float"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number

    def _describe_range(self) -> str:
        # click writes "x<=None" for a range without ends.
        return super()._describe_range() if (self.min, self.max) != (None, None) else ""


class Name(click.ParamType):
    """A name of which several spellings are taken; ``read`` returns the project's own."""

    def __init__(self, name: str, read: Callable[[str], str], known: Iterable[str]) -> None:
        self.name = name
        self.read = read
        self.known = tuple(known)

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the project's own name."""
        try:
            return self.read(value)
        except InputError as error:
            self.fail(str(error), param)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """Offer the known names."""
        return completed(self.known, incomplete)


def completed(known: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the known words that go on from what was typed, in any case."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(k) for k in known if k.lower().startswith(incomplete.lower())]


def _or_both(read: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: "both" if name.strip().lower() == "both" else read(name)


INTEGERS = IntegerList()
OP_NAMES = tuple(op.names[0] for op in ops.chosen())
OP = Name("NAME", read_op, OP_NAMES)
DTYPE = Name("NAME", read_dtype, ELEMENT_BYTES)
#: One algorithm, or both; and one arm of the plain op's, or both algorithms.
ALGORITHM = Name("NAME", _or_both(read_algorithm), (*ALGORITHMS, "both"))
ARM = Name("NAME", _or_both(read_arm), (*ALGORITHMS, *PUSHED, "both"))


def read_world_sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Check tensor-parallel sizes."""
    for n in sizes:
        if n not in WORLD_SIZES:
            raise InputError(f"unknown world size {n}: --tp takes 2, 4 or 8")
    return sizes


def _ranks(ctx: Any, param: Any, value: Any) -> Any:
    """Check the value of --tp, one size or several."""
    if value is not None:
        read_world_sizes(value if isinstance(value, tuple) else (value,))
    return value


class RanksOf(click.ParamType):
    """World sizes, of one arch or GPU of a list where its name stands before: ``MI355X:2,4``."""

    name = "LIST"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, tuple[int, ...]]:
        """Return the name, "" without one, and the world sizes."""
        if isinstance(value, tuple):
            return value
        name, colon, sizes = value.partition(":")
        if not colon or not name.strip()[:1].isalpha():
            name, sizes = "", value
        return name.strip(), read_world_sizes(INTEGERS.convert(sizes, param, ctx))


def world_sizes(command: Command) -> Command:
    """Add --tp, several world sizes."""
    return click.option(
        "--tp", type=INTEGERS, default=WORLD_SIZES, callback=_ranks,
        help="World sizes: some of 2, 4 and 8.  [default: 2,4,8]",
    )(command)  # fmt: skip


def asked_world_sizes(help: str) -> Any:
    """Return a decorator that adds --tp, several world sizes; None where all are meant."""
    return click.option("--tp", type=INTEGERS, callback=_ranks, help=help)


def given(context: click.Context, names: Iterable[str]) -> list[str]:
    """Return those of a command's parameters that its command line names itself."""
    by_default = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    return [name for name in names if context.get_parameter_source(name) not in by_default]


def refuse(context: click.Context, names: Iterable[str], why: str) -> None:
    """Raise :class:`InputError` where one of these options was given: it would do nothing."""
    for name in given(context, names):
        option = next(p for p in context.command.params if p.name == name)
        raise InputError(f"{option.opts[0]} {why}")


def watchdog(command: Command) -> Command:
    """Add --watchdog, for commands that start ranks or are some."""
    return click.option(
        "--watchdog", type=float, default=60.0, show_default=True, metavar="SECONDS",
        help="Longest that one step may take; ten times that where kernels are compiled.",
    )(command)  # fmt: skip


def world_size(*, required: bool = False, help: str = "World size: 2, 4 or 8 ranks.") -> Any:
    """Return a decorator that adds --tp, one world size."""
    return click.option(
        "--tp", type=int, metavar="N", required=required, callback=_ranks, help=help
    )


def target(command: Command) -> Command:
    """Add --arch, --gpu and --calibration."""
    for option in (
        click.option(
            "--calibration", "calibration_file", metavar="FILE",
            help="Calibration file [default: the one shipped for the arch].",
        ),
        click.option(
            "--gpu", shell_complete=_gpus, help="GPU of the arch, any case [default: "
            f"{', '.join(gpus[0] for gpus in hardware.GPUS.values())}].",
        ),
        click.option(
            "--arch", shell_complete=_archs,
            help=" or ".join(
                f"{arch} ({', '.join(sorted(gpus))})" for arch, gpus in hardware.GPUS.items()
            ) + ".",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _archs(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    return completed(hardware.GPUS, incomplete)


def _gpus(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    return completed((g for gpus in hardware.GPUS.values() for g in gpus), incomplete)


def _models(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    from ..data.llms import catalogue

    return completed((llm.name for llm in catalogue()), incomplete)


def offering(names: Iterable[str]) -> Callable[..., list[CompletionItem]]:
    """Return what completes a value by the names that it may have."""
    known = tuple(names)
    return lambda ctx, param, incomplete: completed(known, incomplete)


def complete_rules(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
    """Offer the names of rules, and files."""
    from click.shell_completion import CompletionItem

    from ..rules import ENGINES
    from ..rules.catalogue import catalogue

    names = completed((*ENGINES, *(r.name for r in catalogue())), incomplete)
    return names or [CompletionItem(incomplete, type="file")]


def one_model(command: Command) -> Command:
    """Add --model and --config, of which one names the model."""
    for option in (
        click.option(
            "--config", "config_file", metavar="FILE",
            help="Hugging Face config.json (a local file) of the model.",
        ),
        click.option(
            "--model", "model_name", shell_complete=_models,
            help="Model of the catalogue, such as gpt-oss-120b.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def model_shape(command: Command) -> Command:
    """Add --hidden, --model and --config, of which one names the hidden sizes."""
    hidden = click.option("--hidden", type=INTEGERS, help="Hidden sizes, such as 2880,7168.")
    return hidden(one_model(command))


def op_option(help: str = f"{', '.join(OP_NAMES)}.") -> Any:
    """Return a decorator that adds --op."""
    return click.option("--op", type=OP, default="fused", show_default=True, help=help)


def format_option(command: Command) -> Command:
    """Add --format."""
    return click.option(
        "--format", "style", type=click.Choice(["table", "json"]), default="table",
        show_default=True, help="A table for people or JSON for programs.",
    )(command)  # fmt: skip


def verbose(command: Command) -> Command:
    """Add --verbose."""
    return click.option(
        "--verbose", is_flag=True, help="All that the answer rests on, not the answer alone."
    )(command)


def listing_format(command: Command) -> Command:
    """Add --format of a listing."""
    return click.option(
        "--format", "style", type=click.Choice(["table", "csv", "json"]), default="table",
        show_default=True, help="A table for people, CSV or JSON for programs.",
    )(command)  # fmt: skip


def load_target(
    arch: str | None, gpu: str | None, calibration_file: str | None
) -> tuple[Calibration, str, str]:
    """Return (calibration, arch, gpu) from the options of :func:`target`.

    With a calibration of the user's own, its GPUs count, catalogued or not, measured ones first.
    """
    from ..calibration.posterior import load, shipped

    for option, name in (("--arch", arch), ("--gpu", gpu)):
        if name and "," in name:
            raise InputError(f"{option} {name}: no list is taken here; ask for one at a time")
    if calibration_file is None:
        arch, gpu = hardware.choose(arch, gpu)
        return shipped(arch), arch, gpu
    calibration = load(calibration_file)
    measured = {c.gpu for c in calibration.coverage}
    default = {gpus[0] for gpus in hardware.GPUS.values()}
    known = sorted(
        calibration.gpus, key=lambda p: (p[1] not in measured, p[1] not in default, p[1])
    )
    try:
        return calibration, *hardware.choose(arch, gpu, known)
    except InputError as error:
        have = ", ".join(f"{g} ({a})" for a, g in calibration.gpus)
        raise InputError(f"{calibration_file}: {error}; the calibration covers {have}") from None


def hidden_sizes(
    hidden: tuple[int, ...] | None, model_name: str | None, config_file: str | None
) -> tuple[int, ...] | None:
    """Return the hidden sizes that the options of :func:`model_shape` name, or None."""
    from ..data import llms

    given = [o for o in (hidden, model_name, config_file) if o]
    if len(given) > 1:
        raise InputError("give one of --hidden, --model and --config")
    if model_name:
        return (llms.find(model_name).hidden_size,)
    if config_file:
        return (llms.from_config(config_file).hidden_size,)
    return hidden


def say(text: str, *, coloured: bool = False) -> None:
    """Print text for people, no sentence wider than their terminal.

    Names of files in it may hold anything: what is not printable is escaped, but for the colours of
    a text that has its own.
    """
    from ..show.table import fitted

    click.echo(fitted(printable(text, "\n\x1b" if coloured else "\n")))


def print_json(record: Mapping[str, Any]) -> None:
    """Print a record as JSON."""
    click.echo(json_text(record), nl=False)
