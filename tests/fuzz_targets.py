"""What the fuzzing campaign attacks: each target makes one hostile input and checks what comes of it.

``benchmarks/fuzz.py`` runs them by the hundred thousand, ``test_fuzz.py`` a few of each. A target is
a function of a random generator and an empty directory; what it lets out is a fault. Whatever comes
in, it must end with an answer or with the documented error: no traceback, one error line of at most
500 characters, nothing printed that moves a terminal, no half-written file, no row lost.
"""

from __future__ import annotations

import copy
import csv
import functools
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
import numpy as np
import test_importers_fuzz
import test_importers_profiles
import test_importers_tables_fuzz
from engines.shapes import SHAPES
from fuzzing import ODD, damaged
from test_emit_mutated import mutated as mutated_source

import costmodel as cm
from costmodel.calibration.posterior import content_sha256
from costmodel.cli import main as entry
from costmodel.data import facts, importers, llms, measurement
from costmodel.data.deployment import Deployment
from costmodel.data.histogram import read_histogram
from costmodel.data.ranges import integers
from costmodel.errors import LONGEST
from costmodel.live.run.directory import RunDirectory
from costmodel.live.run.options import read_options
from costmodel.live.run.points import read_plan
from costmodel.rules import catalogue

CASES = Path(__file__).parent / "cases"
ODD_TEXT = [odd.decode("utf-8", "replace") for odd in ODD if len(odd) < 1000] + [
    "x" * 3000, "\u202e", "a\nb", "../../etc/passwd", "{0}", "%n", "-", "--", "--help", "NaN", "∞",
]  # fmt: skip
ODD_VALUES = [
    None, True, False, -1, 0, 1, 0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 2**31,
    2**63, 2**64, 10**400, [], {}, [[]], [None], {"a": 1}, [1, 2, 3], *ODD_TEXT,
]  # fmt: skip

#: Commands of which exit code 1 is a verdict.
VERDICTS = ("audit", "calibrate", "diff", "in-force", "validate")


# What must hold ----------------------------------------------------------------------------------


def command(*args):
    """Run the command line here; return (exit code, output, errors)."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    code = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            entry.main(list(args))
        except SystemExit as ended:
            code = ended.code
    out.flush(), err.flush()
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def check_error(line):
    assert len(line) <= LONGEST, f"an error line of {len(line)} characters"
    assert line.isprintable(), ascii(line)


def check_command(where, *args):
    """Run a command in ``where``; check how it ended and return (exit code, output)."""
    before = {p: p.stat().st_mtime_ns for p in where.rglob("*") if p.is_file()}
    here = os.getcwd()
    os.chdir(where)
    try:
        code, out, err = command(*args)
    finally:
        os.chdir(here)
    assert code in ((0, 1, 2) if args and args[0] in VERDICTS else (0, 2)), (code, err)
    assert "Traceback" not in out + err
    for line in out.split("\n"):
        assert line.replace("\t", " ").replace("\r", " ").isprintable() or _shown(line), ascii(line)
    if code == 2:
        lines = err.splitlines()
        assert lines, "no word about what is wrong"
        assert lines[-1].startswith("costmodel: error: "), lines[-1]
        check_error(lines[-1])
        after = {p: p.stat().st_mtime_ns for p in where.rglob("*") if p.is_file()}
        assert after == before, "a refusal left or changed a file"
    assert not [p.name for p in where.rglob(".costmodel-*")], "a temporary file was left"
    return code, out


def _shown(line):
    """Tell whether a line that is not printable has none but spaces of other languages."""
    return all(c.isprintable() or c in "\u00a0\u3000\u2009\u202f" for c in line)


def refused(call, *args, **kwargs):
    """Call a function of the library; return its answer, or None where it refused in one line."""
    try:
        return call(*args, **kwargs)
    except cm.InputError as error:
        assert str(error)
        return None


# Inputs ------------------------------------------------------------------------------------------


def edited(record, rng, times=None):
    """Return a copy of JSON data with a few odd changes, each somewhere in it."""
    record = json.loads(json.dumps(record))
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        places, waiting = [], [record]
        while waiting:
            here = waiting.pop()
            keys = list(here) if isinstance(here, dict) else range(len(here))
            for key in keys:
                places.append((here, key))
                if isinstance(here[key], dict | list):
                    waiting.append(here[key])
        if not places:
            break
        here, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind < 4:
            here[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        elif kind == 4:
            del here[key]
        elif kind == 5:
            other, at = rng.choice(places)
            with_key = json.loads(json.dumps(other[at])) if _there(other, at) else None
            here[key] = with_key
        elif kind == 6 and isinstance(here, dict):
            here[rng.choice(ODD_TEXT)] = here.pop(key)
        elif isinstance(here[key], int | float) and not isinstance(here[key], bool):
            factor = rng.choice((-1, 0, 1e-6, 1e6, 1e300, 2))
            # No float holds the largest of the odd integers; it is doubled instead.
            large = isinstance(here[key], int) and here[key].bit_length() > 1000
            here[key] *= 2 if large else factor
        elif isinstance(here, list):
            here.insert(0, here[key])
    return record


def _there(held, key):
    return key in held if isinstance(held, dict) else key < len(held)


def json_file(path, record, rng):
    """Write JSON, once in a while damaged as text too."""
    text = json.dumps(record, ensure_ascii=rng.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    path.write_bytes(damaged(content, rng) if rng.random() < 0.2 else content)
    return str(path)


@functools.cache
def tables():
    """Return the heads of the published tables, as bytes."""
    files = sorted(measurement.published_directory().rglob("*.csv"))
    return [b"\n".join(f.read_bytes().splitlines()[: 4 + 3 * (i % 6)]) for i, f in enumerate(files)]


def table(rng):
    content = rng.choice(tables())
    return damaged(content, rng) if rng.random() < 0.9 else content


@functools.cache
def calibrations():
    return [
        json.loads(facts.path(f"calibrations/{a}.json").read_text()) for a in ("gfx942", "gfx950")
    ]


def calibration(rng):
    """Return an edited calibration; half of them state the hash of what they hold."""
    record = edited(rng.choice(calibrations()), rng)
    if rng.random() < 0.5 and isinstance(record, dict):
        record["content_sha256"] = content_sha256(record)
    return record


@functools.cache
def rules():
    return [rule.to_json() for rule in catalogue.catalogue()] + [
        cm.Rule.from_cutoffs("mine", {2: None, 4: 458752, 8: 229376}).to_json()
    ]


CONFIG = {
    "_name_or_path": "openai/gpt-oss-120b", "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 36, "torch_dtype": "bfloat16",
    "num_attention_heads": 64, "num_local_experts": 128, "layer_types": ["full_attention"] * 36,
    "text_config": {"hidden_size": 2880, "num_hidden_layers": 36, "model_type": "gpt_oss_text"},
}  # fmt: skip


@functools.cache
def configs():
    found = [json.loads(p.read_text()) for p in sorted((CASES / "configs").glob("*.json"))]
    return [CONFIG, {k: v for k, v in CONFIG.items() if k != "text_config"}, *found]


PLAN = {
    "schema": "costmodel/plan/1",
    "shapes": [
        {"tokens": 8, "hidden_dim": 7168, "world_size": 2, "dtype": "bf16", "arms": ["1stage"]},
        {"tokens": 16, "hidden_dim": 2880, "world_size": 2, "algorithm": "2stage", "op": "fused_ar_rmsnorm"},
        {"tokens": 8, "hidden_dim": 4096, "world_size": 4, "op": "ar_then_rmsnorm"},
    ],
}  # fmt: skip


@functools.cache
def run_files():
    """Return the files of a run that the gloo back end left, by name; made by a real run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        done = os.spawnv(
            os.P_WAIT, sys.executable,
            [sys.executable, "-m", "costmodel", "measure", "--backend", "gloo", "--tp", "2",
             "--hidden", "64", "--tokens", "1,2", "--rounds", "4", "--samples", "2", "--calls", "8",
             "--out", str(out)],
        )  # fmt: skip
        assert done == 0, "a run to damage could not be made"
        return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


@functools.cache
def logs():
    """Return the files of other harnesses, (suffix, bytes, options) each."""
    found = [("", text.encode(), ()) for text in test_importers_fuzz.SAMPLES.values()]
    for text, said in test_importers_tables_fuzz.SAMPLES.values():
        words = tuple(w for k, v in said.items() for w in (f"--{k.replace('_', '-')}", v))
        found.append(("", text.encode(), words))
    with tempfile.TemporaryDirectory() as folder:
        profiles = test_importers_profiles.samples(Path(folder))
    return found + [(suffix, content, ()) for suffix, content in profiles.values()]


HISTOGRAMS = [b"batch,share\n1,0.5\n8,0.25\n64,0.25\n", b"batch,count\n1,10\n2,5\n512,1\n"]
ARRIVALS = b"0\n1.5\n# late\n3\nnever\n0\n0\n2\n"


# Targets -----------------------------------------------------------------------------------------


def measurements(rng, where):
    """A schema 1 table by the library: every row is there, or one line says what is wrong."""
    path = where / "rows.csv"
    path.write_bytes(table(rng))
    found = refused(cm.read, path)
    if found is None:
        return
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream) if row]
    assert len(found) == len(rows) - 1, "a row was lost"
    seen = cm.observe(found)
    assert seen.read == len(found)
    assert len(seen) + sum(seen.set_aside.values()) == len(found), "a row was lost"
    found.write(where / "again.csv")
    again = cm.read(where / "again.csv")
    assert again.to_rows() == found.to_rows(), "another table came back"


def measurement_commands(rng, where):
    """A schema 1 table by the commands that take one."""
    (where / "rows.csv").write_bytes(table(rng))
    gpu = rng.choice(("MI355X", "MI300X", "MI308X"))
    kind = rng.randrange(4)
    if kind == 0:
        check_command(
            where, "validate", "--gpu", gpu, "--accuracy-only", "--measurements", "rows.csv"
        )
    elif kind == 1:
        check_command(where, "calibrate", "rows.csv", "--no-cross-validation", "--out", "new.json")
    elif kind == 2:
        check_command(where, "data", "rows.csv")
    else:
        (where / "old.csv").write_bytes(rng.choice(tables()))
        check_command(where, "diff", "old.csv", "rows.csv", "--gpu", gpu)


def calibration_files(rng, where):
    """An edited calibration: refused, or one with finite numbers everywhere."""
    path = json_file(where / "c.json", calibration(rng), rng)
    if rng.random() < 0.6:
        found = refused(cm.load, path)
        if found is not None:
            assert found.to_json()
            _, gpu = rng.choice(found.gpus)
            setting = refused(cm.Setting, found, gpu)
            if setting is not None:
                shapes = setting.shapes([1, 64], 4096, rng.choice((2, 4, 8)))
                answer = refused(cm.predict, setting, shapes, rng.choice(("1stage", "2stage")))
                if answer is not None:
                    assert np.isfinite(answer.latency_us).all(), "a latency that is no number"
        return
    args = rng.choice(
        (
            ("predict", "--tokens", "8", "--tp", "4", "--hidden", "4096", "--terms"),
            ("explain", "--tokens", "8", "--tp", "4", "--hidden", "4096"),
            ("emit", "--for", "sglang"),
            ("recommend", "--tp", "4"),
            ("recommend", "--tp", "8", "--format", "json"),
        )
    )
    check_command(where, *args, "--calibration", "c.json")


def rule_files(rng, where):
    """An edited rule: its decisions are of bools, and it comes back from its own file."""
    path = json_file(where / "r.json", edited(rng.choice(rules()), rng), rng)
    if rng.random() < 0.7:
        rule = refused(catalogue.load, path)
        if rule is None:
            return
        assert rule.words()
        for n in rule.world_sizes:
            shapes = cm.Shapes.of([1, 8, 512], 4096, n)
            told = refused(rule.use_1stage, shapes, kernel_version="0.1.20")
            assert told is None or told.dtype == bool
        (where / "again.json").write_text(json.dumps(rule.to_json()))
        assert catalogue.load(where / "again.json") == rule, "another rule came back"
        return
    target = rng.choice(("table", "json", "env", "sglang", "vllm", "aiter"))
    args = rng.choice(
        (
            ("emit", "--for", target, "--rule", "r.json"),
            ("emit", "--for", target, "--rule", "r.json", "--out", "rule.txt"),
            ("worth", "--gpu", "MI355X", "--model", "gpt-oss-120b", "--tp", "8", "--to", "r.json"),
        )
    )
    check_command(where, *args)


def model_configs(rng, where):
    """An edited config.json: a hidden size with a name, or one line."""
    record = edited(rng.choice(configs()), rng)
    path = where / rng.choice(("config.json", "m.json"))
    json_file(path, record, rng)
    if rng.random() < 0.8:
        llm = refused(llms.from_config, path)
        assert llm is None or (1 <= llm.hidden_size <= 2**30 and llm.name.isprintable())
        return
    check_command(
        where, "explain", "--gpu", "MI355X", "--tp", "8", "--tokens", "8", "--config", path.name
    )


def plans(rng, where):
    """An edited plan by the reader of ``measure``."""
    path = json_file(where / "p.json", edited(PLAN, rng), rng)
    found = refused(read_plan, path, rng.choice((None, 2, 4, 8)))
    assert found is None or all(point.arms for point in found[0])


def run_directories(rng, where):
    """A damaged run directory: continued with every finished shape, or one line."""
    run = where / "run"
    run.mkdir()
    for name, content in run_files().items():
        (run / name).write_bytes(content)
    name = rng.choice(sorted(run_files()))
    content = run_files()[name]
    if name.endswith(".json") and rng.random() < 0.7:
        (run / name).write_text(json.dumps(edited(json.loads(content), rng)))
    elif name.endswith(".jsonl") and rng.random() < 0.7:
        lines = content.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(edited(json.loads(lines[at]), rng)).encode()
        (run / name).write_bytes(b"\n".join(lines) + b"\n")
    elif rng.random() < 0.1:
        (run / name).unlink()
    else:
        (run / name).write_bytes(damaged(content, rng))
    if rng.random() < 0.3:
        check_command(where, rng.choice(("data", "calibrate")), "run")
        return
    opened = refused(RunDirectory.resume, run)
    if opened is not None:
        opened.finished()
        opened.close()


def imports(rng, where):
    """A damaged file of another harness by the command: each result is read or left."""
    suffix, content, said = rng.choice(logs())
    if rng.random() < 0.3:
        content = test_importers_profiles.mutated(content, rng)
    elif rng.random() < 0.95:
        content = damaged(content, rng)
    path = where / f"log{suffix}"
    path.write_bytes(content)
    more = rng.choice(((), said, (*said, "--gpu", "MI355X", "--tp", "8"), (*said, "--unit", "us")))
    if rng.random() < 0.05:
        more = (*more, "--as", rng.choice([f.name for f in importers.FORMATS]))
    code, out = check_command(where, "import", path.name, "--out", "out.csv", *more)
    if code == 0:
        told = next(line for line in out.splitlines() if " results in " in line)
        read, left = map(int, re.search(r": (\d+) read, (\d+) left", told).groups())
        assert int(told.split()[0]) == read + left, "a result was lost"
        with (where / "out.csv").open(newline="") as stream:
            assert sum(1 for _ in csv.reader(stream)) == read + 1, "a row was lost"


def engine_trees(rng, where):
    """A mutated engine source, as package, checkout or wheel."""
    shape = SHAPES[rng.choice(sorted(SHAPES))]
    form = rng.choice(("package", "checkout", "wheel"))
    if form == "wheel":
        path = shape.wheel(where)
        content = bytearray(path.read_bytes())
        if rng.random() < 0.7:
            for _ in range(rng.choice((1, 3, 30))):
                content[rng.randrange(len(content))] = rng.randrange(256)
        elif rng.random() < 0.5:
            content = content[: rng.randrange(len(content))]
        else:
            with zipfile.ZipFile(path, "a") as archive:
                inside = rng.choice(archive.namelist())
                archive.writestr(inside, rng.choice(ODD) * 2)
            content = path.read_bytes()
        path.write_bytes(bytes(content))
        place = path.name
    else:
        root = getattr(shape, form)(where / "site")
        files = [p for p in sorted(root.rglob("*.py")) if p.stat().st_size]
        file = rng.choice(files)
        file.write_bytes(mutated_source(file.read_text(), rng).encode("utf-8", "surrogatepass"))
        place = "site"
    args = rng.choice(
        (
            ("audit", place), ("audit", place), ("audit", place, "--format", "json"),
            ("emit", "--for", shape.engine, "--rule", "vllm", "--source", place, "--out", "x.patch"),
        )
    )  # fmt: skip
    check_command(where, *args)


def small_files(rng, where):
    """Batch histograms and arrivals by the commands that take them."""
    if rng.random() < 0.5:
        path = where / "h.csv"
        path.write_bytes(damaged(rng.choice(HISTOGRAMS), rng))
        found = refused(read_histogram, path, rng.choice((None, Deployment(engine="sglang"))))
        assert found is None or abs(found.share.sum() - 1) < 1e-9
        return
    (where / "late").write_bytes(damaged(ARRIVALS, rng))
    check_command(where, "simulate", "--gpu", "MI355X", "--tokens", "2", "--hidden", "512",
                  "--skew", "late")  # fmt: skip


#: Plausible values of options by name; the rest comes from ODD_TEXT.
VALUES = {
    "arch": ["gfx942", "gfx950", "MI300X"], "gpu": ["MI300X", "mi355x", "MI308X", "MI325X", "H200"],
    "calibration_file": ["c.json", "rows.csv", "nowhere", ".", "/dev/null"],
    "op": ["fused", "plain", "separate", "fp8", "mxfp4", "fused_ar_rmsnorm"],
    "dtype": ["bf16", "fp16", "fp32", "torch.bfloat16"],
    "aiter_version": ["0.1.20", "0.1.17", "0.1.4", "0.1.20.post1", "9.9"],
    "source": ["typical", "aiter-3458-mi355x", "vllm-54787", "site"],
    "engine": ["sglang", "vllm", "aiter"], "for_engine": ["sglang", "vllm", "aiter"],
    "target": ["sglang", "vllm", "aiter", "table", "json", "env"],
    "otherwise": ["2stage", "separate"], "objective": ["mean", "worst", "contested"],
    "algorithm": ["1stage", "2stage", "both", "one-stage"],
    "tp": ["2", "4", "8", "2,4,8", "3", "1024"], "ranks": ["2", "4", "8", "72", "16"],
    "tokens": ["1", "8", "1,2,48", "8:64:8", "1..512", "512", "1:5000"],
    "hidden": ["2880", "7168", "4096,7168", "2881", "64", "512:8192:512", "1073741824"],
    "model_name": ["gpt-oss-120b", "GPT-OSS 120B", "deepseek-v3", "llama-3.3-70b"],
    "config_file": ["config.json", "rows.csv", "nowhere"],
    "captured": ["engine", "1,2,4,8", "1..512"], "expert_parallel": ["1", "8"],
    "engine_version": ["0.5.23", "0.33.0"], "draft_tokens": ["1", "4", "0"],
    "fabric": ["mesh", "xgmi", "switch", "ring", "mi450", "hierarchical", "nvswitch"],
    "skew": ["normal:20", "uniform:5", "exponential:3", "late", "normal:-1", "normal:nan"],
    "links": ["0-3=0.5", "0>3=0.5", "2-2=0.5", "0-1=0", "5-sw=0.5", "0-99=0.5"],
    "slow": ["0=2", "1=1.5", "99=2"], "cus": ["0=40", "1=0"], "background": ["0-1=10", "0-1=10x4"],
    "cost": ["hop_us=1", "x=1"], "sweep": ["skew=0,5", "link=0.5,1"],
    "rule": ["sglang", "vllm", "aiter", "r.json", "always-1stage"],
    "old": ["sglang", "c.json", "rows.csv", "site"], "new": ["vllm", "c.json", "rows.csv", "r.json"],
    "against": ["sglang", "r.json"], "fallback": ["aiter"], "held_out": ["aiter-1290"],
    "files": ["rows.csv", "nowhere.csv", ".", "log", "c.json"],
    "measurements": ["rows.csv"], "more": ["rows.csv"],
    "include": ["noisy", "suspect", "launch_bound"], "family": ["aiter", "vllm"],
    "out": ["new.out", "rows.csv", "/dev/null", "no/where", "."], "tests": ["t.py"],
    "trace": ["trace.json"], "path": ["site", "rows.csv", "nowhere", "."],
    "traces": ["8=rows.csv", "8=late", "x=1"], "file": ["log", "rows.csv", "c.json", "nowhere"],
    "histogram": ["h.csv"], "batch_histogram": ["h.csv"], "name": ["costmodel/plan/1", "plan"],
    "plan": ["p.json", "rows.csv"], "backend": ["nccl", "tpu"], "live": ["tpu"],
    "columns": ["x=fused:1stage", "x=-", "="],
}  # fmt: skip
NUMBERS = ["0", "1", "2", "8", "0.02", "-1", "1e9", "nan", "inf", "1e-9", "100", "9" * 30]
#: Too slow, or on the machine's devices, for a campaign of many.
LEFT_OUT = {("calibrate", "published"), ("validate", "published"), ("validate", "live")}


@functools.cache
def prepared():
    """Return a directory of valid files that options may name."""
    where = Path(tempfile.mkdtemp(prefix="fuzz-files-"))
    (where / "c.json").write_text(json.dumps(calibrations()[1], indent=1))
    (where / "rows.csv").write_bytes(
        (measurement.published_directory() / "aiter-3458-mi355x.csv").read_bytes()
    )
    (where / "r.json").write_text(json.dumps(rules()[-1]))
    (where / "p.json").write_text(json.dumps(PLAN))
    (where / "config.json").write_text(json.dumps(CONFIG))
    (where / "h.csv").write_bytes(HISTOGRAMS[0])
    (where / "late").write_bytes(ARRIVALS)
    (where / "log").write_bytes(logs()[0][1])
    SHAPES["sglang_bytes"].package(where / "site")
    return where


@functools.cache
def commands():
    context = click.Context(entry.cli)
    return {n: entry.cli.get_command(context, n).params for n in entry.COMMANDS}


def value(parameter, rng, odd):
    """Return one value of a parameter, odd with that probability."""
    if rng.random() < odd:
        return rng.choice(ODD_TEXT)
    if isinstance(parameter.type, click.Choice):
        return rng.choice(list(parameter.type.choices))
    if isinstance(parameter.type, click.types.FloatParamType | click.types.IntParamType):
        known = VALUES.get(parameter.name)
        return rng.choice(known if known and rng.random() >= odd else NUMBERS)
    return rng.choice(VALUES.get(parameter.name, ["x", "1", ""]))


def arguments(name, rng):
    """Return a command line of a command: some of its options, with plausible and odd values."""
    words, last, odd = [], [], rng.choice((0.02, 0.1, 0.3))
    for parameter in commands()[name]:
        if (name, parameter.name) in LEFT_OUT or parameter.name == "debug":
            continue
        if isinstance(parameter, click.Argument):
            several = parameter.nargs == -1
            last += [value(parameter, rng, odd) for _ in range(rng.randrange(3) if several else 1)]
            continue
        asked = {"arch": 0.5, "gpu": 0.4, "out": 0.5, "style": 0.3}.get(parameter.name, 0.12)
        if rng.random() < (0.9 if parameter.required else asked):
            words.append(rng.choice(parameter.opts))
            if not getattr(parameter, "is_flag", False):
                words.append(value(parameter, rng, odd))
    if rng.random() < 0.05:
        words.insert(rng.randrange(len(words) + 1), rng.choice(ODD_TEXT))
    return [name, *words, *last]


def options(rng, where):
    """A random command line of every command but those that measure or draw."""
    name = rng.choice([n for n in entry.COMMANDS if n not in ("measure", "report", "doctor")])
    args = arguments(name, rng)
    if any("\0" in word for word in args):
        args = [word.replace("\0", "") for word in args]  # no shell can pass one
    for file in prepared().iterdir():
        (shutil.copytree if file.is_dir() else shutil.copy2)(file, where / file.name)
    try:
        check_command(where, *args)
    except AssertionError as error:
        raise AssertionError(f"{args}: {error}") from error


def measure_options(rng, where):
    """Options of ``measure``, read without touching a device."""
    for file in ("p.json", "rows.csv"):
        shutil.copy2(prepared() / file, where / file)
    asked = {p.name: p.get_default(click.Context(entry.cli)) for p in commands()["measure"]}
    asked = {k: v if isinstance(v, int | float | str | bool) else None for k, v in asked.items()}
    asked.update(out=where / "run", resume=bool(asked.get("resume")), backend="gloo", tp=(2,),
                 hidden="64", tokens="8")  # fmt: skip
    for name in rng.sample(sorted(asked), rng.choice((1, 1, 2, 3))):
        old = asked[name]
        if name in ("out", "resume"):
            continue
        if isinstance(old, int | float) or name in (
            "budget",
            "seed",
            "rounds",
            "samples",
            "calls",
            "slots",
        ):
            number = float(rng.choice(NUMBERS))
            whole = name not in ("budget", "watchdog") and np.isfinite(number)
            asked[name] = int(number) if whole else number
            if name not in ("budget", "watchdog") and not isinstance(asked[name], int):
                asked[name] = 1
        elif name == "tp":
            asked[name] = tuple(
                int(rng.choice((2, 4, 8, 3, 0, 10**9))) for _ in range(rng.randrange(4))
            )
        elif name == "plan":
            asked[name] = where / rng.choice(("p.json", "rows.csv", "nowhere"))
        else:
            asked[name] = rng.choice((*VALUES.get(name, ["1stage", "graph"]), *ODD_TEXT))
    refused(read_options, asked)


# The library -------------------------------------------------------------------------------------

SIZES = (1, 2, 8, 64, 512, 2880, 4096, 7168, 2**20, 2**30, 2**30 + 1, 0, -1, 2**62, 2**63, 1.5,
         float("nan"), float("inf"), True)  # fmt: skip
REALS = (0.5, 1.0, 20.0, 0.0, -1.0, 1e9, 1e308, float("nan"), float("inf"), -0.0, 1e-300)


@functools.cache
def settings():
    return [cm.Setting.shipped(g) for g in ("MI300X", "MI308X", "MI325X", "MI355X", "MI350X")]


def library(rng, where):
    """Public functions with values of the right kind, of any size."""

    odd = rng.choice((0.03, 0.1, 0.4))

    def size():
        return rng.choice(SIZES if rng.random() < odd else SIZES[:8])

    def real():
        return rng.choice(REALS if rng.random() < odd else REALS[:3])

    def word(*known):
        return rng.choice(ODD_TEXT if rng.random() < odd else known or ("mine", "typical"))

    def shapes():
        n = rng.choice((2, 4, 8, 8, 8, size()))
        tokens = size() if rng.random() < 0.5 else [size() for _ in range(rng.randrange(4))]
        return refused(cm.Shapes.of, tokens, size(), n, op=word("fused", "plain", "separate"),
                       dtype=word("bf16", "fp16", "fp32"))  # fmt: skip

    def workload():
        return refused(cm.Workload.of, [size() for _ in range(rng.randrange(1, 4))],
                       rng.choice((None, [size(), 1], [])), rng.choice((None, None, [real(), 1.0])))  # fmt: skip

    def rule():
        cutoffs = {
            rng.choice((2, 4, 8, size())): rng.choice((None, 131072, size())) for _ in range(3)
        }
        return refused(cm.Rule.from_cutoffs, word(), cutoffs, inclusive=rng.random() < 0.5,
                       hidden_dims=rng.choice((None, [size()], [])))  # fmt: skip

    setting = rng.choice(settings())
    kind = rng.randrange(14)
    if kind == 0:
        made = shapes()
        assert made is None or ((made.bytes > 0).all() and made.tokens.dtype == np.int64)
    elif kind == 1 and (made := shapes()) is not None:
        arm = word("1stage", "2stage", "separate")
        found = refused(cm.predict, setting, made, arm)
        if found is not None:
            assert np.isfinite(found.latency_us).all()
            assert (found.lo_us <= found.latency_us).all()
            assert (found.latency_us <= found.hi_us).all()
            found.to_rows()
    elif kind == 2 and (made := shapes()) is not None:
        found = refused(cm.explain, setting, made)
        assert found is None or json.dumps(found.to_dict(), allow_nan=False)
    elif kind == 3 and (made := shapes()) is not None:
        found = refused(cm.choices, setting, size(), rng.choice((2, 4, 8, size())))
        assert found is None or json.dumps(found.to_dict(), allow_nan=False)
    elif kind == 4 and (load := workload()) is not None:
        found = refused(
            cm.recommend, setting, load, world_sizes=rng.choice(((4,), (8,), (2,), (size(),)))
        )
        assert found is None or json.dumps(found.to_dict(), allow_nan=False)
    elif kind == 5:
        made = refused(cm.Setting, setting.calibration, word("MI355X", "mi300x"),
                       op=word("fused", "plain"), dtype=word("bf16"), source=word("typical", ""),
                       aiter_version=word("0.1.20", "0.1.4"), engine=word("", "sglang", "vllm"),
                       otherwise=word("", "2stage", "separate"))  # fmt: skip
        assert made is None or made.gpu
    elif kind == 6:
        made = rule()
        if made is not None:
            assert made.words()
            for n in made.world_sizes:
                made.use_1stage(cm.Shapes.of([1, 512], 4096, n))
    elif kind == 7:
        refused(cm.Budget, rng.choice((None, size())), rng.choice((None, real())))
    elif kind == 8:
        refused(Deployment, engine=word("", "sglang", "vllm"), draft_tokens=rng.choice((0, 1, 4)))
    elif kind == 9:
        made = refused(cm.Skew, word("normal", "uniform", "exponential"), real())
        if made is not None:
            drawn = made.draw(8, 3, 2)
            assert np.isfinite(drawn).all()
            assert (drawn >= 0).all()
    elif kind == 10:
        text = "".join(rng.choice("0123456789,:. ..") for _ in range(rng.randrange(12)))
        found = refused(integers, text)
        assert found is None or all(1 <= n <= 2**30 for n in found)
    elif kind == 11:
        made = refused(cm.Study, setting, hidden_dim=rng.choice((512, 2048, size())),
                       ranks=rng.choice((None, 2, 4, 8, 3, 0, -1)),
                       link_gbps=rng.choice((None, None, real())), costs=rng.choice(({}, {word("hop_us", "launch_us"): real()})),
                       links=rng.choice(({}, {word("0-1", "0>3", "2-2"): real()})), rate=real() or 1.0)  # fmt: skip
        found = made and refused(
            made.simulate, word("1stage", "2stage"), rng.choice((1, 2, 8, 0, -1))
        )
        assert not found or np.isfinite(found.latency_us)
    elif kind == 12:
        rows = [dict(r) for r in _rows()]
        for _ in range(rng.choice((1, 2))):
            rng.choice(rows)[rng.choice(sorted(rows[0]))] = rng.choice(
                [v for v in ODD_VALUES if not isinstance(v, list | dict)]
            )
        made = refused(cm.Measurements.from_rows, rows)
        if made is not None:
            assert len(made) == len(rows)
            seen = cm.observe(made)
            assert len(seen) + sum(seen.set_aside.values()) == len(rows)
    elif kind == 13:
        old, new = rng.choice(("sglang", "vllm", "aiter")), rule()
        llm = rng.choice(llms.catalogue())
        if new is not None:
            found = refused(
                cm.worth, setting, llm, rng.choice((2, 4, 8, size())), catalogue.named(old), new
            )
            assert found is None or json.dumps(found.to_dict(), allow_nan=False)


@functools.cache
def _rows():
    return cm.read(measurement.published_directory() / "aiter-3458-mi355x.csv").to_rows()[:3]


#: Target -> its share of a campaign.
TARGETS = {
    measurements: 18, measurement_commands: 2, calibration_files: 10, rule_files: 10,
    model_configs: 10, plans: 6, run_directories: 6, imports: 20, engine_trees: 4, small_files: 4,
    options: 6, measure_options: 4, library: 10,
}  # fmt: skip


def run_one(seed, number, where, only=""):
    """Run input ``number`` of a campaign; return the target's name."""
    rng = random.Random(f"{seed}:{number}")
    known = [t for t in TARGETS if not only or t.__name__ == only]
    (target,) = rng.choices(known, [TARGETS[t] for t in known])
    return target.__name__, lambda: target(rng, where)
