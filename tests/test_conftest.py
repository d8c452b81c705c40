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


def run(folder, texts, workers="0", *options, **environment):
    """Run test files of their own with this suite's conftest; each has one more test, that passes."""
    for i, text in enumerate(texts):
        (folder / f"test_{i}.py").write_text(f"import pytest\n{text}\ndef test_other(): pass\n")
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers, *options, folder],
        cwd=folder, env={**os.environ, "CI": "", "PYTEST_ADDOPTS": ""} | environment,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skip_fails_in_ci_and_says_why(tmp_path, workers):
    texts = [skip.format(f"no browser for {how}") for how, skip in SKIPS.items()]
    done = run(tmp_path, texts, workers, "--continue-on-collection-errors", CI="true")
    assert done.returncode == 1, done.stdout
    for how in SKIPS:
        said = f"a test may not be skipped in CI: Skipped: no browser for {how}"
        assert said in done.stdout, done.stdout
    # The module that skips itself is not collected, and leaves no other test.
    assert "3 passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_elsewhere_and_for_a_listed_reason_it_is_a_skip(tmp_path):
    texts = [skip.format("no browser") for skip in SKIPS.values()]
    elsewhere = run(tmp_path, texts)
    assert elsewhere.returncode == 0
    assert "3 passed, 4 skipped" in elsewhere.stdout
    listed = [skip.format("needs a CUDA or ROCm GPU") for skip in SKIPS.values()]
    done = run(tmp_path, listed, CI="true")
    assert done.returncode == 0
    assert "3 passed, 4 skipped" in done.stdout
