"""Damaged files of the collective tests and of the link benchmarks are read or refused in words."""

import random
import re

import pytest
import test_importers_collective as collective
import test_importers_links as links
from fuzzing import ROUNDS, check_import, damaged

SAMPLES = {
    **{path.name: path.read_text() for path in sorted(collective.CASES.glob("*"))
       if path.name.startswith(("nccl", "rccl"))},
    "2017": collective.Y2017,
    "broadcast": collective.Y2019_BROADCAST,
    "ranks-a-gpu": collective.RANKS_A_GPU,
    "per-iteration": collective.PER_ITERATION,
    "hip-events": collective.HIP_EVENTS,
    "csv": collective.CSV,
    "report": collective.json.dumps(collective.report(), indent=1),
    "transfers": links.TEST,
    "all-to-all": links.A2A,
    "peer-to-peer": links.P2P,
    "scaling": links.SCALING,
    "old-csv": links.OLD_CSV,
    "matrix": links.MATRIX.format(way="Uni"),
    "by-size": links.BY_SIZE.format(way="Uni", src=1, kind="Gpu"),
    "tuner": links.PERFORMANCE,
}  # fmt: skip


@pytest.mark.campaign
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files_are_read_or_refused_in_one_line(name, tmp_path, capsys):
    rng = random.Random(f"importers {name}")
    path = tmp_path / "damaged"
    fared = set()
    for _ in range(ROUNDS):
        content = damaged(SAMPLES[name].encode(), rng)
        path.write_bytes(content)
        told = check_import(path, tmp_path / "out.csv", capsys, "--gpu", "MI355X", "--tp", "8") or (
            check_import(path, tmp_path / "out.csv", capsys)
        )
        fared.add(told is not None)
        if told and b"#wrong" in content:  # no line of results is lost
            text = content.decode(errors="replace").replace("\r", "\n")
            lines = re.findall(r"^\s*\d+\s+\d+ +[a-z]\w*(?:\s|$)", text, re.MULTILINE)
            assert sum(told) >= len(lines)
    assert True in fared  # the sample itself is one that is read
