"""CI's rule that a skipped test fails, on test files of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "mark": "@pytest.mark.skipif(True, reason={0!r})\ndef test_it(): pass\n",
    "call": "def test_it(): pytest.skip({0!r})\n",
    "fixture": "@pytest.fixture\ndef gone(): pytest.skip({0!r})\ndef test_it(gone): pass\n",
    "module": "pytest.importorskip('nowhere', reason={0!r})\ndef test_it(): pass\n",
}


def run(folder, text, workers, **environment):
    (folder / "test_one.py").write_text(f"import pytest\n{text}\ndef test_other(): pass\n")
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers, "test_one.py"],
        cwd=folder, env={**os.environ, "CI": "", "PYTEST_ADDOPTS": ""} | environment,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("how", SKIPS)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skip_fails_in_ci_and_says_why(tmp_path, how, workers):
    done = run(tmp_path, SKIPS[how].format("no browser"), workers, CI="true")
    assert done.returncode in (1, 2), done.stdout
    assert "a test may not be skipped in CI: Skipped: no browser" in done.stdout


def test_elsewhere_and_for_a_listed_reason_it_is_a_skip(tmp_path):
    assert run(tmp_path, SKIPS["call"].format("no browser"), "0").returncode == 0
    listed = SKIPS["mark"].format("needs a CUDA or ROCm GPU")
    done = run(tmp_path, listed, "0", CI="true")
    assert done.returncode == 0
    assert "1 passed, 1 skipped" in done.stdout
