"""Mutation testing: a seeded sample of small faults, each run against the tests that reach it.

cosmic-ray draws the mutants and coverage.py says which test files reach a line:

    pip install cosmic-ray coverage
    python benchmarks/mutants.py draw --seed 1130 --count 640
    python benchmarks/mutants.py map
    python benchmarks/mutants.py run --shard 1/2 --seconds 500
    python benchmarks/mutants.py report
    python benchmarks/mutants.py keep

``draw`` makes ``drawn.json`` in ``--folder``, ``map`` ``map.json``; ``run`` needs neither tool, and
adds a line to ``run-1of2.jsonl`` for each mutant that it has run, so that it goes on where it
stopped and may move to a machine with more cores. ``keep`` writes what became of each mutant to
``mutants.jsonl`` beside this script, which ``report`` reads as well.

A mutant is run in a copy of the project by the test files that reach its lines, those of its wing
first, until one fails: then it is killed. So is one for which a test file takes five times as long.
Before the first mutant each test file is run as it is, in the same way: one that fails there is
left out. ``--trusted`` spares that where the map is of today: it is made in the same way too, and
has no test file that fails.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from importlib.metadata import version
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# coverage is the package here, not the benchmark of that name.
sys.path = [p for p in sys.path if Path(p).resolve() != ROOT / "benchmarks"]
HERE = ROOT / "benchmarks" / "mutants"
#: What became of the mutants of the last draw; ``report`` reads it too.
KEPT = ROOT / "benchmarks" / "mutants.jsonl"
WINGS = ("model", "rules", "decide", "calibration", "data")
#: Tests of other wings, and those that start engines, browsers, kernels or networks of processes.
OTHERS = re.compile(
    r"test_(live|notebook|site|figures|report|triton|emit_(?!boundary|forms|outside)|contributing"
    r"|examples|doctor|documents|simulat|conftest|gates|interval_coverage|table|public_names|fuzz"
    r"|one_answer)"
)
#: A test file that takes longer with its lines counted is left out.
LONGEST_S = 200.0
#: A survivor has been through tests of so many seconds, by the times of the map.
MOST_S = 60.0
#: No thread or compiled file of a test is left for the next one.
QUIET = {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
#: What a run needs of the project.
COPIED = ("costmodel", "tests", "measurements", "docs", "benchmarks", "pyproject.toml", "README.md",
          "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "mkdocs.yml")  # fmt: skip


def modules(wing):
    return sorted((ROOT / "costmodel" / wing).rglob("*.py"))


def lines_of(path):
    return path.read_text().count("\n")


# Drawing -----------------------------------------------------------------------------------------


def unread(text):
    """Return (line, column) spans of what never runs: annotations, imports for type checkers."""
    spans = []
    for node in ast.walk(ast.parse(text)):
        skipped = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            skipped = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skipped = [node.returns]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped = [node]
        spans += [
            ((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in skipped if n
        ]
    return spans


def possible(path):
    """Yield (operator name, occurrence, start, end) of every mutant of a file."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    spans = unread(path.read_text())
    nodes = list(ast_nodes(get_ast_from_path(path)))
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments() or name.endswith("NoOp"):
            continue
        operator = kind()
        found = (p for node in nodes for p in operator.mutation_positions(node))
        for occurrence, (start, end) in enumerate(found):
            if not any(a <= tuple(start) and tuple(end) <= b for a, b in spans):
                yield name, occurrence, start, end


def changed(before, after):
    """Return (first line, lines taken out, lines put in) of what differs."""
    old, new = before.splitlines(True), after.splitlines(True)
    first = 0
    while first < min(len(old), len(new)) and old[first] == new[first]:
        first += 1
    last = 0
    while last < min(len(old), len(new)) - first and old[-1 - last] == new[-1 - last]:
        last += 1
    return first + 1, old[first : len(old) - last], new[first : len(new) - last]


def draw(seed, count):
    """Return mutants, each wing with its share of the lines; one text is drawn once."""
    from cosmic_ray.ast import get_ast_from_path
    from cosmic_ray.mutating import MutationVisitor
    from cosmic_ray.plugins import get_operator

    rng = random.Random(seed)
    lines = {wing: sum(map(lines_of, modules(wing))) for wing in WINGS}
    drawn = []
    for wing in WINGS:
        every = [(path, *m) for path in modules(wing) for m in possible(path)]
        rng.shuffle(every)
        wanted, seen = round(count * lines[wing] / sum(lines.values())), set()
        for path, name, occurrence, *_ in every:
            if len(seen) == wanted:
                break
            before = path.read_text()
            tree = MutationVisitor(occurrence, get_operator(name)()).walk(get_ast_from_path(path))
            first, old, new = changed(before, tree.get_code())
            file = path.relative_to(ROOT).as_posix()
            key = (file, first, tuple(new))
            # What no longer compiles is no fault that anybody could commit.
            if (not old and not new) or key in seen or not compiles(tree.get_code()):
                continue
            seen.add(key)
            drawn.append(
                {
                    "id": f"{file}:{first}:{name.removeprefix('core/')}:{occurrence}",
                    "wing": wing, "file": file, "line": first, "old": old, "new": new,
                }
            )  # fmt: skip
        print(f"{wing}: {lines[wing]} lines, {len(every)} mutants, {len(seen)} drawn", flush=True)
    rng.shuffle(drawn)
    return {"seed": seed, "lines": lines, "mutants": drawn}


def compiles(text):
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


# The map -----------------------------------------------------------------------------------------


def mapped(where, file, longest_s):
    """Return a test file's seconds and the lines that it reaches, or why it is left out."""
    from coverage import CoverageData

    data = where / "coverage-data"
    data.unlink(missing_ok=True)
    start = time.monotonic()
    code, _ = run_file(where, file, longest_s, data)
    seconds = time.monotonic() - start
    if code != 0:
        why = "it takes too long" if code is None else "it does not pass as it is"
        return {"file": file, "why": why}
    read = CoverageData(str(data))
    read.read()
    reached = {
        Path(f).relative_to(where.resolve()).as_posix(): spans(sorted(read.lines(f) or ()))
        for f in read.measured_files()
    }
    lines = {k: v for k, v in reached.items() if v}
    return {"file": file, "seconds": round(seconds, 2), "lines": lines}


def make_map(files, out, workers, seconds, longest_s):
    """Add to the map in ``out`` what ``files`` reach, until done or out of time."""
    have = json.loads(out.read_text()) if out.exists() else {}
    end = time.monotonic() + seconds
    jobs, results, started = begun(workers)
    waiting, running = list(files), 0
    while waiting or running:
        while waiting and running < workers and time.monotonic() < end:
            jobs.put(("map", waiting.pop(0), longest_s))
            running += 1
        if not running:
            break
        found = results.get()
        running -= 1
        file = found.pop("file")
        if "lines" in found:
            have[file] = found
            out.write_text(json.dumps(have) + "\n")
            print(f"{file}: {found['seconds']} s, {len(found['lines'])} modules", flush=True)
        else:
            print(f"{file}: left out, {found['why']}", flush=True)
    ended(jobs, started)
    print(f"{len(have)} test files mapped, {len(waiting)} wait", flush=True)


def spans(numbers):
    """Return sorted numbers as [first, last] runs."""
    out = []
    for n in numbers:
        if out and n == out[-1][1] + 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return out


def tests_of(mutant, known):
    """Return the test files that reach a mutant's lines, in the order in which they are run.

    Those of its wing come first, and of these those that reach much of its module in little time.
    """
    text = (ROOT / mutant["file"]).read_text()
    at = place(text.splitlines(True), mutant)
    first = mutant["line"] if at is None else at + 1
    last = first + max(len(mutant["old"]), 1) - 1
    # A statement over several lines counts by its first alone.
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and node.lineno <= first <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            if not body or first < body[0].lineno:
                first = min(first, node.lineno)
    runs = {file: has["lines"].get(mutant["file"], ()) for file, has in known.items()}
    reach = {
        file: sum(b - a + 1 for a, b in some)
        for file, some in runs.items()
        if any(a <= last and b >= first for a, b in some)
    }
    # The lines that an import runs count for none.
    least = min(reach.values(), default=0)

    def order(file):
        seconds = known[file]["seconds"]
        return mutant["wing"] not in known[file]["wings"], seconds / (reach[file] - least + 1), file

    return [(known[file]["seconds"], file) for file in sorted(reach, key=order)]


def wings_of(file):
    """Return the wings that a test file imports."""
    text = (ROOT / file).read_text()
    return sorted(set(re.findall(rf"costmodel\.({'|'.join(WINGS)})\b", text)) | (
        {w for w in WINGS for line in re.findall(r"from costmodel import (.*)", text)
         if re.search(rf"\b{w}\b", line)}
    ))  # fmt: skip


# Running -----------------------------------------------------------------------------------------


def copy(where):
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "mutants")
            shutil.copytree(source, where / name, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, where / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "costmodel"], cwd=where, check=True)


def child(where, file, data):
    """Run one test file in this fork, its lines counted into ``data`` if named; never returns."""
    os.setsid()
    os.chdir(where)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    os.environ.update(QUIET, PYTHONPATH=str(where), TMPDIR=str(where.parent / "tmp"))
    tempfile.tempdir = None
    sys.path[:0] = [str(where)]
    sys.dont_write_bytecode = True
    code = 99
    try:
        import hypothesis
        import pytest

        unshrunk = [p for p in hypothesis.Phase if p.name in ("explicit", "generate")]
        hypothesis.settings.register_profile(
            "mutants", phases=unshrunk, derandomize=True, database=None, deadline=None
        )
        hypothesis.settings.load_profile("mutants")
        if data:
            from coverage import Coverage

            sources = [str(where / "costmodel" / wing) for wing in WINGS]
            counted = Coverage(data_file=str(data), source=sources)
            counted.start()
        code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", file]))
        if data:
            counted.stop()
            counted.save()
    finally:
        os._exit(code)


def run_file(where, file, limit_s, data=None):
    """Return (exit code or None for too long, CPU seconds) of a test file in a fork."""
    pid = os.fork()
    if pid == 0:
        child(where, file, data)
    end = time.monotonic() + limit_s
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, _, used = os.wait4(pid, 0)
            return None, used.ru_utime + used.ru_stime
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def place(lines, mutant):
    """Return the index of the nearest lines that a mutant changes, None where they are gone."""
    size = max(len(mutant["old"]), 1)
    at = [i for i in range(len(lines)) if lines[i : i + size] == mutant["old"]]
    return min(at, key=lambda i: abs(i - mutant["line"] + 1), default=None)


def within(tests, most_s):
    """Return the first of (seconds, file) that take no longer together; one at the least."""
    ends = list(accumulate(seconds for seconds, _ in tests))
    return tests[: max(1, bisect_right(ends, most_s))]


def try_mutant(where, mutant, tests):
    """Return the record of a mutant: killed, survived or not reached by any test file.

    ``tests`` are (seconds, file), in the order in which they are run.
    """
    record = {k: mutant[k] for k in ("id", "wing", "file", "line", "old", "new")}
    path = where / mutant["file"]
    cached = list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))
    kept, times = path.read_text(), path.stat()
    lines = kept.splitlines(True)
    at = place(lines, mutant)
    if at is None:
        return {**record, "state": "gone", "by": "", "cpu_s": 0.0, "tests": []}
    lines[at : at + len(mutant["old"])] = mutant["new"]
    ran, used_s, by = [], 0.0, ""
    try:
        for pyc in cached:
            pyc.rename(pyc.with_suffix(".kept"))
        path.write_text("".join(lines))
        for seconds, file in tests:
            code, used = run_file(where, file, max(20.0, 5 * seconds))
            ran.append(file)
            used_s += used
            if code != 0:
                by = file if code is not None else f"{file} (time)"
                break
    finally:
        path.write_text(kept)
        os.utime(path, (times.st_atime, times.st_mtime))
        for pyc in cached:
            pyc.with_suffix(".kept").rename(pyc)
    state = "killed" if by else "survived" if ran else "unreached"
    return {**record, "state": state, "by": by, "cpu_s": round(used_s, 2), "tests": ran}


def work(jobs, results):
    """Carry out jobs in a copy of the project: what to do, with what, and how far."""
    for name in ("numpy", "pytest", "hypothesis", "click", "msgspec", "scipy.optimize"):
        __import__(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        # Not within the copy: a test that runs pytest of its own must not find our settings.
        where, temporary = Path(folder) / "project", Path(folder) / "tmp"
        where.mkdir()
        temporary.mkdir()
        copy(where)
        while (job := jobs.get()) is not None:
            what, subject, how = job
            try:
                if what == "map":
                    results.put(mapped(where, subject, how))
                elif what == "as it is":
                    start = time.monotonic()
                    code, _ = run_file(where, subject, how)
                    results.put({"file": subject, "code": code, "s": time.monotonic() - start})
                else:
                    results.put(try_mutant(where, subject, how))
            except Exception as error:
                name = subject if isinstance(subject, str) else subject["id"]
                results.put({"id": name, "file": name, "state": "error", "why": repr(error)})


def begun(workers):
    """Return queues of jobs and of results, and the processes between them."""
    context = get_context("fork")
    jobs, results = context.Queue(), context.Queue()
    started = [context.Process(target=work, args=(jobs, results)) for _ in range(workers)]
    for process in started:
        process.start()
    return jobs, results, started


def ended(jobs, started):
    for _ in started:
        jobs.put(None)
    for process in started:
        process.join()


def run(mutants, known, out, workers, seconds, *, again, trusted, most_s):
    """Run what ``out`` lacks, in as many processes, until done or out of time.

    ``again`` runs survivors once more, by the test files that they have not met, or that have
    changed since; ``trusted`` takes it that every test file passes as it is. A survivor meets
    tests of ``most_s`` seconds.
    """
    done = latest([out])
    begin = time.time()
    met = {
        i: [file for file in r["tests"] if (ROOT / file).stat().st_mtime <= r["at"]]
        for i, r in done.items()
        if again and r["state"] != "killed"
    }
    waiting = [m for m in mutants if m["id"] not in done or m["id"] in met]
    end = time.monotonic() + seconds
    jobs, results, started = begun(workers)
    controls = [] if trusted else sorted(known, key=lambda f: -known[f]["seconds"])
    for file in controls:
        jobs.put(("as it is", file, 300.0))
    for _ in controls:
        found = results.get()
        if found["code"] != 0:
            print(f"{found['file']}: left out, it does not pass as it is", flush=True)
            del known[found["file"]]
        else:
            known[found["file"]]["seconds"] = found["s"]
    print(f"{len(known)} test files pass, {seconds - end + time.monotonic():.0f} s", flush=True)
    counts, running = Counter(), 0
    with out.open("a") as stream:
        while waiting or running:
            while waiting and running < workers + 1 and time.monotonic() < end:
                mutant = waiting.pop(0)
                tests = tests_of(mutant, known)
                unmet = [t for t in tests if t[1] not in met.get(mutant["id"], ())]
                jobs.put(("mutant", mutant, within(unmet, most_s)))
                running += 1
            if not running:
                break
            record = results.get()
            record["tests"] = met.get(record["id"], []) + record.get("tests", [])
            record["at"] = round(begin)
            if record["state"] == "unreached" and record["tests"]:
                record["state"] = "survived"
            running -= 1
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            counts[record["state"]] += 1
            if sum(counts.values()) % 20 == 0:
                print(f"{dict(counts)}, {len(waiting)} wait", flush=True)
    ended(jobs, started)
    print(f"{dict(counts)}, {len(waiting)} wait", flush=True)


def latest(files):
    """Return the last record of each mutant, by its id."""
    texts = [f.read_text() for f in files if f.exists()]
    rows = (json.loads(line) for text in texts for line in text.splitlines())
    return {row["id"]: row for row in rows if "id" in row}


def keep(drawn, files, out):
    """Write what became of each mutant that was drawn: a line on the draw, then a line a mutant.

    What was killed is named with the test file that killed it; of the others stands the text too.
    """
    rows = latest(files)
    head = {
        "seed": drawn["seed"],
        "lines": drawn["lines"],
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: version(name) for name in ("cosmic-ray", "coverage")},
    }
    lines = [json.dumps(head)]
    for mutant in sorted(drawn["mutants"], key=lambda m: (m["file"], m["line"], m["id"])):
        row = rows.get(mutant["id"], {"state": "not run"})
        kept = {"id": mutant["id"], "wing": mutant["wing"], "state": row["state"]}
        if row["state"] == "killed":
            kept["by"] = row["by"].removeprefix("tests/")
        else:
            kept |= {side: [line.strip() for line in mutant[side]] for side in ("old", "new")}
        lines.append(json.dumps(kept))
    out.write_text("\n".join(lines) + "\n")


def report(files):
    """Print the share killed by wing, and every survivor."""
    rows = latest(files)
    for wing in (*WINGS, None):
        here = [r for r in rows.values() if wing in (None, r.get("wing"))]
        killed = sum(r["state"] == "killed" for r in here)
        if here:
            share = 100 * killed / len(here)
            print(f"{wing or 'all'}: {killed} of {len(here)} killed, {share:.1f} %")
    for r in sorted(rows.values(), key=lambda r: r["id"]):
        if r["state"] != "killed":
            print(f"\n{r['state']} {r['id']}")
            for sign, lines in (("-", r.get("old", ())), ("+", r.get("new", ()))):
                print("".join(f"  {sign}{line.rstrip()}\n" for line in lines), end="")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("draw", "map", "run", "report", "keep"))
    parser.add_argument("--seed", type=int, default=1130)
    parser.add_argument("--count", type=int, default=640)
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th mutant from the i-th on")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=1e9, help="start nothing after that")
    parser.add_argument("--longest", type=float, default=LONGEST_S, help="s of a mapped test file")
    parser.add_argument(
        "--most", type=float, default=MOST_S, help="s of tests that a survivor meets"
    )
    parser.add_argument("--trusted", action="store_true", help="every test file is known to pass")
    parser.add_argument("--again", action="store_true", help="survivors, by tests not yet met")
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--only", default="", help="ids, or test files, that match this pattern")
    parser.add_argument("files", nargs="*", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    drawn, known = asked.folder / "drawn.json", asked.folder / "map.json"
    if asked.what == "draw":
        drawn.write_text(json.dumps(draw(asked.seed, asked.count), indent=0) + "\n")
    elif asked.what == "map":
        have = json.loads(known.read_text()) if known.exists() else {}
        files = [f"tests/{p.name}" for p in sorted((ROOT / "tests").glob("test_*.py"))
                 if not OTHERS.match(p.name) and re.search(asked.only, p.name)]  # fmt: skip
        files = [file for file in files if asked.only or file not in have]
        make_map(files, known, asked.workers, asked.seconds, asked.longest)
    elif asked.what == "run":
        i, n = map(int, asked.shard.split("/"))
        mutants = json.loads(drawn.read_text())["mutants"][i - 1 :: n]
        mutants = [m for m in mutants if re.search(asked.only, m["id"])]
        tests = json.loads(known.read_text())
        for file in tests:
            tests[file]["wings"] = wings_of(file)
        run(
            mutants,
            tests,
            asked.folder / f"run-{i}of{n}.jsonl",
            asked.workers,
            asked.seconds,
            again=asked.again,
            trusted=asked.trusted,
            most_s=asked.most,
        )
    else:
        files = asked.files or sorted(asked.folder.glob("run-*.jsonl"))
        if asked.what == "report":
            report(files)
        else:
            keep(json.loads(drawn.read_text()), files, KEPT)


if __name__ == "__main__":
    main()
