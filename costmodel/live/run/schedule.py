"""Many shapes measured: which is next, when to stop, what is kept and what is said.

Rank 0 holds the run directory and speaks; all ranks walk the same list in step. After the last
shape the first one is measured once more: an A/A pair across the whole run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..backends.base import Backend, LiveShape
from ..backends.reference import is_out_of_memory, out_of_memory
from ..repetition import GRAPH, Repetition
from .directory import RunDirectory
from .exit_codes import BAD_INPUT, FINISHED, WRONG_RESULTS, RunEnded
from .harness import COMPILE_PATIENCE, ArmResult, measure_point, reasons_against, together
from .points import Point
from .progress import ProgressBar
from .records import schema_rows, to_record
from .schemas import SampleLine
from .statistics import CLEAN_PERCENT
from .watchdog import Watchdog


def describe(results: dict[str, ArmResult]) -> str:
    """Return what people want to see of one point: a line for each arm."""
    lines = []
    for arm, result in results.items():
        if result.skipped:
            lines.append(f"{arm:<8}  skipped: {result.skipped}")
            continue
        summary = result.summary
        if summary is None:
            where = ", ".join(map(str, result.wrong_ranks))
            lines.append(
                f"{arm:<8}  WRONG on rank {where}: error {result.worst_error:.3g} x what rounding "
                "explains; not timed"
            )
            continue
        lines.append(
            f"{arm:<8} {summary.latency_us:9.2f} us  "
            f"[{summary.lower_us:.2f}, {summary.upper_us:.2f}]  "
            f"A/A {summary.aa_percent:+.1f} %  drift {summary.drift_percent:+.1f} %"
            + ("" if summary.clean else "  noisy")
        )
        if result.kernels:
            lines.append(f"{'':<8} ran {', '.join(result.kernels)}")
    return "\n".join("    " + line for line in lines)


def _by_reason(
    skipped: Iterable[tuple[LiveShape, str, str]],
) -> dict[tuple[str, str], list[LiveShape]]:
    """Return by arm and reason where it was skipped."""
    where: dict[tuple[str, str], list[LiveShape]] = {}
    for shape, arm, reason in skipped:
        where.setdefault((arm, reason), []).append(shape)
    return where


def _ran(results: dict[str, ArmResult]) -> bool:
    return any(result.summary for result in results.values())


class Schedule:
    """The points of a run, one by one: which is next, when to stop, what to say and to keep.

    Rank 0 holds the open :class:`RunDirectory` and does all printing; other ranks pass None.
    """

    def __init__(
        self,
        backend: Backend,
        points: Sequence[Point],
        repetition: Repetition,
        watch: Watchdog,
        run: RunDirectory | None,
        say: Callable[[str], None],
        *,
        budget_s: float | None = None,
        started: float | None = None,
        retry_skipped: bool = False,
    ) -> None:
        self.backend = backend
        self.points = points
        self.repetition = repetition
        self.watch = watch
        self.run = run
        self.say = say
        self.budget_s = budget_s
        self.started = time.monotonic() if started is None else started
        done = backend.exchange(run.finished() if run else None)[0] or set()
        self.todo = [index for index in range(len(points)) if index not in done]
        self.finished = len(done)
        #: What each shape measured by this process took.
        self.seconds: list[float] = []
        speaks = 0 in backend.local_ranks
        self.progress = ProgressBar(len(points), len(done), shown=speaks)
        before = backend.exchange(run.skipped() if run else None)[0] or {}
        #: Finished points with the arms that were skipped there, which are asked once more.
        self.again: dict[int, Point] = {}
        if retry_skipped:
            self.again = {i: Point(points[i].shape, tuple(arms)) for i, arms in before.items()}
        elif points:
            self._note_skipped(before)
        self._note_kept()

    def measure(self) -> int:
        """Measure what is left of the run and return the exit code, the same on every rank."""
        first = None
        self._settle()
        for index in [*self.todo, *self.again]:
            if self._out_of_time(index):
                left = len(self.points) - self.finished
                self._tell(
                    f"the budget of {self.budget_s:g} s is spent: {left} of {len(self.points)} "
                    "shapes are left; continue with --resume"
                )
                break
            worn = self._worn_out(index)
            if worn:
                left = len(self.points) - self.finished
                self._tell(
                    f"{worn}: {left} of {len(self.points)} shapes are left; continue with --resume"
                )
                break
            results = self._retry(index) if index in self.again else self._take(index)
            first = first or ((index, results) if index in self.todo and _ran(results) else None)
        else:
            rested = first and not self._worn_out(first[0])
            if first and rested and len(self.seconds) > 1 and not self._out_of_time(first[0]):
                self._again(*first)
        self.progress.close()
        return self._conclude()

    def measure_as_chosen(self, choose: Callable[[Sequence[SampleLine]], Point | None]) -> int:
        """Measure what ``choose`` names, one shape after the other, until it names none.

        It is asked on rank 0 with the run's records, and the other ranks follow; it minds the time
        itself. Returns the exit code, the same on every rank.
        """
        first = None
        self.points = list(self.points)
        if self.run is not None:
            self.points = [
                Point.from_json(record["point"])
                for record in self.run.records
                if record["kind"] == "shape"
            ]
        self.points = self.backend.exchange(self.points)[0]
        while (point := self._chosen(choose)) is not None:
            index = len(self.points)
            self.points = [*self.points, point]
            if first is None and self.repetition.timing == GRAPH:
                self._measure(index)  # see _settle
            results = self._take(index)
            first = first or ((index, results) if _ran(results) else None)
        if first and len(self.seconds) > 1:
            self._again(*first)
        self.progress.close()
        return self._conclude()

    def _chosen(self, choose: Callable[[Sequence[SampleLine]], Point | None]) -> Point | None:
        chosen: list[Point | None] = [None]

        def ask() -> None:
            if self.run is not None:
                chosen[0] = choose(self.run.records)

        self.watch.step("choosing the next shape", COMPILE_PATIENCE)
        together(self.backend, ask)
        point: Point | None = self.backend.exchange(chosen[0])[0]
        return point

    def _take(self, index: int) -> dict[str, ArmResult]:
        """Measure one point of the list, keep it and say what came out."""
        results, seconds = self._measure(index)
        self.finished += 1
        if _ran(results):
            self.seconds.append(seconds)
        self._store(to_record(index, self.points[index], results, seconds))
        self._note_kept()
        count = f"{self.finished}/{len(self.points)}"
        self._tell(f"{count}  {self.points[index].shape}\n{describe(results)}")
        self.progress.shape_done()
        return results

    def _retry(self, index: int) -> dict[str, ArmResult]:
        """Measure arms of a finished point that were skipped; keep and say what comes out."""
        point = self.again[index]
        results, seconds = self._measure(index, point)
        if _ran(results):
            self.seconds.append(seconds)
        self._store(to_record(index, point, results, seconds, kind="retry"))
        self._tell(f"once more  {point.shape}\n{describe(results)}")
        return results

    def _note_skipped(self, before: Mapping[int, Mapping[str, str]]) -> None:
        """Say which arms were skipped in what is finished, since nothing asks for them again."""
        for (arm, reason), where in _by_reason(
            (self.points[index].shape, arm, reason)
            for index, arms in before.items()
            for arm, reason in arms.items()
        ).items():
            more = f" and {len(where) - 1} more" if len(where) > 1 else ""
            self._tell(f"skipped before: {arm} at {where[0]}{more}: {reason}")
        if before:
            self._tell("arms that were skipped count as finished; --retry-skipped asks them again")

    def _measure(
        self, index: int, point: Point | None = None
    ) -> tuple[dict[str, ArmResult], float]:
        began = time.monotonic()
        point = point or self.points[index]
        try:
            results = measure_point(
                self.backend, point, self.repetition, index, self.watch, self.progress.note
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):  # graphs take memory too
                raise
            lacking = out_of_memory(point.shape, self.repetition.slots, error)
            if len(self.backend.local_ranks) < self.backend.world_size:
                raise lacking from None  # peers may already wait for this rank
            self.backend.release()
            results = {a: ArmResult(0.0, (), None, None, skipped=str(lacking)) for a in point.arms}
        return results, time.monotonic() - began

    def _settle(self) -> None:
        """Measure the first shape once and forget it.

        On an H200 (driver 580, CUDA 13) each kernel of the first graphs of a process costs about
        0.18 us less than of all later ones, at equal clocks; no result may come from them.
        """
        if self.repetition.timing != GRAPH:
            return
        for index in [*self.todo, *self.again]:
            point = self.again.get(index, self.points[index])
            if len(reasons_against(self.backend, point)) < len(point.arms):
                if not self._out_of_time(index):
                    self._measure(index, point)
                return

    def _again(self, index: int, before: dict[str, ArmResult]) -> None:
        """Measure the first shape once more, record it beside the shapes, and print the change."""
        results, seconds = self._measure(index)
        self._store(to_record(index, self.points[index], results, seconds, kind="again"))
        changes = []
        for arm, result in results.items():
            was, now = before[arm].summary, result.summary
            if was and now:
                change = 100.0 * (now.latency_us / was.latency_us - 1.0)
                changes.append(f"{arm} {change:+.1f} %")
        self._tell(
            f"A/A over the whole run: {self.points[index].shape}, measured first, was measured "
            f"again at the end: {', '.join(changes) or 'no arm to compare'}"
        )

    def _store(self, record: SampleLine) -> None:
        if self.run is None:
            return
        if record["kind"] != "again":
            started = self.run.settings
            record["rows"] = schema_rows(
                record,
                started["id"],
                started["labels"],
                self.backend.world_size,
                self.repetition.timing,
            )
        with self.watch.unbroken():
            self.run.append(record)

    def _out_of_time(self, index: int) -> bool:
        """Return rank 0's verdict whether the shape that comes next would overrun the budget."""
        over = False
        if self.budget_s is not None:
            expected = sum(self.seconds) / len(self.seconds) if self.seconds else 0.0
            over = time.monotonic() - self.started + expected > self.budget_s
        self.watch.step(f"{self.points[index].shape}, about to begin")
        return bool(self.backend.exchange(over)[0])

    def _worn_out(self, index: int) -> str:
        """Return why the shape cannot be measured in this process, "" if it can."""
        captures = len(self.points[index].arms) * (self.repetition.calls + 1)
        return self.backend.reason_to_stop(captures)

    def _tell(self, line: str) -> None:
        if 0 in self.backend.local_ranks:
            with self.progress.aside():
                self.say(line)

    def _note_kept(self) -> None:
        kept = f"{self.finished} of {len(self.points)} shapes are finished"
        self.watch.epilogue = f"{kept} and kept; continue with --resume"

    def _conclude(self) -> int:
        """Print the summary of the whole run, what was resumed included; return the exit code."""
        wrong, nothing = [], ""
        if self.run is not None:
            shapes = [record for record in self.run.records if record["kind"] == "shape"]
            arms = [
                (Point.from_json(record["point"]).shape, arm, result)
                for record in self.run.records
                if record["kind"] != "again"
                for arm, result in record["arms"].items()
            ]
            clean = sum(result["clean"] is True for _, _, result in arms)
            noisy = sum(result["clean"] is False for _, _, result in arms)
            wrong = [f"{arm} at {shape}" for shape, arm, result in arms if not result["correct"]]
            self._tell(
                f"{len(shapes)} shapes: {clean} arms clean, {noisy} noisy (A/A, drift or half of "
                f"the interval beyond {CLEAN_PERCENT:g} %), {len(wrong)} wrong"
            )
            if noisy:
                self._tell(
                    "noisy arms: free the machine of other work, fix its clocks, or give more "
                    "--rounds, in a new run"
                )
            for line in wrong:
                self._tell(f"wrong, and therefore not timed: {line}")
            skipped = _by_reason(
                (self.points[index].shape, arm, reason)
                for index, reasons in self.run.skipped().items()
                for arm, reason in reasons.items()
            )
            for (arm, reason), where in skipped.items():
                more = f" and {len(where) - 1} more" if len(where) > 1 else ""
                self._tell(f"skipped: {arm} at {where[0]}{more}: {reason}")
            if shapes and not arms:
                nothing = next(iter(skipped))[1]
        nothing = self.backend.exchange(nothing)[0]
        if nothing:
            raise RunEnded(f"nothing could be measured: {nothing}", BAD_INPUT)
        return WRONG_RESULTS if self.backend.exchange(bool(wrong))[0] else FINISHED
