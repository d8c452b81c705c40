"""Every example of the README, of docs/ and of ``--help`` runs, in the order in which it stands there.

Files that an example reads and no line before it wrote are stand-ins, made here. Whatever needs GPUs
runs over gloo, on CPU processes; a tuning, of a stated model.
"""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import re
import shlex
import subprocess
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import click
import pytest
import shell
from command import costmodel
from engines.shapes import SHAPES
from ranks import torchrun
from test_importers import AITER, RCCL
from test_importers_profiles import collective
from test_importers_rank_traces import processes

from costmodel.cli.main import cli
from costmodel.data.measurement import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
#: How a line of an example begins.
COMMAND = re.compile(r"^(?:costmodel|torchrun|patch|pytest|pip|python|eval) ")

#: Not run here, and why.
ELSEWHERE = {
    "pip install cosmic-ray coverage": "what it is for takes hours",
    "python benchmarks/engine_trees.py FOLDER... --out trees.md": "needs trees of engines",
    "python benchmarks/hostile_trees.py --seed S --count N": "tests/test_hostile_trees.py runs it",
    'pip install -e ".[test]" && python -m pytest': ".ci/run runs it in an environment of its own",
}

#: Beginnings of lines that are not run here, and why.
NOT_HERE = {
    "python benchmarks/mutants.py": "takes hours",
    "torchrun --nproc-per-node=8 -m costmodel doctor": "tests/test_doctor_first_run.py runs it",
    "torchrun --nproc-per-node=8 -m costmodel tune": "ends undecided without GPUs: test_tuning.py",
    "python3 -m costmodel.live.backends.aiter.compare": "needs a tree: test_aiter_compare.py",
}

#: Documents whose commands belong elsewhere.
OTHER_MACHINES = {"docs/containers.md": "in a container of ROCm, with its GPUs"}

#: Part of a line -> what stands for it here, and why.
INSTEAD = {
    "pip install . && ": "",  # .ci/run installs
    # A stated model is decided and handed over; over gloo test_tuning.py ends undecided.
    "tune --backend aiter": "tune --backend replay --tp 8 --rounds 4 --samples 2",
    "--backend aiter": "--backend gloo",  # needs AMD GPUs
    "--backend triton": "--backend gloo",  # needs a GPU
    "--backend torch": "--backend gloo",  # needs GPUs
    "--backend flashinfer": "--backend gloo",  # needs GPUs
    "--live aiter": "--live gloo",
    "1stage,2stage,auto": "1stage,2stage",  # gloo has no dispatch of its own
    "--arms auto --starts 5": "--arms 1stage --starts 2",
    "--tokens 1..512": "--tokens 1..4",  # what is looked at of a shape is the same at any size
    "--tokens 1..64 --out run": "--tokens 1..4 --out run",
    # CI has two cores; eight ranks start where a plan for eight is carried out.
    "--tp 8 --hidden": "--tp 2 --hidden",
    "--nproc-per-node=8 -m costmodel measure --backend gloo --hidden": (
        "--nproc-per-node=2 -m costmodel measure --backend gloo --hidden"
    ),
    "--nproc-per-node=8 -m costmodel measure --backend gloo --tp 2,4,8": (
        "--nproc-per-node=4 -m costmodel measure --backend gloo --tp 2,4"
    ),
    "skew=0,5,20 --sweep link:0-3=1,0.5,0.25": "skew=0,5 --sweep link:0-3=1,0.5",  # four cells
    "run-tp8/measurements.csv": "mine.csv",  # rows over gloo never enter a calibration of xGMI
}

#: The stated model that a tuning is shown on.
REPLAYED = "MI355X:17"

#: What keeps a measurement over gloo short; the numbers do not matter.
SHORT = "--rounds 4 --samples 1 --calls 2 --slots 2 --budget 2"


def lines(block: str) -> list[str]:
    """Return the commands of a block, continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", "", block)
    shown = (re.sub(r"\s+# .*$", "", line.strip()) for line in joined.splitlines())
    return [line for line in shown if COMMAND.match(line)]


def of_document(path: Path) -> dict[str, list[str]]:
    """Return the commands of a document's tables and of its ``sh`` fences, by heading."""
    out: dict[str, list[str]] = {}
    for section in re.split(r"^#+ ", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        fences = re.findall(r"^```sh\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        cells = [
            command
            for cell in re.findall(r"^\| (`.+?`) \|", section, flags=re.MULTILINE)
            for command in re.findall(r"`([^`]+)`", cell)
        ]
        commands = lines("\n".join([*fences, *cells]))
        if commands:
            out[f"{path.relative_to(ROOT)}: {section.splitlines()[0]}"] = commands
    return out


def of_help() -> dict[str, list[str]]:
    r"""Return the commands of each command's ``\b`` blocks."""
    context = click.Context(cli, info_name="costmodel")
    commands = {"costmodel": cli}
    commands |= {f"costmodel {n}": cli.get_command(context, n) for n in cli.list_commands(context)}
    out = {}
    for name, command in commands.items():
        paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
        shown = [p for p in paragraphs if p.lstrip().startswith("\b")]
        out[f"{name} --help"] = lines("\n".join(shown))
    return out


EXAMPLES = {
    **{k: v for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
       for k, v in of_document(p).items()},
    **of_help(),
}  # fmt: skip

#: A profile of one call by 1-stage.
TRACE = json.dumps({"traceEvents": [
    {"ph": "X", "cat": "kernel", "ts": 1, "dur": 9, "pid": 0, "tid": 7, "args": {"device": 0},
     "name": "void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 8>(int)"},
]}).encode()  # fmt: skip


#: Engines below ~ that an example reads -> the source that stands for them.
CHECKOUTS = {"vllm": "vllm_method", "sglang": "sglang_bytes", "aiter": "aiter_limit"}


def trace(rank: int) -> bytes:
    """Return the trace of one rank of eight."""
    (call,) = json.loads(TRACE)["traceEvents"]
    events = [{**call, "ts": 1 + rank, "dur": 17 - rank}]  # all end when the last has come
    info = {"rank": rank, "world_size": 8, "backend": "nccl"}
    return json.dumps({"distributedInfo": info, "traceEvents": events}).encode()


class StandIns:
    """Makes the files that an example reads, below ``folder``; ``home`` is what ~ stands for."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home

    def make(self, line: str) -> None:
        """Make whatever the line names, is not there, and is not for the line to write.

        Examples of one block may write the same file: each finds it gone.
        """
        words, written = shlex.split(line, posix=False), written_by(line)
        for file in (self.folder / name for name in written):
            if file.is_file():
                file.unlink()
        for word in set(words) - written:
            maker = self.MAKERS.get(word)
            if maker and not (self.folder / word).exists():
                maker(self, self.folder / word)
        for name, shape in CHECKOUTS.items():
            if f"~/{name}" in words and not (self.home / name).exists():
                SHAPES[shape].checkout(self.home / name)

    def measurements(self, path: Path) -> None:
        """Write rows of both arms as predicted, on a GPU of each arch."""
        with path.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, COLUMNS)
            table.writeheader()
            for arch, gpu, n in (("gfx950", "MI355X", 4), ("gfx942", "MI300X", 8)):
                said = costmodel(
                    "predict", "--gpu", gpu, "--tp", n, "--hidden", 4096,
                    "--tokens", "4,8,16,32,48,64,96", "--format", "json",
                )  # fmt: skip
                for row in json.loads(said.stdout)["rows"]:
                    same = {k: row[k] for k in COLUMNS if k in row}
                    table.writerow(same | {
                        "source": "mine", "date": "2026-09-01", "gpu": gpu, "arch": arch,
                        "gpu_evidence": "stated", "interconnect": "xgmi", "kernel_family": "aiter",
                        "kernel_version": "0.1.19", "statistic": "median",
                        "rank_reduction": "max", "timing": "graph", "quality": "clean",
                    })  # fmt: skip

    def engines(self, path: Path) -> None:
        """A site-packages directory with all three engines."""
        for shape in ("sglang_bytes", "vllm_method", "aiter_limit"):
            SHAPES[shape].package(path)

    def tuned(self, path: Path) -> None:
        """Tune a stated model in the place of a machine."""
        done = costmodel(
            "tune", "--backend", "replay", "--tp", 8, "--rounds", 4, "--samples", 2, "--out", path,
            env={"COSTMODEL_REPLAY": REPLAYED, "BROWSER_PATH": "/nonexistent"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    MAKERS = {  # noqa: RUF012
        "tuned": tuned,
        "mine.csv": measurements,
        "PATH": engines,
        **dict.fromkeys(
            ("last-week.json", "today.json"),
            lambda self, path: path.write_bytes(
                (ROOT / "costmodel/data/facts/calibrations/gfx950.json").read_bytes()
            ),
        ),
        **dict.fromkeys(("old.csv", "new.csv"), measurements),
        **dict.fromkeys(
            ("8=t8.json.gz", "64=t64.json.gz"),
            lambda self, path: (self.folder / path.name.partition("=")[2]).write_bytes(
                gzip.compress(TRACE)
            ),
        ),
        "vllm-0.32.0.whl": lambda self, path: (
            SHAPES["vllm_inline"].wheel(path.parent / "older").rename(path)
        ),
        "vllm-0.33.0.whl": lambda self, path: (
            SHAPES["vllm_method"].wheel(path.parent / "wheel").rename(path)
        ),
        "rocprofv3-output/": lambda self, path: processes(
            self.folder / "host", "csv", [collective(0.0, takes=10.0)]
        ).rename(path),
        "rank*.json.gz": lambda self, path: [
            (path.parent / f"rank{rank}.json.gz").write_bytes(gzip.compress(trace(rank)))
            for rank in range(8)
        ],
        "config.json": lambda self, path: path.write_text(
            json.dumps({"model_type": "mine", "hidden_size": 4096, "num_hidden_layers": 32})
        ),
        "b.csv": lambda self, path: path.write_text("batch,share\n8,0.5\n32,0.3\n64,0.2\n"),
        "LOG": lambda self, path: path.write_text(RCCL.format(graph=1)),
        "all_reduce.log": lambda self, path: path.write_text(RCCL.format(graph=1)),
        "op_test.log": lambda self, path: path.write_text(AITER),
        "sweep.csv": lambda self, path: path.write_text(
            "num_tokens,hidden_size,tp,split (us)\n1,2880,8,14.2\n64,2880,8,19.5\n"
        ),
    }


def world_size(folder: Path) -> int:
    """Return the smallest world size of the plan that a line before this one wrote."""
    plan = json.loads((folder / "plan.json").read_text())
    return min(shape["world_size"] for shape in plan["shapes"])


def test_every_command_has_an_example_of_its_own_and_in_the_readme():
    assert [name for name, commands in of_help().items() if not commands] == []
    shown = {line.split()[1] for line in EXAMPLES["README.md: What it does"]}
    assert shown == set(cli.list_commands(click.Context(cli)))


def once() -> dict[str, list[str]]:
    """Return the examples, of blocks that are the same in every line the first, by all its places."""
    places: dict[tuple[str, ...], list[str]] = {}
    for where, commands in EXAMPLES.items():
        # What is not run because of where it stands is no stand-in for what is.
        alone = (where,) if where.partition(":")[0] in OTHER_MACHINES else ()
        places.setdefault((*commands, *alone), []).append(where)
    return {", ".join(same): EXAMPLES[same[0]] for same in places.values()}


BLOCKS = once()


def written_by(line: str) -> set[str]:
    """Return the words of a line that name what it writes."""
    words = shlex.split(line, posix=False)
    return {b for a, b in pairwise(words) if a in ("--out", "--tests", "--trace", ">")}


def ran_before(where: str, line: str) -> bool:
    """Tell whether a block before this one ran a line too, of which nothing here reads what it writes."""
    others = [words for other in BLOCKS[where] if other != line for words in shlex.split(other)]
    if written_by(line) & set(others):
        return False
    before = list(BLOCKS)[: list(BLOCKS).index(where)]
    return any(line in BLOCKS[b] for b in before if b.partition(":")[0] not in OTHER_MACHINES)


#: Beginnings of lines that write reports.
WITH_REPORT = ("costmodel report", "costmodel tune")

#: The report of the README has its pictures; a browser costs more than the rest of a report.
DRAWN = ("README.md: What it does", "costmodel report ")

#: A line of torchrun's, and its number of ranks.
RANKS = re.compile(r"torchrun --nproc-per-node[= ](\d+) (.*)")


#: What a shell does more to a line than to take it apart, and commands that start processes.
OF_A_SHELL = re.compile(r"[~*?$`|&;<>()]|^(?!costmodel )|^costmodel measure ")


def run(command: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell; in this process where a shell would only take it apart.

    The ranks of one that torchrun starts come from a process that has torch.
    """
    if starts := RANKS.fullmatch(command):
        words = shlex.split(starts[2])
        return torchrun(int(starts[1]), *words, env=env, cwd=folder, timeout=300)
    if OF_A_SHELL.search(command):
        return shell.run(command, folder, env)
    return costmodel(*shlex.split(command)[1:], cwd=folder, env=env)


@pytest.mark.parametrize("where", BLOCKS)
def test_examples_run(where, tmp_path):
    folder, home, site = (tmp_path / name for name in ("here", "home", "site"))
    folder.mkdir()
    home.mkdir()
    SHAPES["sglang_bytes"].package(site)  # for $(python -c 'import sglang ...')
    env = shell.environment(tmp_path / "bin", ROOT)
    env |= {"HOME": str(home), "PYTHONPATH": f"{ROOT}:{site}", "COSTMODEL_REPLAY": REPLAYED}
    stand_ins = StandIns(folder, home)
    for line in BLOCKS[where]:
        if line in ELSEWHERE or line.startswith(tuple(NOT_HERE)):
            continue
        if where.partition(":")[0] in OTHER_MACHINES:
            continue
        if ran_before(where, line):
            continue
        command = line
        for part, instead in INSTEAD.items():
            command = command.replace(part, instead)
        if "--backend gloo" in command:
            if find_spec("torch") is None:
                pytest.skip("the live back ends compute with torch")
            command += f" {SHORT}"
            if "torchrun" not in command and "--tp" not in command:
                ranks = world_size(folder) if "--plan" in command else 2
                # AITER's ranks are torchrun's, which the README says beside the line.
                under = f"torchrun --nproc-per-node={ranks} -m costmodel measure"
                command = f"{command.replace('costmodel measure', under)} --tp {ranks}"
        stand_ins.make(command)
        drawn = (where, command[: len(DRAWN[1])]) == DRAWN or not command.startswith(WITH_REPORT)
        done = run(command, folder, env if drawn else env | {"BROWSER_PATH": "/nonexistent"})
        # 1 is a verdict, such as that of audit --fail-above.
        allowed = (0,) if "torchrun" in command else (0, 1)
        assert done.returncode in allowed, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stdout}{done.stderr}"


def test_the_python_example_of_the_readme_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    env = shell.environment(tmp_path / "bin", ROOT)
    (tmp_path / "example.py").write_text(code + "print(decision)\n")
    done = shell.run("python example.py", tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert "MI355X" in done.stdout


def test_the_readme_shows_what_its_first_command_prints(tmp_path):
    (shown,) = re.findall(
        r"^The first prints:\n\n```text\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    done = shell.run(
        "costmodel recommend --arch gfx942", tmp_path, shell.environment(tmp_path / "bin", ROOT)
    )
    assert done.stdout == shown
