"""What ranks are: whose variables are whose, and that all measure one program."""

import os
from pathlib import Path

import pytest
from ranks import torchrun

from costmodel.live.run import environment


def test_what_a_library_sets_is_not_the_users(monkeypatch):
    """AITER sets HIP_VISIBLE_DEVICES in its own start-up, where the user did not."""
    given = {"HSA_ENABLE_SDMA": "0", "HOME": "/home", "PYTORCH_HIP_ALLOC_CONF": "x:1"}
    monkeypatch.setattr(environment, "_GIVEN", given)
    monkeypatch.setattr("os.environ", {**given, "HIP_VISIBLE_DEVICES": "0,1"})
    monkeypatch.setattr(environment, "COMMANDS", {})
    record = environment.read_machine({})
    assert record["variables"] == {"HSA_ENABLE_SDMA": "0", "PYTORCH_HIP_ALLOC_CONF": "x:1"}
    assert record["variables_set_by_libraries"] == {"HIP_VISIBLE_DEVICES": "0,1"}


def test_nothing_is_said_where_libraries_set_nothing(monkeypatch):
    monkeypatch.setattr(environment, "_GIVEN", {"HIP_VISIBLE_DEVICES": "0"})
    monkeypatch.setattr("os.environ", {"HIP_VISIBLE_DEVICES": "0"})
    monkeypatch.setattr(environment, "COMMANDS", {})
    assert "variables_set_by_libraries" not in environment.read_machine({})


def test_what_a_tool_draws_on_a_terminal_is_no_part_of_the_record(tmp_path, monkeypatch):
    tool = tmp_path / "topology"
    tool.write_text("#!/bin/sh\nprintf '\\033[4mGPU0\\tGPU1\\033[0m\\n X\\tNV18\\007\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(environment, "COMMANDS", {"nvidia_topology": (str(tool),)})
    assert environment.read_machine({})["nvidia_topology"] == "GPU0\tGPU1\n X\tNV18"


OTHER = """
import os, runpy, sys
if os.environ.get("RANK") == "1":
    sys.path.insert(0, os.environ["OTHER_PACKAGES"])
runpy.run_module("costmodel", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("command", [("measure", "--tokens", "1"), ("tune",)])
def test_ranks_of_other_versions_are_one_line_and_nothing_is_measured(command, tmp_path):
    pytest.importorskip("torch", reason="the live back ends compute with torch")
    (tmp_path / "other.py").write_text(OTHER)
    for folder, version in (("here", "0.5.1"), ("there", "0.6.0")):
        package = tmp_path / folder / f"flashinfer-{version}.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text(f"Name: flashinfer\nVersion: {version}\n")
    out = tmp_path / "out"
    done = torchrun(
        2, tmp_path / "other.py", *command, "--backend", "gloo", "--tp", "2", "--hidden", "512",
        "--out", out, timeout=300,
        env={
            **os.environ, "PYTHONPATH": f"{tmp_path / 'here'}:{Path(__file__).parents[1]}",
            "OTHER_PACKAGES": str(tmp_path / "there"), "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("costmodel: ")]
    assert said == [
        "costmodel: error: ranks disagree on flashinfer: rank 0 has 0.5.1, rank 1 has 0.6.0; start "
        "all ranks in one environment"
    ]
    assert "exitcode  : 2" in done.stderr
    assert not list(out.rglob("samples.jsonl"))
