"""Tables as JSON: records in a list or one a line, and the layouts of pandas' frames."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from ...errors import InputError
from .pasted_lines import Row
from .text_file import TextFile


class Table(Struct):
    """One table: its header, the line it stands in, its rows, and what is said around it.

    ``says`` are cells for all rows, ``captions`` the lines right above, the nearest first.
    ``problem`` is why its figures are to be left, "" where its header is clear.
    """

    header: list[str]
    line: int
    rows: Iterator[Row]
    says: dict[str, Any]
    captions: tuple[str, ...] = ()
    problem: str = ""


#: A block of code that begins as JSON.
_BLOCK = re.compile(
    r"^[ >]*(?:```|~~~)\w*\s*\n([ >]*[\[{].*?)^[ >]*(?:```|~~~)", re.MULTILINE | re.DOTALL
)
#: How a text of JSON begins, and no prefix of a log.
_JSON = re.compile(r"\s*(?:\{\s*(?:\"|\}|$)|\[\s*(?:\{|\]|$))").match
_FILLED = re.compile(r"\S")


def is_json(file: TextFile) -> bool:
    """Whether a file begins as JSON does."""
    return _JSON(file.head[:1000]) is not None


def json_texts(file: TextFile) -> list[str]:
    """Return the JSON values of a file, each as text: one behind the other, or in blocks of code.

    What is no JSON stays one text, for the reader to say so.
    """
    text = file.text()
    if is_json(file):
        blocks = [text]
    else:
        text = "\n".join(line for _, line in file.program_lines())
        blocks = [re.sub(r"(?m)^[ \t]*>[ \t]?", "", block) for block in _BLOCK.findall(text)]
    found = []
    for block in blocks:
        at = 0
        while begins := _FILLED.search(block, at):
            at = begins.start()
            try:
                _, end = json.JSONDecoder().raw_decode(block, at)
            except (ValueError, RecursionError):
                end = len(block)
            found.append(block[at:end])
            at = end
    return found


def json_records(file: TextFile) -> list[Table] | None:
    """Return the records of a JSON file, or of one with a JSON object a line, as tables.

    None for a file that is no JSON. Raises :class:`InputError` for one that starts as JSON and
    cannot be read.
    """
    if not is_json(file):
        return None
    text = file.text()
    try:
        data = [(1, json.loads(text))]
    except RecursionError:
        raise InputError(f"{file.name}: nested too deeply; give JSON records") from None
    except ValueError as error:
        lines = [(at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
        try:
            data = [(at, json.loads(line)) for at, line in lines]
        except (ValueError, RecursionError):
            line = getattr(error, "lineno", 1)
            raise InputError(
                f"{file.name}: truncated or not JSON (line {line}); give JSON records, in one list "
                "or one a line"
            ) from None
    if len(data) > 1 or isinstance(data[0][1], list):
        listed = data if len(data) > 1 else list(enumerate(data[0][1]))
        found = [(at, record) for at, record in listed if isinstance(record, dict)]
        return [_of_records(found, {})] if found else []
    whole = data[0][1]
    if not isinstance(whole, dict):
        return []
    if (by_column := _by_column(whole)) is not None:
        return [by_column]
    constants = {k: v for k, v in whole.items() if not isinstance(v, list | dict)}
    lists = [
        v for v in whole.values() if isinstance(v, list) and any(isinstance(r, dict) for r in v)
    ]
    if not lists:
        return [_of_records([(0, whole)], {})] if constants else []
    return [
        _of_records([(i, r) for i, r in enumerate(v) if isinstance(r, dict)], constants)
        for v in lists
    ]


def _of_records(records: list[tuple[int, dict[str, Any]]], constants: dict[str, Any]) -> Table:
    flat = [(at, {**_flat(constants), **_flat(record)}) for at, record in records]
    header = list(dict.fromkeys(key for _, record in flat for key in record))[:2000]
    rows: Iterator[Row] = ((at, [_text(record.get(key)) for key in header]) for at, record in flat)
    return Table(header, 1, rows, {})


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key} {inner}": v for inner, v in value.items() if not isinstance(v, dict)}
        else:
            flat[key] = value
    return flat


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    return repr(value) if isinstance(value, float) else str(value)[:2000]


def _by_column(whole: dict[str, Any]) -> Table | None:
    """Return the table of a JSON object that holds columns, or lines by their index, else None.

    The layouts are those of ``DataFrame.to_json``: ``split``, ``columns`` and ``index``; lists may
    stand for the columns, beside constants.
    """
    names, data = whole.get("columns"), whole.get("data")
    if isinstance(names, list) and isinstance(data, list):
        fits = [line for line in data if isinstance(line, list) and len(line) == len(names)]
        found = [dict(zip(map(str, names), line, strict=True)) for line in fits]
        return _of_records(list(enumerate(found)), {}) if found else None
    lists = {k: v for k, v in whole.items() if isinstance(v, list)}
    if lists and not any(isinstance(value, dict | list) for of in lists.values() for value in of):
        lengths = {len(of) for of in lists.values()}
        if len(lists) < 2 or len(lengths) > 1:
            return None
        constants = {k: v for k, v in whole.items() if not isinstance(v, list | dict)}
        found = [
            dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)
        ]
        return _of_records(list(enumerate(found)), constants)
    of = [v for v in whole.values() if isinstance(v, dict)]
    if (
        not of
        or len(of) < len(whole)
        or any(isinstance(v, dict | list) for d in of for v in d.values())
    ):
        return None
    if all(key.isdecimal() for key in whole):
        return _of_records(list(enumerate(of)), {})
    if all(key.isdecimal() for inner in of for key in inner):
        keys = list(dict.fromkeys(key for inner in of for key in inner))
        found = [{name: whole[name].get(key) for name in whole} for key in keys]
        return _of_records(list(enumerate(found)), {})
    return None
