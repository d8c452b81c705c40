"""Options that several subcommands share, and how their values are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, nearest
from ..model.shape import OPS, WORLD_SIZES
from ..units import ELEMENT_BYTES

if TYPE_CHECKING:
    from ..calibration.posterior import Calibration

Command = Callable[..., Any]

#: Short names of ops on the command line.
OP_NAMES = {"fused": "fused_ar_rmsnorm", "plain": "all_reduce", "separate": "ar_then_rmsnorm"}


class IntegerList(click.ParamType):
    """Comma-separated integers and ranges: ``1,2,4,8:64:8`` is 1, 2, 4, 8, 16, ..., 64."""

    name = "LIST"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Return the integers in order, each once."""
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for part in str(value).split(","):
            ends = part.strip().split(":")
            try:
                numbers = [int(e) for e in ends]
            except ValueError:
                numbers = []
            if not numbers or len(numbers) > 3 or min(numbers) < 1:
                self.fail(
                    f"'{part.strip()}' is not a positive integer or a range first:last[:step]",
                    param,
                )
            if len(numbers) == 1:
                found.append(numbers[0])
                continue
            first, last, step = (*numbers, 1)[:3]
            if last < first:
                self.fail(f"range '{part.strip()}' ends before it starts", param)
            if (last - first) // step >= 1_000_000:
                self.fail(f"range '{part.strip()}' has more than a million values", param)
            found += range(first, last + 1, step)
        return tuple(dict.fromkeys(found))


INTEGERS = IntegerList()


def read_op(name: str) -> str:
    """Return the op for its name or short name."""
    op = OP_NAMES.get(name.lower(), name.lower())
    if op not in OPS:
        raise InputError(
            f"unknown op '{name}'{nearest(name, [*OPS, *OP_NAMES])}; "
            f"one of {', '.join(OPS)} (or {', '.join(OP_NAMES)})"
        )
    return op


def read_world_sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Check tensor-parallel sizes."""
    for n in sizes:
        if n not in WORLD_SIZES:
            raise InputError(f"unknown world size {n}: --tp takes 2, 4 or 8")
    return sizes


def world_sizes(command: Command) -> Command:
    """Add --tp, the world sizes that are asked about."""

    def checked(ctx: Any, param: Any, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return read_world_sizes(sizes)

    return click.option(
        "--tp", type=INTEGERS, default="2,4,8", show_default=True, callback=checked,
        help="World sizes.",
    )(command)  # fmt: skip


def target(command: Command) -> Command:
    """Add --arch, --gpu and --calibration."""
    for option in (
        click.option(
            "--calibration", "calibration_file", metavar="FILE",
            help="Calibration file [default: the one shipped for the arch].",
        ),
        click.option("--gpu", help="GPU of the arch, any case [default: MI300X, MI355X]."),
        click.option("--arch", help="gfx942 (MI300X, MI308X, MI325X) or gfx950 (MI350X, MI355X)."),
    ):  # fmt: skip
        command = option(command)
    return command


def model_shape(command: Command) -> Command:
    """Add --hidden, --model and --config, of which one names the hidden sizes."""
    for option in (
        click.option(
            "--config", "config_file", metavar="FILE",
            help="Hugging Face config.json (a local file) of the model.",
        ),
        click.option("--model", "model_name", help="Model of the catalogue, such as gpt-oss-120b."),
        click.option("--hidden", type=INTEGERS, help="Hidden sizes, such as 2880,7168."),
    ):  # fmt: skip
        command = option(command)
    return command


def dtype_option(command: Command) -> Command:
    """Add --dtype."""
    return click.option(
        "--dtype", default="bf16", show_default=True, help=f"{', '.join(ELEMENT_BYTES)}."
    )(command)


def format_option(command: Command) -> Command:
    """Add --format."""
    return click.option(
        "--format", "style", type=click.Choice(["table", "json"]), default="table",
        show_default=True, help="A table for people or JSON for programs.",
    )(command)  # fmt: skip


def load_target(
    arch: str | None, gpu: str | None, calibration_file: str | None
) -> tuple[Calibration, str, str]:
    """Return (calibration, arch, gpu) from the options of :func:`target`.

    With a calibration of the user's own, its GPUs count, catalogued or not.
    """
    from ..calibration.posterior import load, shipped
    from ..data import hardware

    if calibration_file is None:
        arch, gpu = hardware.choose(arch, gpu)
        return shipped(arch), arch, gpu
    calibration = load(calibration_file)
    wanted = [
        (a, g)
        for a, g in calibration.gpus
        if (arch is None or a == arch.lower()) and (gpu is None or g == gpu.upper())
    ]
    if not wanted:
        have = ", ".join(f"{g} ({a})" for a, g in calibration.gpus)
        raise InputError(
            f"{calibration_file}: no GPU for --arch {arch or '(any)'} --gpu {gpu or '(any)'}; "
            f"the calibration covers {have}"
        )
    measured = {c.gpu for c in calibration.coverage}
    default = [hardware.GPUS[a][0] for a in {a for a, _ in wanted} if a in hardware.GPUS]
    order = sorted(wanted, key=lambda p: (p[1] not in measured, p[1] not in default, p[1]))
    return calibration, *order[0]


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


def print_json(record: Mapping[str, Any]) -> None:
    """Print a record as JSON; a number that is not finite is null."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(record), indent=1).decode() + "\n")
