"""Open an engine's source tree: an installed package, site-packages, a checkout, or a wheel."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .call_sites import SERVING_ENGINES, ServingEngine

_VERSION_FILES = ("_version.py", "version.py")
_STATED = re.compile(
    r"""^(?:Version: *|(?:__version__|version)\b[^'"\n]*['"])([^\s'"]+)""", re.MULTILINE
)


@dataclass(frozen=True)
class Tree:
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
        """Return the text of a file (line ends as they are), or None when there is none."""
        if self.kind == "wheel":
            with _wheel(self.path) as archive:
                try:
                    data = archive.read(name)
                except KeyError:
                    return None
                except (zipfile.BadZipFile, OSError) as error:
                    raise InputError(f"{self.path}: {name}: unreadable: {error}") from None
        else:
            try:
                data = (self.path / name).read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise InputError(f"{self.path / name}: {error.strerror}") from None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {name}: not UTF-8 text") from None

    def search(self, pattern: str, files: str = "") -> Iterator[tuple[str, str]]:
        """Yield (name, text) of the package's Python files that contain a regular expression.

        ``files`` is one that their names must contain.
        """
        wanted = re.compile(pattern.encode())
        named = re.compile(files)
        if self.kind == "wheel":
            with _wheel(self.path) as archive:
                start = f"{self.inside}/"
                for name in archive.namelist():
                    if name.startswith(start) and name.endswith(".py") and named.search(name):
                        data = archive.read(name)
                        if wanted.search(data):
                            yield name, data.decode("utf-8", "replace")
            return
        for file in sorted((self.path / self.inside).rglob("*.py")):
            name = file.relative_to(self.path).as_posix()
            if named.search(name) and wanted.search(data := file.read_bytes()):
                yield name, data.decode("utf-8", "replace")


def open_trees(path: str | Path) -> list[Tree]:
    """Return the engines found at ``path`` (several when it is a site-packages directory).

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
        trees = _in_wheel(path)
    else:
        trees = _in_directory(path)
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


def _in_directory(path: Path) -> list[Tree]:
    trees = []
    for engine in SERVING_ENGINES:
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


def _in_wheel(path: Path) -> list[Tree]:
    with _wheel(path) as archive:
        names = set(archive.namelist())
        trees = []
        for engine in SERVING_ENGINES:
            package = engine.package
            if not _is_package(engine, [f for f in engine.files if f"{package}/{f}" in names]):
                continue
            stated = [n for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
            stated += [n for f in _VERSION_FILES if (n := f"{package}/{f}") in names]
            texts = [archive.read(n).decode("utf-8", "replace") for n in stated]
            trees.append(Tree(path, engine, package, "wheel", _version(texts)))
    return trees


def _wheel(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable wheel: {reason}") from None


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
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
