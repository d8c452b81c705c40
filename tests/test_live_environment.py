"""The environment record: whose variables are whose."""

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
