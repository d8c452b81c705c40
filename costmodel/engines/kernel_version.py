"""Which AITER an engine's tree runs: its kernels' limits are part of the rule that goes in there.

Asked for first; then what the tree itself says: the distribution installed beside the package, the
pin in a checkout's Docker files and requirements, the kernel source of an AITER tree. Then what the
engine's own container image of that release pinned (``facts/image_pins.csv``). Where nothing is
known, the strictest limit that any release has stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ..data import facts, hardware, kernels
from ..data.kernels import Kernel, parse_version
from ..errors import InputError
from .environment import FIRST, VARIABLE
from .source import Tree

#: Releases look like 0.1.17, v0.1.19.post1, 0.1.14-rc0, 0.1.13.dev0, 0.1.20+rocm7.2.
_STATED = re.compile(r"v?(\d+\.\d+\.\d+(?:\.post\d+)?)((?:[-.]?(?:rc|dev|a|b)\d*)?)(?:[-+.].*)?")
_PINS = (
    re.compile(
        r"^[ \t]*(?:(?:ENV|ARG)[ \t]+)?AITER_(?:COMMIT(?:_DEFAULT)?|BRANCH|VERSION|TAG|REF)"
        r"[ \t]*[= \t][ \t]*[\"']?([\w.+-]+)",
        re.MULTILINE,
    ),
    re.compile(r"\b(?:amd[-_])?aiter(?:\[[^\]\n]{0,80}\])?\s*[=>~]=\s*([\w.+-]+)", re.IGNORECASE),
    re.compile(r"\baiter(?:\.git)?@([\w.+-]+)", re.IGNORECASE),
    re.compile(r"\bamd_aiter-(\d[\w.]*(?:\+[\w.]+)?)-", re.IGNORECASE),
)
#: Where a checkout keeps its pins.
_PINNED_IN = (
    "docker/*",
    "*ockerfile*",
    "requirements*.txt",
    "requirements/*.txt",
    "pyproject*.toml",
    "python/pyproject*.toml",
    "setup.py",
)
_MOST_FILES, _MOST_BYTES = 200, 1 << 20
_CUH = ("csrc/include/custom_all_reduce.cuh", "aiter_meta/csrc/include/custom_all_reduce.cuh")
_THROWS = re.compile(r"too large for allreduce_fusion_kernel_1stage kernel")


class RunningKernel(Struct, frozen=True):
    """The kernels that a tree runs: ``stated`` is the version as found ("" where it is not known).

    ``found`` says in words where it was found.
    """

    kernel: Kernel
    stated: str
    found: str

    def words(self) -> str:
        """Return the version and where it was found, for people."""
        if self.stated:
            unread = (
                ""
                if self.kernel.known
                else f"; not read yet, its limits are taken to be those of {kernels.LATEST}"
            )
            return f"AITER {self.stated} ({self.found}{unread})"
        return f"an AITER whose version is not known ({self.found})"

    def limits_words(self) -> str:
        """Return whose limits these are, for people."""
        if self.stated:
            return f"the limits of AITER {self.stated}"
        return "the strictest limits of any AITER release (--aiter-version says which one runs)"


def asked_for(version: str) -> RunningKernel:
    """Return the kernels of a release, candidate or known commit that was asked for."""
    known = _known(version, "asked for")
    return known or RunningKernel(kernels.aiter(version), version, "asked for")


def of_tree(tree: Tree) -> RunningKernel:
    """Return the kernels that a tree runs, as far as it or its release says."""
    if tree.engine.package == "aiter":
        return _of_aiter(tree)
    looked = "nothing in the tree says it"
    for stated, found in _installed(tree):
        running = _known(stated, found)
        if running is not None:
            return running
        looked = f"{found} is {stated}, which is no release"
    pinned = list(_pinned(tree))
    unread = [(stated, file) for stated, file in pinned if _known(stated, file) is None]
    for stated, file in pinned:
        running = _known(stated, f"pinned in {file}, not what is installed")
        if running is not None:
            return _with_unread(running, unread)
        looked = f"{file} pins {stated}, which is no release and no known commit"
    for row in facts.rows("image_pins.csv"):
        release = tree.version.split("+")[0]
        if row["engine"] == tree.engine.name and row["release"] == (release or None):
            said = f", {row['note']}" if row["note"] else ""
            found = (
                f"pin of {tree.engine.title} {row['release']}'s ROCm image, not what is "
                f"installed{said}; {row['source']}"
            )
            return RunningKernel(kernels.aiter(row["kernels"]), row["pin"].lstrip("v"), found)
    return unknown(looked)


def unknown(why: str) -> RunningKernel:
    """Return the newest kernels with the strictest token limit that any release has."""
    cap = min(kernels.values("fused_1stage_max_tokens"))
    strict = replace(kernels.aiter(), fused_1stage_max_tokens=cap)
    return RunningKernel(strict, "", why)


def _with_unread(running: RunningKernel, unread: Sequence[tuple[str, str]]) -> RunningKernel:
    """Return kernels with the strictest token limit where the tree pins others, not known, too."""
    if not unread:
        return running
    stated, file = unread[0]
    cap = min(kernels.values("fused_1stage_max_tokens"))
    kernel = replace(running.kernel, fused_1stage_max_tokens=cap)
    said = (
        f"{running.found}; {file} pins {stated[:10]} too, which is no release and no known commit"
    )
    return RunningKernel(kernel, running.stated, f"{said}: {cap} tokens at most in 1-stage")


def _known(stated: str, found: str) -> RunningKernel | None:
    """Return the kernels of a release or a known commit, None for anything else."""
    match = _STATED.fullmatch(stated)
    if match:
        version = _before(match[1]) if match[2] else match[1]
        try:
            return RunningKernel(kernels.aiter(version), stated.lstrip("v"), found)
        except InputError:
            return None
    for row in facts.rows("image_pins.csv"):
        if len(stated) >= 7 and (stated.startswith(row["pin"]) or row["pin"] == stated):
            return RunningKernel(kernels.aiter(row["kernels"]), stated[:10], found)
    return None


def _before(release: str) -> str:
    """Return the newest release with facts before one: a candidate may lack what came last."""
    earlier = {
        row["since_release"]
        for row in facts.rows("aiter_kernels.csv")
        if parse_version(row["since_release"]) < parse_version(release)
    }
    return max(earlier, key=parse_version, default=release)


def _of_aiter(tree: Tree) -> RunningKernel:
    """Return the kernels of an AITER tree; its kernel source says whether they limit tokens."""
    running = None
    for stated, found in _names_of_aiter(tree):
        running = running or _known(stated, found)
    running = running or _by_its_variable(tree) or unknown("nothing in the tree says it")
    for name in _CUH:
        text = _beside(tree, name)
        if text is not None:
            cap = min(kernels.values("fused_1stage_max_tokens"))
            limit = cap if _THROWS.search(text) else None
            kernel = replace(running.kernel, fused_1stage_max_tokens=limit)
            found = f"{running.found}; limits from {name}"
            return RunningKernel(kernel, running.stated, found)
    return running


def _by_its_variable(tree: Tree) -> RunningKernel | None:
    """Return the newest kernels where an AITER tree reads a variable that came without a cap.

    ``AITER_AR_1STAGE_MAX_KB`` and the kernels without a token cap both came with 0.1.17.
    """
    for file in dict.fromkeys(site.file for site in tree.engine.call_sites):
        if VARIABLE in (tree.read(tree.name(file)) or ""):
            found = f"it reads {VARIABLE}, which came with {FIRST}"
            return RunningKernel(kernels.aiter(), f"{FIRST} or later", found)
    return None


def _names_of_aiter(tree: Tree) -> Iterator[tuple[str, str]]:
    if tree.version:
        yield tree.version, "the tree's own version"
    tag = _git_tag(tree.path)
    if tag:
        yield tag, "the tag that is checked out"
    # An archive of a tag unpacks to a directory of the project's name and the release.
    yield re.sub("^(?:amd[-_])?aiter-", "", tree.path.name), "the directory's name"


def _installed(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield the version of the amd-aiter distribution beside the package."""
    if tree.kind == "wheel":
        return
    for metadata in sorted(_home(tree).glob("amd_aiter-*.dist-info/METADATA")):
        text = _text(metadata) or ""
        version = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
        if version:
            yield version[1], "installed amd-aiter"


def _pinned(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield the pins of a checkout, oldest release first, so that the strictest limits win."""
    if tree.kind == "wheel":
        return
    above = [p for p in tree.path.resolve().parents[:3] if (p / ".git").exists()]
    for root in (tree.path, *above):
        pins = {pin: name for name, text in _files(root) for pin in _pins_in(text)}
        known = {pin: running for pin, name in pins.items() if (running := _known(pin, name))}
        if pins:
            rest = [pin for pin in pins if pin not in known]
            oldest = sorted(known, key=lambda pin: parse_version(known[pin].kernel.version))
            yield from ((pin, pins[pin]) for pin in (*oldest, *rest))
            return


def _pins_in(text: str) -> Iterable[str]:
    """Return the pins of a file, but for those in a stage that is built for other GPUs alone."""
    stages = re.split(r"(?im)^(?=FROM[ \t])", text)
    ours = []
    for stage in stages:
        named = re.match(
            r"FROM[ \t].{0,400}?[ \t]AS[ \t]+\S*?(gfx[0-9a-f]{3,4})", stage, re.IGNORECASE
        )
        if named is None or named[1].lower() in hardware.GPUS:
            ours.append(stage)
    return dict.fromkeys(pin for pattern in _PINS for pin in pattern.findall("".join(ours)))


def _files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the small regular files in which a checkout keeps pins."""
    files = [file for pattern in _PINNED_IN for file in sorted(root.glob(pattern))]
    for file in files[:_MOST_FILES]:
        text = _text(file)
        if text is not None and "aiter" in text.lower():
            yield file.relative_to(root).as_posix(), text


def _home(tree: Tree) -> Path:
    """Return the directory that holds the package."""
    return (tree.path / tree.inside).resolve().parent


def _beside(tree: Tree, name: str) -> str | None:
    """Return the text of a file beside the package."""
    if tree.kind == "wheel":
        return tree.read(name)
    return _text(_home(tree) / name)


def _text(file: Path) -> str | None:
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return None
        with file.open("rb") as stream:
            # What the file system says of a size may be wrong, as for /proc.
            data = stream.read(_MOST_BYTES + 1)
        return None if len(data) > _MOST_BYTES else data.decode("utf-8", "replace")
    except OSError:
        return None


def _git_tag(path: Path) -> str:
    """Return the release tag that a checkout stands on, "" where there is none."""
    git = path / ".git"
    head = (_text(git / "HEAD") or "").strip()
    packed = _text(git / "packed-refs") or ""
    if head.startswith("ref: "):
        ref = head[5:]
        found = re.search(rf"^([0-9a-f]{{40}}) {re.escape(ref)}$", packed, re.MULTILINE)
        loose = _text(git / ref) if ".." not in ref else None
        head = (loose or (found[1] if found else "")).strip()
    if not re.fullmatch("[0-9a-f]{40}", head):
        return ""
    # An annotated tag has the commit it stands for on a line of its own, after ^.
    tags = re.findall(r"^(\w{40}) refs/tags/(v\S+)\n(?:\^(\w{40}))?", packed, re.MULTILINE)
    known = [tag for own, tag, peeled in tags if head in (own, peeled)]
    known += [f.name for f in sorted(git.glob("refs/tags/v*")) if (_text(f) or "").strip() == head]
    return next((tag for tag in known if _STATED.fullmatch(tag)), "")
