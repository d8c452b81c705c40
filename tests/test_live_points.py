import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.errors import InputError
from costmodel.live.backends.base import LiveShape
from costmodel.live.run.points import Point, grid, read_plan, shuffled

ENTRY = {"tokens": 16, "hidden_dim": 7168, "world_size": 8}


def written(tmp_path, shapes, **top):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"schema": "costmodel/plan/1", "shapes": shapes, **top}))
    return path


def test_a_plan_keeps_its_order_and_joins_the_arms_of_a_shape(tmp_path):
    path = written(
        tmp_path,
        [
            {**ENTRY, "algorithm": "2stage", "why": "narrows the cutoff"},
            {**ENTRY, "tokens": 1, "dtype": "fp16"},
            {**ENTRY, "op": "ar_then_rmsnorm"},
            {**ENTRY, "arms": ["1stage"]},
        ],
        calibration="the planner's own notes",
    )
    points, world_size, others = read_plan(path, None)
    assert (world_size, others) == (8, 0)
    assert points == [
        Point(LiveShape(16, 7168, "bf16"), ("1stage", "2stage", "separate")),
        Point(LiveShape(1, 7168, "fp16"), ("1stage", "2stage")),
    ]


def test_a_plan_of_the_plain_op_asks_for_its_arms(tmp_path):
    plain = {**ENTRY, "op": "all_reduce"}
    path = written(tmp_path, [plain, {**plain, "tokens": 1, "algorithm": "2stage"}])
    points, _, _ = read_plan(path, None)
    assert [point.arms for point in points] == [("plain_1stage", "plain_2stage"), ("plain_2stage",)]


def test_of_several_world_sizes_one_must_be_chosen(tmp_path):
    path = written(tmp_path, [ENTRY, {**ENTRY, "world_size": 4}, {**ENTRY, "tokens": 8}])
    with pytest.raises(InputError, match=r"world sizes 4, 8; .*--tp"):
        read_plan(path, None)
    points, world_size, others = read_plan(path, 4)
    assert (len(points), world_size, others) == (1, 4, 2)
    with pytest.raises(InputError, match="no shape of world size 2; the plan holds 4, 8"):
        read_plan(path, 2)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**ENTRY, "tokens": 0}, r"shapes\[0\].tokens: expected `int` >= 1"),
        ({**ENTRY, "tokens": True}, r"shapes\[0\].tokens: expected `int`, got `bool`"),
        (
            {"tokens": 1, "world_size": 8},
            r"shapes\[0\]: object missing required field `hidden_dim`",
        ),
        ({**ENTRY, "world_size": 3}, "unknown world size 3"),
        ({**ENTRY, "op": "quant_fp8"}, "a plan holds fused_ar_rmsnorm, all_reduce"),
        ({**ENTRY, "arms": ["1-stage"]}, r"unknown arm '1-stage' \(did you mean 1stage"),
        ({**ENTRY, "arms": []}, "no arm to measure"),
        ({**ENTRY, "arms": "1stage"}, r"shapes\[0\].arms: expected `array`, got `str`"),
        ({**ENTRY, "dtype": "bf61"}, "unknown dtype 'bf61'"),
        ({**ENTRY, "dtype": 16}, r"shapes\[0\].dtype: expected `str`, got `int`"),
        (["1stage"], r"shapes\[0\]: expected `object`, got `array`"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, entry, message):
    with pytest.raises(InputError, match=message):
        read_plan(written(tmp_path, [entry]), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected `object`, got `array`"),
        (
            '{"schema": "costmodel/plan/2", "shapes": []}',
            "schema is 'costmodel/plan/2', this version reads 'costmodel/plan/1'",
        ),
        ('{"schema": "costmodel/plan/1", "shapes": []}', "shapes: expected `array` of length >= 1"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_plan(path, None)


def test_a_missing_plan(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_plan(tmp_path / "none.json", None)


def test_a_grid_holds_every_combination_once():
    points = grid([1, 2, 2], [1024, 2880], ["bf16", "fp16"], ["2stage", "1stage"], 4)
    assert len(points) == len({p.shape for p in points}) == 8
    assert {p.arms for p in points} == {("1stage", "2stage")}


@given(st.integers(0, 2**31), st.integers(1, 30))
def test_shuffling_permutes_and_repeats(seed, count):
    points = grid(range(1, count + 1), [512], ["bf16"], ["1stage"], 2)
    order = shuffled(points, seed)
    assert sorted(p.shape.tokens for p in order) == list(range(1, count + 1))
    assert order == shuffled(points, seed)


def test_different_seeds_give_different_orders():
    points = grid(range(1, 20), [512], ["bf16"], ["1stage"], 2)
    assert len({tuple(shuffled(points, seed)) for seed in range(5)}) == 5
