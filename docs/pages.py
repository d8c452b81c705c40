"""Hooks of the documentation site (``mkdocs.yml``): pages that are made while it is built.

README, CHANGELOG and the like stay where a code host shows them and become pages; so do what every
command's ``--help`` says and the JSON Schemas, and each wing gets a page with the docstrings of all
its modules.
Nothing that is made here is kept in git.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent

#: File of the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "measurements/README.md": "measurements.md",
    "measurements/h200-loopback/README.md": "measurements-h200.md",
}

_LINK = re.compile(r"\[([^\[\]]+)\]\((?!https?:|#)([^()\s#]+)(#[^()\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    made = {page: (ROOT / path).read_text(encoding="utf-8") for path, page in PAGES.items()}
    made["commands.md"] = commands()
    made["schemas.md"] = schemas()
    made["reference/index.md"] = public_names()
    for wing in sorted(p.parent for p in (ROOT / "costmodel").glob("*/__init__.py")):
        name = wing.name
        made[f"reference/{name}.md"] = f"# costmodel.{name}\n\n::: costmodel.{name}\n"
    made["reference/root.md"] = "# Errors, units, files\n\n" + "\n\n".join(
        f"## costmodel.{name}\n\n::: costmodel.{name}\n    options:\n      heading_level: 3"
        for name in ("errors", "units", "files")
    )
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links to files of the repository at their pages; without a page they are plain text."""
    origin = {made: path for path, made in PAGES.items()}
    here = (ROOT / origin.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = (here / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]  # --strict reports it
        name = path.relative_to(ROOT).as_posix()
        to = PAGES.get(name, name.removeprefix("docs/"))
        if files.get_file_from_path(to) is None:
            return text
        up = "../" * page.file.src_uri.count("/")
        return f"[{text}]({up}{to}{anchor})"

    return _LINK.sub(link, markdown)


def commands() -> str:
    """Return what every command's ``--help`` says, as a page."""
    cli = importlib.import_module("costmodel.cli.main").cli
    context = click.Context(cli, info_name="costmodel", max_content_width=100, terminal_width=100)
    parts = ["# Commands", _fenced(cli.get_help(context))]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        inner = click.Context(command, info_name=name, parent=context)
        parts += [f"## costmodel {name}", _fenced(command.get_help(inner))]
    return "\n\n".join(parts) + "\n"


def schemas() -> str:
    """Return the page of the JSON Schemas."""
    module = importlib.import_module("costmodel.cli.schemas")
    parts = [
        "# JSON Schemas",
        "Every JSON that a command prints or writes says under `schema` which of these it is. A "
        "key that stands in one keeps its name and meaning; what would change either gets a new "
        "number. Keys may be added. `costmodel schemas NAME` prints one.",
    ]
    for name in module.SCHEMAS:
        text = json.dumps(module.json_schema(name), indent=1)
        parts += [f"## {name}", f"```json\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def public_names() -> str:
    """Return the page of the names that ``import costmodel as cm`` gives."""
    costmodel = importlib.import_module("costmodel")
    parts = ["# Python", "::: costmodel\n    options:\n      show_submodules: false"]
    rows = ["| name | |", "|---|---|"]
    for name in costmodel.__all__:
        value = getattr(costmodel, name)
        if isinstance(value, str):
            continue
        where = f"{value.__module__}.{value.__qualname__}"
        first = (value.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        text = re.sub(r" +", " ", re.sub(r":\w+:`[~.]*([^`]+)`", r"`\1`", first)).replace(
            "|", "\\|"
        )
        rows.append(f"| [`cm.{name}`][{where}] | {text} |")
    return "\n\n".join([*parts, "\n".join(rows)]) + "\n"


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"
