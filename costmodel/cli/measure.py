"""``costmodel measure``: run the op on this machine and keep its latencies.

Imports click and numpy; torch, and triton, only where the back end needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..live.backends.base import ARMS, BACKENDS
from ..live.repetition import CALLS, SLOTS, TIMINGS, Repetition
from ..live.run.launch import measure
from ..live.run.points import DEFAULT_ARMS
from . import options


@click.command()
@click.option(
    "--backend", metavar="NAME", help=f"What runs the op: {', '.join(BACKENDS)}.",
    shell_complete=options.offering(BACKENDS),
)  # fmt: skip
@click.option(
    "--tp", type=options.INTEGERS, help="World sizes: 2, 4 or 8 ranks; several go to --out/tpN."
)
@click.option("--hidden", metavar="LIST", help="Hidden sizes, e.g. 2880,4096.")
@click.option("--tokens", metavar="LIST", help="Tokens: 1,48; 8:64:8 in steps; 1..512 doubling.")
@click.option("--dtype", metavar="LIST", help="bf16, fp16, fp32.  [default: bf16]")
@click.option(
    "--arms",
    metavar="LIST",
    help=f"{', '.join(ARMS)}.  [default: {','.join(DEFAULT_ARMS)}]",
)
@click.option(
    "--norm",
    metavar="NAME",
    help="Norm of separate ops: aiter, vllm (back end aiter), compiled, triton (torch).  "
    "[default: the back end's first]",
)
@click.option("--plan", type=click.Path(path_type=Path), help="A plan file instead of a grid.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the run.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--retry-skipped", is_flag=True, help="With --resume, ask skipped arms once more.")
@click.option(
    "--starts",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Measure N times in fresh processes, without torchrun, and count flips of auto.",
)
@click.option("--budget", type=float, metavar="SECONDS", help="Stop between shapes in time.")
@click.option(
    "--timing",
    metavar="KIND",
    help=f"{' or '.join(TIMINGS)}.  [default: graph where the back end has it]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Fixes inputs and orders.  [default: drawn]"
)
@click.option("--rounds", type=int, help=f"Rounds of every arm.  [default: {Repetition().rounds}]")
@click.option("--samples", type=int, help=f"Replays a round.  [default: {Repetition().samples}]")
@click.option("--calls", type=int, help=f"Calls a replay, multiple of --slots.  [default: {CALLS}]")
@click.option("--slots", type=int, help=f"Sets of buffers to rotate through.  [default: {SLOTS}]")
@options.watchdog
@click.pass_context
def command(ctx: click.Context, **given: Any) -> None:
    """Measure fused all-reduce + RMSNorm on this machine.

    Every arm is first compared with an fp32 reference; a wrong arm is reported and never timed.
    Results go to --out shape by shape: measurements.csv (schema 1), samples.jsonl (every sample of
    every rank) and environment.json. A run that ended early continues with --resume.

    \b
    costmodel measure --backend gloo --tp 2 --hidden 2880 --tokens 1..64 --out run
    torchrun --nproc-per-node=8 -m costmodel measure --backend aiter \\
        --hidden 7168 --tokens 1..512 --arms 1stage,2stage,auto --out run-tp8

    \b
    costmodel measure --backend aiter --tp 8 --hidden 7168 --tokens 16,32,64 \\
        --arms auto --starts 5 --out starts-tp8

    Exit codes: 0 done, 1 an arm gave wrong results, 2 bad input, 3 a rank was lost or hung, 4 the
    results could not be written, 130 Ctrl-C. torchrun itself turns each of these into 1.
    """
    ctx.exit(measure(given))
