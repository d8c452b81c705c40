"""Reports as the tests write and read them: the command, tables of the text, the first screen."""

from __future__ import annotations

import html
from html.parser import HTMLParser

from command import costmodel


def run(*args, browser=True, cwd=None):
    """Run a command; ``browser`` False: as where there is none."""
    environment = {} if browser else {"BROWSER_PATH": "/nonexistent/browser"}
    return costmodel(*args, cwd=cwd, env=environment)


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
