"""``costmodel simulate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec.structs import replace

from ..errors import InputError
from ..files import check_free
from ..model.shape import ALGORITHMS
from . import options, question

if TYPE_CHECKING:
    from ..simulation import Conditions, Study
    from ..simulation.conditions import Stream

Value = TypeVar("Value")

#: What the value of a repeated option looks like.
EXAMPLES = {
    "--link": "0-3=0.5 (a fraction of the cable's rate)",
    "--slow": "3=1.5 (rank 3 takes 1.5 times as long)",
    "--cus": "3=40 (rank 3 runs 40 workgroups at once)",
    "--cost": "round_trip_us=1.2",
}

#: Axes that a sweep can have on a screen.
MAX_AXES = 2


@click.command()
@question.setting_options
@click.option(
    "--algorithm", type=options.ALGORITHM, default="both", show_default=True,
    help="1stage, 2stage or both. JSON has one: with both, the faster.",
)  # fmt: skip
@click.option("--tokens", type=int, default=32, show_default=True)
@options.model_shape
@click.option(
    "--fabric", metavar="NAME",
    help="full_mesh, switch, ring, hypercube, hierarchical, mi450, mi250x.  [default: calibrated]",
)  # fmt: skip
@click.option(
    "--tp",
    "--ranks",
    "ranks",
    type=int,
    help="World size.  [default: 8; mi450 72; hierarchical 64]",
)
@click.option("--link-gbps", type=options.Finite(), help="Rate of a link or port, one direction.")
@click.option("--uplink-gbps", type=options.Finite(), help="Rate of a hierarchical rank's port.")
@click.option("--domain", type=int, default=8, show_default=True, help="Ranks of a domain's mesh.")
@click.option(
    "--link", "links", multiple=True, metavar="A-B=F",
    help="Cable at a fraction of its rate: 0-3=0.5, 0>3=0.5 (one direction), 5-sw=0.5 (a port), "
    "2-2=0.5 (a memory). 0 takes it out.",
)  # fmt: skip
@click.option(
    "--skew", metavar="SPEC",
    help="Arrivals: normal:SIGMA, uniform:WIDTH, exponential:MEAN (us) or a file, one per rank.",
)  # fmt: skip
@click.option(
    "--slow", multiple=True, metavar="R=F", help="Rank R's own work takes F times as long."
)
@click.option("--cus", multiple=True, metavar="R=N", help="Rank R runs N workgroups at once.")
@click.option(
    "--background", multiple=True, metavar="A-B=GBPS[xN]",
    help="Traffic from A to B, competing like N workgroups (80).",
)  # fmt: skip
@click.option(
    "--push", is_flag=True, help="Kernels without barriers: write on arrival, wait for data."
)
@click.option("--cost", "costs", multiple=True, metavar="NAME=X", help="Set a calibrated cost.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--trace", metavar="FILE", help="Write a timeline for ui.perfetto.dev.")
@click.option("--force", is_flag=True, help="Replace --trace if it exists.")
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="AXIS=LIST",
    help="Cutoff over skew=, link:A-B=, rate=, ranks=, slow:R=; twice for a map.",
)  # fmt: skip
@click.option(
    "--layers", is_flag=True, help="Sweep: cutoff of a chain of layers, not of one collective."
)
@options.format_option
def command(
    algorithm: str,
    tokens: int,
    trace: str | None,
    sweeps: tuple[str, ...],
    layers: bool,
    force: bool,
    style: str,
    **stated: Any,
) -> None:
    """Simulate the collective, workgroup by workgroup and flow by flow.

    Times count from the first arrival, without the constant that a benchmark adds. The latency is
    from the last arrival to the last finish; "in op" is what a profiler shows for each rank.

    \b
    costmodel simulate --arch gfx950 --ranks 8 --tokens 64 --skew normal:20
    costmodel simulate --arch gfx950 --link 0-3=0.5 --trace timeline.json
    costmodel simulate --arch gfx950 --fabric mi450 --sweep ranks=2,4,8,16,72
    costmodel simulate --arch gfx950 --sweep skew=0,5,20 --sweep link:0-3=1,0.5,0.25
    """
    if trace:
        check_free(trace, force)
    study = _study(layers, stated)
    if sweeps:
        if trace:
            raise InputError("--trace is of one collective; leave out --sweep")
        _sweep(study, sweeps, style)
        return
    if layers:
        raise InputError("--layers is for cutoffs; add --sweep, such as --sweep skew=0,5,20")
    wanted = ALGORITHMS if algorithm == "both" else (algorithm,)
    outcomes = [study.simulate(a, tokens, record=trace is not None) for a in wanted]
    if trace:
        from ..simulation.timeline import write

        write(outcomes, trace)
    if style == "json":
        options.print_json(study.record(outcomes))
        return
    from ..show.simulation import text

    options.say(text(outcomes, study))
    if trace:
        options.say(f"timeline: {trace} (open it in ui.perfetto.dev or chrome://tracing)")


def _study(layers: bool, stated: dict[str, Any]) -> Study:
    """Return the question that the options state."""
    from ..simulation import Skew, Study
    from ..simulation.skew import parse, read_arrivals

    sizes = options.hidden_sizes(stated["hidden"], stated["model_name"], stated["config_file"])
    if sizes and len(sizes) > 1:
        raise InputError("--hidden: simulate takes one hidden size")
    study = Study(
        question.setting_of(stated),
        hidden_dim=sizes[0] if sizes else 7168,
        fabric=stated["fabric"],
        ranks=stated["ranks"],
        link_gbps=stated["link_gbps"],
        uplink_gbps=stated["uplink_gbps"],
        domain=stated["domain"],
        costs=_pairs("--cost", stated["costs"], str, float),
        links=_pairs("--link", stated["links"], str, float),
        seed=stated["seed"],
        layers=layers,
    )
    conditions = _conditions(stated)
    skew = parse(stated["skew"]) if stated["skew"] is not None else None
    if skew is not None and not isinstance(skew, Skew):
        arrivals = read_arrivals(skew, study.machine().ranks)
        return _with(study, conditions=conditions.late(arrivals))
    return _with(study, conditions=conditions, skew=skew)


def _conditions(stated: dict[str, Any]) -> Conditions:
    from ..simulation import Conditions

    return Conditions(
        slowdown=_pairs("--slow", stated["slow"], int, float),
        resident=_pairs("--cus", stated["cus"], int, int),
        background=tuple(map(_stream, stated["background"])),
        entry_barrier=not stated["push"],
    )


def _with(study: Study, **changes: Any) -> Study:

    return replace(study, **changes)


def _pairs(
    option: str, given: Sequence[str], key: Callable[[str], Any], value: Callable[[str], Value]
) -> dict[Any, Value]:
    """Return the mapping of repeated ``key=value`` options."""
    found: dict[Any, Value] = {}
    for text in given:
        left, equals, right = text.partition("=")
        try:
            if not (left.strip() and equals):
                raise ValueError
            found[key(left.strip())] = value(right)
        except ValueError:
            raise InputError(f"{option} {text}: write it as {EXAMPLES[option]}") from None
    return found


def _stream(text: str) -> Stream:
    from ..simulation import Stream

    path, _, load = text.partition("=")
    ends, (rate, times, flows) = path.split("-"), load.partition("x")
    try:
        source, target = map(int, ends)
        return Stream(source, target, float(rate), *([int(flows)] if times else []))
    except ValueError:
        raise InputError(f"--background {text}: write it as 0-3=20 or 0-3=20x8") from None


def _sweep(study: Study, sweeps: Sequence[str], style: str) -> None:
    from ..simulation import cutoff_map

    if len(sweeps) > MAX_AXES:
        raise InputError(f"--sweep: at most {MAX_AXES} axes, got {len(sweeps)}")
    axes: list[tuple[str, list[float]]] = []
    for text in sweeps:
        left, _, values = text.partition("=")
        name, _, target = left.strip().partition(":")
        try:
            numbers = [float(v) for v in values.split(",")]
            if target and name == "slow":
                study = _with(study, slow_rank=int(target))
        except ValueError:
            raise InputError(
                f"--sweep {text}: write it as skew=0,5,20, link:0-3=1,0.5, rate=0.5,1,2, "
                "ranks=2,4,8 or slow:3=1,2"
            ) from None
        if target and name == "link":
            study = _with(study, cable=target)
        elif target and name != "slow":
            raise InputError(f"--sweep {text}: only link and slow name what they change")
        if name in dict(axes):
            raise InputError(f"--sweep: {name} is given twice")
        axes.append((name, numbers))
    found = cutoff_map(study, axes)
    if style == "json":
        options.print_json(found.to_dict())
    else:
        from ..show.simulation import map_text

        options.say(map_text(found))
