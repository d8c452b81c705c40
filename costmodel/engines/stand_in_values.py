"""What stands in for an engine's objects when :mod:`.stand_in` runs a function of it.

Tensors, ranks, torch, the environment and the host's topology; what is not known takes anything.
Only the standard library: emitted test files carry a copy of this module's code too.
"""

# ruff: noqa: D102 - the tensor's methods are torch's, the operators Python's.

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

ELEMENT_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


class Ways:
    """What stand-ins answer on one way through a function, and which way comes next."""

    def __init__(self) -> None:
        self.said: dict[str, bool] = {}
        self.first: dict[str, bool] = {}
        self.script: list[bool] = []
        self.running = False

    def truth(self, label: str) -> bool:
        if not self.running:
            return False
        if label not in self.said:
            at = len(self.said)
            said = self.script[at] if at < len(self.script) else self.first.get(label, False)
            self.said[label] = said
        return self.said[label]

    def start(self) -> None:
        self.said, self.script, self.running = {}, [], True

    def found(self) -> None:
        """Begin with this way the next time."""
        self.first, self.running = dict(self.said), False

    def next(self) -> bool:
        """Turn the last answer that was not turned yet; tell whether there was one."""
        answers = list(self.said.items())
        while answers and answers[-1][1] != self.first.get(answers[-1][0], False):
            answers.pop()
        if not answers:
            self.first, self.running = {}, False
            return False
        self.script = [said for _, said in answers[:-1]] + [not answers[-1][1]]
        self.said = {}
        return True


WAYS = Ways()


class Anything:
    """Takes any call, attribute, operator and index; its truth is one of the :class:`Ways`."""

    def __init__(self, label: str = "") -> None:
        self._label = label

    def __call__(self, *args: Any, **kwargs: Any) -> Anything:
        return Anything(f"{self._label}()")

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(f"{self._label}.{name}")

    def __bool__(self) -> bool:
        return WAYS.truth(self._label)

    def __contains__(self, item: Any) -> bool:
        return WAYS.truth(f"in {self._label}")

    def __enter__(self) -> Anything:
        return self

    def __exit__(self, *args: Any) -> None:
        return None

    __hash__ = object.__hash__


_OPERATORS = "add sub mul truediv floordiv mod pow lshift rshift and or xor"
_OTHERS = (
    "radd rsub rmul rtruediv rfloordiv rmod neg invert lt le gt ge eq ne getitem setitem delitem"
)

for _operator in (_OPERATORS + " " + _OTHERS).split():
    setattr(
        Anything,
        f"__{_operator}__",
        lambda self, *others, _name=_operator: Anything(f"{self._label} {_name} {others}"),
    )


class Torch(SimpleNamespace):
    """The names of torch that a choice may ask; the rest is anything."""

    bfloat16, float16, half, float32, float = "bf16", "fp16", "fp16", "fp32", "fp32"
    Tensor = object
    cuda = SimpleNamespace(is_current_stream_capturing=lambda: False)

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(f"torch.{name}")


TORCH = Torch()


class PlayedShape(tuple):  # type: ignore[type-arg]
    """A shape that remembers whether its rows were asked for."""

    rows_asked = False

    def __getitem__(self, index: Any) -> Any:
        self.rows_asked |= index not in (-1, len(self) - 1)
        return super().__getitem__(index)

    def __iter__(self) -> Any:
        self.rows_asked = True
        return super().__iter__()


class FakeTensor:
    """An input of ``elements`` elements in rows of ``hidden_dim``; the count may be off a row.

    ``counted`` tells that the count was asked for.
    """

    counted = False

    @property
    def by_rows(self) -> bool:
        """Whether rows were asked for, and no count: such a function sees whole rows alone."""
        return self.shape.rows_asked and not self.counted

    def __init__(self, elements: int, hidden_dim: int, dtype: str) -> None:
        self.elements = elements
        self.shape = PlayedShape((elements // hidden_dim, hidden_dim))
        self.dtype = dtype
        self.itemsize = ELEMENT_SIZE[dtype]

    @property
    def nbytes(self) -> int:
        return self.numel() * self.itemsize

    def weight(self) -> FakeTensor:
        """Return the norm's weight for this input."""
        hidden_dim = self.shape[-1]
        one = FakeTensor(hidden_dim, hidden_dim, self.dtype)
        one.shape = PlayedShape((hidden_dim,))
        return one

    def numel(self) -> int:
        self.counted = True
        return self.elements

    nelement = numel

    def element_size(self) -> int:
        return self.itemsize

    def size(self, index: int | None = None) -> Any:
        return self.shape if index is None else self.shape[index]

    def dim(self) -> int:
        return len(self.shape)

    def is_contiguous(self) -> bool:
        return True

    def contiguous(self, *args: Any) -> FakeTensor:
        return self

    view = reshape = contiguous

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(f"tensor.{name}")


class Nodes:
    """A path into the topology that amdkfd shows of a host: a CPU, and two GPUs of one kind."""

    def __init__(self, host: tuple[str, str, bool] | None, file: str = "") -> None:
        self._host, self._file = host, file

    def glob(self, pattern: str) -> list[Nodes]:
        if not self._file:
            return [Nodes(self._host, kind) for kind in ("cpu", "gpu", "gpu")] if self._host else []
        return [self / "link 0", self / "link 1"]

    def __truediv__(self, name: str) -> Nodes:
        return Nodes(self._host, f"{self._file} {name}")

    def read_text(self, *args: Any, **kwargs: Any) -> str:
        version, device_id, xgmi = self._host or ("0", "0", False)
        on_gpu = self._file.startswith("gpu")
        if "link" in self._file:
            return f"type {11 if xgmi and on_gpu and '1' in self._file else 2}\nnode_to 1\n"
        if not on_gpu:
            return "simd_count 0\ngfx_target_version 0\ndevice_id 0\n"
        return f"simd_count 4\ngfx_target_version {version}\ndevice_id {device_id}\n"


class Communicator:
    """The custom all-reduce object that engines hold under several names."""

    disabled = False

    def __init__(self, world_size: int, fully_connected: bool) -> None:
        self.world_size = world_size
        self.fully_connected = fully_connected

    def should_custom_ar(self, *args: Any) -> bool:
        return True

    def __getattr__(self, name: str) -> Anything:
        kernel = re.match("custom_|should_|fused_ar_rms", name)
        if not kernel and (name.startswith("__") or not WAYS.truth(f"has {name}")):
            raise AttributeError(name)
        return Anything(f"communicator.{name}")


class Environment(dict):  # type: ignore[type-arg]
    """The variables that are set; a default may be given by name, as ``os.environ`` takes it."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, default)


class Variables:
    """The ``envs`` of an engine: variables that are set have a value, others are anything."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getattr__(self, name: str) -> Any:
        if name not in self._environ:
            return Anything(f"envs.{name}")
        text = self._environ[name]
        value = int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)

        class SetVariable(int if isinstance(value, int) else str):  # type: ignore[misc]
            def is_set(self) -> bool:
                return True

            def get(self) -> Any:
                return value

        return SetVariable(value)


class Reading(Anything):
    """A function that reads a variable, ``get_bool_env_var``: what is set, else the default."""

    def __init__(self, label: str, environ: Environment) -> None:
        super().__init__(label)
        self._environ = environ

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = args[0] if args else None
        if not isinstance(name, str) or not name.isupper():
            return super().__call__(*args, **kwargs)
        known = bool(re.search("bool|flag", self._label, re.IGNORECASE))
        default = kwargs.get("default", args[1] if len(args) > 1 else False if known else None)
        value = self._environ.get(name, default)
        if value is None:
            return super().__call__(*args, **kwargs)
        if known and isinstance(value, str):
            return value.lower() in ("1", "true", "yes", "on")
        return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d+", value) else value


def unknown(name: str, environ: Environment) -> Anything:
    """Return the stand-in for a name that the file does not define."""
    reads = re.search("env", name.rsplit(".", 1)[-1], re.IGNORECASE)
    return Reading(name, environ) if reads else Anything(name)
