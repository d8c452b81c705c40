"""Tables of pairs: which pairs share a crossing, and how it is shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROW

from costmodel.calibration.crossing import SizeSet, crossing
from costmodel.cli.main import cli
from costmodel.data.measurement import Measurements
from costmodel.decide.crossings import measured_crossings
from costmodel.decide.measured_regret import Agreement
from costmodel.decide.pairs import pair
from costmodel.live.validation import Live, Measured
from costmodel.model.shape import FUSED
from costmodel.show.crossings import lines, sizes
from costmodel.show.live import describe

TOKENS = (1, 4, 16, 64)


def rows(hidden=4096, tokens=TOKENS, **changes):
    """Both arms on lines that cross at 256 KiB."""
    out = []
    for t in tokens:
        size = t * hidden * 2
        for algorithm, us in (("1stage", 8 + size / 64e3), ("2stage", 8 + 2.048 + size / 128e3)):
            call = {"tokens": t, "hidden_dim": hidden, "bytes": size, "algorithm": algorithm}
            out.append({**ROW, **call, "latency_us": us, **changes})
    return out


def found(*parts):
    table = Measurements.from_rows([row for part in parts for row in part])
    return measured_crossings(table, pair(table, FUSED))


def test_one_table_crosses_where_its_lines_do():
    (one,) = found(rows())
    assert (one.op, one.source, one.gpu, one.world_size) == (FUSED, "mine", "MI300X", 4)
    assert (one.hidden_dim, one.dtype) == (4096, "bf16")
    assert (one.kernel_family, one.kernel_version) == ("aiter", "0.1.19")
    assert one.crossing.size_bytes == pytest.approx(256 * 1024, rel=1e-3)
    size = np.array(TOKENS) * 8192.0
    assert one.crossing == crossing(size, 8 + size / 64e3, 10.048 + size / 128e3)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "other"}, {"gpu": "MI308X"}, {"world_size": 8}, {"dtype": "fp16"},
        {"kernel_version": "0.1.17"}, {"timing": "eager"}, {"statistic": "min"},
    ],
)  # fmt: skip
def test_what_was_not_measured_alike_is_another_table(changes):
    assert [c.crossing.pairs for c in found(rows(), rows(**changes))] == [4, 4]


@pytest.mark.parametrize("changes", [{"date": "2026-09-02"}, {"url": "https://example.org"}])
def test_date_and_address_do_not_split_a_table(changes):
    assert [c.crossing.pairs for c in found(rows(), rows(tokens=(2, 8), **changes))] == [6]


def test_several_hidden_sizes_stand_together_and_apart():
    several = found(rows(2048), rows(4096), rows(8192, tokens=(8, 32)))
    assert [(c.hidden_dim, c.crossing.pairs) for c in several] == [(None, 10), (2048, 4), (4096, 4)]


def test_a_table_of_too_few_pairs_is_left_out():
    assert found(rows(tokens=(1, 64))) == ()
    assert found(rows(tokens=(1, 64)), rows(gpu="MI308X"))[0].gpu == "MI308X"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (SizeSet("bounded", 400 * 1024.0, 480.3 * 1024), "400 KiB to 480 KiB"),
        (SizeSet("half-open", 400 * 1024.0), "from 400 KiB"),
        (SizeSet("half-open", hi=400 * 1024.0), "up to 400 KiB"),
        (SizeSet("complement", 400 * 1024.0, 480 * 1024.0), "up to 400 KiB or from 480 KiB"),
        (SizeSet("everything"), "any size"),
        (SizeSet("empty"), "no size"),
    ],
)
def test_sets_of_sizes_in_words(made, says):
    assert sizes(made) == says


def test_kernels_are_named_where_nothing_else_tells_tables_apart():
    assert "0.1.19" not in "\n".join(lines(found(rows(), rows(gpu="MI308X"))))
    assert "0.1.19" in "\n".join(lines(found(rows(), rows(kernel_version="0.1.17"))))
    assert lines([]) == []


def test_the_direction_of_a_crossing_is_said():
    swap = {"1stage": "2stage", "2stage": "1stage"}
    turned = [{**row, "algorithm": swap[row["algorithm"]]} for row in rows()]
    assert "2-stage first" in lines(found(turned))[-1]
    assert "2-stage first" not in lines(found(rows()))[-1]


@pytest.mark.parametrize(
    "command",
    ["validate --arch gfx942", "calibrate --arch gfx942 --no-cross-validation"],
)
def test_commands_show_the_crossings_of_their_pairs(command, tmp_path):
    path = tmp_path / "mine.csv"
    Measurements.from_rows(rows(tokens=(1, 4, 8, 16, 32, 64))).write(path)
    run = [*command.split(), str(path)]
    shown = CliRunner().invoke(cli, run, catch_exceptions=False).stdout
    assert "Fieller" in shown
    record = json.loads(CliRunner().invoke(cli, [*run, "--format", "json"]).stdout)
    (one,) = record["crossings"]
    assert one["pairs"] == 6
    assert one["crossing_bytes"] == pytest.approx(256 * 1024, rel=1e-3)
    assert one["fieller"]["kind"] == one["bootstrap"]["kind"] == "bounded"
    assert one["fieller"]["lo_bytes"] <= one["fieller"]["hi_bytes"]


def test_a_live_run_that_the_model_does_not_cover_shows_them_too():
    crossings = found(rows())
    measured = Measured("another fabric", Agreement(4, 1.0, 4, 1.0), (), crossings, ())
    assert measured.to_dict()["crossings"] == [crossings[0].to_dict()]
    assert lines(crossings)[-1] in describe(measured, Live("gloo", "CPU processes", 4, (), ()))
