"""What ``costmodel doctor`` finds, on directory trees as the driver and pip lay them out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from costmodel.live import machine


def run(*args, path=(), prefix="", cwd=None):
    """Run doctor with more directories in front of the path."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")]),
    }
    if prefix:
        env["PATH"] = f"{prefix}{os.pathsep}{env['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "costmodel", "doctor", *args],
        capture_output=True, text=True, timeout=300, check=False, env=env, cwd=cwd,
    )  # fmt: skip


def found(*args, **how):
    done = run(*args, "--format", "json", **how)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    record = json.loads(done.stdout)
    assert record["schema"] == "costmodel/doctor/1"
    return {c["name"]: c for c in record["checks"]}, {a["what"]: a for a in record["abilities"]}


def package(directory, name, text=""):
    (directory / name).mkdir(parents=True)
    (directory / name / "__init__.py").write_text(text)
    return directory


@pytest.fixture
def bare(tmp_path):
    """Return a directory whose torch and triton fail at once, for tests of something else."""
    for name in ("torch", "triton"):
        package(tmp_path, name, "raise ImportError('left out')\n")
    return tmp_path


def distribution(directory, name, version, summary, entry=""):
    info = directory / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\n"
    )
    if entry:
        (info / "entry_points.txt").write_text(f"[console_scripts]\ncostmodel = {entry}\n")
    return directory


def test_it_says_what_this_machine_has():
    checks, abilities = found()
    assert [*checks] == [
        "python", "costmodel", "other costmodel", "torch", "triton", "aiter", "GPUs", "links",
        "browser",
    ]  # fmt: skip
    assert checks["python"]["seen"].startswith(".".join(map(str, sys.version_info[:3])))
    assert str(Path(machine.__file__).parent.parent) in checks["costmodel"]["seen"]
    for check in checks.values():
        assert check["status"] in ("ok", "missing", "wrong", "note")
        if check["status"] in ("missing", "wrong"):
            assert check["advice"]
    assert abilities[next(iter(abilities))]["possible"]
    torch = pytest.importorskip("torch")
    assert checks["torch"]["details"]["version"] == torch.__version__
    assert (
        checks["torch"]["details"]["gpus"]
        == [
            {"name": torch.cuda.get_device_name(i), "arch": ""}
            for i in range(torch.cuda.device_count())
        ]
        or torch.version.hip
    )


@pytest.fixture(scope="module")
def here():
    """Return what doctor prints here, and on standard error what it imported."""
    code = (
        "import sys\n"
        "from costmodel.cli.main import main\n"
        "try:\n"
        "    main(['doctor'])\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_the_text_names_every_check_and_what_to_do(here):
    for name in ("python", "other costmodel", "torch", "aiter", "links", "browser", "-> "):
        assert name in here.stdout
    assert "here costmodel can:" in here.stdout
    assert "measure --backend aiter" in here.stdout


def test_nothing_heavy_is_imported_here(here):
    modules = here.stderr.split()
    assert "costmodel.live.machine" in modules
    assert {"torch", "triton", "plotly", "scipy", "kaleido"}.isdisjoint(modules)


def test_another_project_called_costmodel_is_noticed(bare):
    distribution(bare, "costmodel", "0.0.1", "A Flask application")
    checks, _ = found(path=[bare])
    other = checks["other costmodel"]
    assert other["status"] == "wrong"
    assert other["seen"] == "costmodel 0.0.1 is another project ('A Flask application')"
    assert "pip uninstall costmodel" in other["advice"]


def test_this_project_is_known_by_its_command(bare):
    distribution(bare, "xgmi_costmodel", "9.9", "Ours", "costmodel.cli.main:main")
    checks, _ = found(path=[bare])
    assert checks["other costmodel"]["status"] != "wrong"
    assert "xgmi_costmodel 9.9" in checks["costmodel"]["seen"]
    assert "install it again" in checks["costmodel"]["advice"]


def test_a_package_that_import_would_take_instead_is_noticed(tmp_path):
    package(tmp_path, "costmodel")
    here = Path(machine.__file__).resolve().parent.parent
    shadowed = machine._namesake([str(tmp_path), str(here.parent)])
    assert shadowed.status == "wrong"
    assert f"'import costmodel' gives {tmp_path / 'costmodel'}" in shadowed.seen
    behind = machine._namesake([str(here.parent), str(tmp_path)])
    assert behind.status == "note"


def test_the_command_that_pip_installs_is_no_package(bare):
    (bare / "bin").mkdir()
    script = bare / "bin" / "costmodel"
    script.write_text("from costmodel.cli.main import main\n\nmain()\n")
    here = Path(machine.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), "doctor", "--format", "json"],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": f"{bare}{os.pathsep}{here}"},
    )  # fmt: skip
    checks = {c["name"]: c for c in json.loads(done.stdout)["checks"]}
    assert checks["other costmodel"]["status"] == "ok", checks["other costmodel"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise ImportError('libamdhip64.so: cannot open shared object file')", "libamdhip64"),
        ("import os; os._exit(139)", "exit code 139"),
        ("import os; os.abort()", "exit code -6"),
        ("print('hello')", "has no attribute 'cuda'"),
    ],
)
def test_a_torch_that_does_not_work_is_told(tmp_path, text, says):
    package(tmp_path, "torch", text + "\n")
    checks, abilities = found(path=[tmp_path])
    assert checks["torch"]["status"] == "wrong"
    assert says in checks["torch"]["seen"]
    assert checks["torch"]["advice"]
    gloo = next(a for what, a in abilities.items() if "gloo" in what)
    assert gloo == {**gloo, "possible": False, "lacks": ["torch"]}


def test_absent_packages_are_missing_and_not_imported(tmp_path):
    checks = {c.name: c for c in machine.look(kfd=tmp_path / "none", path=[str(tmp_path)])}
    for name in ("torch", "triton", "aiter"):
        assert checks[name].status == "missing"
        assert checks[name].advice
    lacks = [a.lacks for a in machine.abilities(tuple(checks.values()))]
    assert lacks[0] == ()
    assert all(lacks[1:])


def test_the_async_iterator_library_is_not_aiter(bare):
    package(bare, "aiter")
    distribution(bare, "aiter", "0.13.20191203", "Async iterator patterns")
    checks, abilities = found(path=[bare])
    assert checks["aiter"]["status"] == "wrong"
    assert "not AITER but another library" in checks["aiter"]["seen"]
    assert "0.13.20191203, 'Async iterator patterns'" in checks["aiter"]["seen"]
    assert "AITER" in next(a for what, a in abilities.items() if "--backend aiter" in what)["lacks"]


@pytest.mark.parametrize(
    ("version", "status"), [("0.1.19", "ok"), ("99.1.0", "note"), ("0.1.dev1+gabc", "ok")]
)
def test_aiter_is_known_by_its_files(bare, version, status):
    package(bare, "aiter")
    file = bare / "aiter" / machine.AITER_FILE
    file.parent.mkdir(parents=True)
    file.write_text("")
    distribution(bare, "amd_aiter", version, "AITER")
    checks, _ = found(path=[bare])
    assert checks["aiter"]["status"] == status
    assert version in checks["aiter"]["seen"]


def kfd(directory, links, gpus=8, version=90402):
    """Write a topology as amdkfd shows it: node 0 is the CPU, then GPUs, with xGMI ``links``."""
    for node in range(gpus + 1):
        here = directory / str(node)
        (here / "io_links" / "0").mkdir(parents=True)
        cpu = node == 0
        (here / "properties").write_text(
            f"cpu_cores_count {96 if cpu else 0}\nsimd_count {0 if cpu else 1216}\n"
            f"gfx_target_version {0 if cpu else version}\nvendor_id 4098\n"
        )
        (here / "io_links" / "0" / "properties").write_text(
            f"type 2\nversion_major 0\nnode_from {node}\nnode_to {int(cpu)}\nweight 20\n"
        )
    for number, (a, b) in enumerate(links, 1):
        link = directory / str(a) / "io_links" / str(number)
        link.mkdir(parents=True)
        (link / "properties").write_text(
            f"type 11\nversion_major 0\nnode_from {a}\nnode_to {b}\nweight 15\nflags 1\n"
        )
    return directory


def test_xgmi_of_a_full_mesh_and_of_a_part(tmp_path):
    every = [(a, b) for a in range(1, 9) for b in range(1, 9) if a != b]
    full = kfd(tmp_path / "full", every)
    checks = {c.name: c for c in machine.look(kfd=full, path=[str(tmp_path)])}
    assert checks["GPUs"].seen.startswith("8 x gfx942; torch sees none of them")
    assert (checks["links"].status, checks["links"].seen) == ("ok", "xGMI between all of 8 GPUs")
    assert len(checks["links"].details["pairs"]) == 28
    part = kfd(tmp_path / "part", [(1, 2), (2, 1), (3, 4)], gpus=4, version=90500)
    checks = {c.name: c for c in machine.look(kfd=part, path=[str(tmp_path)])}
    assert checks["GPUs"].details["gpus"] == [{"name": "", "arch": "gfx950"}] * 4
    assert checks["links"].seen == "xGMI between 2 of 6 pairs of GPUs"
    assert checks["links"].details["pairs"] == [[0, 1], [2, 3]]


def test_a_topology_that_makes_no_sense_ends_nothing(tmp_path):
    odd = tmp_path / "1"
    (odd / "io_links" / "0").mkdir(parents=True)
    (odd / "properties").write_bytes(b"simd_count 4\ngfx_target_version \xff\n")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "properties").write_text("simd_count 4\ngfx_target_version many\n\n one\n")
    (tmp_path / "notes").write_text("x")
    assert {c.name: c for c in machine.look(kfd=tmp_path, path=[])}["links"].status == "note"


MATRIX = """\tGPU0\tGPU1\tGPU2\tCPU Affinity
GPU0\t X \tNV18\tSYS\t0-31
GPU1\tNV18\t X \tNV18\t0-31
GPU2\tSYS\tNV18\t X \t0-31

Legend:
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def test_nvlink_as_nvidia_smi_prints_it(bare):
    """The program is replaced, not the reading: a script that prints what nvidia-smi prints."""
    program = bare / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"print({MATRIX!r} if 'topo' in sys.argv else 'NVIDIA H100 80GB HBM3\\n' * 3)\n"
    )
    program.chmod(0o755)
    checks, _ = found(prefix=program.parent, path=[bare])
    assert checks["links"]["seen"] == "NVLink between 2 of 3 pairs of GPUs"
    assert checks["links"]["details"]["pairs"] == [[0, 1], [1, 2]]
    program.write_text(f"#!{sys.executable}\nraise SystemExit(9)\n")
    checks, _ = found(prefix=program.parent, path=[bare])
    assert checks["links"]["status"] == "note"
