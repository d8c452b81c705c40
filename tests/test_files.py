"""Files are written whole or not at all, and only where they may be."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from typing import Any

import pytest
from command import costmodel

from costmodel.errors import InputError
from costmodel.files import check_free, parse_json, read_text, replacing


def write(path, text="new\n"):
    with replacing(path) as stream:
        stream.write(text)


def test_a_new_file_is_as_the_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        write(tmp_path / "a.json")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old\n")
    path.chmod(0o600)
    write(path)
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old\n")
    os.chown(path, 1234, 4321)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@pytest.mark.parametrize("command", ["import", "calibrate"])
def test_a_file_that_is_read_is_not_written_over(tmp_path, command):
    """Not even with --force, or by another of its names."""
    log, link = tmp_path / "a.md", tmp_path / "link"
    log.write_text("| tokens | 1stage (us) |\n|---|---|\n| 8 | 6.1 |\n")
    link.symlink_to(log)
    before = log.read_bytes()
    for out in (log, link):
        done = costmodel(command, log, "--out", out, "--force")
        assert done.returncode == 2
        said = f"{out}: is read here and would be lost; give another name"
        assert done.stderr == f"costmodel: error: {said}\n"
    assert log.read_bytes() == before


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "kept").mkdir()
    target = tmp_path / "kept" / "a.json"
    target.write_text("old\n")
    link = tmp_path / "link.json"
    link.symlink_to("kept/a.json")
    with pytest.raises(InputError, match="exists; give --force"):
        check_free(link)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new\n"
    dangling = tmp_path / "dangling"
    dangling.symlink_to("kept/b.json")
    check_free(dangling)
    write(dangling)
    assert (tmp_path / "kept" / "b.json").read_text() == "new\n"
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["a.json", "b.json"]


def test_a_device_is_written_into_and_stays_a_device():
    check_free(os.devnull)
    write(os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_pipe_is_written_into(tmp_path):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    check_free(fifo)
    write(fifo, "through\n")
    reader.join(10)
    assert got == ["through\n"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old\n")
    with pytest.raises(UnicodeEncodeError), replacing(path) as stream:
        stream.write("half \udcff")
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_error_of_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        (tmp_path / "absent").read_text()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, force):
    (tmp_path / "file").write_text("x")
    for path, says in (
        (tmp_path, "is a directory; name a file"),
        (tmp_path / "no" / "where", "no directory"),
        (tmp_path / "file" / "below", "cannot write: Not a directory"),
    ):
        with pytest.raises(InputError, match=says):
            check_free(path, force)
        with pytest.raises(InputError, match="cannot write"):
            write(path)
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(InputError, match="cannot write"):
        check_free(loop, force)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


def test_force_allows_to_replace(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="exists; give --force"):
        check_free(tmp_path / "file")
    check_free(tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, size):
    """A limit on the size of files refuses writes as a full disk does, early or at the flush."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "from costmodel.errors import InputError\n"
        "from costmodel.files import replacing\n"
        "try:\n"
        "    with replacing(sys.argv[1]) as stream:\n"
        "        stream.write('x' * int(sys.argv[2]))\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "a.json"
    path.write_text("old\n")
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(path), str(size)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"{path}: cannot write: File too large\n", done.stderr
    assert done.stderr == ""
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_full_is_one_line():
    with pytest.raises(InputError, match="/dev/full: cannot write: No space left on device"):
        write("/dev/full")


def test_what_has_no_end_or_is_no_name_is_refused():
    for path, says in (("/dev/zero", "more than 256 MiB"), ("a\0b", "null"), ("/", "directory")):
        with pytest.raises(InputError, match=says):
            read_text(path, "a file of words")


@pytest.mark.parametrize("word", ["a\x1b[31m", "a\x07", "a\u202eb", "\x7f", "\udc80"])
@pytest.mark.parametrize("escaped", [True, False])
def test_text_of_our_formats_holds_no_control_character(word, escaped):
    for held in ({"a": word}, {word: 1}, ["a", {"b": [word]}]):
        text = json.dumps(held, ensure_ascii=escaped)
        with pytest.raises(InputError, match=r"^here: "):
            parse_json(text, Any, "here", "words")


def test_words_of_every_language_and_line_breaks_are_let_through():
    held = {"größe": "行\t\n", "b": '"\\ \U0001f600'}
    for ascii_only in (True, False):
        text = json.dumps(held, ensure_ascii=ascii_only, indent=1)
        assert parse_json(text, Any, "here", "words") == held
        assert parse_json(text.encode(), Any, "here", "words") == held
