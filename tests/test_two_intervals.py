"""The interval on your machine and that of this kernel, where arms differ between machines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROW
from msgspec import structs

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.calibration.posterior import Calibration, shipped
from costmodel.data.measurement import Measurements
from costmodel.data.workload import Workload
from costmodel.decide.explanation import explain
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.figures.latency import latency_against_bytes
from costmodel.model.latency import MACHINE_CONTRAST, total
from costmodel.model.shape import ALGORITHMS, SEPARATE, SEPARATE_OPS, Shapes
from costmodel.show import explanation, recommendation
from costmodel.show.place import machine
from costmodel.units import kib

#: Spread of what an arm takes beyond the model, us: on any machine, and in the laboratories.
ANYWHERE_US, LABORATORY_US = 0.8, 0.1


class Contrasted(Calibration):
    """A calibration whose draws hold what each arm takes on one machine beyond the model."""

    anywhere_us, laboratory_us = ANYWHERE_US, LABORATORY_US

    def draw(self, count, seed=0):
        rng = np.random.default_rng(seed + 1)
        drawn = super().draw(count, seed)
        for arm in ("2stage", "separate"):
            drawn[f"contrast[{arm}]"] = rng.normal(0, self.anywhere_us, (count, 1))
            drawn[f"laboratory[{arm}]"] = rng.normal(0, self.laboratory_us, (count, 1))
        return drawn


class Alike(Contrasted):
    """One whose arms differ by what the model says, on every machine."""

    anywhere_us = laboratory_us = 0.0


def contrasted(arch: str, kind: type[Contrasted] = Contrasted) -> Calibration:
    known = shipped(arch)
    return kind(**{f.name: getattr(known, f.name) for f in structs.fields(known)})


@pytest.fixture(scope="module")
def mi355x():
    return Setting(contrasted("gfx950"), "MI355X")


@pytest.fixture(scope="module")
def decision(mi355x):
    return recommend(mi355x, world_sizes=(4, 8))


def test_your_machine_is_wider_than_this_kernel_and_holds_the_point(decision):
    for c in decision.cutoffs:
        assert c.max_bytes_lo < c.this_kernel_lo <= c.this_kernel_hi < c.max_bytes_hi
        assert c.max_bytes_lo <= c.estimate <= c.max_bytes_hi
        record = c.to_dict()
        assert record["max_bytes_lo"] == c.max_bytes_lo
        assert record["max_bytes_this_kernel_lo"] == c.this_kernel_lo
        assert record["max_bytes_this_kernel_hi"] == c.this_kernel_hi


def test_a_kernel_that_nobody_has_read_is_less_sure_in_both(mi355x):
    """What an unread AITER may have changed is of the kernel, on any machine."""
    unread = mi355x.but(aiter_version="0.1.22")
    calls = Shapes.of([32], 7168, 4)

    def spread(setting: Setting, values) -> float:
        one, two = (setting.latency_us(calls, arm, values) for arm in ALGORITHMS)
        return float(np.std(two - one))

    assert spread(unread, unread.draws) > spread(mi355x, mi355x.draws)
    assert spread(unread, unread.this_kernel) > 1.1 * spread(mi355x, mi355x.this_kernel)
    assert np.allclose(unread.laboratory_shift_us("2stage"), mi355x.laboratory_shift_us("2stage"))
    read, other = (recommend(s, world_sizes=(4,)).at(4) for s in (mi355x, unread))
    assert other.this_kernel_lo <= read.this_kernel_lo
    assert other.this_kernel_hi > read.this_kernel_hi


def test_all_ends_are_ends_of_cells(decision):
    for c in decision.cutoffs:
        cells = c.arms.cells
        assert {c.max_bytes_lo, c.this_kernel_lo} <= {cell.lo for cell in cells}
        assert {c.max_bytes_hi, c.this_kernel_hi} <= {cell.hi for cell in cells}


def test_this_kernel_is_near_what_a_calibration_without_contrasts_says(decision):
    plain = recommend(Setting(contrasted("gfx950", Alike), "MI355X"), world_sizes=(4, 8))
    for c, p in zip(decision.cutoffs, plain.cutoffs, strict=True):
        assert (p.this_kernel_lo, p.this_kernel_hi) == (p.max_bytes_lo, p.max_bytes_hi)
        wide, narrow = c.max_bytes_hi / c.max_bytes_lo, c.this_kernel_hi / c.this_kernel_lo
        alike = p.max_bytes_hi / p.max_bytes_lo
        assert abs(np.log(narrow / alike)) < abs(np.log(wide / alike))
        assert wide > 1.2 * alike


def test_the_contrast_is_a_term_of_its_arm(mi355x):
    calls = mi355x.shapes([8, 64], 2880, 4)
    apart = Shapes(SEPARATE, calls.dtype, calls.tokens, calls.hidden_dim, calls.world_size)
    for values, name in ((mi355x.draws, "contrast"), (mi355x.this_kernel, "laboratory")):
        one, two = (mi355x.terms(calls, a, values) for a in ALGORITHMS)
        assert MACHINE_CONTRAST not in one
        assert np.array_equal(two[MACHINE_CONTRAST], mi355x.draws[f"{name}[2stage]"])
        assert np.allclose(total(two), mi355x.latency_us(calls, "2stage", values))
        for a in ALGORITHMS:
            third = mi355x.terms(apart, a, values)
            assert np.array_equal(third[MACHINE_CONTRAST], mi355x.draws[f"{name}[separate]"])
        without = {k: v for k, v in values.items() if "[separate]" not in k}
        spread, plain = (mi355x.latency_us(calls, SEPARATE_OPS, v) for v in (values, without))
        spread = spread - plain
        assert np.allclose(spread, mi355x.draws[f"{name}[separate]"])
    # The point estimates hold none: nobody knows its sign.
    assert MACHINE_CONTRAST not in mi355x.terms(calls, "2stage")
    assert MACHINE_CONTRAST in mi355x.terms(calls, "2stage", mi355x.new_source)


def test_a_source_that_is_named_has_been_seen(mi355x):
    named = mi355x.but(source="aiter-3458-mi355x")
    drawn = {abs(float(v)) for v in mi355x.draws["contrast[2stage]"].ravel()}
    assert not drawn & {abs(float(v)) for v in named.draws["contrast[2stage]"].ravel()}
    (wide,), (narrow,) = (recommend(s, world_sizes=(4,)).cutoffs for s in (mi355x, named))
    assert narrow.max_bytes_hi / narrow.max_bytes_lo < wide.max_bytes_hi / wide.max_bytes_lo


def test_what_a_benchmark_adds_moves_no_crossover_and_hardly_a_cutoff():
    """Regret is in percent of latencies that hold it: docs/physics.md says by how much."""
    setting = Setting.shipped("MI355X")
    found = recommend(setting, world_sizes=(4,)).at(4)
    starts = [cell.lo for cell in found.arms.cells]

    def place(cutoff) -> int:
        return int(np.searchsorted(starts, cutoff.max_bytes, side="right"))

    moved = []
    for key in setting.calibration.harness:
        other = setting.but(source=key)
        if other.machine:
            continue
        there = recommend(other, world_sizes=(4,)).at(4)
        same = there.arms.one_us - there.arms.other_us
        assert np.allclose(same, found.arms.one_us - found.arms.other_us)
        moved.append((place(there) - place(found), there.max_bytes >> 10))
    assert found.max_bytes == 360 << 10
    assert max(moved) == (2, 380)
    assert min(moved)[0] >= 0


@pytest.mark.parametrize(("gpu", "named"), [("MI300X", "vllm-54787"), ("MI350X", "vllm-fork-81")])
def test_a_benchmark_that_is_named_is_not_drawn_on_another_gpu(gpu, named):
    """No machine of this GPU is the source's; what its benchmark adds is known all the same."""
    setting = Setting.shipped(gpu, source=named)
    assert not setting.machine
    calls = setting.shapes([1, 64, 256], 2880, [[2], [4]])
    for arm in ALGORITHMS:
        found = predict(setting, calls, arm)
        assert np.all((found.lo_us < found.latency_us) & (found.latency_us < found.hi_us))
    call = setting.shapes([64], 2880, 4)
    assert "with the constant that this benchmark adds" in explanation.text(explain(setting, call))
    free = setting.but(source="")
    assert "whatever constant its own benchmark adds" in explanation.text(explain(free, call))
    assert np.all(predict(free, calls, "1stage").hi_us > predict(free, calls, "1stage").latency_us)


@pytest.mark.parametrize(
    ("gpu", "source", "whose"),
    [
        ("MI355X", "vllm-54787", "this machine"),
        ("MI355X", "aiter-5272-mi308", "your machine"),
        ("MI350X", "vllm-54787", "your machine"),
    ],
)
def test_a_source_of_other_gpus_is_not_the_machine_asked_about(gpu, source, whose):
    """Its benchmark can be meant; that nobody has measured arms on this GPU there stays."""
    named, free = Setting.shipped(gpu, source=source), Setting.shipped(gpu)
    assert machine(named) == whose
    assert named.reference.startswith(source)
    alike = np.array_equal(named.draws["contrast[2stage]"], free.draws["contrast[2stage]"])
    assert alike == (whose == "your machine")


def test_the_machine_of_the_only_source_has_its_own_gpus_alone():
    """Rows of one MI300X say nothing of how arms differ on an MI325X's machine."""
    rows = [
        ROW | {"tokens": t, "bytes": t * 8192, "algorithm": a, "source": "lab", "latency_us": us}
        for t in (4, 16, 64, 128)
        for a, us in (("1stage", 6 + t / 5), ("2stage", 10 + t / 11))
    ]
    own, _ = calibrate(observe(Measurements.from_rows(rows)))
    assert machine(Setting(own, "MI300X")) == "this machine"
    assert machine(Setting(own, "MI325X")) == "your machine"


def test_explain_shows_the_contrast_and_its_terms_add_up(mi355x, decision):
    found = explain(mi355x, mi355x.shapes(80, 2880, 4), decision.workload)
    two = found.arms["2stage"]
    contrast = two.terms[MACHINE_CONTRAST]
    assert contrast.value == 0
    assert contrast.lo < -ANYWHERE_US
    assert contrast.hi > ANYWHERE_US
    assert sum(e.value for e in two.terms.values()) == pytest.approx(two.latency_us.value)
    text, c = explanation.text(found), decision.at(4)
    assert "machine_contrast" in text
    here = recommend(mi355x, world_sizes=(4,)).at(4)
    assert f"{kib(here.max_bytes_lo)} to {kib(here.max_bytes_hi)} on your machine" in text
    assert f"{kib(c.this_kernel_lo)} to {kib(c.this_kernel_hi)} for this kernel" in text
    cutoff = json.loads(json.dumps(found.to_dict()))["cutoff"]
    assert (cutoff["bytes_lo"], cutoff["bytes_this_kernel_lo"]) == (
        here.max_bytes_lo, here.this_kernel_lo,
    )  # fmt: skip


def test_recommend_prints_both_and_rules_state_your_machine(decision):
    lines = recommendation.text(decision).splitlines()
    for c in decision.cutoffs:
        row = next(line for line in lines if line.startswith(f"TP{c.world_size} "))
        mine = f"{kib(c.max_bytes_lo)} to {kib(c.max_bytes_hi)}"
        assert row.index(mine) < row.index(f"{kib(c.this_kernel_lo)} to {kib(c.this_kernel_hi)}")
        evidence = decision.evidence[c.world_size]
        assert (evidence.lo, evidence.hi) == (c.max_bytes_lo, c.max_bytes_hi)
        assert f"90 % interval over machines {mine}" in evidence.words()


def test_the_figure_shades_both(mi355x):
    found = recommend(mi355x, Workload.of([2880]), world_sizes=(4,))
    c = found.at(4)
    figure = latency_against_bytes(found, 4, 2880, rules=())
    bands = [s for s in figure.layout.shapes if s.x0 != s.x1 and s.type == "rect"]
    assert {(b.x0, b.x1) for b in bands} == {
        (c.max_bytes_lo, c.max_bytes_hi), (c.this_kernel_lo, c.this_kernel_hi),
    }  # fmt: skip
    assert all(s.x0 < s.x1 for s in bands)
    wide = next(b for b in bands if b.x0 == c.max_bytes_lo)
    narrow = next(b for b in bands if b.x0 == c.this_kernel_lo)
    assert float(wide.fillcolor.split(",")[-1][:-1]) < float(narrow.fillcolor.split(",")[-1][:-1])


def test_the_first_shape_that_a_kernel_rejects_is_named():
    setting = Setting.shipped("MI355X")
    with pytest.raises(InputError, match=r"rejects 16 tokens x hidden 9216 \(bf16\)"):
        predict(setting, setting.shapes([8, 16, 32, 8], [7168, 9216, 16384, 7168], 4), "1stage")
