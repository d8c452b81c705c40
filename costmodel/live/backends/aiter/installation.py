"""The AITER that is installed: found, told from its namesake, and its functions looked at.

Written from AITER's source (https://github.com/ROCm/aiter, releases 0.1.10 to 0.1.20) without an
AMD GPU at hand. What was verified on the machine is kept line by line, to be printed and recorded.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ....data.kernels import of_row, parse_version
from ....errors import InputError
from ..device import Device, TorchGpu
from . import variables
from .assumptions import COMMUNICATION, CUSTOM_ALL_REDUCE, FUNCTIONS, PARALLEL_STATE

#: What AITER runs first of its own.
START_UP = "aiter.dist.utils"

#: Norms that can follow AITER's all-reduce: ``rmsnorm2d_fwd_with_add``, which AITER's own fallback,
#: ATOM, SGLang (``SGLANG_USE_AITER``) and vLLM (``VLLM_ROCM_USE_AITER``, ``.._RMSNORM``) run; and
#: vLLM's op, which vLLM and SGLang run on ROCm without these. Read in SGLang 0.5.9 and 0.5.23
#: (``layers/layernorm.py``), vLLM 0.18.0 and 0.33.0 (``_custom_ops.py``, ``kernels/``), and ATOM.
AITERS, VLLMS = "aiter", "vllm"
VLLM_NORM = ("vllm._custom_ops", "fused_add_rms_norm")

#: The ops that are called by name.
ALL_REDUCE = "tensor_model_parallel_all_reduce"
FUSED_AUTO = "tensor_model_parallel_fused_allreduce_rmsnorm"
ADD_RMSNORM = "rmsnorm2d_fwd_with_add"

#: Keywords that the adapter passes to ``init_distributed_environment``.
INIT_KEYWORDS = FUNCTIONS["init_distributed_environment"].keywords

#: Releases whose Python layer was read; e404860 (2026-08-22) is the newest commit that was.
KNOWN = "the adapter knows 0.1.10.post2 to 0.1.20.post1"

#: What AITER's own start-up imports without its metadata asking for it, by the name to install.
UNDECLARED = {"yaml": "pyyaml"}


@dataclass
class Aiter:
    """The functions of AITER that the adapter calls, found and looked at."""

    version: str
    standin: bool
    device: Device
    set_custom_all_reduce: Callable[..., Any]
    init_distributed_environment: Callable[..., Any]
    ensure_model_parallel_initialized: Callable[..., Any]
    get_tp_group: Callable[..., Any]
    graph_capture: Callable[..., Any]
    destroy_model_parallel: Callable[..., Any]
    destroy_distributed_environment: Callable[..., Any]
    all_reduce: Callable[..., Any]
    fused_auto: Callable[..., Any]
    add_rmsnorm: Callable[..., Any]
    #: A norm that writes its output over its input and adds to its residual; None: ``add_rmsnorm``.
    norm_in_place: Callable[..., Any] | None = None
    checked: list[str] = field(default_factory=list)

    @property
    def release(self) -> tuple[int, int, int, int]:
        """The release whose facts count, as numbers."""
        kernel = of_row("aiter", "", f"aiter {self.version}", "")
        assert kernel is not None
        return parse_version(kernel.version)

    def communicator(self, world_size: int) -> Any:
        """Return the tensor-parallel group's ``CustomAllreduce``; raise if it does not work."""
        custom = getattr(self.get_tp_group().device_communicator, "ca_comm", None)
        if custom is None:
            raise InputError(
                "AITER made no custom all-reduce communicator (ca_comm is None); it needs GPUs of "
                "one node with peer access"
            )
        if custom.disabled:  # it may have left its constructor before it set anything else
            links = getattr(custom, "fully_connected", "not asked")
            raise InputError(
                f"AITER's custom all-reduce is disabled on {world_size} ranks (fully connected: "
                f"{links}): its extension is not built, the ranks are on several nodes, or they "
                "are not 2, 4 or 8 GPUs with peer access to each other; AITER_LOG_LEVEL=INFO says "
                "which"
            )
        if custom.world_size != world_size:
            raise InputError(
                f"AITER's communicator has {custom.world_size} ranks, the run {world_size}"
            )
        fused = "custom_fused_ar_rms"
        _check_parameters(fused, custom.custom_fused_ar_rms, 5, {4: "use_1stage"})
        self.checked += [
            f"{fused}{_signature(fused, custom.custom_fused_ar_rms)}",
            f"custom all-reduce enabled on {custom.world_size} ranks, fully connected: "
            f"{custom.fully_connected}",
        ]
        return custom


def find(norm: str = AITERS) -> Aiter:
    """Import AITER and look at what the adapter will call; ``norm`` is that of separate ops.

    Raises :class:`InputError` where it is missing, is the PyPI project of the same import name, or
    differs from what the adapter knows, and where torch has no ROCm.
    """
    spec = importlib.util.find_spec("aiter")
    if spec is None:
        raise InputError(
            "AITER is not installed; run inside a ROCm container that carries it, or build it from "
            "github.com/ROCm/aiter (the PyPI project 'aiter' is another library)"
        )
    where = Path(spec.origin or next(iter(spec.submodule_search_locations or ("",)))).parent
    if not (where / "dist" / "device_communicators" / "custom_all_reduce.py").exists():
        raise InputError(_not_aiter(where))
    os.environ.setdefault(variables.LOG_LEVEL, "WARNING")  # read at AITER's import
    try:
        aiter = importlib.import_module("aiter")
        standin = bool(getattr(aiter, "__costmodel_standin__", False))
        importlib.import_module(CUSTOM_ALL_REDUCE).CustomAllreduce  # noqa: B018
        if importlib.util.find_spec(START_UP):
            importlib.import_module(START_UP)  # AITER itself does so half-way through its start-up
    except ModuleNotFoundError as error:
        lacking = UNDECLARED.get(error.name or "")
        if not lacking:
            _require_rocm()
        raise InputError(
            f"AITER at {where} cannot be imported: {error}"
            + (f"; pip install {lacking}" if lacking else "")
        ) from None
    except Exception as error:  # on a machine without ROCm it fails in ways of its own
        _require_rocm()
        raise InputError(f"AITER at {where} cannot be imported: {error}") from None
    if not standin:
        _require_rocm()
    version = str(getattr(aiter, "__version__", "")) or _distribution_version()
    installed = Aiter(
        version=version,
        standin=standin,
        device=aiter.costmodel_device() if standin else TorchGpu(),
        set_custom_all_reduce=_function(PARALLEL_STATE, "set_custom_all_reduce", 1),
        init_distributed_environment=_function(
            PARALLEL_STATE, "init_distributed_environment", INIT_KEYWORDS
        ),
        ensure_model_parallel_initialized=_function(
            PARALLEL_STATE, "ensure_model_parallel_initialized", 2
        ),
        get_tp_group=_function(PARALLEL_STATE, "get_tp_group", 0),
        graph_capture=_function(PARALLEL_STATE, "graph_capture", 0),
        destroy_model_parallel=_function(PARALLEL_STATE, "destroy_model_parallel", 0),
        destroy_distributed_environment=_function(
            PARALLEL_STATE, "destroy_distributed_environment", 0
        ),
        all_reduce=_function(COMMUNICATION, ALL_REDUCE, 1),
        fused_auto=_function(COMMUNICATION, FUSED_AUTO, 4),
        add_rmsnorm=_function("aiter", ADD_RMSNORM, 7),
        norm_in_place=_vllms_norm() if norm == VLLMS else None,
    )
    installed.checked += [
        f"aiter {version or 'of unknown version'} at {where}"
        + (" (A STAND-IN: these numbers are of no GPU)" if standin else ""),
        f"{FUSED_AUTO}{_signature(FUSED_AUTO, installed.fused_auto)}",
        f"{ALL_REDUCE}{_signature(ALL_REDUCE, installed.all_reduce)}",
        f"{ADD_RMSNORM}{_signature(ADD_RMSNORM, installed.add_rmsnorm)}",
    ]
    if installed.norm_in_place is not None:
        module, name = VLLM_NORM
        signature = _signature(name, installed.norm_in_place)
        installed.checked.append(f"separate ops end in {module}.{name}{signature}")
    installed.checked += variables.notes()
    return installed


def _vllms_norm() -> Callable[..., Any]:
    """Return vLLM's add + RMSNorm, which works in place."""
    module, name = VLLM_NORM
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--norm {VLLMS} calls {module}.{name}, which is not here ({error}); measure in an "
            f"image that carries vLLM, or give --norm {AITERS}"
        ) from None
    parameters = _parameters(name, function)
    given = ["input", "residual", "weight", "epsilon"]
    if parameters is not None and [p.name for p in parameters] != given:
        raise InputError(
            f"this vLLM's {name}{_signature(name, function)} is another than ({', '.join(given)})"
        )
    return function  # type: ignore[no-any-return]


def _require_rocm() -> None:
    import torch

    if not torch.version.hip:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
        raise InputError(
            f"back end aiter needs a ROCm build of torch and AMD GPUs; this torch "
            f"{torch.__version__} is built for {built}"
        )


def _not_aiter(where: Path) -> str:
    """Return the message for an ``aiter`` that is not AITER, naming what it is."""
    try:
        project = metadata.metadata("aiter")
        what = f"version {project['Version']}, '{project['Summary']}'"
    except metadata.PackageNotFoundError:
        what = "of no known project"
    return (
        f"the 'aiter' at {where} is not AITER but another library ({what}); uninstall it, and use "
        "AITER from a ROCm container or github.com/ROCm/aiter"
    )


def _distribution_version() -> str:
    for name in ("amd-aiter", "aiter"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _function(module: str, name: str, given: int | Sequence[str]) -> Callable[..., Any]:
    """Return a function of AITER after checking that it can be called as the adapter does.

    ``given`` is the number of positional arguments, or the names of the keywords.
    """
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"this AITER has no {module}.{name} ({error}); {KNOWN}") from None
    if isinstance(given, int):
        _check_parameters(name, function, given, {})
    else:
        known = inspect.signature(function).parameters
        lacking = [keyword for keyword in given if keyword not in known]
        if lacking:
            raise InputError(
                f"this AITER's {name}{_signature(name, function)} has no {', '.join(lacking)}; "
                f"{KNOWN}"
            )
    return function


def _check_parameters(
    name: str, function: Callable[..., Any], given: int, named: dict[int, str]
) -> None:
    """Raise unless ``function`` takes ``given`` positional arguments, with these names at places.

    A function whose signature cannot be read (compiled ones) passes; calling it is its check.
    """
    parameters = _parameters(name, function)
    if parameters is None:
        return
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    fits = len(needed) <= given <= len(places)
    fits = fits and all(places[place].name == word for place, word in named.items())
    if not fits:
        wanted = f"{given} arguments" + "".join(
            f", number {place + 1} being {word}" for place, word in named.items()
        )
        raise InputError(
            f"this AITER's {name}{_signature(name, function)} cannot take {wanted}; {KNOWN}"
        )


def _parameters(name: str, function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of AITER's function ``name``, None where nothing says what they are.

    Behind torch's guard a function of AITER is an op of ``torch.ops.aiter``, whose schema says what
    the wrapper's ``(*args, **kwargs)`` hides; ``dummy`` is the guard's own first argument.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return parameters
    import torch

    try:
        schema = getattr(torch.ops.aiter, name).default._schema
    except AttributeError:
        return None
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return [
        inspect.Parameter(a.name, kind, default=a.default_value if a.has_default_value() else empty)
        for a in schema.arguments
        if a.name != "dummy"
    ]


def _signature(name: str, function: Callable[..., Any]) -> str:
    parameters = _parameters(name, function)
    if parameters is None:
        return "(hidden; verified by its call alone)"
    return f"({', '.join(p.name for p in parameters)})"
