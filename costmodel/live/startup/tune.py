"""Learn the rule for this machine inside a running engine's start-up.

On every rank of the engine's tensor-parallel group, after its communicator is made and before it
captures graphs::

    import costmodel.live

    rule = costmodel.live.tune(
        group, {"1stage": one_stage, "2stage": two_stage}, hidden_sizes=[2880], budget_s=3.0
    )
    use_1stage = rule is not None and size_bytes <= rule.max_bytes

It raises nothing into the engine: on any trouble it returns the engine's own rule and says why in
one line. What runs the op, and all that could wait for another rank for ever, runs in a thread of
its own, so that the caller returns in time whatever becomes of that. Only where a rank is lost in
the middle of a call is a call left behind; such a communicator is lost to the engine as well.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ... import __version__
from ...data import cards, kernels, llms
from ...data.ranges import sizes
from ...errors import InputError, cut_short, one_line
from ...model.shape import WORLD_SIZES
from ...rules import table as run_time
from ...rules.table import Miss, TableEntry
from ...units import read_dtype
from .. import kfd
from ..backends.base import Backend
from ..backends.device import TorchGpu
from ..run.environment import disagreement
from .agreement import ClosedError, Consensus, Meeting
from .learning import (
    Ask,
    Here,
    Learner,
    RefusedError,
    Told,
    time_shape,
)
from .offered import Capturing, Offered, OfferedBackend, Op, offered
from .rule import StartupRule

T = TypeVar("T")

#: Share of the budget in which shapes are begun, and in which an answer is waited for: the first
#: rank gives up first, since it knows who is silent. The rest is for calls that are under way: they
#: wait for each other on all ranks, so none is left out.
LEARNING_SHARE, FIRST_WAITS_SHARE, WAITING_SHARE = 0.65, 0.75, 0.8

#: Time between looks of the calling thread at the verdict, s.
LOOK_S = 0.02

#: A budget longer than this is taken for a mistake (milliseconds, say), s.
MOST_BUDGET_S = 600.0


def tune(
    group: Any,
    ops: Mapping[str, Op] | Backend | Any,
    hidden_sizes: Iterable[int] | None = None,
    budget_s: float = 3.0,
    *,
    own: T | None = None,
    gpu: str = "",
    dtype: str = "bf16",
    aiter_version: str = "",
    timing: str = "",
    capturing: Capturing | None = None,
    table: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> StartupRule | T | None:
    """Return the rule of this machine, the same on all ranks, or ``own`` on all ranks.

    Every rank of ``group`` (torch's, of 2, 4 or 8 ranks of one host; None: all) calls this alike.
    ``ops`` are two functions of (tokens, hidden_dim), ``1stage`` and ``2stage`` or ``separate``,
    that each issue one call of an arm of AITER's kernels; AITER's communicator; or a back end of
    costmodel that is set up, whose ranks may be more than the group's. They are the two arms of one
    op, the fused all-reduce + RMSNorm: of the plain one no caller can force AITER's stage. Another
    ``dtype`` is a call of its own. ``hidden_sizes`` are those of the model, None: of known models;
    the rule is for these alone. It ends within ``budget_s`` seconds, waiting for the other ranks
    included. ``gpu`` and ``aiter_version`` are those of this process where they are not given;
    ``timing`` and ``capturing`` as in :mod:`.offered`. ``table`` is a run-time table, or the folder
    of one by the GPU's name (:mod:`.cache`): the first rank looks into it before, and fills it
    afterwards. ``log`` gets the one line (default: the logger ``costmodel.live``); the group's
    first rank says it, and a rank that lost it.
    """
    began = time.monotonic()
    rule, line = _Attempt(table).outcome(
        began, budget_s, group,
        lambda ranks: _described(
            ops, ranks, hidden_sizes, gpu, dtype, aiter_version, timing, capturing
        ),
    )  # fmt: skip
    if line:
        logger = logging.getLogger("costmodel.live")
        say = log or (logger.warning if rule is None else logger.info)
        with suppress(Exception):  # a logger that fails is no reason to end an engine
            say(cut_short(one_line(line)))
    return own if rule is None else rule


Described = tuple[Offered, Here]


class _Attempt:
    """One call of :func:`tune` on one rank.

    The calling thread watches time and verdict, the other one works. ``agreement`` is there once
    the ranks have met, unless the calling thread had ``given_up`` by then. Once it has ``left``,
    the communicator is the engine's again.
    """

    def __init__(self, table: str | Path | None = None) -> None:
        self.table = table
        self.lock = threading.Lock()
        self.agreement: Consensus | None = None
        self.given_up = False
        self.left = False
        self.trouble = ""
        self.doing = "meeting"
        #: On the first rank: where the rule is from, what keeps one that was learnt, what to say.
        self.source = "learnt"
        self.keep: Callable[[], None] | None = None
        self.kept = ""

    def outcome(
        self, began: float, budget_s: float, group: Any, described: Callable[[int], Described]
    ) -> tuple[StartupRule | None, str]:
        """Return the rule, None for the engine's own, and the line to log, "" for none here."""
        try:
            _check_place(group)
            caller, meeting = _Caller(), Meeting(group)
            budget = _budget(budget_s)
            worker = threading.Thread(
                target=lambda: self._work(
                    caller, meeting, began + LEARNING_SHARE * budget, described
                ),
                name="costmodel-tune",
                daemon=True,  # it may wait for a lost rank for ever
            )
            worker.start()
            try:
                share = WAITING_SHARE if meeting.rank else FIRST_WAITS_SHARE
                self._watch(worker, began + share * budget)
            finally:
                rule, line = self._verdict(worker, budget, began)
        except Exception as error:  # whatever it is, the engine has to start
            return None, _kept(_words(error))
        finally:
            self.left = True
        return rule, line

    def _watch(self, worker: threading.Thread, until: float) -> None:
        """Wait until a verdict stands, the work has failed, or the time is spent."""
        while time.monotonic() < until and not self.trouble:
            worker.join(min(LOOK_S, max(until - time.monotonic(), 0.0)))
            agreement = self.agreement
            if agreement is not None and agreement.state().closed:
                return
            if not worker.is_alive():  # this rank has voted
                time.sleep(0.1 * LOOK_S)

    def _verdict(
        self, worker: threading.Thread, budget: float, began: float
    ) -> tuple[StartupRule | None, str]:
        with self.lock:
            self.given_up = True
            agreement = self.agreement
        late = f"in time ({budget:g} s, {self.doing})"
        if agreement is None:
            return None, _kept(self.trouble or f"no answer from the other ranks {late}")
        why = self.trouble or f"no answer from {agreement.silent() or 'the op'} {late}"
        stands = agreement.close(none=why)
        try:
            if stands.none:
                # Calls that were begun wait for those of other ranks: all are made.
                worker.join(max(began + budget - time.monotonic(), 0.0))
                stuck = "; a call of the op has not come back" * worker.is_alive()
                return None, _kept(stands.none + stuck) if agreement.leads else ""
            rule = StartupRule.from_text(agreement.heard("rule"))
            seconds = time.monotonic() - began
            said = f"costmodel: {rule}, {self.source} in {seconds:.1f} s ({rule.sha256[:8]})"
            return rule, said + self.kept if agreement.leads else ""
        finally:
            agreement.leave()

    def _kept_too(self) -> str:
        """Keep the rule in the table, where there is one; return what to say of it."""
        if self.keep is None:
            return ""
        try:
            self.keep()
        except Exception as error:  # the rule stands without it
            return f"; not kept: {_words(error)}"
        return f"; kept in {self.table}"

    # -- the working thread -----------------------------------------------------------------------

    def _work(
        self, caller: _Caller, meeting: Meeting, until: float, described: Callable[[int], Described]
    ) -> None:
        try:
            with caller.context():
                agreement = meeting.held()
                with self.lock:
                    if self.given_up:
                        return
                    self.agreement = agreement
                given, here = described(agreement.world_size)
                self.doing = "comparing versions"
                agreement.say("here", here)
                if agreement.leads:
                    self._lead(agreement, given, here, until)
                else:
                    self._follow(agreement, given, here)
        except ClosedError:
            pass  # the calling thread reads the verdict
        except RefusedError as error:
            self.trouble = str(error)
        except BaseException as error:  # whatever an op raises
            rank = f"rank {self.agreement.rank}: " if self.agreement else ""
            self.trouble = rank + _words(error)

    def _lead(self, agreement: Consensus, given: Offered, here: Here, until: float) -> None:
        if wrong := disagreement(agreement.everybody("here")):
            raise RefusedError(wrong)
        step = 0

        def ask(tokens: int, hidden: int) -> list[Told]:
            nonlocal step
            asked, key = {"tokens": tokens, "hidden": hidden}, f"told{step}"
            agreement.begin(step, asked)
            step += 1
            agreement.say(key, self._time(given, here, asked))
            return agreement.everybody(key)

        rule = StartupRule.of(self._entry(Learner(here, until), ask))
        self.doing = "agreeing on the rule"
        agreement.say("rule", rule.text)
        agreement.begin(step, {})
        agreement.say("vote", rule.sha256)
        votes = agreement.everybody("vote")
        if set(votes) != {rule.sha256}:
            raise RefusedError(f"ranks read different rules: {', '.join(votes)}")
        # Before the verdict: who has it may read the table.
        self.kept = self._kept_too()
        agreement.close(rule=rule.sha256)

    def _entry(self, learner: Learner, ask: Ask) -> TableEntry:
        """Return the table's entry for this machine, or learn one."""
        self.source = f"learnt {learner.transferred}".rstrip()
        if self.table is None:
            return learner.rule(ask)
        cache = learner.cache(Path(self.table))
        found = cache.look()
        if not isinstance(found, Miss):
            self.source = f"found in {self.table}"
            return found
        self.source += f" ({self.table}: {found.why})"
        entry = learner.rule(ask)
        self.keep = lambda: learner.keep(cache, entry)
        return entry

    def _follow(self, agreement: Consensus, given: Offered, here: Here) -> None:
        step = 0
        while asked := agreement.next(step):
            agreement.say(f"told{step}", self._time(given, here, asked))
            step += 1
        self.doing = "agreeing on the rule"
        agreement.say("vote", StartupRule.from_text(agreement.heard("rule")).sha256)

    def _time(self, given: Offered, here: Here, asked: Mapping[str, int]) -> Told:
        self.doing = f"timing {asked['tokens']} tokens x {asked['hidden']} hidden"
        return time_shape(given, asked["tokens"], asked["hidden"], here["dtype"], self._going)

    def _going(self, doing: str) -> None:
        if self.left:
            raise ClosedError


class _Caller:
    """What of torch's state belongs to the calling thread alone: device, stream, modes."""

    def __init__(self) -> None:
        import torch

        self._inference = torch.is_inference_mode_enabled()
        self._grad = torch.is_grad_enabled()
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._stream = torch.cuda.current_stream() if cuda else None

    def context(self) -> ExitStack:
        """Return the context in which another thread issues work as the calling one does."""
        import torch

        stack = ExitStack()
        stack.enter_context(torch.inference_mode(self._inference))
        stack.enter_context(torch.set_grad_enabled(self._grad))
        if self._stream is not None:
            stack.enter_context(torch.cuda.stream(self._stream))  # and its device
        return stack


def _budget(budget_s: float) -> float:
    budget = float(budget_s)
    if not math.isfinite(budget) or budget > MOST_BUDGET_S:
        raise InputError(f"budget_s is {budget_s}; give up to {MOST_BUDGET_S:g} s")
    if budget <= 0:
        raise InputError(f"a budget of {budget:g} s leaves no time for one pair")
    return budget


def _check_place(group: Any) -> None:
    """Raise :class:`InputError`, on all ranks alike, where nothing can be timed."""
    import torch
    import torch.distributed as dist

    world_size = dist.get_world_size(group)
    if world_size not in WORLD_SIZES:
        raise InputError(f"{world_size} ranks; the fused kernels run on {_listed(WORLD_SIZES)}")
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise InputError("a graph is being captured; tune before that")


def _listed(numbers: Iterable[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}"


def _described(
    ops: Any, ranks: int, hidden_sizes: Iterable[int] | None, gpu: str, dtype: str,
    aiter_version: str, timing: str, capturing: Capturing | None,
) -> Described:  # fmt: skip
    """Return what is offered and what this rank is; raise :class:`InputError` for what is not.

    ``ranks`` are those of the group: functions hold one each.
    """
    import torch

    given = offered(ops, dtype=dtype, timing=timing, capturing=capturing)
    backend = given.backend if isinstance(given, OfferedBackend) else None
    known = backend.environment() if backend else {}
    if not gpu and not known and torch.cuda.is_available():
        known = TorchGpu().describe()
    gpu = gpu or str(known.get("gpu", ""))
    if not gpu:
        raise InputError("which GPU this is cannot be read; give gpu, such as MI300X")
    joined = backend.interconnect if backend else kfd.interconnect() or cards.interconnect(gpu)
    family = kernels.calibrates(backend.kernel_family) if backend else "aiter"
    version = aiter_version or (backend.kernel_version if backend else _installed())
    if family == "aiter":
        version = version.removeprefix("aiter ")
        kernels.parse_version(version.partition("+")[0])
    hidden = llms.hidden_dims() if hidden_sizes is None else list(hidden_sizes)
    here: Here = {
        "costmodel": __version__,
        "torch": str(torch.__version__),
        "gpu": gpu,
        "device": run_time.device_name(gpu, str(known.get("product", ""))),
        "interconnect": joined or "",
        "world_size": backend.world_size if backend else ranks,
        "kernel_family": family,
        "kernel_version": version,
        "dtype": read_dtype(dtype),
        "hidden_sizes": sorted({int(h) for h in sizes(hidden, "hidden size")}),
        "arms": list(given.arms),
        "genuine": backend is None or backend.genuine,
    }
    return given, here


def _installed() -> str:
    try:
        return metadata.version("amd-aiter")
    except metadata.PackageNotFoundError:
        raise InputError("AITER is not installed; give aiter_version, such as 0.1.19") from None


def _json(**said: str) -> str:
    return msgspec.json.encode(said).decode()


def _words(error: BaseException) -> str:
    said = one_line(str(error)) or type(error).__name__
    known = isinstance(error, InputError | ConnectionError)
    return said if known else f"{type(error).__name__}: {said}"


def _kept(why: str) -> str:
    return f"costmodel: the engine's own rule stays: {why}"
