"""Reports as the tests write and read them: the command, tables of the text, the first screen."""

from __future__ import annotations

import html
import os
import subprocess
import sys
from html.parser import HTMLParser


def run(*args, browser=True, cwd=None):
    """Run a command; ``browser`` False: as where there is none."""
    environment = dict(os.environ)
    if not browser:
        environment["BROWSER_PATH"] = "/nonexistent/browser"
    return subprocess.run(
        [sys.executable, "-m", "costmodel", *map(str, args)],
        capture_output=True, text=True, timeout=300, check=False, cwd=cwd, env=environment,
    )  # fmt: skip


def cells(text, start):
    """Return the rows of the first Markdown table after a line that starts so."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(start):
            break
    rows = []
    for line in lines:
        if line.startswith("| "):
            rows.append([html.unescape(c.strip()) for c in line.strip("|").split("|")])
        elif rows and not line.startswith("|"):
            break
    return rows


def first_screen(text):
    """Return what stands before the first table."""
    return text.split("\n| ", 1)[0]


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))
