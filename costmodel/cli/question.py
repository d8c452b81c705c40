"""The question on the command line: the options that name a setting and a workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..data import kernels
from ..data.ranges import integers
from ..decide.objective import MEAN, OBJECTIVES
from ..decide.setting import Setting
from ..errors import InputError
from ..model import shape
from ..model.shape import FUSED
from ..rules import ENGINES
from ..units import ELEMENT_BYTES
from . import options

if TYPE_CHECKING:
    from ..data.deployment import Deployment
    from ..data.engine_calls import FusedCalls
    from ..data.llms import LLM
    from ..data.workload import Workload
    from ..rules.rule import Rule

Command = Callable[..., Any]

#: The options of :func:`setting_options` and :func:`workload_options` by the names that commands
#: receive them under.
Asked = dict[str, Any]

OP = options.op_option()
DTYPE = click.option(
    "--dtype", type=options.DTYPE,
    help=f"{', '.join(ELEMENT_BYTES)}.  [default: the model's, or bf16]",
)  # fmt: skip
AITER = click.option(
    "--aiter-version", default=kernels.LATEST, show_default=True, help="Whose kernels run."
)
SOURCE = click.option(
    "--source", default="", metavar="NAME",
    help="Whose benchmark and machine are meant: a calibrated source, or typical for the pool.  "
    "[default: the nearest source's benchmark, a machine nobody has measured]",
)  # fmt: skip
ENGINE = click.option(
    "--for", "engine", default="", metavar="ENGINE", shell_complete=options.offering(ENGINES),
    help=f"Whom the rule is for, whose guards it then keeps: {', '.join(ENGINES)}.",
)  # fmt: skip
OTHERWISE = click.option(
    "--otherwise", default="", metavar="ARM", shell_complete=options.offering(shape.OTHERWISE),
    help=f"What runs where 1-stage does not: {', '.join(shape.OTHERWISE)}.  "
    "[default: the engine's own, 2stage]",
)  # fmt: skip
OBJECTIVE = click.option(
    "--objective", default=MEAN, show_default=True, metavar="NAME",
    shell_complete=options.offering(OBJECTIVES),
    help=f"The regret that cutoffs minimise: {', '.join(OBJECTIVES)} (of calls within a factor of "
    "two of the cutoff, of the call that loses most).",
)  # fmt: skip
BATCH_INVARIANT = click.option(
    "--batch-invariant", is_flag=True,
    help="One kernel for every size, so that no result depends on the batch, with its price.",
)  # fmt: skip


def setting_options(command: Command) -> Command:
    """Add the options that name a setting.

    --arch, --gpu, --calibration, --op, --dtype, --aiter-version, --source, --for, --otherwise and
    --objective.
    """
    for option in (OBJECTIVE, OTHERWISE, ENGINE, SOURCE, AITER, DTYPE, OP):
        command = option(command)
    return options.target(command)


def workload_options(command: Command) -> Command:
    """Add --hidden, --model and --config: the workload that is weighed and shown."""
    return options.model_shape(command)


def deployment_options(command: Command) -> Command:
    """Add the options that say how the model is served, of which :func:`deployment_of` makes one.

    --calls-of, --engine-version, --dp-attention, --expert-parallel, --draft-tokens and --captured.
    """
    for option in (
        click.option(
            "--captured", default="", metavar="LIST|engine",
            help="Batch sizes that graphs are captured at, such as 1,2,4,8:64:8, as the engine "
            "takes them (vLLM: tokens), or the engine's own default list; batches are padded up.  "
            "[default: 1, 2, 4, then 8s to 256, 16s to 512]",
        ),
        click.option(
            "--draft-tokens", type=int, default=0, metavar="K",
            help="Speculative decoding: a step runs 1 + K tokens a sequence.",
        ),
        click.option(
            "--expert-parallel", is_flag=False, flag_value="all-to-all", default="",
            metavar="[HOW]",
            help="Experts are spread over the ranks: all-to-all (taken where nothing follows), or "
            "all-reduce where their output is summed.",
        ),
        click.option(
            "--dp-attention", is_flag=True, help="Attention is data-parallel over the ranks.",
        ),
        click.option(
            "--engine-version", default="", metavar="V",
            help="Release of the engine whose fused calls are counted.  [default: as first read]",
        ),
        click.option(
            "--calls-of", default="", metavar="ENGINE",
            help="Whose fused calls are counted: vllm, sglang, atom or aiter (every block).  "
            "[default: the engine that the rule is of or for]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


STEP_MS = click.option(
    "--step-ms", type=options.Finite(), default=None, metavar="MS",
    help="What a decode step takes, to say the saving in percent of it.",
)  # fmt: skip


def deployment_of(asked: Asked, engine: str = "") -> Deployment:
    """Return how the model is served, and take the options out of ``asked``.

    ``engine`` is whose calls are counted where --calls-of names none.
    """
    from ..data.deployment import Deployment

    captured = asked.pop("captured").strip()
    own = captured.lower() == "engine"
    return Deployment(
        engine=(asked.pop("calls_of") or engine).lower(),
        release=asked.pop("engine_version"),
        dp_attention=asked.pop("dp_attention"),
        expert_parallel=asked.pop("expert_parallel").lower(),
        draft_tokens=asked.pop("draft_tokens"),
        captured=integers(captured) if captured and not own else (),
        own_captured=own,
        step_ms=asked.pop("step_ms", None),
    )


#: The options of a deployment, and --step-ms, by the names that commands get them under.
_DEPLOYMENT = {
    "--calls-of": "calls_of",
    "--engine-version": "engine_version",
    "--dp-attention": "dp_attention",
    "--expert-parallel": "expert_parallel",
    "--draft-tokens": "draft_tokens",
    "--captured": "captured",
    "--step-ms": "step_ms",
}


def deployment_words(asked: Asked) -> dict[str, Any]:
    """Return the options of a deployment by their names, for :func:`words`."""
    return {option: asked.get(name) for option, name in _DEPLOYMENT.items()}


def setting_of(asked: Asked) -> Setting:
    """Return the setting that the options name, and take them out of ``asked``."""
    calibration, _, gpu = options.load_target(
        asked.pop("arch"), asked.pop("gpu"), asked.pop("calibration_file")
    )
    dtype = dtype_of(asked)
    del asked["dtype"]
    return Setting(
        calibration,
        gpu,
        op=asked.pop("op", FUSED),
        dtype=dtype,
        aiter_version=asked.pop("aiter_version"),
        source=asked.pop("source", ""),
        engine=asked.pop("engine", "").lower(),
        otherwise=asked.pop("otherwise", "").lower(),
        objective=asked.pop("objective", MEAN).lower(),
    )


def dtype_of(asked: Asked) -> str:
    """Return the dtype that was asked for, else that of the model that the options name."""
    model = llm_of(asked)
    return asked["dtype"] or (model.dtype if model else "bf16")


def llm_of(asked: Asked) -> LLM | None:
    """Return the model that --model or --config names, if either is given."""
    from ..data import llms

    if asked.get("model_name") and asked.get("config_file"):
        raise InputError("give one of --model and --config")
    if asked.get("model_name"):
        return llms.find(asked["model_name"])
    return llms.from_config(asked["config_file"]) if asked.get("config_file") else None


def workload_of(asked: Asked, served: Deployment | None = None) -> Workload | None:
    """Return the workload that --hidden, --model or --config names; None for known models."""
    from ..data.deployment import Deployment

    sizes = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    return (served or Deployment()).workload(sizes) if sizes else None


class Weighed(NamedTuple):
    """What is served, and which calls are weighed for it.

    ``calls`` are those of ``llm`` as it is ``served``; without a model None, unless the deployment
    leaves none whatever the model. ``workload`` is None for known models: where nothing names a
    hidden size, and for a model that makes no fused call, whose own size may be one that no kernel
    takes.
    """

    llm: LLM | None
    served: Deployment
    calls: FusedCalls | None
    workload: Workload | None

    @property
    def none(self) -> bool:
        """Whether it is known that no fused call is made."""
        return self.calls is not None and not self.calls.per_step

    def say_none(self) -> None:
        """Print that no fused call is made, before any answer, where that is so."""
        from ..show.worth import none_made

        if self.calls is not None and self.none:
            options.say(f"{none_made(self.calls, self.llm)}\n")


def weighed(asked: Asked, llm: LLM | None, engine: str) -> Weighed:
    """Return what is weighed; ``engine`` as in :func:`deployment_of`."""
    from ..data.engine_calls import fused_calls, none_left

    served = deployment_of(asked, engine)
    calls = fused_calls(llm, served) if llm else none_left(served)
    found = Weighed(llm, served, calls, None)
    if llm and found.none:
        return found
    return found._replace(workload=workload_of(asked, served))


def hidden_dim_of(asked: Asked) -> int:
    """Return the one hidden size that the options name."""
    sizes = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    if sizes is None or len(sizes) != 1:
        raise InputError("give one hidden size: --hidden 2880, --model or --config")
    return sizes[0]


def rule_of(name: str, op: str = FUSED, *, also: tuple[str, ...] = ()) -> Rule:
    """Return a rule of the catalogue by name, or one from a JSON file; ``also`` as in named."""
    from ..rules.catalogue import load, named

    is_file = name.endswith(".json") or Path(name).is_file()
    return load(name) if is_file else named(name, op=op, also=also)


def words(asked: dict[str, Any]) -> list[str]:
    """Return options as words of a command line, those without a value left out."""
    out: list[str] = []
    for name, value in asked.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = ",".join(map(str, value))
        if value is True:
            out.append(name)
        elif value:
            out += [name, str(value)]
    return out
