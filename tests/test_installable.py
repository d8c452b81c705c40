"""``measure`` runs where nothing is installed but torch, numpy, click and msgspec."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from costmodel.data import measurement

#: What the package's other commands need, and what its extras bring.
ABSENT = ("IPython", "ipywidgets", "jinja2", "kaleido", "pandas", "plotly", "scipy", "tqdm")

#: Python reads a module of this name when it starts, in the ranks that measure starts too.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_measure_needs_torch_numpy_click_and_msgspec_alone(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(absent=ABSENT))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    lacks = subprocess.run(
        [sys.executable, "-c", "import scipy"], capture_output=True, text=True, env=environment
    )
    assert "No module named 'scipy'" in lacks.stderr
    done = subprocess.run(
        [
            sys.executable, "-m", "costmodel", "measure", "--backend", "gloo", "--tp", "2",
            "--hidden", "1024", "--tokens", "1", "--rounds", "4", "--samples", "4",
            "--calls", "8", "--slots", "2", "--out", str(tmp_path / "run"),
        ],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = measurement.read_all([tmp_path / "run"])
    assert set(rows.algorithm.used) >= {"1stage", "2stage"}
