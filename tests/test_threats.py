"""docs/threats.md: each of its lines has a test, here or where the thing itself is tested."""

from __future__ import annotations

import ast
import json
import os
import re
import tracemalloc
import zipfile
from functools import cache
from pathlib import Path

import pytest
from engines.shapes import SHAPES

import costmodel as cm
from costmodel.calibration.posterior import content_sha256
from costmodel.data import facts
from costmodel.data.histogram import read_histogram
from costmodel.engines.source import open_trees
from costmodel.errors import InputError
from costmodel.files import parse_json, replacing
from costmodel.rules import catalogue
from costmodel.simulation.skew import read_arrivals

ROOT = Path(__file__).resolve().parent.parent
#: The back ends and the launcher of ranks: what they may do is theirs to test.
LIVE = ROOT / "costmodel" / "live"
#: Goes into emitted boundary tests, which run the engine's function.
STAND_IN = ROOT / "costmodel" / "engines" / "stand_in.py"


# The page ----------------------------------------------------------------------------------------


def lines_of_the_page():
    """Return (line, test) for each row of a table of the page."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in (ROOT / "docs" / "threats.md").read_text().splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\s-]+", line)
    ]
    return [(" | ".join(row[:-1]), row[-1].strip("`")) for row in rows if row[-1] != "test"]


@pytest.mark.parametrize(("line", "test"), lines_of_the_page(), ids=lambda text: text[:50])
def test_each_line_of_the_page_has_a_test(line, test):
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert name.startswith("test_"), f"no test is named by: {line}"
    assert name in names, f"{file} has no {name}, which shows: {line}"


def test_each_test_of_this_file_is_of_a_line():
    named = {test.partition("::")[2] for _, test in lines_of_the_page()}
    here = {name for name in globals() if name.startswith("test_")}
    about = {"test_each_line_of_the_page_has_a_test", "test_each_test_of_this_file_is_of_a_line"}
    assert here - about <= named
    assert len(lines_of_the_page()) > 30


# The code ----------------------------------------------------------------------------------------


@cache
def modules():
    """Return the syntax nodes of the modules of the project that no live run needs."""
    files = [f for f in sorted((ROOT / "costmodel").rglob("*.py")) if LIVE not in f.parents]
    return {f: list(ast.walk(ast.parse(f.read_text()))) for f in files if f != STAND_IN}


def imported(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_nothing_opens_a_connection():
    network = re.compile(
        r"(socket|ssl|http|urllib\.request|ftplib|smtplib|requests|httpx|aiohttp)\b"
    )
    for file, nodes in modules().items():
        assert not [m for m in imported(nodes) if network.match(m)], file


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    modules_of = re.compile(r"(pickle|marshal|shelve|dill|joblib|yaml)\b")
    for file, nodes in modules().items():
        assert not [m for m in imported(nodes) if modules_of.match(m)], file
        for node in nodes:
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "os.system", "os.popen"), file
            said = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert said.get("shell") in (None, "False"), file
            assert said.get("allow_pickle") in (None, "False"), file


def test_few_variables_of_the_environment_are_asked():
    known = {"COSTMODEL_DEBUG", "_COSTMODEL_COMPLETE", "OPENBLAS_NUM_THREADS", "NO_COLOR", "TERM"}
    known |= {"DEBUG", "COMPLETE"}  # the names of the first two in the code
    known |= {"RANK", "COLUMNS", "FORCE_COLOR", "BROWSER_PATH"}
    for file, nodes in modules().items():
        for node in nodes:
            key = None
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("os.environ.get", "os.environ.setdefault", "os.getenv"):
                    key = node.args[0]
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                key = node.slice
            if key is not None:
                name = key.value if isinstance(key, ast.Constant) else ast.unparse(key)
                assert name in known, f"{file}: {name}"


# Files -------------------------------------------------------------------------------------------


def test_the_hash_of_a_calibration_is_no_signature(tmp_path):
    """Edited without its hash it is refused; who can write the file can write the hash too."""
    record = json.loads(facts.path("calibrations/gfx950.json").read_text())
    record["data"]["sources"] = [*record["data"].get("sources", []), "somebody"]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="edited since"):
        cm.load(path)
    path.write_text(json.dumps({**record, "content_sha256": content_sha256(record)}))
    assert cm.load(path).id != cm.shipped("gfx950").id


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
@pytest.mark.parametrize(
    "read",
    [
        cm.read, cm.load, catalogue.load, read_histogram, lambda path: read_arrivals(path, 8),
    ],
    ids=["measurements", "calibration", "rule", "histogram", "arrivals"],
)  # fmt: skip
def test_what_has_no_end_is_refused(read, tmp_path):
    for path in (Path("/dev/zero"), tmp_path / "long.csv"):
        (tmp_path / "long.csv").write_bytes(b"a" * (5 << 20))
        with pytest.raises(InputError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"schema": ' + "9" * 100_000 + "}",
        '{"schema": "costmodel/rule/1", "name": 1e400, "condition": {"always": true}}',
        '{"schema": "costmodel/rule/1", "name": "a", "name": "b", "condition": {}}',
        '{"schema": "costmodel/rule/1", "name": "\\ud800", "condition": {"always": true}}',
        '{"schema": {"a": [1]}}',
        '{"schema": ' + "[" * 100_000,
        '{"schema": ' + "[" * 2000 + "]" * 2000 + "}",
        '"costmodel/rule/1"',
        "",
        "\x00",
    ],
    ids=lambda text: text[:12],
)
def test_odd_json_is_one_line(text, tmp_path):
    path = tmp_path / "rule.json"
    path.write_text(text)
    for read in (catalogue.load, cm.load):
        with pytest.raises(InputError) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError):
        parse_json(text, dict[str, int], "here", "numbers", foreign=True)


def test_temporary_names_cannot_be_foretold(tmp_path):
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "a.json") as stream:
            stream.write("x")
            (name,) = (p.name for p in tmp_path.iterdir() if p.name != "a.json")
            names.add(name)
    assert len(names) == 20
    assert all(re.fullmatch(r"\.costmodel-[0-9a-f]{16}", name) for name in names)


def read_all(path):
    return [tree.read(name) for tree in open_trees(path) for name in tree.engine.files]


def test_a_wheel_that_unpacks_to_a_thousand_times_its_size_is_refused_in_little_memory(tmp_path):
    root = SHAPES["sglang_bytes"].package(tmp_path / "site")
    small = [p for p in sorted(root.rglob("*")) if p.is_file()]
    wheel = tmp_path / "sglang-0.5.23-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in small:
            name = file.relative_to(root).as_posix()
            archive.writestr(name, bytes(48 << 20) if name.endswith(".py") else file.read_bytes())
    assert wheel.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="larger than 4 MiB; a source file is smaller"):
            read_all(wheel)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
