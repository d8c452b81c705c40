"""Patches after which engines ask a run-time table: what they change, and what they leave."""

from __future__ import annotations

import ast
import difflib
import itertools
import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from click.testing import CliRunner
from emitted import PROVENANCE, RULES, apply, emit, random_calls, rule_says, tools
from engines.shapes import SHAPES, Shape
from ranks import together
from test_emit_style import formatted

from costmodel.cli.main import cli, main
from costmodel.data import kernels
from costmodel.engines import consultation_tests, patch
from costmodel.engines.audit import audit
from costmodel.engines.call_sites import serving_engine
from costmodel.engines.consultation import consult
from costmodel.engines.consulted import calls
from costmodel.engines.module import Module
from costmodel.engines.source import open_trees
from costmodel.engines.stand_in import decider
from costmodel.errors import InputError
from costmodel.model.shape import WORLD_SIZES
from costmodel.rules import catalogue, table

COMMAND = "costmodel emit --runtime-table --for any"
FUSED = "fused_ar_rmsnorm"
NAME = f"{table.FOLDER}/{table.file_name('AMD_Instinct_MI300X')}"


def consulting(root, version=kernels.LATEST, *, fills=False):
    (tree,) = open_trees(root)
    return consult(tree, kernels.aiter(version), COMMAND, fills=fills)


def put(root, made):
    apply(made.text, root, "patch")
    for name, text in made.patched.items():
        assert (root / name).read_text() == text


def said(place, text, size, calls):
    """Return what a function decides with an entry for its op; None where it runs no kernel."""
    given = {"_tuned_max_size": lambda comm, op, dtype, hidden: size if op == place.op else None}
    decide, out = decider(text, place.function, given=given), []
    for call in calls:
        try:
            out.append(decide(*call))
        except AssertionError as error:
            assert "Error(" not in str(error), error
            out.append(None)
    return out


@pytest.mark.parametrize("version", ["0.1.11", "0.1.20"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_entry_decides_inside_the_guards_and_nothing_changes_without(shape, version, tmp_path):
    made = consulting(SHAPES[shape].package(tmp_path), version)
    calls = [(*c[:4], True) for c in random_calls(250)]
    assert made.done == made.places
    for place in made.done:
        for size in (None, 0, 131072, table.MOST_BYTES):
            sizes = {} if size is None else dict.fromkeys(WORLD_SIZES, size)
            decisions = said(place, made.patched[place.file], size, calls)
            wanted = rule_says(place.with_bytes(sizes), calls)
            assert all(d in (None, w) for d, w in zip(decisions, wanted, strict=True))
            assert sum(d is not None for d in decisions) > 100
        before = said(place, (tmp_path / place.file).read_text(), None, calls)
        assert said(place, made.patched[place.file], None, calls) == before


@pytest.mark.parametrize("shape", SHAPES)
def test_no_entry_chooses_what_the_kernel_does_not_take(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    for version in ("0.1.11", "0.1.16"):
        made = consulting(root, version)
        for place in made.done:
            calls = [(8, "bf16", h, 81 * h, True) for h in (512, 2880)]
            calls += [(8, "bf16", 8200, 8200, True), (8, "bf16", 2884, 2884, True)]
            calls += [(8, "bf16", 2880, 2880, True)] if version == "0.1.11" else []
            text = made.patched[place.file]
            assert not any(said(place, text, table.MOST_BYTES, calls)), (version, place.function)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_applies_stays_as_it_is_and_comes_out_again(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path / "site")
    before = {f: f.read_bytes() for f in root.rglob("*.py")}
    made = consulting(root)
    for tool in tools():
        fresh = SHAPES[shape].package(tmp_path / tool)
        apply(made.text, fresh, tool)
        assert all((fresh / name).read_text() == t for name, t in made.patched.items())
    gone = [x for x in made.text.splitlines() if x[:1] == "-" and x[:3] != "---"]
    # Only a decision that stood inside a call gets a name, on a line of its own.
    assert len(gone) == (shape == "vllm_inline")
    put(root, made)
    assert consulting(root).text == ""
    (tree,) = open_trees(root)
    apply(patch.revert(tree, FUSED), root, "patch")
    assert {f: f.read_bytes() for f in root.rglob("*.py")} == before


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rule_and_a_table_take_each_others_place(shape, tmp_path):
    once, twice = SHAPES[shape].package(tmp_path / "1"), SHAPES[shape].package(tmp_path / "2")
    alone, rule = consulting(once), emit(once, RULES["recommended"])
    apply(emit(twice, RULES["strict"]).text, twice, "patch")
    put(twice, consulting(twice))
    assert consulting(twice).patched == alone.patched
    apply(emit(twice, RULES["recommended"]).text, twice, "patch")
    assert (twice / rule.file).read_text() == rule.patched
    assert "_tuned_max_size" not in rule.patched


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_short_and_formatted(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path)
    for file in root.rglob("*.py"):
        file.write_text(formatted(file.read_text(), tmp_path))
    (before,) = {p.file: (root / p.file).read_text() for p in consulting(root).places}.values()
    for fills in (True, False):
        (text,) = consulting(root, fills=fills).patched.values()
        assert formatted(text, tmp_path) == text
    tree = ast.parse(text)
    reading = next(n for n in tree.body if getattr(n, "name", "") == "_tuned_max_size")
    del reading.body[0]  # what it says of itself
    lines = len(code_lines(tree)) - len(code_lines(ast.parse(before)))
    # The small sources lack what every engine's file has: torch, a logger.
    lacking = sum(f"\n    import {name}\n" in text for name in ("torch", "logging"))
    assert lines < 50 + lacking + 4 * (len(calls(Module.parse("x.py", text))) - 1)


def code_lines(tree):
    return [line for line in ast.unparse(tree).splitlines() if line.strip()]


def test_changed_lines_are_not_taken_out(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    made = consulting(root)
    put(root, made)
    (name,) = made.patched
    file = root / name
    file.write_text(file.read_text().replace("<= tuned", "< tuned", 1))
    (tree,) = open_trees(root)
    with pytest.raises(InputError, match="were changed since"):
        patch.revert(tree, FUSED)


def test_a_choice_without_bytes_is_listed_and_not_patched(tmp_path):
    made = SHAPES["aiter_limit"]
    root = made.package(tmp_path)
    file = root / "aiter" / made.files[0][0]
    file.write_text(
        file.read_text()
        + "\n    def fused_allreduce_rmsnorm_mxfp4_quant(self, input_, res, w, eps):\n"
        "        tokens = input_.numel() // input_.shape[-1]\n"
        "        return self.ca_comm.quant(input_, res, w, eps, use_1stage=tokens <= 4)\n"
    )
    places = consulting(root).places
    assert [p.adapted is None for p in places] == [False, True]
    assert "looked for a choice by bytes (it chooses by tokens <= 4)" in places[1].wrong


def test_a_function_that_cannot_be_patched_is_an_error_that_says_why(tmp_path):
    root = SHAPES["aiter_limit"].package(tmp_path)
    (file,) = root.rglob("communicator_cuda.py")
    file.write_text(file.read_text().replace("use_1stage = total", "pass; use_1stage = total"))
    with pytest.raises(InputError, match="looked for a decision on lines of its own"):
        consulting(root)


def emitted_tests(tmp_path, shape, *, fills=False):
    made = SHAPES[shape]
    root = made.package(tmp_path / "site")
    done = consulting(root, fills=fills)
    put(root, done)
    file = tmp_path / "test_table.py"
    file.write_text(consultation_tests.render(done, serving_engine(made.engine), str(root)))
    return root, file, done


def passes(file):
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("shape", ["sglang_bytes", "vllm_method", "aiter_forced"])
def test_the_emitted_tests_pass(shape, tmp_path):
    _, file, _ = emitted_tests(tmp_path, shape)
    passed, output = passes(file)
    assert passed, output
    assert "13 tests of the table: all as they should be" in output


@pytest.mark.parametrize("shape", ["sglang_bytes", "vllm_method", "aiter_forced"])
def test_the_emitted_tests_of_a_start_up_pass(shape, tmp_path):
    _, file, _ = emitted_tests(tmp_path, shape, fills=True)
    passed, output = passes(file)
    assert passed, output
    assert "15 tests of the table: all as they should be" in output


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if all(ranks):", "if any(ranks):"),
        ("table=configs, ", ""),
        ("comm, [hidden], ", "comm, [4096], "),
    ],
)
def test_a_slip_in_the_start_up_fails_the_emitted_tests(old, new, tmp_path):
    root, file, made = emitted_tests(tmp_path, "sglang_bytes", fills=True)
    (name,) = made.patched
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))
    assert not passes(file)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_start_up_only_fills_what_is_asked_anyway(shape, tmp_path):
    root = SHAPES[shape].package(tmp_path / "site")
    before = {f: f.read_bytes() for f in root.rglob("*.py")}
    plain, made = consulting(root), consulting(root, fills=True)
    for name, text in made.patched.items():
        # Beside the marks that undo them, the two differ by the lines that tune alone.
        bare = [
            [x for x in t.splitlines() if not x.startswith("# ")]
            for t in (plain.patched[name], text)
        ]
        changed = [x for x in difflib.ndiff(*bare) if x[0] in "+-"]
        assert len(changed) == 12
        assert all(x[0] == "+" for x in changed)
        assert (
            sum("tune(comm.group, comm, [hidden], table=configs" in line for line in changed) == 1
        )
    put(root, made)
    assert consulting(root, fills=True).text == ""
    put(root, consulting(root))
    assert consulting(root).patched == plain.patched
    put(root, consulting(root, fills=True))
    (tree,) = open_trees(root)
    apply(patch.revert(tree, FUSED), root, "patch")
    assert {f: f.read_bytes() for f in root.rglob("*.py")} == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("total_bytes <= tuned", "total_bytes < tuned"),
        ("if tuned is not None:", "if tuned:"),
        ("// 16 <= 1024", "// 16 <= 1025"),
        ("running < release(before", "running <= release(before"),
        ("release(first) <= running", "release(first) < running"),
        ("or torch.compiler.is_compiling()", "or False"),
        ('[entry["arch"], entry["fabric"], entry', "[*here[:2], entry"),
        ("0 <= most <= 67108864", "most <= 67108864"),
        ("except Exception as error", "except KeyError as error"),
        ("if any(rank != ranks[0] for rank in ranks)", "if False"),
        ('[table["schema"]]:', '.get(table["schema"], table["entries"]):'),
        ("[] if tuned else None", "None"),
        ("map(int, held)", "held"),
        ("sizes.get((op, dtype, hidden), ", "sizes.get((op, dtype, 2880), "),
        ("first is not None", "True"),
    ],
)
def test_a_slip_fails_the_emitted_tests(old, new, tmp_path):
    root, file, made = emitted_tests(tmp_path, "sglang_bytes")
    (name,) = made.patched
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stdout


_RANK = """
import importlib.metadata, json, logging, sys
from types import SimpleNamespace
import torch, torch.distributed as dist

rank, init, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
gpu = SimpleNamespace(name="AMD Instinct MI300X", gcnArchName="gfx942:sramecc+")
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_properties = lambda device: gpu
importlib.metadata.version = lambda name: "0.1.18"
logging.basicConfig(level="INFO", format="%(message)s")
names = {"__file__": file, "torch": torch}
exec(sys.stdin.read(), names)
comm = SimpleNamespace(group=dist.group.WORLD, world_size=2, fully_connected=True)
asked = [names["_tuned_max_size"](comm, "fused_ar_rmsnorm", torch.bfloat16, 2880) for _ in range(3)]
print(json.dumps(asked))
"""


@pytest.mark.parametrize(("second", "wanted"), [(4096, 4096), (8192, None), (None, None)])
def test_two_ranks_of_torch_decide_alike(second, wanted, tmp_path):
    pytest.importorskip("torch", reason="ranks talk by torch's gloo")
    (text,) = consulting(SHAPES["vllm_method"].package(tmp_path / "site")).patched.values()
    node = next(n for n in ast.parse(text).body if getattr(n, "name", "") == "_tuned_max_size")
    code = ast.get_source_segment(text, node).replace("/sys/class/kfd/kfd", str(tmp_path / "kfd"))
    link = tmp_path / "kfd/topology/nodes/1/io_links/0/properties"
    link.parent.mkdir(parents=True)
    link.write_text("type 11\n")
    entry = {"arch": "gfx942", "fabric": "xgmi", "world_size": 2, "op": FUSED, "dtype": "bfloat16",
             "aiter_from": "0.1.17", "aiter_before": None}  # fmt: skip
    each = []
    for rank, size in enumerate((4096, second)):
        file = tmp_path / str(rank) / NAME
        file.parent.mkdir(parents=True)
        if size is not None:
            whole = {"schema": "costmodel/table/1", "entries": [{**entry, "max_bytes": size}]}
            file.write_text(json.dumps(whole))
        each.append((str(rank), f"file://{tmp_path}/meet", str(file.parents[1] / "engine.py")))
    outputs = together(_RANK, *each, given=code, timeout=120)
    for out, errors in outputs:
        assert json.loads(out) == [wanted] * 3, errors
    lines = [x for _, errors in outputs for x in errors.splitlines() if "tuned 1-stage" in x]
    assert len(lines) == 1
    assert ("not used" in lines[0]) == (wanted is None)


_STARTING = """
import importlib.metadata, json, logging, os, sys
from types import SimpleNamespace
import torch, torch.distributed as dist

rank, init, file, case = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
gpu = SimpleNamespace(name="AMD Instinct MI355X", gcnArchName="gfx950:sramecc+")
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_properties = lambda device: gpu
importlib.metadata.version = lambda name: "0.1.20.post1"
logging.basicConfig(level="INFO", format="%(message)s")
if case == "one-lacks" and rank:
    sys.modules["costmodel.live"] = None
else:
    import costmodel.live.startup.tune  # an engine waits for no import
if case in ("calls", "one-lacks"):
    # The communicator's own calls, over gloo: no machine that the model covers.
    def custom_fused_ar_rms(input, residual, weight, eps, use_1stage):
        dist.all_reduce(input)
        return input, residual
    comm = SimpleNamespace(custom_fused_ar_rms=custom_fused_ar_rms, device="cpu")
else:
    # A stated model in the place of the machine.
    from costmodel.live.backends.replay import ReplayBackend
    os.environ["COSTMODEL_REPLAY"] = "MI355X:17"
    comm = ReplayBackend(2)
    comm.genuine = True
    comm.set_up()
comm.group, comm.world_size, comm.fully_connected = dist.group.WORLD, 2, True
names = {"__file__": file, "torch": torch}
exec(sys.stdin.read(), names)
dist.barrier()
asked = [names["_tuned_max_size"](comm, "fused_ar_rmsnorm", torch.bfloat16, 2880) for _ in range(3)]
print(json.dumps(asked))
dist.barrier()
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("shape", ["sglang_bytes", "vllm_method"])
def test_ranks_of_an_engine_tune_at_their_start_up(shape, tmp_path):
    pytest.importorskip("torch", reason="ranks talk by torch's gloo")
    made = consulting(SHAPES[shape].package(tmp_path / "site"), fills=True)
    (text,) = made.patched.values()
    node = next(n for n in ast.parse(text).body if getattr(n, "name", "") == "_tuned_max_size")
    code = ast.get_source_segment(text, node).replace("/sys/class/kfd/kfd", str(tmp_path / "kfd"))
    link = tmp_path / "kfd/topology/nodes/1/io_links/0/properties"
    link.parent.mkdir(parents=True)
    link.write_text("type 11\n")
    name = table.file_name("AMD_Instinct_MI355X")

    meetings = itertools.count()

    def start(case):
        """Start two ranks beside the patched file; return what they decide, and their logs."""
        file = tmp_path / "engine" / "engine.py"
        file.parent.mkdir(exist_ok=True)
        args = (f"file://{tmp_path}/meet-{next(meetings)}", str(file), case)
        outputs = together(_STARTING, ("0", *args), ("1", *args), given=code, timeout=120)
        assert all(out for out, _ in outputs), outputs
        return [json.loads(out) for out, _ in outputs], outputs[0][1] + outputs[1][1]

    file = tmp_path / "engine" / table.FOLDER / name
    # Nothing can be learnt: the engine's own rule, and no file.
    decided, said = start("calls")
    assert decided == [[None] * 3] * 2, said
    assert said.count("the engine's own rule stays") == 1, said
    assert not file.exists()
    decided, said = start("one-lacks")
    assert decided == [[None] * 3] * 2, said
    assert "costmodel:" not in said
    # 1-stage at every size is what two ranks of this machine want.
    decided, said = start("stated")
    assert decided == [[table.MOST_BYTES] * 3] * 2, said
    assert said.count(f"; kept in {file.parent}") == 1, said
    record = table.load(file)
    assert record["entries"][0]["machine"]["kernel_state"].startswith("AITER 0.1.20.post1")
    # The next start finds it, and decides alike.
    decided, said = start("again")
    assert decided == [[table.MOST_BYTES] * 3] * 2, said
    assert f"found in {file.parent}" in said, said
    # Of another machine, where nothing can be learnt anew, it is a miss with a word.
    record["entries"][0]["machine"]["driver"] = "another"
    file.write_text(json.dumps(record))
    for case in ("calls", "one-lacks"):
        decided, said = start(case)
        assert decided == [[None] * 3] * 2, said
        assert "what was tuned there is not of this start" in said, said


def run(*args):
    return CliRunner().invoke(cli, ["emit", *map(str, args)])


def test_patch_tests_and_table_from_the_command_line(tmp_path):
    site = SHAPES["sglang_bytes"].package(tmp_path / "site")
    files = {k: tmp_path / f"out.{k}" for k in ("patch", "py", "json")}
    done = run(
        "--for", "sglang", "--runtime-table", "--arch", "gfx942", "--source", site,
        "--out", files["patch"], "--tests", files["py"], "--table-out", files["json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = table.load(files["json"])
    assert [e["world_size"] for e in record["entries"]] == [2, 4, 8]
    assert record["command"] == "costmodel emit --for sglang --arch gfx942 --runtime-table"
    assert len(record["calibration"]["sha256"]) == 64
    text = files["patch"].read_text()
    where = f"sglang/srt/distributed/{NAME}"
    assert where in text
    assert "asks the table, fused_ar_rmsnorm_quant_fp8:" in text
    assert "Reproduce: costmodel emit --runtime-table --for sglang\n" in text
    apply(text, site, "patch")
    assert passes(files["py"])[0]

    (tree,) = open_trees(site)
    (found,) = audit(tree).consulted
    assert [(function.split(".")[-1], op) for function, _, op in found.calls] == [
        ("fused_allreduce_rmsnorm", FUSED),
        ("fused_allreduce_rmsnorm_quant_per_group", "fused_ar_rmsnorm_quant_fp8"),
    ]
    assert found.tables == ()
    (site / where).parent.mkdir()
    shutil.copy(files["json"], site / where)
    other = (site / where).with_name(table.file_name("AMD_Instinct_MI325X"))
    other.write_text("{")
    done = CliRunner().invoke(cli, ["audit", str(site)])
    assert "asks a run-time table before these rules" in done.output
    assert (
        "gfx942, xgmi, TP8, fused_ar_rmsnorm, bfloat16, AITER 0.1.19.post1 and later" in done.output
    )
    assert "MI325X.json: truncated or not JSON" in done.output
    assert "the same as rule 'sglang-128k'" in done.output, "what holds without an entry"
    record = json.loads(CliRunner().invoke(cli, ["audit", str(site), "--format", "json"]).output)
    (one,) = record["consultations"]
    assert one["tables"][0]["table"]["device_name"] == "AMD_Instinct_MI300X"
    assert one["tables"][1]["table"] is None


@pytest.mark.parametrize(("engine", "shape"), [("sglang", "sglang_bytes"), ("vllm", "vllm_copies")])
def test_a_start_up_from_the_command_line(engine, shape, tmp_path):
    site = SHAPES[shape].package(tmp_path / "site")
    patch_file, tests = tmp_path / "runtime.patch", tmp_path / "test_runtime.py"
    done = run(
        "--for", engine, "--runtime", "--source", site, "--out", patch_file, "--tests", tests
    )
    assert done.exit_code == 0, done.output
    assert "at a communicator's first call the engine tunes with costmodel" in done.output
    text = patch_file.read_text()
    assert f"Reproduce: costmodel emit --runtime --for {engine}" in text
    assert "by no engine on a GPU" in " ".join(text.split())
    apply(text, site, "patch")
    assert passes(tests)[0]
    done = run("--for", engine, "--runtime", "--source", site)
    assert "the table is already asked; the diff is empty" in done.output
    assert run("--for", engine, "--runtime").exit_code == 0  # the snippet
    for wrong in (["--for", "env", "--runtime"], ["--for", engine, "--runtime", "--hidden-set"]):
        done = CliRunner().invoke(cli, ["emit", *wrong])
        assert "--runtime goes with --for sglang, vllm, aiter, not " in str(done.exception)


def test_tables_are_found_in_a_wheel_too(tmp_path):
    root = SHAPES["vllm_method"].package(tmp_path / "site")
    files = dict(SHAPES["vllm_method"].contents())
    (name, text), *_ = consulting(root).patched.items()
    inside = name.removeprefix("vllm/")
    wheel = SHAPES["vllm_method"].wheel(tmp_path / "w")
    with zipfile.ZipFile(wheel, "w") as archive:
        folder = inside.rpartition("/")[0]
        for file, content in {**files, inside: text, f"{folder}/{NAME}": "[]"}.items():
            archive.writestr(f"vllm/{file}", content)
    (tree,) = open_trees(wheel)
    (found,) = audit(tree).consulted
    assert [t.file for t in found.tables] == [f"vllm/{folder}/{NAME}"]


@pytest.mark.parametrize("engine", ["sglang", "vllm", "aiter"])
def test_a_snippet_where_there_is_no_source(engine, tmp_path):
    done = run("--for", engine, "--runtime-table")
    assert done.exit_code == 0
    assert "def _tuned_max_size(comm, op, dtype, hidden):" in done.output
    assert "Undo" not in done.output
    assert ".dtype, " in done.output.split("# Before the class:")[1]


def test_a_rule_of_the_field_in_a_table(tmp_path):
    file = tmp_path / "t.json"
    done = run("--for", "vllm", "--runtime-table", "--rule", "vllm-57886", "--gpu", "MI355X",
               "--table-out", file, "--out", tmp_path / "p")  # fmt: skip
    assert done.exit_code == 0, done.output
    record = table.load(file)
    assert {e["world_size"]: e["max_bytes"] for e in record["entries"]} == {
        2: table.MOST_BYTES, 4: 320 * 1024 - 1, 8: 192 * 1024 - 1,
    }  # fmt: skip
    assert {e["arch"] for e in record["entries"]} == {"gfx950"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--for", "env", "--runtime-table"], "--runtime-table goes with --for sglang, vllm, aiter"),
        (["--for", "vllm", "--table-out", "t.json"], "--table-out goes with --runtime-table"),
        (["--for", "vllm", "--runtime-table", "--table-out", "t.json"], "give --arch"),
        (["--for", "vllm", "--runtime-table", "--rule", "vllm", "--table-out", "t.json"],
         "a table is for one GPU: give --arch or --gpu"),
        (["--for", "sglang", "--runtime-table", "--arch", "gfx942", "--hidden-set"], "not --hidden-set"),
        (["--for", "sglang", "--runtime-table", "--rule", "sglang-first", "--gpu", "MI300X",
          "--table-out", "t.json"], "emit it without --runtime-table"),
        (["--for", "sglang", "--runtime-table", "--arch", "gfx942", "--out", "t.json",
          "--table-out", "t.json"], "--out and --table-out name the same file t.json"),
        (["--for", "sglang", "--runtime-table", "--revert", "--source", "."], "takes any patch out"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["emit", *args])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_rule_that_is_the_engines_own_does_not_hide_behind_a_table(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path)
    put(root, consulting(root))
    with pytest.raises(InputError, match="emit --revert takes that out"):
        emit(root, catalogue.named("sglang"), PROVENANCE)


def test_every_copy_of_the_choice_asks(tmp_path):
    files = SHAPES["vllm_inline"].files
    made = consulting(Shape("vllm", "0.28.0", files, "", "").package(tmp_path))
    (text,) = made.patched.values()
    assert len(calls(Module.parse("x.py", text))) == 2
