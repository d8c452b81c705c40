"""An output says the same in whatever dress it comes: line ends, coding, fences, another delimiter."""

import csv
import io

import pytest
from importing import left
from test_importers_fuzz import SAMPLES as LOGS
from test_importers_tables_fuzz import SAMPLES as TABLES

from costmodel.data.importers import Said, convert

#: Dresses of any text.
WRAPPED = {
    "Windows ends": lambda text: text.replace("\n", "\r\n").encode(),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "a fence": lambda text: f"what it printed:\n\n```text\n{text}\n```\nthat is all\n".encode(),
    "a fold": lambda text: f"<details><summary>log</summary>\n\n{text}\n\n</details>\n".encode(),
    "preformatted HTML": lambda text: f"<pre>\n{text}\n</pre>\n".encode(),
    "an indent": lambda text: "".join(f"    {line}\n" for line in text.splitlines()).encode(),
}


def cells_of(text):
    """Return the cells of a text that is one table of CSV, None for any other."""
    lines = [line for line in csv.reader(io.StringIO(text)) if line]
    table = len(lines) > 1 and len(lines[0]) > 2 and len({len(line) for line in lines}) == 1
    plain = not any(sign in cell for line in lines for cell in line for sign in "|{}\n:;")
    return lines if table and plain else None


def delimited(lines, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(lines)
    return out.getvalue()


def markdown(lines):
    rule = ["--"] * len(lines[0])
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))


def html(lines):
    rows = ["".join(f"<td>{cell}</td>" for cell in line) for line in lines]
    return "<table>\n" + "".join(f"<tr>{row}</tr>\n" for row in rows) + "</table>\n"


#: Dresses of a table of CSV.
AGAIN = {
    "tabs": lambda lines: delimited(lines, "\t"),
    "semicolons": lambda lines: delimited(lines, ";"),
    "markdown": markdown,
    "HTML": html,
    "a column more": lambda lines: delimited(
        [[*line, "note" if at == 0 else "warm"] for at, line in enumerate(lines)], ","
    ),
    "quotes": lambda lines: "".join(
        ",".join(f'"{cell}"' for cell in line) + "\n" for line in lines
    ),
}
SAMPLES = {
    **TABLES, **{name: (text, {}) for name, text in LOGS.items()}
}  # fmt: skip
CSVS = {name: (lines, said) for name, (text, said) in SAMPLES.items()
        if (lines := cells_of(text)) and not name.startswith(("levels", "turned"))}  # fmt: skip


def read(tmp_path, content, said):
    """Return rows, or rates of links, in any order, and how many results were left for what."""
    path, out = tmp_path / "file", tmp_path / "out.csv"
    path.write_bytes(content)
    _, told = convert(path, out, Said(**{"source": "mine", **said}))
    return sorted(out.read_text().splitlines()), left(told)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_around_a_text_changes_nothing(tmp_path, name):
    text, said = SAMPLES[name]
    expected = read(tmp_path, text.encode(), said)
    json = text.lstrip().startswith(("{", "["))
    for dress, change in WRAPPED.items():
        if json and dress not in ("Windows ends", "a byte order mark", "UTF-16"):
            continue
        assert read(tmp_path, change(text), said) == expected, dress


@pytest.mark.parametrize("name", CSVS)
def test_how_a_table_is_written_changes_nothing(tmp_path, name):
    lines, said = CSVS[name]
    expected = read(tmp_path, delimited(lines, ",").encode(), said)
    for dress, write in AGAIN.items():
        assert read(tmp_path, write(lines).encode(), said) == expected, dress
