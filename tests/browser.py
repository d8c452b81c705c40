"""Pages looked at in a real browser: a probe runs inside a copy of the page and writes what it finds.

The browser has no network, and the page's own policy lets nothing in.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

from costmodel.figures import static

#: Shows every part of the page in both themes and lists what is wrong with it.
PROBE = """
<script>
(async function () {
  const root = document.documentElement, found = [];
  const pause = (ms) => new Promise((next) => setTimeout(next, ms));
  const until = async (done) => { for (let i = 0; i < 600 && !done(); i++) await pause(50); };
  const say = (kind, text) => found.push(theme() + " " + part + " " + kind + ": " + text);
  const theme = () => root.dataset.theme || "";
  let part = "";

  function boxes(svgs) {
    const out = [];
    for (const svg of svgs) for (const node of svg.querySelectorAll("text")) {
      const box = node.getBoundingClientRect();
      const text = node.textContent.trim();
      if (text && box.width && getComputedStyle(node).opacity !== "0") out.push([text, box]);
    }
    return out;
  }

  function look(shown) {
    if (root.scrollWidth > root.clientWidth + 1) say("overflow", root.scrollWidth);
    for (const img of shown.querySelectorAll("img")) {
      if (!img.alt) say("alt", img.outerHTML.slice(0, 80));
    }
    for (const place of shown.querySelectorAll(".figure")) {
      const name = place.dataset.figure || "explorer";
      if (!place.querySelector(".main-svg")) { say("not drawn", name); continue; }
      if (place.dataset.figure && (place.getAttribute("aria-label") || "").length < 20) {
        say("alt", name);
      }
      const all = boxes(place.querySelectorAll(".main-svg")), frame = place.getBoundingClientRect();
      all.forEach(([text, a], i) => {
        if (a.left < frame.left - 2 || a.right > frame.right + 2) say("cut", name + ": " + text);
        for (const [other, b] of all.slice(i + 1)) {
          const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          if (wide > 1.5 && high > 4) say("overlap", name + ": " + text + " | " + other);
        }
      });
    }
  }

  await until(() => root.dataset.ready);
  const tabs = Array.from(document.querySelectorAll('[role="tab"]'));
  for (let turn = 0; turn < 2; turn++) {
    for (const tab of tabs) {
      part = tab.getAttribute("aria-controls");
      tab.click();
      const shown = document.getElementById(part);
      await until(() => !shown.querySelector('[data-figure]:not(.js-plotly-plot)'));
      await pause(200);
      look(shown);
    }
    document.getElementById("theme").click();
    await pause(200);
  }
  // The arrow keys walk through the parts.
  tabs[0].click();
  tabs[0].focus();
  tabs[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  if (document.activeElement !== tabs[1]) say("keys", document.activeElement.outerHTML);
  const answer = document.querySelector(".answer");
  const left = performance.getEntriesByType("resource").map((e) => e.name);
  const done = document.createElement("script");
  done.type = "application/json";
  done.id = "found";
  done.textContent = JSON.stringify({
    found, left, errors: root.dataset.errors, figures: root.dataset.figures,
    answer: answer ? answer.textContent : "",
  }).replace(/</g, "\\\\u003c");
  document.body.replaceChildren(done);
})();
</script>
"""


def dom(file: Path, *options: str) -> tuple[str, list[str]]:
    """Return the page as a headless browser without network leaves it, and its console's lines."""
    done = subprocess.run(
        [
            static.browser(), "--headless", "--no-sandbox", "--disable-gpu",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=120000",
            "--host-resolver-rules=MAP * ~NOTFOUND", *options, "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=400, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probed(page: Path, width: int, directory: Path) -> dict:
    """Return what the probe finds on a page at a width: ``found`` lists what is wrong."""
    copy = directory / f"probed-{width}.html"
    copy.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    text, said = dom(copy, f"--window-size={width},1200")
    match = re.search(r'<script type="application/json" id="found">(.*?)</script>', text, re.S)
    assert match, (text[-2000:], said)
    return {**json.loads(html.unescape(match[1])), "console": said}
