from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import on_fabric
from costmodel.calibration.posterior import shipped
from costmodel.data.measurement import Measurements, concat
from costmodel.model.fabric import FULL_MESH


def test_every_published_row_is_used_or_named(published):
    found = observe(published)
    assert len(found) + sum(found.set_aside.values()) == found.read == 1848
    assert len(found) == 205
    assert found.set_aside["quality is noisy"] == 10
    assert set(found.table.quality) == {"clean"}


def test_noisy_rows_come_in_only_when_asked(published):
    more = observe(published, include=("clean", "noisy"))
    assert len(more) == len(observe(published)) + 10
    assert "quality is noisy" not in more.set_aside


def test_the_rows_of_one_fabric_and_why_the_others_are_not_used(published, row):
    switch = Measurements.from_rows([row | {"interconnect": "nvlink", "source": "a"}])
    found = observe(concat([switch, published.select(published.interconnect == "xgmi")]))
    mesh = on_fabric(found, FULL_MESH)
    assert set(mesh.table.interconnect) == {"xgmi"}
    assert mesh.set_aside == found.set_aside | {"another fabric": 1}
    assert len(mesh) + sum(mesh.set_aside.values()) == mesh.read == found.read
    alone = observe(mesh.table)
    assert mesh.algorithm.tolist() == alone.algorithm.tolist()
    assert mesh.harness.tolist() == alone.harness.tolist()
    np.testing.assert_array_equal(mesh.size_bytes, alone.size_bytes)
    assert on_fabric(mesh, FULL_MESH) is mesh


def test_groups_cover_each_row_once(published):
    found = observe(published)
    rows = np.concatenate([g.rows for g in found.groups])
    assert sorted(rows.tolist()) == list(range(len(found)))


def test_the_library_s_own_choice_is_resolved_by_its_dispatch(published):
    found = observe(published)
    vllm = found.table.source == "vllm-19744"
    below = found.table.bytes[vllm] < 512 * 1024
    assert (found.algorithm[vllm] == np.where(below, "1stage", "2stage")).all()
    two_ranks = found.table.world_size == 2
    assert set(found.algorithm[two_ranks]) == {"1stage"}


def test_a_source_with_two_gpus_has_two_harness_constants(published):
    found = observe(published)
    keys = set(found.harness[found.table.source == "aiter-1880"])
    assert keys == {"aiter-1880/aiter/MI308X", "aiter-1880/aiter/MI325X"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"op": "fused_ar_mhc"}, "op not modelled"),
        ({"kernel_family": "rccl"}, "kernel family not modelled"),
        ({"kernel_family": ""}, "kernel family not stated"),
        ({"gpu": ""}, "GPU not stated"),
        ({"world_size": 16}, "world size not 2, 4 or 8"),
        ({"world_size": ""}, "world size not stated"),
        ({"tokens": "", "bytes": ""}, "size not stated"),
        ({"tokens": ""}, "tokens or hidden_dim not stated"),
        ({"quality": "suspect"}, "quality is suspect"),
        ({"algorithm": "auto"}, "algorithm not stated"),
        ({"interconnect": "gloo"}, "interconnect not modelled"),
        ({"interconnect": "nvlink/1"}, "interconnect not modelled"),
        ({"interconnect": "nvlink/8"}, "ranks do not split evenly over the GPUs"),
        ({"interconnect": "loopback"}, "kernel on this interconnect"),
        ({"kernel_family": "costmodel"}, "kernel on this interconnect"),
        ({"dtype": "fp8_e4m3"}, "dtype not modelled"),
    ],
)
def test_reasons_for_setting_a_row_aside(row, change, why):
    found = observe(Measurements.from_rows([row | change]))
    assert found.set_aside == {why: 1}
    assert len(found) == 0


def test_one_arch_only(published):
    found = observe(published, arch="gfx950")
    assert set(found.table.arch) == {"gfx950"}
    assert found.set_aside["another arch"] > 0


def test_rows_of_ranks_split_over_gpus_are_modelled_as_such(row):
    rows = [row | {"interconnect": i} for i in ("xgmi", "nvlink", "nvlink/2")]
    found = observe(Measurements.from_rows(rows))
    assert [g.model.fabric for g in found.groups] == ["full_mesh", "switch", "split_2"]
    (mesh,), (switch,), (split,) = (g.latency(shipped("gfx942").values) for g in found.groups)
    assert mesh < switch < split  # 1, 3 and 4 pairs of the 4 ranks over the narrowest
