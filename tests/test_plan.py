"""Planning: the value of measuring in closed form, the search, the file, the worth by simulation."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from command import costmodel
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from costmodel.calibration.posterior import FORM_US, Refusal
from costmodel.data.workload import Workload
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.live.run.points import read_plan
from costmodel.planning import Budget, MeasuringTime, Rehearsal, plan, pose
from costmodel.planning.coordinates import Posterior, linear
from costmodel.planning.search import exchanged, pruned, search
from costmodel.planning.value import RegretSurface, at_present, normal_points

ONE_EACH = MeasuringTime(0.0, 0.0, 1.0, 0)


def by_count(n):
    """A budget of n latencies under ONE_EACH."""
    return Budget(seconds=n + 0.01)


@pytest.fixture(scope="module")
def mi300x():
    return Setting.shipped("MI300X")


@pytest.fixture(scope="module")
def posed(mi300x):
    """Return (problem, posterior, noise) of MI300X at 4 and 8 ranks, one latency costing 1."""
    return pose(mi300x, world_sizes=(4, 8), measuring_time=ONE_EACH, everywhere=True)


@pytest.fixture(scope="module")
def problem(posed):
    return posed[0]


@pytest.fixture(scope="module")
def rehearsal(mi300x, posed):
    problem, posterior, noise = posed
    return Rehearsal.of(mi300x, posterior, problem, noise=noise, truths=200)


@pytest.fixture(scope="module")
def planned(mi300x):
    return plan(mi300x, Budget(shapes=6))


@pytest.fixture(scope="module")
def benchmark():
    """Return the module benchmarks/plan_value.py."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "plan_value.py"
    spec = importlib.util.spec_from_file_location("plan_value", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_actions(linear_part, quadratic_part):
    """Two cutoffs over one combination u: regret 0, or linear u + quadratic (u^2 - 1)."""
    surface = np.array([[0.0, 0.0], [0.0, linear_part], [0.0, quadratic_part]])
    return RegretSurface(None, 0.0, 0.0, np.zeros(0), np.array([0, 1]), np.ones((1, 1)), surface)


# The value of measuring


@pytest.mark.parametrize("known", [0.0, 0.3, 1.0])
def test_two_actions_with_a_normal_difference_gain_what_the_closed_form_says(known):
    # E[min(0, b m)] for m ~ N(0, A) is -b sqrt(A / (2 pi)).
    surface = two_actions(2.0, 0.0)
    after = surface.after(np.array([[[known]]]), points=2048)[0]
    assert after == pytest.approx(-2.0 * math.sqrt(known / (2 * math.pi)), abs=2e-3)


def test_a_curved_regret_gains_what_the_closed_form_says():
    # E[min(0, m^2 - A)], m ~ N(0, A): -2 A phi(1).
    surface = two_actions(0.0, 1.0)
    phi1 = math.exp(-0.5) / math.sqrt(2 * math.pi)
    for known in (0.4, 1.0):
        after = surface.after(np.array([[[known]]]), points=4096)[0]
        assert after == pytest.approx(-2 * known * phi1, rel=0.02)


def test_normal_points_are_normal():
    points = normal_points(2048, 3)
    assert points.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
    assert points.T @ points / 2048 == pytest.approx(np.eye(3), abs=1e-9)
    assert np.mean(np.abs(points) < 1.6449) == pytest.approx(0.9, abs=0.01)


def test_the_sample_of_the_posterior_has_its_moments(mi300x):
    calibration = mi300x.calibration
    posterior = Posterior.of(mi300x)
    white = posterior.sample(256)
    assert white.mean(axis=0) == pytest.approx(0.0, abs=1e-12)
    assert white.T @ white / len(white) == pytest.approx(np.eye(white.shape[1]), abs=1e-9)
    p = len(calibration.names)
    covariance = posterior.root @ posterior.root.T
    assert covariance[:p, :p] == pytest.approx(calibration.covariance[:p, :p], abs=1e-9)
    # A machine's contrasts: the spread between laboratories, and what the form may miss.
    variance = FORM_US**2 + sum(weight * tau**2 for tau, weight in calibration.taus)
    assert covariance[p:, p:] == pytest.approx(variance * np.eye(2), abs=1e-9)
    assert covariance[p:, :p] == pytest.approx(0.0, abs=1e-9)
    point = posterior.values(np.zeros((1, p + 2)))
    for name in calibration.names:
        assert point[name][0, 0] == pytest.approx(calibration.values[name])


def test_linear_finds_the_slopes_of_a_linear_function():
    white = np.random.default_rng(0).standard_normal((50, 3))
    slopes = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    assert linear(white, 7 + white @ slopes.T) == pytest.approx(slopes)


def test_before_and_interval_are_those_of_recommend(mi300x, problem, planned):
    decision = recommend(mi300x)
    for surface in problem.surfaces:
        cutoff = decision.at(surface.world_size)
        now = at_present(surface.cutoff)
        assert (now.bytes, now.lo, now.hi) == (
            cutoff.max_bytes, cutoff.max_bytes_lo, cutoff.max_bytes_hi,
        )  # fmt: skip
        assert surface.cutoff.regret_pct == cutoff.regret_pct
        assert surface.cutoff.arms.weight @ surface.call_regret == pytest.approx(
            surface.before, rel=0.02
        )
        # The planner has four times as many draws of its own: 256 of them scatter by a sixth.
        assert 100 * surface.before == pytest.approx(cutoff.regret_pct, rel=0.35)
        share, regret = surface.open_calls()
        size = surface.cutoff.arms.shapes.bytes
        inside = (size > now.lo) & (size <= now.hi)
        assert share == pytest.approx(surface.cutoff.arms.weight[inside].sum())
        assert 0.7 * surface.before < share * regret <= surface.before
    for prospect in planned.prospects:
        cutoff = decision.at(prospect.world_size)
        assert prospect.regret_pct_before == cutoff.regret_pct
        if cutoff.max_bytes is None:
            assert prospect.always
        else:
            assert prospect.before.bytes == cutoff.max_bytes
            assert (prospect.before.lo, prospect.before.hi) == (
                cutoff.max_bytes_lo, cutoff.max_bytes_hi,
            )  # fmt: skip


def test_a_few_draws_at_a_time_give_the_regrets_of_all_at_once(mi300x, posed):
    """To the last bit: plans do not change with the size of a block."""
    problem, posterior, _ = posed
    values = posterior.values(posterior.sample())
    for surface in problem.surfaces:
        now = surface.cutoff.arms
        arms = Arms.of_calls(mi300x, now.shapes, now.weight, values)
        assert surface.before == arms.cutoff_regret.mean(axis=0).min()
        assert surface.perfect == arms.cutoff_regret.min(axis=1).mean()
        chosen = arms.chosen_us(now.shapes.bytes <= surface.cutoff.estimate)
        assert (surface.call_regret == (chosen / arms.fastest_us).mean(axis=0) - 1.0).all()


def test_perfect_knowledge_by_the_surface_is_that_of_the_draws(problem):
    for surface in problem.surfaces:
        q = len(surface.direction)
        perfect = surface.after(np.eye(q)[None], points=4096)[0]
        assert perfect == pytest.approx(surface.perfect, abs=0.03 * surface.before)
        assert surface.after(np.zeros((1, q, q)))[0] == pytest.approx(surface.before)


# Candidates and designs


def test_what_is_left_unknown_is_bayes_rule(problem):
    c = problem.candidates
    design = [10, 11, 500, 1203]
    rows = c.rows[design]
    precision = np.eye(rows.shape[1]) + rows.T @ rows / c.noise_variance
    assert c.left_unknown(design) == pytest.approx(np.linalg.inv(precision), abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_scan_agrees_with_the_design_evaluated_whole(problem, data):
    size = len(problem.candidates)
    chosen = data.draw(
        st.lists(st.integers(0, size - 1), min_size=2, max_size=7, unique=True)
    )  # fmt: skip
    *design, first, second = chosen
    found = problem.scan(design, np.array([first, first]), np.array([second, -1]), 64)
    assert found[0] == pytest.approx(problem.regret(chosen, 64), rel=1e-6)
    assert found[1] == pytest.approx(problem.regret([*design, first], 64), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_measuring_more_never_hurts_and_never_beats_perfect_knowledge(problem, data):
    size = len(problem.candidates)
    chosen = data.draw(
        st.lists(st.integers(0, size - 1), min_size=1, max_size=12, unique=True)
    )  # fmt: skip
    slack = 0.01 * problem.before
    more = problem.regret(chosen)
    assert more <= problem.regret(chosen[:-1]) + slack
    assert problem.before - problem.avoidable - slack <= more <= problem.before + slack


def test_one_latency_of_a_new_benchmark_tells_little_two_tell_much(problem):
    possible = np.flatnonzero(problem.candidates.possible)
    alone = problem.scan([], possible, np.full(possible.size, -1), 128)
    even = possible[possible % 2 == 0]
    pairs = problem.scan([], even, even + 1, 128)
    gain = problem.before - np.array([alone.min(), pairs.min()])
    assert gain[0] < 0.15 * problem.avoidable
    assert gain[1] > 0.6 * problem.avoidable


def test_with_the_constant_known_one_latency_tells_much(problem):
    rows = problem.candidates.rows.copy()
    rows[:, -1] = 0.0
    known = structs.replace(problem, candidates=structs.replace(problem.candidates, rows=rows))
    possible = np.flatnonzero(problem.candidates.possible)
    alone = known.scan([], possible, np.full(possible.size, -1), 128)
    assert known.before - alone.min() > 0.3 * problem.avoidable


def test_candidates_keep_near_the_open_decisions(mi300x):
    problem, _, _ = pose(mi300x, Workload.of([2880]), everywhere=True)
    c = problem.candidates
    possible = np.flatnonzero(c.possible) // 2
    assert {4, 8} <= set(c.world_size[possible].tolist())
    for surface in problem.surfaces[1:]:
        size = c.size_bytes[possible][c.world_size[possible] == surface.world_size]
        assert size.min() >= surface.cutoff.max_bytes_lo / 1.5
        assert size.max() <= surface.cutoff.max_bytes_hi * 1.5


def test_what_no_plan_chooses_need_not_be_evaluated(mi300x, problem):
    near = pose(mi300x, world_sizes=(4, 8), measuring_time=ONE_EACH)[0]
    assert 0 < len(near.candidates) < len(problem.candidates) / 2
    assert near.candidates.possible.all()
    assert near.candidates.rows == pytest.approx(
        problem.candidates.rows[problem.candidates.possible]
    )

    def shapes(posed):
        c, design = posed.candidates, np.array(search(posed, by_count(4)))
        i = design // 2
        return list(zip(c.world_size[i], c.tokens[i], c.hidden_dim[i], design % 2, strict=True))

    assert shapes(near) == shapes(problem)


# The plan


def test_gfx942_gets_both_algorithms_at_both_open_world_sizes(planned):
    assert {e.world_size for e in planned.entries} == {4, 8}
    for n in (4, 8):
        arms = {a for e in planned.entries if e.world_size == n for a in e.arms}
        assert "1stage" in arms
    assert set(planned.entries[0].arms) == {"1stage", "2stage"}
    assert "no 1-stage row of any gfx942 is known" in planned.entries[0].reason
    assert any(
        "scale of kernels' fixed times against gfx950's" in e.reason for e in planned.entries
    )


def test_gfx942_is_expected_to_narrow(planned):
    before, after, perfect = planned.regret_pct
    assert perfect < after < 0.25 * before
    closed, *open_sizes = planned.prospects
    assert closed.world_size == 2
    assert closed.after == closed.before
    for p in open_sizes:
        assert p.after.ratio < 0.75 * p.before.ratio
        assert p.regret_pct_perfect <= p.regret_pct_after < p.regret_pct_before
        assert 0.02 < p.open_share < 0.2
    left = [e.regret_pct_left for e in planned.entries]
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(after)


def test_a_plan_is_repeatable(mi300x, planned):
    again = plan(mi300x, Budget(shapes=6))
    assert again.to_dict() == planned.to_dict()


def test_gfx950_measures_where_nothing_was_measured_first():
    found = plan(Setting.shipped("MI355X"), Budget(shapes=2), world_sizes=(4, 8))
    assert {e.world_size for e in found.entries} == {8}
    assert "no 1-stage or 2-stage row of MI355X at 8 ranks" in found.entries[0].reason
    assert "narrows the extra time of the 2-stage at 8 ranks" in found.entries[0].reason


def test_budgets_are_kept_and_more_budget_is_never_worse(problem):
    left = []
    for count in (2, 4, 7):
        design = search(problem, by_count(count))
        assert 0 < len(design) <= count
        left.append(problem.regret(design))
    assert left[0] > left[1] > left[2]
    costly = structs.replace(problem, measuring_time=MeasuringTime())
    for budget in (Budget(shapes=2), Budget(seconds=40)):
        design = search(costly, budget)
        assert costly.fits(design, budget)
        assert len(design) >= 2
    assert costly.seconds(search(costly, Budget(seconds=40))) <= 40


def test_seconds_add_up(planned):
    assert planned.seconds == pytest.approx(2 * 20.0 + sum(e.seconds for e in planned.entries))
    first = planned.entries[0]
    timed = sum(first.latency_us) * 20 * 10 * 16 * 1e-6
    assert first.seconds == pytest.approx(2.0 + 2 * 1.0 + timed)


def test_search_is_as_good_as_the_best_of_many_pairs(problem):
    """With two latencies every pair can be tried."""
    possible = np.flatnonzero(problem.candidates.possible)
    first, second = (possible[a] for a in np.triu_indices(possible.size, 1))
    some = np.random.default_rng(0).choice(first.size, 4000, replace=False)
    tried = np.concatenate(
        [problem.scan([], first[part], second[part], 128) for part in np.array_split(some, 8)]
    )
    found = problem.regret(search(problem, by_count(2)), 128)
    assert found <= tried.min() + 0.01 * problem.before


def test_exchanges_from_any_start_reach_what_the_search_finds(problem):
    budget = by_count(3)
    found = problem.regret(search(problem, budget))
    possible = np.flatnonzero(problem.candidates.possible)
    for seed in range(2):
        start = np.random.default_rng(seed).choice(possible, 3, replace=False).tolist()
        reached = problem.regret(exchanged(problem, budget, start))
        assert problem.regret(start) > 1.2 * found
        assert reached == pytest.approx(found, abs=0.05 * problem.avoidable)


def test_what_brings_next_to_nothing_is_dropped(problem):
    design = search(problem, by_count(6))
    free = np.array([m for m in np.flatnonzero(problem.candidates.possible) if m not in design])
    left = problem.scan(design, free, np.full(free.size, -1), 128)
    idle = int(free[np.argmax(left)])
    assert pruned(problem, design) == design
    assert set(pruned(problem, [idle, *design])) == set(design)


def test_nothing_is_planned_where_the_decision_is_made(mi300x, tmp_path):
    found = plan(mi300x, Budget(shapes=3), world_sizes=(2,))
    assert found.entries == ()
    with pytest.raises(InputError, match="nothing is worth measuring"):
        found.save(tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_world_size_is_noted(mi300x):
    doubt = (Refusal("MI300X", 8, "rows scatter by 30 %"),)
    doubtful = mi300x.but(calibration=structs.replace(mi300x.calibration, refusals=doubt))
    found = plan(doubtful, Budget(shapes=1), Workload.of([2880]))
    assert [p.note for p in found.prospects] == ["", "", "rows scatter by 30 %"]


def test_measure_reads_the_plan_file_in_its_order(planned, tmp_path):
    path = tmp_path / "plan.json"
    planned.save(path)
    for n in (4, 8):
        points, size, _ = read_plan(path, n)
        assert size == n
        mine = [e for e in planned.entries if e.world_size == n]
        assert [(p.shape.tokens, p.shape.hidden_dim, p.shape.dtype, p.arms) for p in points] == [
            (e.tokens, e.hidden_dim, e.dtype, e.arms) for e in mine
        ]
    with pytest.raises(InputError, match="exists; give --force"):
        planned.save(path)
    planned.save(path, force=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"noise": 0.0}, "--noise is 0"),
        ({"noise": math.nan}, "--noise is nan"),
        ({"workload": Workload.of([2884])}, "hidden size 2884 is rejected"),
        ({"op": "gather"}, "unknown op 'gather'"),
        ({"aiter_version": "0.1.10"}, "has no 1-stage fused kernel"),
        ({"world_sizes": ()}, "no world size"),
        ({"budget": Budget(seconds=3)}, "--seconds 3 is not enough"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(mi300x, change, says):
    asked = {k: v for k, v in change.items() if k in ("op", "aiter_version")}
    rest = {k: v for k, v in change.items() if k not in asked}
    with pytest.raises(InputError, match=says) as caught:
        plan(mi300x.but(**asked), **{"budget": Budget(shapes=1), **rest})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [(), (3, 2.0), (0,), (None, -1.0), (None, math.inf)])
def test_a_budget_is_one_positive_limit(wrong):
    with pytest.raises(InputError):
        Budget(*wrong)


# Rehearsal: does it hold when things are really measured?


def test_simulated_regret_is_what_the_plan_promised(problem, rehearsal):
    assert rehearsal.regret_after([]).mean() == pytest.approx(problem.before, rel=0.1)
    design = search(problem, by_count(6))
    simulated = rehearsal.regret_after(design).mean()
    assert simulated == pytest.approx(problem.regret(design), rel=0.3)
    assert simulated < 0.3 * problem.before


def test_the_update_finds_the_truth_when_nothing_scatters(problem, rehearsal):
    quiet = structs.replace(
        rehearsal, noise=1e-4, scatter=np.zeros_like(rehearsal.scatter)
    )  # fmt: skip
    c = problem.candidates
    here = np.isin(c.tokens, [1, 8, 24, 64, 256]) & np.isin(c.hidden_dim, [2880, 7168])
    design = [m for i in np.flatnonzero(here) for m in (2 * int(i), 2 * int(i) + 1)]
    mean, _ = quiet.update(design)
    again = quiet.latency_us(design, mean, np.zeros((len(mean), 1)))
    truth = quiet.latency_us(design, quiet.white, np.zeros((len(mean), 1)))
    # Up to the benchmark's constant, which only the differences are free of.
    apart = (again[:, 1::2] - again[:, ::2]) - (truth[:, 1::2] - truth[:, ::2])
    assert np.median(np.abs(apart)) < 0.02
    assert quiet.regret_after(design).mean() < 0.2 * problem.before


def test_planned_shapes_need_a_third_of_what_grids_and_random_shapes_need(
    benchmark, problem, rehearsal
):
    """At the regret that four planned latencies leave; see benchmarks/plan_value.py."""

    def simulated(designs):
        return np.mean([rehearsal.regret_after(d).mean() for d in designs])

    c = problem.candidates
    ours = simulated([search(problem, by_count(4))])
    uniform = [benchmark.uniform(problem, 3, 1, seed) for seed in range(5)]
    random = [benchmark.at_random(problem, 9, seed) for seed in range(5)]
    assert len(uniform[0]) == 12
    assert ours < simulated(uniform)
    assert ours < simulated(random)
    assert ours < simulated([benchmark.by_variance(problem, 4)])
    assert c.world_size.size == 2 * 13 * 51


def test_a_fit_of_all_rows_anew_agrees_with_the_fast_update(benchmark):
    checks = benchmark.refit("gfx942", "MI300X", (4, 8), count=5, refits=1)
    assert {c["world_size"] for c in checks} == {4, 8}
    for check in checks:
        assert check["refit_cutoff"] == pytest.approx(check["fast_cutoff"], rel=0.12)
        assert check["refit_interval"][1] == pytest.approx(check["fast_interval"][1], rel=0.2)


def test_needed_interpolates_and_the_figure_gets_every_series(benchmark):
    points = [
        {"kind": kind, "n": n, "regret_pct": 1.0 / (n * efficiency), "error_pct": 0.0}
        for kind, efficiency in (("planned", 3.0), ("uniform", 1.0))
        for n in (2, 4, 8, 16, 32)
    ]
    rows = benchmark.needed(points, before=1.0, perfect=0.0)
    for row in rows:
        assert row["uniform"] == pytest.approx(max(2.0, 1 / (1 - row["removed"])), rel=1e-6)
    assert rows[-1]["uniform"] / rows[-1]["planned"] == pytest.approx(3.0)
    result = {"gpu": "MI300X", "world_sizes": [4, 8], "points": points, "before_pct": 1.0,
              "perfect_pct": 0.0}  # fmt: skip
    data = benchmark.figure_data(result)
    assert [s["name"] for s in data["series"]] == ["planned", "uniform"]
    assert data["series"][1]["n"] == [2, 4, 8, 16, 32]


# The command


def run(*args, cwd):
    return costmodel("plan", *args, cwd=cwd)


def test_the_command_writes_a_plan_and_does_not_overwrite_it(tmp_path):
    args = ["--gpu", "mi300x", "--model", "gpt-oss-120b", "--tp", "8", "--shapes", 2,
            "--out", "plan.json"]  # fmt: skip
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("cutoff now", "expected after", "1-stage + 2-stage", "measure --backend aiter"):
        assert words in done.stdout
    written = (tmp_path / "plan.json").read_bytes()
    record = json.loads(written)
    assert record["schema"] == "costmodel/plan/1"
    assert {e["hidden_dim"] for e in record["shapes"]} == {2880}
    assert {e["world_size"] for e in record["shapes"]} == {8}
    assert (
        record["cutoffs"][0]["after"]["regret_pct"] < record["cutoffs"][0]["before"]["regret_pct"]
    )
    again = run(*args, cwd=tmp_path)
    assert again.returncode == 2
    assert "plan.json: exists; give --force" in again.stderr
    (tmp_path / "plan.json").write_text("old")
    forced = run(*args, "--force", "--format", "json", cwd=tmp_path)
    assert forced.returncode == 0, forced.stderr
    assert (tmp_path / "plan.json").read_bytes() == written
    assert json.loads(forced.stdout) == record
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--arch", "gfx942", "--shapes", 3, "--seconds", 60], "give --shapes or --seconds"),
        (["--arch", "gfx942", "--shapes", 0], "0 shapes"),
        (["--arch", "gfx942", "--tp", 6], "unknown world size 6"),
        (["--arch", "gfx942", "--arm-seconds", -1], "-1 seconds"),
        (
            ["--arch", "gfx942", "--op", "plain", "--tp", 8, "--out", "plan.json"],
            "cannot force both stages of all_reduce of aiter's kernels",
        ),
        (["--arch", "gfx942", "--out", "no/plan.json"], "no directory "),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing_behind(args, says, tmp_path):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
