"""The short form of the fuzzing campaign (benchmarks/fuzz.py): some inputs of each kind.

More of them: COSTMODEL_FUZZ=3000 pytest tests/test_fuzz.py.
"""

from __future__ import annotations

import os
import shutil

import fuzz_targets
import pytest

#: Inputs of a target for each of its shares of the campaign.
EACH = max(int(os.environ.get("COSTMODEL_FUZZ", "60")) // 20, 1)


@pytest.mark.campaign
@pytest.mark.parametrize("target", fuzz_targets.TARGETS, ids=lambda t: t.__name__)
def test_hostile_inputs_end_with_an_answer_or_one_line(target, tmp_path):
    for number in range(EACH * fuzz_targets.TARGETS[target]):
        where = tmp_path / "here"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        _, call = fuzz_targets.run_one("short", number, where, target.__name__)
        try:
            call()
        except BaseException as error:
            error.add_note(f"fuzz_targets.run_one('short', {number}, where, '{target.__name__}')")
            raise
