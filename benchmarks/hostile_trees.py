"""Damaged and hostile engine trees through read, audit and emit, under limits.

    python benchmarks/hostile_trees.py [--seed 1] [--count 10000] [--sources FOLDER...]

Each input is a small tree or wheel of the project's own sources (tests/engines), or the file with
the choice out of a real tree below ``--sources``, changed by one of :data:`KINDS`. A worker process
reads, audits and patches it, with 1 GiB of memory more than it starts with, 10 s of processor time
and 120 s in all. Each input must end in an answer or in one printable line of an
:class:`InputError`: what else happens is printed with the number that makes it again
(``--only N``), and the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import tokenize
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from engines.shapes import SHAPES, Shape

from costmodel.data import kernels
from costmodel.engines import applied, boundary_tests
from costmodel.engines import patch as engine
from costmodel.engines.audit import audit
from costmodel.engines.kernel_version import of_tree
from costmodel.engines.source import open_trees
from costmodel.errors import InputError
from costmodel.model.shape import FUSED
from costmodel.rules.evidence import Provenance
from costmodel.rules.rule import Rule
from costmodel.units import MIB

PROVENANCE = Provenance("costmodel emit --for aiter --rule mine.json")
RULE = Rule.from_cutoffs("mine", {2: None, 4: 300_000, 8: 96 * 1024})
OTHER = Rule.from_cutoffs("other", {2: 10_000, 4: 20_000, 8: 40_000})
ENDED_BY = {signal.SIGPROF: "too slow", signal.SIGALRM: "too slow on the clock"}
MEMORY_BYTES, PROCESSOR_S, WALL_S = 1 << 30, 10, 120

#: Expressions that are long, deep, huge or slow to evaluate.
HOSTILE = (
    "1 << 10000000000", "10 ** 10 ** 10", "2 ** 2 ** 2 ** 2 ** 2 ** 2", "1 << -1", "1 // 0",
    "1 % 0", "-(1 << 70)", "1e400", "float('nan')", "0.1 + 0.2", "'x' * (1 << 40)",
    "[0] * (1 << 40)",
    "b'\\x00'", "'\\ud800'", "None", "...", "True", "''", "lambda: 0", "(yield)", "await x",
    "[*range(10**9)]", "{**x}", "f'{x!r:>{10**9}}'", "x if x else x", "(x := 1)", "not x", "~0",
    "input_.shape[10**6]", "input_.shape[-(10**30)]", "self.__dict__", "__import__('os').abort()",
    "os.environ['A']", "int(os.environ.get('A', 'x'))", "input_.shape[0] ** input_.shape[1] ** 99",
    " and ".join(f"x{i} > {i}" for i in range(2000)), " or ".join(["x < 1"] * 2000),
    " + ".join(["1"] * 2000), " < ".join(["x"] * 2000), "(" * 90 + "1" + ")" * 90,
    "(" * 5000 + "1" + ")" * 5000, "not " * 3000 + "x", "-" * 3000 + "1", "x" + ".a" * 3000,
    "x" + "[0]" * 3000, "f" + "()" * 3000, "[" * 3000 + "]" * 3000, "9" * 4000, "9" * 5000,
    "0x" + "f" * 100_000, repr("y" * 500_000), "lambda: " * 900 + "0", "x if y else " * 900 + "0",
    "{" + ", ".join(f"{i}: {i}" for i in range(3000)) + "}.get(self.world_size, 0)",
    "self.fused_allreduce_rmsnorm(input_, input_, input_, 0)",
)  # fmt: skip
#: Statements that branch, loop or call for ever.
STATEMENTS = (
    "\n".join(f"if input_.shape[0] > {i}: a{i} = {i}" for i in range(60)),
    "\n".join(f"if input_.shape[{i % 2}] > {i}: total_bytes = {i}" for i in range(24)),
    "\n".join(f"a{i} = {f'a{i - 1} + a{i - 1}' if i else 'input_.numel()'}" for i in range(400)),
    "\n".join(f"a{i} = {f'a{i - 1} * a{i - 1}' if i else '3'}" for i in range(80)),
    "\n".join(f"a{i} = {f'a{i - 1} and a{i - 1}' if i else 'n > 1'}" for i in range(50)),
    "while True: pass", "for i in range(10**12): x = i", "raise SystemExit", "return", "return 1",
    "\n".join(f"{' ' * i}if x{i}:" for i in range(80)) + "\n" + " " * 80 + "pass",
    "try:\n    os.environ['A']\nexcept Exception:\n    total_bytes = 1", "global total_bytes",
    "match input_:\n    case 1: pass", "async with x: pass", "import os; os.abort()", "del input_",
    "def inner(): return inner()", "class A(A): pass", "a, *b = c = input_", "x: int", "assert 0",
)  # fmt: skip
#: Pieces of comments, as they stand or many times over.
REMARKS = (
    "1-stage up to 128 KiB. ", "same ", "aiter", "same rule as the byte threshold ", "   ", "y",
    "9", "hidden 4096 ", "8 tokens at hidden 7168, TP8. ", "1 << 9", "256 * 1024 * 1024 bytes, ",
    "- ", "bytes ", "small ", "e.g. ", "TP", "two-stage; ", "128 KiB guard (TP2, TP4). ",
    "\u0663 KiB ", "\u2028", "\x0c", "1_000_", "world_size 8 ", "mirrors ", "'", "`", "noqa ",
    "Undo (costmodel ",
    "Undo (costmodel emit --revert): fused_ar_rmsnorm 0 1 00000000 5:", "hidden_dim 9999999 ",
)  # fmt: skip
Change = Callable[[random.Random, Path, Shape], Path]


def main() -> None:
    """Run the inputs, print what came out, exit with 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--only", type=int, help="the one input to make, with its traceback")
    parser.add_argument("--sources", nargs="*", type=Path, default=[])
    asked = parser.parse_args()
    shapes = [*SHAPES.values(), *(s for folder in asked.sources for s in real(folder))]
    numbers = range(asked.count) if asked.only is None else range(asked.only, asked.only + 1)
    ended: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    slowest, most, wrong = (0.0, ""), 0, []
    started, at = time.monotonic(), numbers.start
    while at < numbers.stop:
        running = ""
        process, lines = worker(asked.seed, range(at, numbers.stop), shapes)
        for line in lines:
            said = json.loads(line)
            at = said["at"]
            running = said["kind"]
            if "ended" not in said:
                continue
            at, running = at + 1, ""
            kinds[said["kind"]] += 1
            ended[said["ended"]] += 1
            slowest = max(slowest, (said["s"], f"{said['at']} {said['kind']}"))
            most = max(most, said["kib"])
            if said["ended"] == "wrong":
                wrong.append(f"{said['at']} {said['kind']}: {said['why']}")
                print(wrong[-1], flush=True)
        _, status = os.waitpid(process, 0)
        if running:
            signaled = os.WIFSIGNALED(status)
            how = ENDED_BY.get(os.WTERMSIG(status), "crashed") if signaled else "this script failed"
            wrong.append(f"{at} {running}: the worker died: {how} ({status})")
            print(wrong[-1], flush=True)
            at += 1
    print(", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    print(", ".join(f"{count} {how}" for how, count in sorted(ended.items())))
    print(f"slowest {slowest[0]:.2f} s of processor ({slowest[1]}); at most {most / 1024:.0f} MiB")
    print(f"{len(numbers)} inputs, {len(wrong)} wrong, {time.monotonic() - started:.0f} s")
    sys.exit(bool(wrong))


def real(folder: Path) -> list[Shape]:
    """Return the files that hold the choice in the real trees below a folder."""
    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir() or p.suffix == ".whl"):
        with contextlib.suppress(InputError):
            for tree in open_trees(path):
                one = audit(tree).installed[0]
                inside = one.file.removeprefix(f"{tree.inside}/")
                text = Path(tree.path / one.file).resolve()
                found.append(
                    Shape(tree.engine.name, tree.version, ((inside, str(text)),), "", one.function)
                )
    return found


def worker(seed: int, numbers: range, shapes: list[Shape]) -> tuple[int, TextIO]:
    """Start a process that takes inputs one after the other; return it and what it says."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        status = 70
        try:
            with os.fdopen(writing, "w") as say, tempfile.TemporaryDirectory() as scratch:
                limited()
                for at in numbers:
                    one(seed, at, shapes, Path(scratch) / str(at), say)
            status = 0
        except BaseException:
            traceback.print_exc()  # a fault of this script: what is tested is caught in one()
        finally:
            os._exit(status)
    os.close(writing)
    return process, os.fdopen(reading)


def limited() -> None:
    """Bound this process's memory, and let it say what is asked for only."""
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def one(seed: int, at: int, shapes: list[Shape], root: Path, say: TextIO) -> None:
    """Make an input, take it, and say how it ended."""
    rng = random.Random(f"{seed} {at}")
    kind = rng.choice(list(KINDS))
    print(json.dumps({"at": at, "kind": kind}), file=say, flush=True)
    root.mkdir()
    path = KINDS[kind](rng, root, rng.choice(shapes))
    # The default action of both signals ends the process, whatever it is in.
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_S)
    started, why = time.process_time(), ""
    try:
        ended = take(path)
    except InputError as error:
        ended = "refused in words"
        if not str(error).isprintable() or len(str(error)) > 2000:
            ended, why = "wrong", f"not one printable line: {str(error)[:200]!r}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ended, why = "wrong", f"{type(error).__name__} at {last.name}:{last.lineno}: {error!s:.100}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    said = {
        "at": at, "kind": kind, "ended": ended, "why": why,
        "s": time.process_time() - started,
        "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }  # fmt: skip
    print(json.dumps(said), file=say, flush=True)
    shutil.rmtree(root, ignore_errors=True)


def take(path: Path) -> str:
    """Read, audit and patch what is at a path."""
    ended, refusals = "", []
    for tree in open_trees(path):
        for step in (lambda tree=tree: audit(tree), lambda tree=tree: emitted(tree)):
            try:
                ended = step() or ended or "read"
            except InputError as error:
                refusals.append(error)
    if refusals and not ended:
        raise refusals[0]
    return ended if isinstance(ended, str) else "read"


def emitted(tree) -> str:  # type: ignore[no-untyped-def]
    """Patch a tree and read the patch back."""
    running = of_tree(tree)
    made = engine.patch(tree, RULE, PROVENANCE, running.kernel, running=running)
    if not made.text:
        return "in force"
    ast.parse(made.patched)
    boundary_tests.render(
        made.adapted, PROVENANCE, tree.engine, made.file, made.function, "", made.patched,
        made.copies,
    )  # fmt: skip
    before = applied.original(made.patched, made.file, FUSED)
    if tree.read(made.file) != before and not list(applied.marks(tree.read(made.file) or "")):
        raise AssertionError("the patch does not undo to what stood there")
    return "patched"


# What is done to a tree.


def site(shape: Shape, root: Path) -> Path:
    """Write the tree; return the file with the choice."""
    return shape.package(root) / shape.engine / shape.files[0][0]


def in_bytes(rng: random.Random, root: Path, shape: Shape) -> Path:
    """Change bytes."""
    file = site(shape, root)
    file.write_bytes(damaged(rng, file.read_bytes()))
    return root


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with some replaced, inserted, left out or cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        at = rng.randrange(len(out) + 1)
        how = rng.randrange(5)
        if how == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            out[at:at] = rng.choice(
                (b"\0", b"\xff\xfe", b"\r", b"\x0c", b"\xe2\x80\xa8", b"\\", b"(")
            )
        elif how == 2:
            del out[at : at + rng.choice((1, 3, 100))]
        elif how == 3:
            out[at:at] = out[at : at + rng.choice((10, 1000))]
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


def in_tokens(rng: random.Random, root: Path, shape: Shape) -> Path:
    """Change tokens."""
    file = site(shape, root)
    found = list(tokenize.generate_tokens(io.StringIO(file.read_text()).readline))
    words = [(t.type, t.string) for t in found]
    spots = [i for i, t in enumerate(found) if t.string.strip()]
    for _ in range(rng.randint(1, 6)):
        i, j = rng.choice(spots), rng.choice(spots)
        how = rng.randrange(4)
        if how == 0:
            words[i], words[j] = words[j], words[i]
        elif how == 1:
            words[i] = words[j]
        else:
            new = str(1 << rng.choice((3, 20, 64, 4000))) if how == 2 else rng.choice(HOSTILE)
            words[i] = (tokenize.OP, f"({new})")
    with contextlib.suppress(ValueError, IndexError):
        file.write_text(tokenize.untokenize(words), errors="replace")
    return root


def in_syntax(rng: random.Random, root: Path, shape: Shape) -> Path:
    """Put hostile expressions and statements where the function has its own."""
    file = site(shape, root)
    text = file.read_text()
    tree = ast.parse(text)
    last = shape.function.rsplit(".", 1)[-1] or "fused"
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    chosen = [n for n in functions if n.name == last] or functions
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        function = rng.choice(chosen)
        if rng.random() < 0.3:
            statement = rng.choice(function.body)
            pad = " " * statement.col_offset
            new = [pad + line for line in rng.choice(STATEMENTS).split("\n")]
            lines[statement.lineno - 1] = "\n".join([*new, lines[statement.lineno - 1]])
            continue
        spots = [
            n for n in ast.walk(function) if isinstance(n, ast.expr) and n.lineno == n.end_lineno
        ]
        node = rng.choice(spots)
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = (
            line[: node.col_offset] + f"({rng.choice(HOSTILE)})" + line[node.end_col_offset :]
        )
    file.write_text("\n".join(lines), errors="replace")
    return root


def in_remarks(rng: random.Random, root: Path, shape: Shape) -> Path:
    """Write long or odd comments and docstrings around the choice."""
    file = site(shape, root)
    lines = file.read_text().split("\n")
    named = shape.function.rsplit(".", 1)[-1]
    first = next((i for i, line in enumerate(lines) if named and f"def {named}" in line), 0)
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(first, min(len(lines), first + 40))
        pad = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        said = rng.choice(REMARKS) * rng.choice((1, 1, 20, 5000, 60_000))
        if rng.random() < 0.2:
            lines[at] += f"  # {said}"
        elif rng.random() < 0.2:
            lines[at] = f'{pad}"""{said}"""\n{lines[at]}'
        else:
            lines[at] = "\n".join([f"{pad}# {said}"] * rng.choice((1, 1, 40)) + [lines[at]])
    file.write_text("\n".join(lines), errors="replace")
    return root


def in_files(rng: random.Random, root: Path, shape: Shape) -> Path:
    """Put something that is no file, or no text, where a source is looked for."""
    file = site(shape, root)
    package = root / shape.engine
    where = rng.choice(
        [file, package / "__init__.py", package / "version.py", package / "zz.py",
         root / f"{shape.engine}-1.dist-info" / "METADATA", root / "docker" / "rocm.Dockerfile"]
    )  # fmt: skip
    where.parent.mkdir(parents=True, exist_ok=True)
    data = where.read_bytes() if where.exists() else b"Version: 1\nAITER_COMMIT=v0.1.19\n1stage\n"
    where.unlink(missing_ok=True)
    how = rng.randrange(14)
    if how == 0:
        os.mkfifo(where)
    elif how == 1:
        where.mkdir()
    elif how == 2:
        where.symlink_to(root / "nowhere")
    elif how == 3:
        where.symlink_to(where)
    elif how == 4:
        where.symlink_to(rng.choice(("/dev/zero", "/dev/full", "/proc/self/mem", "/dev/stdin")))
    elif how == 5:
        where.write_bytes(data)
        where.chmod(0)
    elif how == 6:
        with where.open("wb") as stream:
            stream.truncate(1 << 36)
    elif how == 7:
        data = data or b"\n"
        where.write_bytes(data * (8 * MIB // len(data)))
    elif how == 8:
        coding = rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"))
        where.write_bytes(data.decode().encode(coding, "replace"))
    elif how == 9:
        coding = rng.choice(("latin-1", "utf-16", "rot13", "x" * 1000, "../../etc"))
        where.write_bytes(f"# -*- coding: {coding} -*-\n".encode() + data + b"# \xe9\n")
    elif how == 10:
        newline = rng.choice((b"\r", b"\r\n", b"\x0c\n", b"\n\0", b"\n" * 300))
        where.write_bytes(data.replace(b"\n", newline))
    elif how == 11:
        said = rng.choice(
            (b"1.0\x1b[31m", b"9" * 100_000, b"1\r\nX: y", "1.\u0663".encode(), b"\0")
        )
        where.write_bytes(b'Version: %s\n__version__ = "%s"\n' % (said, said))
        if where == file:
            where.write_bytes(data)
    elif how == 12:
        where.write_bytes(data)
        (package / "loop").symlink_to(root)
    else:
        where.write_bytes(data)
        named = rng.choice(
            (b"a\nb_1stage.py", b"\xff1stage.py", b"\x1b[2J.py", b"x" * 250 + b".py")
        )
        (Path(os.fsdecode(os.fsencode(package) + b"/" + named))).write_bytes(file.read_bytes())
        if rng.random() < 0.5:
            file.unlink()
    return root


def in_wheel(rng: random.Random, root: Path, shape: Shape) -> Path:
    """Damage a wheel, or build one that no tool would."""
    wheel = shape.wheel(root)
    name = f"{shape.engine}/{shape.files[0][0]}"
    how = rng.randrange(6)
    if how <= 1:
        wheel.write_bytes(damaged(rng, wheel.read_bytes()))
        return wheel
    if how == 2:
        # What the directory says of a member: sizes, flags, method, offset.
        data = bytearray(wheel.read_bytes())
        spots = [i for i in range(len(data) - 46) if data[i : i + 4] == b"PK\x01\x02"]
        at = rng.choice(spots) + rng.choice((8, 10, 16, 20, 24, 28, 30, 42))
        struct.pack_into("<H", data, at, rng.choice((0, 1, 8, 12, 14, 99, 0xFFFF)))
        wheel.write_bytes(bytes(data))
        return wheel
    if how == 3:
        with zipfile.ZipFile(wheel, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(rng.choice((name, f"{shape.engine}/a_1stage.py")), b"\n" * (64 * MIB))
        return wheel
    if how == 4:
        method = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        with zipfile.ZipFile(wheel, "w", method) as archive:
            for inside, text in shape.contents().items():
                archive.writestr(f"{shape.engine}/{inside}", text)
        return wheel
    with zipfile.ZipFile(wheel, "a") as archive:
        for i in range(rng.choice((1, 5000))):
            odd = rng.choice(("../../x", "/abs", "a\nb", "", "\ud800", f"{shape.engine}/{i}.py"))
            with contextlib.suppress(UnicodeEncodeError):
                archive.writestr(f"{odd}{i}", b"1stage = 1\n")
    return wheel


def in_patched(rng: random.Random, root: Path, shape: Shape) -> Path:
    """Damage a tree that a patch is applied to, its mark above all."""
    file = site(shape, root)
    (tree,) = open_trees(root)
    with contextlib.suppress(InputError):
        text = engine.patch(tree, OTHER, PROVENANCE, kernels.aiter()).patched or file.read_text()
        lines = text.split("\n")
        marks = [i for i, line in enumerate(lines) if "Undo (costmodel" in line] or [0]
        at = rng.choice(marks) + rng.choice((0, 0, 1, -1, 4))
        at = min(max(at, 0), len(lines) - 1)
        new = damaged(rng, lines[at].encode()).decode("utf-8", "replace")
        if rng.random() < 0.3:
            new = new.replace(" 1", " 999999").replace(" 2", " -1")
        lines[at : at + 1] = [new] * rng.choice((0, 1, 1, 1, 2))
        file.write_text("\n".join(lines), errors="replace")
    return root


KINDS: dict[str, Change] = {
    "bytes": in_bytes,
    "tokens": in_tokens,
    "syntax": in_syntax,
    "remarks": in_remarks,
    "files": in_files,
    "wheel": in_wheel,
    "patched": in_patched,
}


if __name__ == "__main__":
    main()
