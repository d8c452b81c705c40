"""What reading and patching comes to on real engine trees: one table over all of them.

    python benchmarks/engine_trees.py FOLDER... [--out FILE] [--calls 10000] [--seed 1]

Each FOLDER is a tree (a package's parent, a checkout, a wheel) or holds some, at most two levels
down. A tree is copied; in the copy the rule of every op that the engine chooses for is read and
replaced: of the fused op by the recommended rule, of the others by :data:`OTHER_CUTOFFS`, since no
model covers them. Of each patch it is checked that

* ``patch`` applies it without fuzz, and the file is then what emit said;
* the emitted boundary tests pass, in a Python process of their own;
* the patched function, cut out and run on stand-ins, decides every one of ``--calls`` random calls
  as the rule, and fuses the calls that the original fuses;
* each setting that overrode the rule still does, on random calls: where it forces the stage, the
  patched function decides as the original with that setting; where it is the limit, it does so on
  the calls that both rules' other conditions let through; and it changes some decision;
* a formatter (ruff, black) leaves the patched lines as they are, and wants of the others what it
  wants of the original's; ruff's linter finds nothing in it that it did not find before;
* emitting again writes nothing, emitting another rule leaves one patch, and the reverted file is
  the original, byte by byte.

Trees whose file is the same, and their kernels, are checked once: the line is said of both. AITER's
MXFP4 op is read and refused: two gates decide there, and its kernel throws outside both.

Prints a Markdown table, which ``--out`` has after every line, so that a stopped run is not lost.
Exits with 1 when anything is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as other_row
from functools import cache
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from costmodel.data.kernels import Kernel, parse_version
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.engines import applied, boundary_tests
from costmodel.engines import patch as engine
from costmodel.engines.audit import InstalledRule, audit
from costmodel.engines.kernel_version import of_tree
from costmodel.engines.overrides import SWITCHES, Override
from costmodel.engines.source import Tree, open_trees
from costmodel.engines.stand_in import NotFusedError, decider
from costmodel.errors import InputError
from costmodel.model.shape import FUSED, MXFP4, WORLD_SIZES
from costmodel.rules.algebra import all_of, asks_for_mesh, factors, is_byte_limit, parts_of
from costmodel.rules.boundary import TYPICAL
from costmodel.rules.condition import Calls, Compare, Condition
from costmodel.rules.evidence import Provenance
from costmodel.rules.rule import Rule
from costmodel.units import ELEMENT_BYTES, KIB, MIB

#: Cutoffs in bytes for ops that no model covers, other than any that an engine has.
OTHER_CUTOFFS = {2: None, 4: 300 * KIB, 8: 100 * KIB}
#: A rule that replaces an applied one, below every cutoff that an engine has.
SECOND_CUTOFFS = {2: 96 * KIB, 4: 48 * KIB, 8: 24 * KIB}
#: The limit that a setting of bytes is set to: 49 KiB.
LIMIT = "50176"
#: What formats a text from its standard input to its standard output; black where it is installed.
FORMATTERS = {
    "ruff": ("ruff", "format", "--isolated", "-q", "-"),
    "black": ("black", "-q", "-"),
}
#: From this size on AITER fuses nothing, so that there is no choice.
NOT_FUSED = 64 * MIB
#: Hidden sizes of random calls: of models, at the kernels' limits, and some that are no whole pack.
HIDDEN = (*TYPICAL, 512, 1000, 1024, 1028, 2048, 2884, 5120, 6144, 8192, 8200, 12288, 16384)

Call = tuple[int, str, int, int, bool]


@dataclass
class Row:
    """One line of the table: what came out for the rule of one op in one tree."""

    tree: str
    engine: str
    version: str
    kernels: str = ""
    op: str = ""
    installed: str = ""
    findings: str = ""
    tests: str = ""
    differ: str = ""
    settings: str = ""
    again: str = ""
    style: str = ""
    wrong: list[str] = field(default_factory=list)
    note: str = ""
    as_in: str = ""
    refused: list[str] = field(default_factory=list)


def main() -> None:
    """Check every tree, print the table, and exit with 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gpu", default="MI355X")
    asked = parser.parse_args()
    rows: list[Row] = []
    started = time.monotonic()
    seen: dict[tuple[object, ...], Row] = {}
    for path in dict.fromkeys(p for folder in asked.folders for p in trees(folder)):
        for row in of_path(path, asked, seen):
            rows.append(row)
            said = "; ".join(row.wrong) or row.note or "as it should be"
            print(f"{path.name}: {row.engine} {row.op}: {said}", file=sys.stderr, flush=True)
            if asked.out:
                asked.out.write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(any(row.wrong for row in rows))


def trees(folder: Path, depth: int = 2) -> Iterator[Path]:
    """Yield the trees at or below a folder, older versions first."""
    try:
        open_trees(folder)
    except InputError:
        inner = [p for p in folder.iterdir() if p.is_dir() or p.suffix == ".whl"]
        below = [list(trees(p, depth - 1)) for p in sorted(inner, key=_age)] if depth else []
        yield from (p for found in below for p in found)
        return
    yield folder


def _age(path: Path) -> tuple[bool, tuple[object, ...], str]:
    try:
        return False, (parse_version(path.name.removeprefix("v").split("-")[0]),), path.name
    except InputError:
        return True, (), path.name


def of_path(
    path: Path, asked: argparse.Namespace, seen: dict[tuple[object, ...], Row]
) -> Iterator[Row]:
    """Yield the rows of every engine at a path; ``seen`` are those of the same files."""
    for tree in open_trees(path):
        row = Row(path.name, tree.engine.title, tree.version)
        try:
            done = audit(tree)
        except InputError as error:
            row.note = f"not read: {error}"
            yield row
            continue
        for one in done.installed:
            kernel = replace(of_tree(tree).kernel, version="")
            same = (tree.engine.name, one.rule.op, tree.read(one.file), one.function, kernel)
            if same in seen:
                first = seen[same]
                stated = of_tree(tree).stated or "unknown"
                yield other_row(
                    first, tree=row.tree, version=row.version, kernels=stated,
                    as_in=first.version or first.tree,
                )  # fmt: skip
                continue
            seen[same] = of_rule(tree, one, asked)
            yield seen[same]


def of_rule(tree: Tree, one: InstalledRule, asked: argparse.Namespace) -> Row:
    """Return the row of one op's rule."""
    running = of_tree(tree)
    row = Row(tree.path.name, tree.engine.title, tree.version, running.stated or "unknown")
    row.op, row.installed = one.rule.op, one.known_as or one.rule.words()
    row.findings = ", ".join(dict.fromkeys(f.check.replace("_", " ") for f in one.findings))
    rule, provenance = wanted(tree.engine.name, one.rule.op, running.kernel, asked.gpu)
    with tempfile.TemporaryDirectory() as scratch:
        root = copied(tree, Path(scratch) / "tree")
        (copy,) = (t for t in open_trees(root) if t.engine == tree.engine)
        file = root / one.file
        original = file.read_bytes()

        def emit(other: Rule) -> engine.Emitted:
            return engine.patch(copy, other, provenance, running.kernel, running=running)

        try:
            emitted = emit(rule)
            if not emitted.text:
                row.note = "in force already"
                return row
            apply(emitted.text, root)
            if file.read_bytes().decode() != emitted.patched:
                row.wrong.append("the applied file is not the emitted one")
            row.tests = tests_of(copy, emitted, provenance, Path(scratch), row)
            row.differ = shapes_of(original.decode(), emitted, one, asked, row)
            row.settings = settings_of(original.decode(), emitted, one, asked, row)
            row.style = style_of(original.decode(), emitted.patched, row)
            row.again = twice(root, copy, emit, rule, emitted, row)
        except InputError as error:
            (row.refused if rule.op == MXFP4 else row.wrong).append(str(error))
            return row
        if file.read_bytes() != original:
            row.wrong.append("the reverted file is not the original")
    return row


@cache
def wanted(name: str, op: str, kernel: Kernel, gpu: str) -> tuple[Rule, Provenance]:
    """Return the rule to emit for an op, and where it comes from."""
    if op != FUSED:
        rule = Rule.from_cutoffs("other", OTHER_CUTOFFS, op=op)
        return rule, Provenance(f"costmodel emit --for {name} --op {op} --rule other.json")
    decision = recommend(Setting.shipped(gpu, aiter_version=kernel.version))
    setting = decision.setting
    command = f"costmodel emit --for {name} --gpu {gpu} --aiter-version {kernel.version}"
    return decision.unguarded_rule, Provenance(
        command, setting.calibration.id, setting.calibration.sha256, setting.arch, setting.gpu,
        decision.evidence,
    )  # fmt: skip


def copied(tree: Tree, root: Path) -> Path:
    """Copy a tree; files are linked where that can be, but for those that a patch may change."""
    if tree.kind == "wheel":
        with zipfile.ZipFile(tree.path) as archive:
            archive.extractall(root)
        return root
    sites = {site.file for site in tree.engine.call_sites}

    def copy(source: str, to: str) -> None:
        if not any(source.endswith(f"/{site}") for site in sites):
            with contextlib.suppress(OSError):
                os.link(source, to)
                return
        shutil.copy2(source, to)

    # The name may be the version's.
    root = root / tree.path.name
    shutil.copytree(tree.path, root, copy_function=copy, symlinks=True)
    return root


def apply(diff: str, root: Path) -> None:
    """Apply a diff; raise :class:`InputError` where it needs fuzz or an offset."""
    done = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "-d", str(root)], input=diff.encode(), capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode or b"offset" in done.stdout:
        raise InputError(f"patch does not apply it: {done.stdout.decode().strip()[:200]}")


def tests_of(
    tree: Tree, emitted: engine.Emitted, provenance: Provenance, folder: Path, row: Row
) -> str:
    """Run the emitted tests; return how many groups of cases passed."""
    text = boundary_tests.render(
        emitted.adapted, provenance, tree.engine, emitted.file, emitted.function, str(tree.path),
        emitted.patched, emitted.copies,
    )  # fmt: skip
    (folder / "test_rule.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", "test_rule.py"], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        row.wrong.append(f"emitted tests: {(done.stdout + done.stderr).strip()[-300:]}")
        return "fail"
    return done.stdout.split(":")[0].split()[0]


def shapes_of(
    original: str,
    emitted: engine.Emitted,
    one: InstalledRule,
    asked: argparse.Namespace,
    row: Row,
) -> str:
    """Return how many random calls the patched function decides otherwise than the rule."""
    rule = emitted.adapted.rule
    mesh = asks_for_mesh(one.rule.condition)
    calls = random_calls(asked.calls, asked.seed, [rule.condition, one.rule.condition], mesh)
    right = says(rule, calls)
    wrong, fused = [], 0
    for function in (emitted.function, *emitted.copies):
        before, after = (decided(text, function, calls) for text in (original, emitted.patched))
        for call, old, new, wanted_one in zip(calls, before, after, right, strict=True):
            if (old is None) != (new is None) or (new is not None and new != wanted_one):
                wrong.append((function, call))
        fused += sum(new is not None for new in after)
    if wrong:
        row.wrong.append(f"decides otherwise than the rule at {wrong[0]}")
    return f"{len(wrong)} of {fused}"


def decided(
    text: str, function: str, calls: list[Call], **settings: dict[str, object]
) -> list[bool | None]:
    """Return what a function decides for each call, None where it fuses nothing."""
    decide = decider(text, function, **settings)
    out: list[bool | None] = []
    for call in calls:
        try:
            out.append(decide(*call))
        except NotFusedError:
            out.append(None)
    return out


def settings_of(
    original: str,
    emitted: engine.Emitted,
    one: InstalledRule,
    asked: argparse.Namespace,
    row: Row,
) -> str:
    """Return the settings that still override the rule."""
    said = []
    rules = [emitted.adapted.rule, one.rule]
    for override in one.overrides:
        limit = override.replaces == "limit"
        calls = random_calls(
            asked.calls // 10, asked.seed + 1, [r.condition for r in rules], mesh=False
        )
        if limit:
            let = [let_through(r, calls) for r in rules]
            calls = [c for c, a, b in zip(calls, *let, strict=True) if a and b]
        plain = decided(emitted.patched, emitted.function, calls)
        acts = False
        for value in values(override):
            given = setting(override.name, value)
            before, after = (
                decided(text, emitted.function, calls, **given)
                for text in (original, emitted.patched)
            )
            acts |= after != plain
            wrong = [c for c, old, new in zip(calls, before, after, strict=True) if old != new]
            if wrong:
                row.wrong.append(f"{override.name}={value} acts otherwise at {wrong[0]}")
        if acts:
            said.append(override.name)
        else:
            row.wrong.append(f"{override.name} changes nothing")
    return ", ".join(said)


def values(override: Override) -> tuple[str, ...]:
    """Return what a setting is set to."""
    if override.replaces == "limit":
        return (LIMIT,)
    switches = SWITCHES[2:] if "." in override.name else SWITCHES[:2]
    tried = {value for value, _ in override.effects}
    return tuple(v for v in switches if v in tried)


def setting(name: str, value: str) -> dict[str, dict[str, object]]:
    """Return how a stand-in is told of a setting."""
    if "." not in name:
        return {"environ": {name: value}}
    known = {"true": True, "false": False}
    return {"attributes": {name.split(".")[1]: known[value] if value in known else int(value)}}


def let_through(rule: Rule, calls: list[Call]) -> list[bool]:
    """Return which calls meet what a rule asks besides bytes."""
    cases = {
        n: all_of(*(f for f in factors(rule.condition.at(n)) if not is_byte_limit(f)))
        for n in WORLD_SIZES
    }
    return holds(cases, calls)


def says(rule: Rule, calls: list[Call]) -> list[bool]:
    """Return what a rule decides for each call."""
    return holds({n: rule.condition.at(n) for n in WORLD_SIZES}, calls)


def holds(conditions: dict[int, Condition], calls: list[Call]) -> list[bool]:
    """Return for which calls the condition of their world size holds."""
    out = [False] * len(calls)
    groups: dict[tuple[int, str, bool], list[int]] = {}
    for i, (n, dtype, _, _, mesh) in enumerate(calls):
        groups.setdefault((n, dtype, mesh), []).append(i)
    for (n, dtype, mesh), members in groups.items():
        hidden, elements = (np.array([calls[i][at] for i in members]) for at in (2, 3))
        asked = Calls(
            dtype, elements // hidden, hidden, elements, np.full(len(members), n),
            fully_connected=mesh,
        )  # fmt: skip
        for i, one in zip(members, conditions[n].holds(asked).tolist(), strict=True):
            out[i] = bool(one)
    return out


def random_calls(count: int, seed: int, rules: list[Condition], mesh: bool) -> list[Call]:
    """Return random calls (world size, dtype, hidden, elements, mesh), half at a size in a rule."""
    rng = np.random.default_rng(seed)
    edges = {int(LIMIT)} | {
        part.value
        for rule in rules
        for n in WORLD_SIZES
        for part in parts_of(rule.at(n))
        if isinstance(part, Compare) and part.quantity == "bytes"
    }
    sizes = np.array(sorted(edges))
    dtypes = rng.choice(list(ELEMENT_BYTES), count)
    size = np.array([ELEMENT_BYTES[d] for d in dtypes])
    hidden = rng.choice(HIDDEN, count)
    wide = np.exp(rng.uniform(0, np.log(1200), count)).astype(np.int64)
    near = rng.choice(sizes, count) // (hidden * size) + rng.integers(-1, 2, count)
    most = (NOT_FUSED - 1) // (hidden * size)
    tokens = np.clip(np.where(rng.random(count) < 0.5, wide, near), 1, most)
    full = rng.random(count) < 0.9 if mesh else np.full(count, True)
    return list(
        zip(
            rng.choice(WORLD_SIZES, count).tolist(), dtypes.tolist(), hidden.tolist(),
            (tokens * hidden).tolist(), full.tolist(), strict=True,
        )
    )  # fmt: skip


def style_of(original: str, patched: str, row: Row) -> str:
    """Return the formatters that write the patch's lines as they are.

    One that would write other lines of the original otherwise ("but for 8 lines") must want the
    same of the patched file and nothing else.
    """
    said = []
    for name, command in FORMATTERS.items():
        if not shutil.which(command[0]):
            continue
        before, after = (rewritten(command, text) for text in (original, patched))
        said.append(name if not before else f"{name} but for {before.total()} lines")
        if after != before:
            row.wrong.append(f"{name} would format the patched lines otherwise")
    if shutil.which("ruff") and (new := findings(patched) - findings(original)):
        row.wrong.append(f"ruff finds {', '.join(sorted(new))} in the patched file alone")
    return ", ".join(said)


def rewritten(command: Sequence[str], text: str) -> Counter[str]:
    """Return the lines that a formatter takes away or writes, and how often each."""
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    lines = difflib.ndiff(text.splitlines(), done.stdout.decode().splitlines())
    return Counter(line for line in lines if line[0] in "+-")


def findings(text: str) -> Counter[str]:
    """Return how often ruff's linter finds which rule broken."""
    command = ["ruff", "check", "--isolated", "--output-format=json", "-"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    return Counter(str(one["code"]) for one in json.loads(done.stdout or b"[]"))


def twice(root, copy, emit, rule: Rule, emitted: engine.Emitted, row: Row) -> str:  # type: ignore[no-untyped-def]
    """Emit the rule again, then another over it, then revert; return what came out."""
    if emit(rule).text:
        row.wrong.append("emitting again writes a patch")
    second = emit(Rule.from_cutoffs("second", SECOND_CUTOFFS, op=rule.op))
    apply(second.text, root)
    if len(list(applied.marks(second.patched))) != 1:
        row.wrong.append("a second rule does not replace the first")
    apply(engine.revert(copy, rule.op), root)
    return "nothing, one, same"


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table, trees with the same file in one, and what is wrong."""
    head = ("trees", "AITER", "op", "rule that stood there", "found", "settings that act",
            "groups of cases", "formatted by", "differ")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    alike: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if not row.note:
            key = (row.engine, row.op, row.as_in or row.version or row.tree, row.installed)
            alike.setdefault(key, []).append(row)
    for same in alike.values():
        row = same[0]
        outcome = [row.settings or "-", row.tests, row.style or "-", row.differ]
        if row.wrong or row.refused:
            outcome = ["-", "refused" if row.refused else "WRONG", "-", "-"]
        said = (
            f"{row.engine} {', '.join(r.version or r.tree for r in same)}",
            ", ".join(dict.fromkeys(r.kernels for r in same)),
            row.op.removeprefix("fused_ar_rmsnorm_"), row.installed, row.findings or "-", *outcome,
        )  # fmt: skip
        lines.append(f"| {' | '.join(said)} |")
    for row in rows:
        if row.note or row.wrong:
            lines += ["", f"{row.engine} {row.version or row.tree} {row.op}: "]
            lines[-1] += "; ".join([*([row.note] if row.note else []), *row.wrong])
    return "\n".join(lines)


if __name__ == "__main__":
    main()
