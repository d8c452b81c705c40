"""One question, one answer: every command, the Python interface and the figures agree.

The grid: GPUs, models and engines with the calibrations that are shipped, one that a user fitted
to a few rows of MI300X, and one of ranks that share a GPU. Each command is asked as a user would,
most of them in this process; what it says is held against one :class:`Decision`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from conftest import ROW
from emitted import random_calls, rule_says
from engines.shapes import SHAPES
from msgspec.structs import replace

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.calibration.posterior import load
from costmodel.cli.main import main
from costmodel.data import llms, measurement
from costmodel.data.deployment import Deployment
from costmodel.data.measurement import Measurements
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.evidence import ALWAYS_ONE_STAGE
from costmodel.decide.explanation import choices, explain
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.sensitivity import against_factor, against_jitter
from costmodel.decide.setting import Setting
from costmodel.decide.validation import validate
from costmodel.decide.worth import worth
from costmodel.figures.latency import latency_against_bytes
from costmodel.figures.regret import regret_over_workload
from costmodel.figures.terms import terms_along_bytes
from costmodel.model.shape import ALGORITHMS, WORLD_SIZES
from costmodel.planning.value import at_present
from costmodel.report.case import gather
from costmodel.rules import catalogue
from costmodel.rules.condition import exact_size
from costmodel.rules.rule import Rule
from costmodel.show.place import machine
from costmodel.units import kib

LOOPBACK = Path(__file__).parents[1] / "measurements" / "h200-loopback"
SHIPPED = ("MI300X", "MI308X", "MI325X", "MI350X", "MI355X")
MODELS = ("", "gpt-oss-120b", "deepseek-r1")
ENGINES = ("", *catalogue.ENGINES)

#: The newest form of each engine's source that the tests have.
SOURCE = {"sglang": "sglang_bytes", "vllm": "vllm_method", "aiter": "aiter_limit"}


@dataclass(frozen=True)
class Case:
    """A question of the grid; ``calibration`` is "shipped", "user" or "shared"."""

    calibration: str
    gpu: str
    model: str
    engine: str
    otherwise: str = ""
    objective: str = "mean"

    def __str__(self) -> str:
        asked = [self.calibration, self.gpu, self.model, self.engine]
        asked += [self.otherwise] if self.otherwise else []
        asked += [self.objective] if self.objective != "mean" else []
        return "-".join(w or "none" for w in asked)


CASES = [
    Case(calibration, gpu, model, engine)
    for calibration, gpu in (
        *(("shipped", gpu) for gpu in SHIPPED), ("user", "MI300X"), ("shared", "H200"),
    )
    for model in MODELS
    for engine in ENGINES
]  # fmt: skip
#: Call sites that fall back to separate ops, as vLLM's helper for Gemma norms does.
APART = [
    Case("shipped", gpu, model, engine, "separate")
    for gpu, model, engine in (
        ("MI355X", "gpt-oss-120b", "vllm"), ("MI355X", "", ""), ("MI300X", "deepseek-r1", "vllm"),
        ("MI308X", "gpt-oss-120b", ""),
    )
]  # fmt: skip
#: Cutoffs that minimise another regret than the mean one.
AIMED = [
    Case("shipped", "MI355X", "gpt-oss-120b", "vllm", objective="contested"),
    Case("shipped", "MI355X", "", "", objective="worst"),
    Case("shipped", "MI308X", "deepseek-r1", "", objective="contested"),
    Case("shipped", "MI300X", "gpt-oss-120b", "sglang", "separate", "worst"),
]
CASES += [*AIMED, *APART]
#: Ranks that share one GPU have no links to simulate, and their plan is of other kernels.
LINKED = [c for c in CASES if c.calibration != "shared"]
WITH_MODEL = [c for c in CASES if c.model]
WITH_BOTH = [c for c in WITH_MODEL if c.engine]
#: What costs more is asked of every fifth case: 5 and the 12 cases of a GPU have no common factor.
SOME = [*CASES[: -len(APART) - len(AIMED) : 5], *AIMED, *APART]


def cases(some):
    """Ask of these cases; those that are not asked of everything are a campaign of many inputs."""
    marked = [c if c in SOME else pytest.param(c, marks=pytest.mark.campaign) for c in some]
    return pytest.mark.parametrize("case", marked, ids=str)


@dataclass
class Question:
    """A case as a user states it, and its one answer."""

    case: Case
    file: Path | None

    @cached_property
    def setting(self) -> Setting:
        if self.file is None:
            return Setting.shipped(self.case.gpu, **self.asked)
        return Setting(load(self.file), self.case.gpu, **self.asked)

    @property
    def asked(self) -> dict[str, str]:
        case = self.case
        return {"engine": case.engine, "otherwise": case.otherwise, "objective": case.objective}

    @cached_property
    def llm(self):
        return llms.find(self.case.model)

    @cached_property
    def workload(self):
        return Workload.of([self.llm.hidden_size]) if self.case.model else None

    @cached_property
    def decision(self):
        return recommend(self.setting, self.workload)

    @property
    def hidden_dim(self) -> int:
        return self.llm.hidden_size if self.case.model else 4096

    @property
    def target(self) -> list[str]:
        file = ["--calibration", str(self.file)] if self.file else []
        apart = ["--otherwise", self.case.otherwise] if self.case.otherwise else []
        aim = ["--objective", self.case.objective] if self.case.objective != "mean" else []
        return [*file, "--gpu", self.case.gpu, *apart, *aim]

    @property
    def model(self) -> list[str]:
        return ["--model", self.case.model] if self.case.model else []

    @property
    def call(self) -> list[str]:
        """The options for one hidden size; without a model the rule is that of all models."""
        return self.model or ["--hidden", str(self.hidden_dim)]

    @property
    def engine(self) -> list[str]:
        return ["--for", self.case.engine] if self.case.engine else []

    @property
    def words(self) -> list[str]:
        return [*self.target, *self.model, *self.engine]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Calibration files of a user: a few rows of MI300X, and ranks that share one H200."""
    directory = tmp_path_factory.mktemp("calibrations")
    rows = [
        ROW | {"world_size": n, "tokens": t, "bytes": t * 8192, "algorithm": a, "source": "lab",
               "latency_us": round(us, 2)}
        for n in (4, 8)
        for t in (4, 8, 16, 32, 64, 128)
        for a, us in (
            ("1stage", 6 + max(1.0, t * 8192 / 38e3)),
            ("2stage", 10 + max(1.0, 2 * t * 8192 / n / 42e3)),
        )
    ]  # fmt: skip
    out = {"shipped": None}
    for kind, table in (
        ("user", Measurements.from_rows(rows)),
        ("shared", measurement.read(LOOPBACK / "calibration.csv")),
    ):
        out[kind] = directory / f"{kind}.json"
        calibrate(observe(table))[0].save(out[kind])
    return out


@pytest.fixture(scope="module")
def question(files):
    """Return the question of a case; the same one each time, with its answer kept."""
    known: dict[Case, Question] = {}

    def of(case: Case) -> Question:
        return known.setdefault(case, Question(case, files[case.calibration]))

    return of


def ask(*words) -> str:
    """Run a command in this process and return what it says."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(w) for w in words])
    assert ended.value.code in (0, 1), (words, err.getvalue())
    return out.getvalue()


def asked(*words):
    return json.loads(ask(*words, "--format", "json"))


def ends(cutoff):
    return cutoff.max_bytes, cutoff.max_bytes_lo, cutoff.max_bytes_hi


def runs(rule: Rule, calls, version: str) -> list[str]:
    """Return which algorithm a rule runs on each call."""
    one = rule.use_1stage(calls, kernel_version=version)
    return np.where(one, "1stage", rule.otherwise).tolist()


def plain(text: str) -> str:
    """Return a text without the line breaks of comments and tables."""
    return " ".join(text.replace("#", " ").split())


# Commands


@cases(CASES)
def test_recommend(question, case):
    q = question(case)
    record = asked("recommend", *q.words)
    if "calls" in record:
        assert record.pop("calls")["engine"] in ("", "vLLM", "SGLang", "AITER")
    assert record == json.loads(json.dumps(q.decision.to_dict()))
    assert record["otherwise"] == (case.otherwise or "2stage")
    assert record["objective"] == case.objective
    assert any(c.claimed for c in q.decision.cutoffs)
    lines = ask("recommend", *q.words, "--verbose").splitlines()
    for c in q.decision.cutoffs:
        if c.max_bytes:
            row = next(line for line in lines if line.startswith(f"TP{c.world_size} "))
            assert f"<= {kib(c.max_bytes)}" in row
            assert f"{kib(c.max_bytes_lo)} to {kib(c.max_bytes_hi)}" in row
            assert f"{kib(c.this_kernel_lo)} to {kib(c.this_kernel_hi)}" in row


@cases(CASES)
def test_explain_of_all_batches(question, case):
    """One hidden size asked for is a workload too: it is the model's, or its own."""
    q = question(case)
    decision = q.decision if case.model else recommend(q.setting, Workload.of([q.hidden_dim]))
    for c in decision.cutoffs:
        record = asked(
            "explain", *q.target, *q.call, *q.engine, "--tp", c.world_size, "--all"
        )  # fmt: skip
        cutoff = record["cutoff"]
        assert (cutoff["bytes"], cutoff["bytes_lo"], cutoff["bytes_hi"]) == ends(c)
        assert record["verdict"] == c.verdict
        calls = q.setting.shapes(captured_batch_sizes(), q.hidden_dim, c.world_size)
        both = q.setting.takes_both(calls)
        said = np.array([call["choice"] for call in record["calls"]])
        if c.claimed:
            assert said[both].tolist() == runs(
                decision.rule, calls.select(both), q.setting.aiter_version
            )
        mine = choices(q.setting, q.hidden_dim, c.world_size, decision.workload)
        assert mine.choice.tolist() == said.tolist()
        for algorithm in ALGORITHMS:
            latency = q.setting.latency_us(calls, algorithm)
            shown = [call["latency_us"][algorithm] for call in record["calls"]]
            assert np.array(shown)[both].tolist() == pytest.approx(latency[both])


@cases(CASES)
def test_explain_of_one_call_and_predict(question, case):
    q = question(case)
    decision = q.decision if case.model else recommend(q.setting, Workload.of([q.hidden_dim]))
    for c in decision.cutoffs:
        # Around the cutoff, where an answer of its own would differ first.
        row = q.hidden_dim * 2
        near = [max(1, (c.estimate or 262144) // row), (c.estimate or 262144) // row + 8]
        predicted = asked(
            "predict", *q.target, *q.call, "--tp", c.world_size,
            "--tokens", ",".join(map(str, near)),
        )["rows"]  # fmt: skip
        for tokens in near:
            record = asked(
                "explain", *q.target, *q.call, *q.engine, "--tp", c.world_size,
                "--tokens", tokens,
            )  # fmt: skip
            cutoff = record["cutoff"]
            assert (cutoff["bytes"], cutoff["bytes_lo"], cutoff["bytes_hi"]) == ends(c)
            call = q.setting.shapes([tokens], q.hidden_dim, c.world_size)
            if c.claimed:
                (choice,) = runs(decision.rule, call, q.setting.aiter_version)
                assert record["choice"] == choice
                assert record["rules"][0]["rule"] == "recommended"
                assert record["rules"][0]["choice"] == choice
            else:
                assert record["choice"] == record["alone"]
            explained = explain(q.setting, call, decision.workload)
            assert explained.choice == record["choice"]
            for algorithm in ALGORITHMS:
                mine = predict(q.setting, call, algorithm)
                (other,) = (
                    r for r in predicted if (r["algorithm"], r["tokens"]) == (algorithm, tokens)
                )
                for said in (record["arms"][algorithm], other):
                    assert said["latency_us"] == pytest.approx(mine.latency_us[0], rel=1e-12)
                    assert said["latency_us_lo"] == pytest.approx(mine.lo_us[0], rel=1e-12)
                    assert said["latency_us_hi"] == pytest.approx(mine.hi_us[0], rel=1e-12)
                    assert said["evidence"] == mine.evidence[0]
                arm = explained.arms[algorithm].latency_us
                assert (arm.value, arm.lo, arm.hi) == (
                    mine.latency_us[0], mine.lo_us[0], mine.hi_us[0],
                )  # fmt: skip


@cases([c for c in SOME if c in LINKED])
def test_plan_starts_from_the_decision(question, case):
    q = question(case)
    for part in asked("plan", *q.words, "--shapes", 1)["cutoffs"]:
        c = q.decision.at(part["world_size"])
        before = part["before"]
        said = (before["max_bytes"], before["max_bytes_lo"], before["max_bytes_hi"])
        # Where nothing is claimed a plan shows the estimate, and says so.
        assert said == ((c.max_bytes if c.claimed else c.estimate), *ends(c)[1:])
        assert before["claimed_probability"] == float(c.claimed)
        assert before["regret_pct"] == pytest.approx(c.regret_pct, abs=1e-5)
        assert at_present(c).bytes == c.estimate


@cases(WITH_MODEL)
def test_worth_and_report(question, case):
    q = question(case)
    old = catalogue.current(case.engine or "sglang")
    reported = gather(q.setting, q.llm) if case.engine else None
    for c in q.decision.cutoffs:
        n = c.world_size
        if not c.claimed:
            continue
        record = asked(
            "worth", *q.target, *q.model, *(q.engine or ["--for", "sglang"]), "--tp", n,
            "--from", case.engine or "sglang", "--to", "recommended",
        )  # fmt: skip
        (gpu,) = record["gpus"]
        decision = q.decision
        if not case.engine:
            decision = recommend(q.setting.but(engine="sglang"), q.workload)
        served = Deployment(engine=case.engine or "sglang")
        mine = worth(q.setting, q.llm, n, old, decision.rule, deployment=served)
        mean = gpu["over_histogram"]
        assert (mean["us_per_step"], mean["us_per_step_lo"], mean["us_per_step_hi"]) == (
            mine.mean_us.value, mine.mean_us.lo, mine.mean_us.hi,
        )  # fmt: skip
        calls = q.setting.shapes(captured_batch_sizes(), q.hidden_dim, n)
        assert [b["to"] for b in gpu["batches"]] == runs(
            decision.rule, calls, q.setting.aiter_version
        )
        if reported is None:
            continue
        (at,) = (w for w in reported.by_world_size if w.world_size == n)
        assert ends(at.cutoff) == ends(c)
        assert at.worth.mean_us == mine.mean_us
        assert at.score.regret_pct.value == pytest.approx(c.regret_pct)
    if reported is not None:
        # What is not decided stays as it is; without anything decided the whole rule is shown.
        calls = random_calls(300)
        proposed = {w.world_size for w in reported.by_world_size if w.proposed}
        assert proposed == {w.world_size for w in reported.by_world_size if w.decided}
        there = [c for c in calls if c[0] in proposed or not proposed]
        assert rule_says(reported.new, there) == rule_says(q.decision.rule, there)
        others = [c for c in calls if c not in there]
        assert rule_says(reported.new, others) == rule_says(reported.old, others)
        for advice in reported.validation.advice if reported.validation else ():
            for c in advice.decision.cutoffs:
                assert ends(c) == ends(q.decision.at(c.world_size))


@cases(WITH_MODEL)
def test_emit(question, case, tmp_path):
    q = question(case)
    claimed = {c.world_size: c.max_bytes for c in q.decision.cutoffs if c.claimed}
    if not case.engine:
        file = tmp_path / "rule.json"
        ask("emit", "--for", "json", *q.target, *q.model, "--out", file)
        rule = catalogue.load(file)
        assert rule.world_sizes == tuple(claimed)
        for n, limit in claimed.items():
            assert rule.cutoff_bytes(n) == (None if limit is None else ("<=", limit))
        calls = random_calls(300)
        kept = [c for c in calls if c[0] in claimed]
        assert rule_says(rule, kept) == rule_says(q.decision.rule, kept)
        text = ask("emit", "--for", "table", *q.target, *q.model)
    else:
        text = ask("emit", *q.engine, *q.target, *q.model)
    for c in q.decision.cutoffs:
        if c.max_bytes is None:
            continue
        assert f"{kib(c.max_bytes_lo)} to {kib(c.max_bytes_hi)}" in plain(text)
        if case.engine == "":
            assert f"<= {exact_size(c.max_bytes)}" in text
        else:
            assert f"1-stage up to {exact_size(c.max_bytes)} " in plain(text)
            assert _as_code(c.max_bytes) in text


def _as_code(size: int) -> str:
    return f"{size // 1024} * 1024" if size % 1024 == 0 else str(size)


@cases([c for c in WITH_BOTH if c.calibration != "shared"])
def test_audit(question, case, tmp_path):
    q = question(case)
    root = SHAPES[SOURCE[case.engine]].package(tmp_path)
    record = asked("audit", root, *q.target, *q.model)
    # An engine's source may hold more than the catalogue's rule: what is compared is ours.
    for c in q.decision.cutoffs:
        (part,) = (p for p in record["comparison"] if p["world_size"] == c.world_size)
        if c.claimed:
            assert part["against"]["bytes"] == c.max_bytes
            (score,) = (s for s in record["regret"] if s["world_size"] == c.world_size)
            assert score["against_pct"]["value"] == pytest.approx(c.regret_pct)
        else:
            assert part["against"] == part["installed"]


@cases(CASES)
def test_validate(question, case, tmp_path):
    q = question(case)
    if case.calibration == "shared":
        table = measurement.read(LOOPBACK / "held-out.csv")
    else:
        table = Measurements.from_rows(_rows(q.setting))
    found = validate(table, q.setting, every_gpu=False, workload=q.workload)
    (advice,) = found.advice
    for c in advice.decision.cutoffs:
        assert ends(c) == ends(q.decision.at(c.world_size))
    calls = [c for c in random_calls(200) if q.decision.at(c[0]).claimed]
    assert rule_says(advice.rule, calls) == rule_says(q.decision.rule, calls)
    path = tmp_path / "rows.csv"
    table.write(path)
    text = plain(ask("validate", "--measurements", path, *q.words))
    (said,) = re.findall(rf"recommended on {case.gpu}, bf16: (.*?) it takes the faster", text)
    for n in advice.decision.world_sizes:
        at = replace(advice.rule, condition=advice.rule.condition.at(n)).words()
        assert plain(f"TP{n} {at}") in said


def _rows(setting: Setting):
    """Return rows of all arms as the model has them."""
    for n in WORLD_SIZES:
        calls = setting.shapes([8, 32, 64, 128], 7168, n)
        for arm in (*ALGORITHMS, setting.alternative)[: 2 + bool(setting.otherwise)]:
            op = "ar_then_rmsnorm" if arm == "separate" else setting.op
            for i, us in enumerate(setting.latency_us(calls, arm).tolist()):
                yield ROW | {
                    "gpu": setting.gpu, "arch": setting.arch, "world_size": n, "op": op,
                    "algorithm": "2stage" if arm == "separate" else arm, "tokens": int(calls.tokens[i]), "hidden_dim": 7168,
                    "bytes": int(calls.bytes[i]), "latency_us": us,
                    "kernel_version": "0.1.19.post1",
                }  # fmt: skip


@cases([c for c in WITH_MODEL if not c.engine and c in LINKED])
def test_simulate_with_nothing_disturbed(question, case):
    q = question(case)
    for cell in asked("simulate", *q.words, "--sweep", "ranks=2,4,8")["cells"]:
        c = q.decision.at(int(cell["ranks"]))
        assert cell["cutoff_bytes"] == c.estimate
        if c.verdict == ALWAYS_ONE_STAGE:
            assert cell["cutoff_bytes_interval"] is None
        else:
            assert cell["cutoff_bytes_interval"] == list(ends(c)[1:])


@cases(SOME)
def test_figures(question, case):
    q = question(case)
    regret = regret_over_workload(q.decision)
    names = [t.replace("<b>", "").replace("</b>", "") for t in regret.layout.yaxis.ticktext]
    for c in q.decision.cutoffs:
        figure = latency_against_bytes(q.decision, c.world_size, q.hidden_dim, rules=())
        for drawn in (figure, terms_along_bytes(q.decision, c.world_size, q.hidden_dim)):
            lines = [s.x0 for s in drawn.layout.shapes if s.x0 == s.x1]
            assert set(lines) <= {c.max_bytes}
        bands = {(s.x0, s.x1) for s in figure.layout.shapes if s.x0 != s.x1 and s.type == "rect"}
        assert bands <= {ends(c)[1:], (c.this_kernel_lo, c.this_kernel_hi)}
        if c.max_bytes and c.max_bytes_hi < 512 * q.hidden_dim * 2:
            assert bands
            said = [t.name for t in figure.data if re.match("recommended:|90 %,", t.name or "")]
            assert said == [
                f"90 %, {machine(q.setting)}: {kib(c.max_bytes_lo)} to {kib(c.max_bytes_hi)}",
                f"90 %, this kernel: {kib(c.this_kernel_lo)} to {kib(c.this_kernel_hi)}",
                f"recommended: 1-stage to {kib(c.max_bytes)}",
            ]
        if c.claimed:
            (dots,) = (t for t in regret.data if t.name == f"TP{c.world_size}" and t.xaxis == "x")
            claimed = [n for n in names if c.world_size in _rule_named(n, q).world_sizes]
            shown = dots.customdata[claimed.index("recommended")][0]
            assert shown == pytest.approx(c.regret_pct, abs=1e-9)


def _rule_named(name: str, q: Question) -> Rule:
    return q.decision.rule if name == "recommended" else catalogue.named(name)


# Ranks that share a GPU have no links and no arrival jitter to vary.
@cases([c for c in SOME if c.calibration != "shared"])
def test_what_moves_a_cutoff_starts_from_it(question, case):
    q = question(case)
    for c in q.decision.cutoffs:
        if c.verdict == ALWAYS_ONE_STAGE:
            continue
        one = np.ones(1)
        name = f"link_gbps[{case.gpu}]"
        sweep = against_factor(q.setting, c.world_size, name, one, q.workload)
        found = (np.inf if size is None else size for size in (c.estimate, *ends(c)[1:]))
        assert (sweep.cutoff_bytes[0], sweep.lo[0], sweep.hi[0]) == tuple(found)
        still = against_jitter(q.setting, c.world_size, np.array([0.0, 5.0]), q.workload)
        assert (still.lo <= still.cutoff_bytes).all()
        assert (still.cutoff_bytes <= still.hi).all()


# Real processes


# Properties


@cases([c for c in CASES if not c.engine])
def test_cutoffs_of_the_grid_lie_in_their_intervals(question, case):
    for c in question(case).decision.cutoffs:
        if c.max_bytes is not None:
            assert c.max_bytes_lo <= c.max_bytes
            assert c.max_bytes_hi is None or c.max_bytes <= c.max_bytes_hi
        arms = c.arms
        if c.claimed:
            rule = question(case).decision.rule
            mean = arms.regret_pct(arms.use_1stage(rule)).mean()
            assert c.regret_pct == pytest.approx(mean, abs=1e-9)
