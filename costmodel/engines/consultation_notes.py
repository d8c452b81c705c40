"""What stands before the patch of a run-time table, and the snippet of one where no source is.

A maintainer asks where the file belongs, what happens without it, which functions ask it, and how
ranks come to decide alike.
"""

from __future__ import annotations

import textwrap

from ..data.kernels import Kernel
from ..model.shape import WORLD_SIZES
from ..rules import table
from . import description, templates
from .call_sites import ServingEngine
from .consultation import Consultation, consult_source
from .description import Note
from .kernel_version import RunningKernel
from .module import Module

#: What a file is called whose GPU is not known yet.
_ANY = "<GPU>"


def notes(
    made: Consultation, running: RunningKernel, record: table.TableRecord | None
) -> list[Note]:
    """Return what to know of a patch, in the order in which it is read.

    ``record`` is the table that was made with it, None where none was.
    """
    first = made.done[0]
    folder = first.file.rpartition("/")[0]
    name = table.file_name(record["device_name"] if record else table.device_name(_ANY))
    where = f"the table belongs at {folder}/{table.FOLDER}/{name}".replace("//", "/")
    where = where.replace("at /", "at ")
    said = [Note(f"made for {running.words()}", f"made for {running.words()}"), Note(where, where)]
    if made.fills:
        start = (
            "at a communicator's first call the engine tunes with costmodel (costmodel.live.tune, "
            "up to 3 s), which all ranks must have installed, and puts the size into the table; on "
            "any trouble the table stays as it is, with one line in the log"
        )
        said.append(Note(start, start))
        said.append(
            Note("the start-up was run by CPU processes on stand-ins alone, by no engine on a GPU")
        )
    entries = record["entries"] if record else []
    said += [Note(f"the table has: {table.words(entry)}") for entry in entries]
    said += [
        Note(
            "without a table, and where it has no entry for the arch, fabric, ranks, op, dtype, "
            "hidden size and AITER release that run, the rule that stood there holds, unchanged"
        ),
        Note(
            "ranks decide alike: each reads the file once, at its first call, and all tell each "
            "other what they read; where one cannot read it, or reads another, none uses it, and "
            "the first rank of the group logs why in one line"
        ),
        Note(
            "an entry is a number of bytes up to 64 MiB and decides nothing else: around it stand "
            + _around(made)
        ),
    ]
    said += [_place(place.function, place.file, place.line, place.op) for place in made.done]
    for place in made.places:
        if place.adapted is None:
            text = f"not patched: {place.function} ({place.file}:{place.line}), {place.op}"
            said.append(Note(f"{text}: {place.wrong}", f"{text} (the reason is in the patch)"))
    for one in made.concerned:
        what = (
            "asks a patched function" if one.asks else "chooses by a rule of its own, not patched"
        )
        said.append(Note(f"{what}: {one.place}, {one.op}"))
    said += description.not_patched(made.elsewhere)
    short = "not batch-invariant: the size of the batch decides which kernel rounds"
    said.append(Note(short, short))
    return said


def head(engine: ServingEngine, version: str, found: list[Note], command: str) -> str:
    """Return the text before a patch; ``patch`` and ``git apply`` skip it."""
    title = f"{engine.title} {version}".strip()
    lines = [
        f"{title}: 1-stage up to the size that a run-time table has for the GPU",
        "",
        f"Reproduce: {command}",
        "",
        *description.lines(found),
    ]
    return "\n".join(lines) + "\n\n"


def snippet(
    engine: ServingEngine, kernel: Kernel, command: str, *, fills: bool = False
) -> tuple[str, Consultation]:
    """Return the consultation in the engine's newest form, with where it belongs."""
    template = templates.of(engine)
    module = Module.parse(f"<{engine.title}>", template.text)
    made = consult_source(module, template.function, kernel, command, fills=fills)
    (whole,) = made.patched.values()
    reading, rest = whole.split("\nclass ", 1)
    body = rest.split(templates.BEGIN)[1].split(templates.END)[0].split("\n", 1)[1]
    site = engine.call_sites[0]
    text = [
        f"# {engine.title}, {engine.checkout}/{site.file}",
        "# Before the class:",
        reading.strip(),
        "",
        "",
        f"# {site.function}: {template.replaces}",
        textwrap.dedent(body).rstrip(),
    ]
    return "\n".join(text) + "\n", made


def _around(made: Consultation) -> str:
    """Return in words what is asked besides the size where all patched functions ask it."""
    held = [place.held()[n] for place in made.done for n in WORLD_SIZES]
    common = [c.words() for c in held[0] if all(c in others for others in held)]
    return ", ".join([*common, "and the engine's own checks"])


def _place(function: str, file: str, line: int, op: str) -> Note:
    return Note(f"asks the table, {op}: {function} ({file}:{line})")
