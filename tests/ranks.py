"""torchrun in tests: torch's own launcher and ranks, as processes that need not import torch anew.

Importing torch takes two seconds of CPU time in the launcher and in every rank, many times what a
test's calls take. So both are forked from a process that has it: the launcher from multiprocessing's
fork server, the ranks by the launcher (``--run-path --start-method=fork``). They are processes of
their own with nothing of costmodel in them; what a start from nothing does is tested with
``forked=False``.
"""

from __future__ import annotations

import io
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import forkserver, get_context
from pathlib import Path
from unittest import mock

_FORKS = get_context("forkserver")
#: With Dynamo, which the launcher imports to tell of a rank that failed, and a rank that compiles.
_FORKS.set_forkserver_preload(["torch", "torch.distributed.run", "torch._dynamo"])


def torchrun(
    ranks: int, *arguments: str | Path, env: dict[str, str], timeout: float, forked: bool = True,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run ``-m MODULE ...`` or ``FILE ...`` on so many ranks, in an environment and a directory."""
    words = [f"--nproc-per-node={ranks}", *map(str, arguments)]
    if not forked:
        return subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *words], capture_output=True, text=True,
            timeout=timeout, env=env, cwd=cwd, check=False,
        )  # fmt: skip
    words = ["--run-path", "--start-method=fork", words[0], __file__, *words[1:]]
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()  # torch reads that variable when it is imported
        out, error = Path(place, "out"), Path(place, "error")
        process = _FORKS.Process(
            target=_launch, args=(words, env, str(cwd or os.getcwd()), out, error)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.terminate()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(
            words, process.exitcode, out.read_text(), error.read_text()
        )


def alone(code: str, env: dict[str, str], timeout: float = 60) -> tuple[str, str]:
    """Run ``python -c CODE``, which imports torch, in an environment; return (output, errors)."""
    return together(code, (), given="", timeout=timeout, env=env)[0]


def together(
    code: str, *each: Sequence[str], given: str, timeout: float, env: dict[str, str] | None = None
) -> list[tuple[str, str]]:
    """Run ``python -c CODE`` with each list of arguments, all at once; return (output, errors) of each.

    ``given`` is on their standard input; without ``env`` they have this process's environment.
    """
    env = dict(os.environ) if env is None else env
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
        files = [(Path(place, f"out{i}"), Path(place, f"error{i}")) for i in range(len(each))]
        processes = [
            _FORKS.Process(target=_run, args=(code, list(words), given, env, *streams))
            for words, streams in zip(each, files, strict=True)
        ]
        for process in processes:
            process.start()
        until = time.monotonic() + timeout
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        late = [process for process in processes if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        said = [(out.read_text(), error.read_text()) for out, error in files]
        assert not late, said
        return said


def rank_processes(launcher: int) -> dict[int, int]:
    """Return the process ids of the ranks that a launcher started so far, by rank.

    It starts them in order; one that is forked has no environment of its own in ``/proc``.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(status[1]) == launcher:
            found.append((int(status[19]), int(entry.name)))  # when it started, its id
    return {rank: pid for rank, (_, pid) in enumerate(sorted(found))}


def _run(
    code: str, words: list[str], given: str, env: dict[str, str], out: Path, error: Path
) -> None:
    """Be ``python -c CODE WORDS``, in the process that the server forked."""
    _redirect(out, error)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv, sys.stdin = ["-c", *words], io.StringIO(given)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _redirect(out: Path, error: Path) -> None:
    for path, stream in ((out, 1), (error, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)


def _launch(words: list[str], env: dict[str, str], folder: str, out: Path, error: Path) -> None:
    """Be torchrun, in the process that the server forked."""
    _redirect(out, error)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    from torch.distributed.run import main

    main(words)


def _be_rank(first: str, *rest: str) -> None:
    """Run what the rank was asked to run, as Python does where it starts."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # forked with the launcher's handlers
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if first == "-m":
            sys.argv = list(rest)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [first, *rest]
            runpy.run_path(first, run_name="__main__")
    except SystemExit as ended:
        if ended.code:  # torch's launcher waits for what a rank returns
            raise


if __name__ == "__main__":
    _be_rank(*sys.argv[1:])
