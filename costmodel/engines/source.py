"""Open an engine's source tree: an installed package, site-packages, a checkout, or a wheel."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from ..errors import InputError
from ..units import MIB
from .call_sites import SERVING_ENGINES, ServingEngine

#: Largest source file that is read, and most bytes of sources that are searched: several times
#: those of SGLang and vLLM (0.4 MB and 45 MB).
MAX_FILE = 4 * MIB
MAX_SEARCHED = 256 * MIB
#: Files of one kind beside a source; there is one for each GPU.
MAX_BESIDE = 100
#: Folders that are searched for other packages of engines; a site-packages directory has 5,000.
MAX_FOLDERS = 10_000

#: What reading a damaged or hostile archive raises, beside OSError.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError,
    NotImplementedError, OverflowError,
)  # fmt: skip

_VERSION_FILES = ("_version.py", "version.py")
_STATED = re.compile(
    r"""^(?:Version: *|(?:__version__|version)\b[^'"\n]{0,80}['"])([\w.+!-]{1,64})(?=['"\s]|$)""",
    re.MULTILINE | re.ASCII,
)


class Tree(Struct, frozen=True):
    """An engine's sources under ``path``.

    ``inside`` is the package's place relative to ``path`` (for a wheel: to the wheel's root), ""
    when ``path`` is the package itself. Every name is relative to ``path``, with slashes.
    """

    path: Path
    engine: ServingEngine
    inside: str
    kind: str
    version: str

    def name(self, file: str) -> str:
        """Return the path, relative to ``self.path``, of a file of the package."""
        return f"{self.inside}/{file}" if self.inside else file

    def read(self, name: str) -> str | None:
        """Return the text of a file (line ends as they are), or None when there is none.

        Raises :class:`InputError` for one that is no regular file, too large, or not text.
        """
        if self.kind == "wheel":
            with _wheel(self.path) as archive:
                data = _member(archive, self.path, name)
        else:
            data = _content(self.path / name)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {name}: not UTF-8 text") from None

    def search(self, pattern: str, files: str = "", word: str = "") -> Iterator[tuple[str, str]]:
        """Yield (name, text) of the package's Python files that contain a regular expression.

        ``files`` is one that their names must contain, ``word`` text in lower case that each match
        contains: most files are passed over without the expression, which is slow where case does
        not count. Files that cannot be read are passed over; the search ends after
        :data:`MAX_SEARCHED` bytes.
        """
        wanted, held, searched = re.compile(pattern.encode()), word.encode(), 0
        for name, data in self._files(re.compile(files)):
            searched += len(data)
            if (not held or held in data.lower()) and wanted.search(data):
                yield name, data.decode("utf-8", "replace")
            if searched > MAX_SEARCHED:
                return

    def beside(self, name: str, pattern: str) -> list[str]:
        """Return the names of files that match a pattern, relative to the folder of a file."""
        above = name.rpartition("/")[0]
        wanted = f"{above}/{pattern}" if above else pattern
        if self.kind == "wheel":
            with _wheel(self.path) as archive:
                found = [n for n in archive.namelist() if fnmatch.fnmatchcase(n, wanted)]
                return sorted(found)[:MAX_BESIDE]
        there = (p.relative_to(self.path).as_posix() for p in self.path.glob(wanted))
        return sorted(there)[:MAX_BESIDE]

    def elsewhere(self) -> tuple[str, ...]:
        """Return the packages of engines below ``path`` that :func:`open_trees` does not open.

        Copies lie there: of a build, of a checkout beside an installation, a vendored AITER. At
        most two folders above a package are looked into.
        """
        opened = {tree.inside for tree in open_trees(self.path)}
        if self.kind == "wheel":
            with _wheel(self.path) as archive:
                names = set(archive.namelist())
            places = {name.removesuffix("/__init__.py") for name in names}
        else:
            names, places = None, set(_folders(self.path))
        found = []
        for place in sorted(places):
            for engine in SERVING_ENGINES:
                if place.rpartition("/")[2] == engine.package and place not in opened:
                    files = [f"{place}/{f}" for f in engine.files]
                    there = [
                        file
                        for file, full in zip(engine.files, files, strict=True)
                        if (full in names if names is not None else (self.path / full).is_file())
                    ]
                    if _is_package(engine, there):
                        found.append(f"{engine.title} in {_line(place)}")
        return tuple(found)

    def _files(self, named: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the package's Python files of such names that can be read."""
        if self.kind == "wheel":
            with _wheel(self.path) as archive:
                for name in archive.namelist():
                    inside = name.startswith(f"{self.inside}/") and name.endswith(".py")
                    if inside and named.search(name):
                        try:
                            yield name, _member(archive, self.path, name) or b""
                        except InputError:
                            continue
            return
        for folder, inner, names in os.walk(self.path / self.inside):
            inner.sort()
            for file in sorted(Path(folder) / n for n in names if n.endswith(".py")):
                name = file.relative_to(self.path).as_posix()
                if named.search(name):
                    try:
                        yield name, _content(file) or b""
                    except InputError:
                        continue


def open_trees(path: str | Path, engines: Sequence[ServingEngine] = SERVING_ENGINES) -> list[Tree]:
    """Return which of ``engines`` are at ``path`` (several when it is a site-packages directory).

    Raises :class:`InputError` for a missing path, an unreadable wheel, and a tree without any of
    the engines, naming what was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: no such file or directory; give an engine's package, checkout or wheel"
        )
    if path.is_file():
        if path.suffix != ".whl":
            raise InputError(f"{path}: not a directory and not a .whl file")
        trees = _in_wheel(path, engines)
    else:
        trees = _in_directory(path, engines)
    if trees:
        return trees
    looked = ", ".join(f"{e.package}/{e.call_sites[0].file}" for e in SERVING_ENGINES)
    other = ""
    if (path / "aiter" / "__init__.py").is_file() or (
        path.name == "aiter" and (path / "__init__.py").is_file()
    ):
        other = "; the 'aiter' package here is PyPI's async-iterator library, not AMD's AITER"
    raise InputError(
        f"{path}: not an SGLang, vLLM or AITER tree; looked for the packages of {looked}{other}"
    )


def open_tree(path: str | Path, engine: ServingEngine) -> Tree:
    """Return one engine's tree at ``path``; raise :class:`InputError` when it is not there."""
    trees = open_trees(path)
    for tree in trees:
        if tree.engine == engine:
            return tree
    others = " and ".join(tree.engine.title for tree in trees)
    raise InputError(f"{path}: this is {others}, not {engine.title}")


def _in_directory(path: Path, engines: Sequence[ServingEngine]) -> list[Tree]:
    trees = []
    for engine in engines:
        for inside in dict.fromkeys(("", engine.package, engine.checkout, f"src/{engine.package}")):
            package = path / inside
            if package.resolve().name != engine.package or not _is_package(
                engine, [f for f in engine.files if (package / f).is_file()]
            ):
                continue
            metadata = package.parent.glob(f"*{engine.package}-*.dist-info/METADATA")
            texts = [_text(m) for m in metadata] + [_text(package / f) for f in _VERSION_FILES]
            checkout = inside == engine.checkout != engine.package or _is_checkout(path)
            kind = "checkout" if checkout else "package directory"
            trees.append(Tree(path, engine, inside, kind, _version(texts)))
            break
    return trees


def _in_wheel(path: Path, engines: Sequence[ServingEngine]) -> list[Tree]:
    with _wheel(path) as archive:
        names = set(archive.namelist())
        trees = []
        for engine in engines:
            package = engine.package
            if not _is_package(engine, [f for f in engine.files if f"{package}/{f}" in names]):
                continue
            stated = [n for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
            stated += [n for f in _VERSION_FILES if (n := f"{package}/{f}") in names]
            read = (_member(archive, path, n) for n in stated)
            texts = [data.decode("utf-8", "replace") for data in read if data]
            trees.append(Tree(path, engine, package, "wheel", _version(texts)))
    return trees


def _wheel(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (*_DAMAGED, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable wheel: {_line(reason)}") from None


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> bytes | None:
    """Return a file of a wheel, None where there is none; refuse what no wheel would hold."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        return None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path}: {_line(name)}: unreadable: compressed as no wheel is")
    try:
        with archive.open(info) as stream:
            # What the archive says of its size may be wrong.
            data = stream.read(MAX_FILE + 1)
    except (*_DAMAGED, OSError) as error:
        raise InputError(f"{path}: {_line(name)}: unreadable: {_line(error)}") from None
    return _of_size(data, f"{path}: {_line(name)}")


def _content(file: Path) -> bytes | None:
    """Return a file's bytes, None where there is none; a pipe or a device is never opened."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise InputError(f"{file}: not a regular file")
        with file.open("rb") as stream:
            return _of_size(stream.read(MAX_FILE + 1), str(file))
    except FileNotFoundError:
        if file.is_symlink():
            raise InputError(f"{file}: a link to a file that is not there") from None
        return None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None


def _of_size(data: bytes, where: str) -> bytes:
    if len(data) > MAX_FILE:
        raise InputError(f"{where}: larger than {MAX_FILE // MIB} MiB; a source file is smaller")
    return data


def _line(reason: object) -> str:
    """Return a reason in one printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(reason)).split())[:200]


def _folders(root: Path, above: int = 2) -> Iterator[str]:
    """Yield the folders below one, as many deep and one more, links not followed."""
    ahead, left = [(root, 0)], MAX_FOLDERS
    while ahead and left > 0:
        folder, deep = ahead.pop(0)
        try:
            with os.scandir(folder) as entries:
                inner = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            continue
        left -= 1
        for name in inner:
            yield (folder / name).relative_to(root).as_posix()
        if deep < above:
            ahead += [(folder / name, deep + 1) for name in inner]


def _is_package(engine: ServingEngine, present: list[str]) -> bool:
    return "__init__.py" in present and len(present) > 1


def _is_checkout(path: Path) -> bool:
    return any((path / mark).exists() for mark in (".git", "pyproject.toml", "setup.py"))


def _version(texts: list[str]) -> str:
    """Return the first version that metadata or a version file states, or ""."""
    for text in texts:
        stated = _STATED.search(text)
        if stated:
            return stated[1]
    return ""


def _text(path: Path) -> str:
    try:
        return (_content(path) or b"").decode("utf-8", "replace")
    except InputError:
        return ""
