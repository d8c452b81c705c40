"""Files of other harnesses, damaged: what the import command may do with them, and nothing else."""

import os
import re

from costmodel.cli.main import main

#: Damaged copies of each sample. More of them: COSTMODEL_FUZZ=3000 pytest -k damaged.
ROUNDS = int(os.environ.get("COSTMODEL_FUZZ", "12"))

#: What a damaged file may hold where a figure or a word stood.
ODD = (
    b"", b"-1", b"0", b"nan", b"inf", b"-inf", b"1e400", b"9" * 400, b"9" * 5000, b"1_000", b"{0}",
    b"{0.__class__}", b"%s%n", b"N/A", b"*", b"\x00", b"\x1b[31m", b"\xff\xfe", b"\r", b"\t", b"\n",
    b"\xe2\x80\xae", b"\xef\xbb\xbf", b"\xc2\x85", b"|", b",", b'"', b"#", b" " * 3000, b"{", b"]",
    b"A" * 3000, "µs".encode(), "１２".encode(),
)  # fmt: skip


def damaged(content, rng):
    """Return bytes with one to four damages: cells, characters, lines, the end."""
    for _ in range(rng.randint(1, 4)):
        lines = content.split(b"\n")
        i = rng.randrange(len(lines))
        kind = rng.randrange(9)
        if kind == 0:
            lines.insert(i, lines[rng.randrange(len(lines))])
        elif kind == 1:
            del lines[i]
        elif kind == 2:
            j = rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 3:
            lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
        elif kind in (4, 5):
            words = list(re.finditer(rb"[^\s|,:]+", lines[i]))
            if words:
                word = rng.choice(words)
                lines[i] = lines[i][: word.start()] + rng.choice(ODD) + lines[i][word.end() :]
        elif kind == 6:
            lines[i:i] = [rng.choice(ODD)] * rng.randint(1, 200)
        else:
            at = rng.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:at] + rng.choice(ODD) + lines[i][at:]
        content = b"\n".join(lines)
        if kind == 3 and rng.random() < 0.3:
            content = content[: rng.randrange(len(content) + 1)]
    return content


def check_import(path, out, capsys, *options):
    """Import a file by the command; return (read, left), None where it was refused.

    It must end with rows or one error line, print nothing that moves a terminal, and account for
    what it read.
    """
    out.unlink(missing_ok=True)
    try:
        main(["import", str(path), "--out", str(out), *options])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    for line in (said.out + said.err).splitlines():
        assert line.isprintable(), line
    if code == 2:
        (error,) = said.err.splitlines()
        assert error.startswith("costmodel: error: ")
        assert len(error) <= 500, error
        assert not out.exists()
        return None
    assert code == 0, said.err
    read, left = map(int, re.search(r"results in .*?: (\d+) read, (\d+) left", said.out).groups())
    assert len(out.read_text().splitlines()) == read + 1
    return read, left
