"""Every JSON is what its published schema says, and what is read is checked field by field."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from engines.shapes import SHAPES

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.calibration.posterior import shipped
from costmodel.cli.main import cli, main
from costmodel.cli.schemas import SCHEMAS, json_schema, types_of
from costmodel.decide.fit_report import report
from costmodel.files import json_text, read_json

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"costmodel/[a-z-]+/\d+\b")


def run(*arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    return done.stdout


def check(text: str, name: str) -> None:
    """Assert that a record is of a type of its schema, and holds no key that the type lacks."""
    record = json.loads(text)
    assert record["schema"] == name
    wrong = []
    for kind in types_of(name):
        try:
            read = msgspec.json.decode(text, type=kind, strict=True)
        except msgspec.ValidationError as error:
            wrong.append(str(error))
        else:
            assert json.loads(msgspec.json.encode(read)) == record
            return
    raise AssertionError(wrong)


PRINTED = [
    ("recommend/1", "recommend --arch gfx942"),
    ("recommend/1", "recommend --gpu MI350X --aiter-version 0.1.19"),
    ("recommend/1", "recommend --arch gfx950 --model gpt-oss-120b --tp 8 --for vllm"),
    ("recommend/1", "recommend --arch gfx942 --op plain"),
    ("recommend/1", "recommend --gpu MI308X --op plain"),
    ("predict/1", "predict --gpu MI355X --tp 4 --hidden 2880 --tokens 1,64 --terms"),
    ("explain/2", "explain --arch gfx942 --tp 8 --hidden 2880 --tokens 32"),
    ("explain/2", "explain --arch gfx942 --tp 8 --hidden 2880 --all"),
    ("worth/1", "worth --model gpt-oss-120b --tp 8 --from sglang --arch gfx950"),
    ("validate/1", "validate --arch gfx950 --published"),
    ("validate/1", "validate --arch gfx942 --published --accuracy-only"),
    ("calibrate/1", "calibrate --published --arch gfx942 --no-cross-validation"),
    ("simulate/1", "simulate --arch gfx950 --tokens 8 --skew normal:5"),
    ("simulate/1", "simulate --arch gfx950 --fabric mi450 --ranks 8 --tokens 8"),
    ("simulate-sweep/1", "simulate --arch gfx950 --sweep skew=0,5"),
    ("predict/1", "predict --gpu MI308X --op plain --tp 2 --algorithm ll"),
    ("plan/1", "plan --arch gfx942 --tp 8 --shapes 1"),
    ("plan/1", "plan --gpu MI308X --op plain --tp 2 --shapes 1"),
    ("models/1", "models"),
    ("rules/1", "rules"),
    ("statements/1", "statements"),
    ("gpus/1", "gpus"),
    ("data/1", "data"),
    ("doctor/1", "doctor"),
]


@pytest.mark.parametrize(("schema", "line"), PRINTED, ids=[line for _, line in PRINTED])
def test_what_a_command_prints_is_of_its_schema(schema, line):
    check(run(*line.split(), "--format", "json"), f"costmodel/{schema}")


@pytest.mark.parametrize("shape", SHAPES)
def test_an_audit_is_of_its_schema(shape, tmp_path):
    arguments = ("audit", SHAPES[shape].package(tmp_path), "--format", "json")
    for more in ((), ("--arch", "gfx950", "--tp", "8")):
        check(run(*arguments, *more), "costmodel/audit/1")


def test_a_report_with_cross_validation_and_refusals_is_of_its_schema(published):
    noisy = published.select(
        (published.source == "aiter-3458-mi355x") & (published.world_size == 8)
    )
    record = report(*calibrate(observe(noisy, include=("noisy",)))).to_dict()
    assert record["scores"]
    assert record["refused"]
    check(json_text(record), "costmodel/calibrate/1")


def test_files_that_commands_write_are_of_their_schemas(tmp_path):
    for name, line in {
        "rule/1": "emit --for json --arch gfx942 --out",
        "rules-by-gpu/1": "emit --for json --arch gfx942,gfx950 --out",
        "rule-of-arms/1": "emit --for arms --arch gfx942 --out",
        "plan/1": "plan --arch gfx942 --tp 8 --shapes 1 --out",
        "calibration/2": "calibrate --published --arch gfx950 --no-cross-validation --out",
    }.items():
        path = tmp_path / name.replace("/", "-")
        run(*line.split(), path)
        check(path.read_text(), f"costmodel/{name}")
    check(run("emit", "--for", "json", "--rule", "vllm"), "costmodel/rule/1")


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_the_shipped_calibrations_are_of_their_schema(arch):
    facts = resources.files("costmodel.data.facts")
    check((facts / f"calibrations/{arch}.json").read_text(), "costmodel/calibration/2")


def test_a_run_leaves_files_of_their_schemas(tmp_path):
    pytest.importorskip("torch", reason="the live back ends compute with torch")
    from costmodel.live.run.schemas import SampleLine

    out = tmp_path / "run"
    line = "measure --backend gloo --tp 2 --hidden 512 --tokens 1 --rounds 4 --samples 2 --slots 2"
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--out", str(out)])
    assert ended.value.code == 0
    check((out / "run.json").read_text(), "costmodel/run/1")
    check((out / "environment.json").read_text(), "costmodel/environment/1")
    (text,) = (out / "samples.jsonl").read_text().splitlines()
    read = msgspec.json.decode(text, type=SampleLine)
    assert json.loads(msgspec.json.encode(read)) == json.loads(text)


def test_the_published_environments_are_of_their_schema():
    paths = list((ROOT / "measurements").rglob("*environment.json"))
    assert len(paths) > 3
    for path in paths:  # what the machine and the back end say may be more
        read_json(path, types_of("costmodel/environment/1")[0], "an environment")


def test_every_schema_that_the_source_names_is_published():
    sources = [p for kind in ("*.py", "*.json") for p in (ROOT / "costmodel").rglob(kind)]
    named = {name for path in sources for name in NAME.findall(path.read_text(encoding="utf-8"))}
    assert named == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_a_json_schema(name):
    found = json.loads(run("schemas", name))
    assert found["title"] == name
    assert found["$schema"].endswith("2020-12/schema")
    for kind in types_of(name):
        form = found["$defs"][kind.__name__]
        assert form["properties"]["schema"] == {"enum": [name]}
        assert "schema" in form["required"]
    text = json.dumps(found)
    for part in re.findall(r'"#/\$defs/(\w+)"', text):
        assert part in found["$defs"]
    for part in found["$defs"].values():
        assert part["description"]


def test_schemas_lists_names_and_knows_them_without_the_prefix():
    assert run("schemas").split() == list(SCHEMAS)
    assert json_schema("recommend/1") == json_schema("costmodel/recommend/1")


def test_an_unknown_schema_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["schemas", "recomend/1"])
    assert ended.value.code == 2
    assert "no schema 'recomend/1' (did you mean recommend/1" in capsys.readouterr().err


POINT = {"tokens": 1, "hidden_dim": 512, "dtype": "bf16", "arms": ["1stage"]}
RUN = {
    "schema": "costmodel/run/1", "id": "x", "started": "2026-09-01T08:00:00Z", "backend": "gloo",
    "world_size": 2, "timing": "eager", "seed": 5, "rounds": 4, "samples": 2, "calls": 2,
    "slots": 2, "warm_up": 3, "points": [POINT],
    "labels": {
        "gpu": "CPU", "arch": "x86_64", "interconnect": "gloo", "kernel_family": "gloo",
        "kernel_version": "", "genuine": "no",
    },
}  # fmt: skip
VLLM = {
    "world_size": 4, "dtype": "torch.bfloat16", "hidden_size": 8192,
    "results": {"16": {"timings": {"ca_1stage": 0.0101}}},
}  # fmt: skip

#: What is read: a good record, the command that reads it from FILE, a field to spoil by its path
#: and how an error names it.
READ = {
    "calibration": (
        lambda: json.loads(shipped("gfx942").to_json()),
        "recommend --calibration FILE",
        ("parameters", 0, "name"),
        "parameters[0].name",
    ),
    "rule": (
        lambda: json.loads(run("emit", "--for", "json", "--rule", "sglang-first")),
        "emit --for table --rule FILE",
        ("condition", "all", 0, "bytes"),
        "condition.all[0].bytes",
    ),
    "plan": (
        lambda: {"schema": "costmodel/plan/1", "shapes": [{**POINT, "world_size": 2}]},
        "measure --backend gloo --plan FILE --out DIR/out",
        ("shapes", 0, "tokens"),
        "shapes[0].tokens",
    ),
    "run": (
        lambda: RUN,
        "measure --resume --backend triton --out DIR",
        ("points", 0, "hidden_dim"),
        "points[0].hidden_dim",
    ),
    "config": (
        lambda: {"text_config": {"hidden_size": 4096, "num_hidden_layers": 2}, "other": 1},
        "predict --arch gfx942 --tp 8 --tokens 1 --config FILE",
        ("text_config", "hidden_size"),
        "text_config.hidden_size",
    ),
    "vllm": (lambda: VLLM, "import FILE --as vllm --out DIR/out.csv", ("dtype",), "dtype"),
}  # fmt: skip


def spoilt(record, path, change):
    """Return a copy of a record in which ``change`` was done to the holder of a field."""
    copy = holder = json.loads(json.dumps(record))
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return copy


def refused(reader, text, tmp_path, capsys):
    """Return the one line that a command says of a file, without the file's own name."""
    path = tmp_path / ("run.json" if reader == "run" else "given.json")
    path.write_text(text)
    line = READ[reader][1].replace("FILE", str(path)).replace("DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    start = f"costmodel: error: {path}: "
    assert said.err.startswith(start)
    return said.err.removeprefix(start)


@pytest.mark.parametrize("reader", READ)
def test_a_field_of_another_type_is_named(reader, tmp_path, capsys):
    record, _, path, shown = READ[reader]
    text = json.dumps(spoilt(record(), path, lambda holder, key: holder.update({key: {}})))
    assert re.match(rf"{re.escape(shown)}: expected `\w+.*`, got `object`; give ", refused(
        reader, text, tmp_path, capsys
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("reader", "path", "says"),
    [
        ("calibration", ("coverage", 0, "rows"), "coverage[0]: object missing required field `rows`"),
        ("calibration", ("mean",), "object missing required field `mean`"),
        ("rule", ("condition",), "object missing required field `condition`"),
        ("plan", ("shapes", 0, "world_size"), "shapes[0]: object missing required field `world_size`"),
        ("run", ("labels", "gpu"), "labels: object missing required field `gpu`"),
        ("config", ("text_config", "num_hidden_layers"), "no 'num_hidden_layers'"),
        ("vllm", ("results", "16", "timings"), "object missing required field `timings`"),
    ],
)  # fmt: skip
def test_a_missing_field_is_named(reader, path, says, tmp_path, capsys):
    text = json.dumps(spoilt(READ[reader][0](), path, lambda holder, key: holder.pop(key)))
    assert says in refused(reader, text, tmp_path, capsys)


@pytest.mark.parametrize("reader", READ)
def test_a_truncated_file_is_named_with_the_line(reader, tmp_path, capsys):
    text = json.dumps(READ[reader][0](), indent=1)
    half = text[: len(text) // 2].rsplit("\n", 1)[0]
    said = refused(reader, half, tmp_path, capsys)
    lines = half.count("\n") + 1
    assert re.match(rf"truncated or not JSON \(line {lines}\); give ", said), said


@pytest.mark.parametrize("reader", ["calibration", "rule", "plan", "run"])
def test_another_schema_is_named(reader, tmp_path, capsys):
    record = READ[reader][0]()
    known = record["schema"]
    for other in ("costmodel/other/7", None):
        said = refused(reader, json.dumps({**record, "schema": other}), tmp_path, capsys)
        assert said.startswith(f"schema is {other!r}, this version reads '{known}'; give ")


@pytest.mark.parametrize("reader", READ)
def test_what_is_no_text_is_named(reader, tmp_path, capsys):
    path = tmp_path / ("run.json" if reader == "run" else "given.json")
    path.write_bytes(b"\xff\xfe{}")
    line = READ[reader][1].replace("FILE", str(path)).replace("DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert f"{path}: not a text file; give " in capsys.readouterr().err
