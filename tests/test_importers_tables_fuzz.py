"""Damaged tables and benchmark outputs are read or refused in words, and no result of them is lost."""

import random

import pytest
import test_importers_aiter as aiter
import test_importers_engines as engines
import test_importers_headers as headers
import test_importers_nvidia as nvidia
import test_importers_pasted as pasted
import test_importers_profile_forms as profiles
import test_importers_tables as tables
from fuzzing import ROUNDS, check_import, damaged

SWEEP = aiter.sweep(
    (8, 8, 7168, "graph", [(11.2, 55), (12.3, 55), (17.1, 55), (31.2, 51), (9.9, 54), (9.7, 54)]),
    (
        4,
        512,
        7168,
        "eager",
        [(0, 0), (82.3, 35.0), (97.1, "inf"), (131.2, "nan"), (0, 0), (59, 54)],
    ),
)
INPUTS = {
    "table": tables.FORMS, "aiter": aiter.INPUTS, "sglang": engines.SGLANG, "vllm": engines.VLLM,
    "flashinfer": nvidia.FLASHINFER, "trtllm": nvidia.TRTLLM,
}  # fmt: skip
FUSED = {"op": "fused_ar_rmsnorm", "algorithm": "1stage"}
SHAPE = {"world_size": "8", "hidden_dim": "7168"}
#: What the cases leave out; the other inputs stand with what they leave out.
SAID = {
    "pr-shape-mu.md": FUSED, "pr-tp-heading.md": FUSED, "pr-unit-in-cells.md": SHAPE,
    "simple-two-arm.md": SHAPE,
}  # fmt: skip
CASES = [path for path in sorted(tables.CASES.glob("*"))
         if path.name.startswith(("aiter", "pr-", "sglang", "simple", "vllm"))]  # fmt: skip
#: Text and options by name.
SAMPLES = {
    **{path.name: (path.read_text(), SAID.get(path.name, {})) for path in CASES},
    **{f"{of}: {name}": (row[0], row[1] if isinstance(row[1], dict) else {})
       for of, inputs in INPUTS.items() for name, row in inputs.items()},
    **{f"levels: {name}": (headers.ON + text, {}) for name, text in headers.TWO_LEVELS.items()},
    **{f"turned: {name}": (headers.AT_8 + text, {}) for name, text in headers.TURNED.items()},
    **{f"drawn: {name}": (headers.AT_8 + text, {}) for name, text in headers.DRAWN.items()},
    **{f"pasted: {name}": (row[0], row[1]) for name, row in pasted.PASTED.items()},
    **{f"profiles: {name}": (row[0], {"gpu": "MI300X"})
       for name, row in profiles.STATISTICS.items()},
    "profiles: collectives": (
        f'{{"traceEvents": [{profiles.rccl("allreduce", 8192)}, {profiles.rccl("gather", 1)}]}}', {}
    ),
    "flydsl: sweep": (SWEEP, {"gpu": "MI325X"}),
    "flydsl: report": (aiter.REPORT, {}),
}  # fmt: skip


@pytest.mark.campaign
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_tables_are_read_or_refused_in_one_line(name, tmp_path, capsys):
    rng = random.Random(f"tables {name}")
    path, out = tmp_path / "damaged", tmp_path / "out.csv"
    text, said = SAMPLES[name]
    options = [word for k, v in said.items() for word in (f"--{k.replace('_', '-')}", v)]
    path.write_text(text)
    assert check_import(path, out, capsys, *options)
    for _ in range(max(ROUNDS // 4, 1)):
        path.write_bytes(damaged(text.encode(), rng))
        check_import(path, out, capsys)
        check_import(path, out, capsys, *options, "--unit", "us")


def test_a_damaged_cell_changes_no_other_line(tmp_path, capsys):
    """Each line of a table is accounted for, whatever one cell of one line holds."""
    rng = random.Random("cells")
    head = "tokens,hidden,tp,dtype,fused_1stage_us,fused_2stage_us"
    lines = [f"{m},7168,8,bf16,{m + 9}.5,{m + 8}.5" for m in range(1, 21)]
    path = tmp_path / "damaged"
    for _ in range(ROUNDS):
        at, cell = rng.randrange(len(lines)), rng.randrange(6)
        cells = lines[at].split(",")
        cells[cell] = rng.choice(
            ("", "x", "-1", "9" * 400, "{0}", "nan", "1e400", "<b>", "| a", "µ")
        )
        path.write_text("\n".join([head, *lines[:at], ",".join(cells), *lines[at + 1 :]]) + "\n")
        read, left = check_import(path, tmp_path / "out.csv", capsys)
        assert read + left == 2 * len(lines)
        assert read >= 2 * len(lines) - 2
