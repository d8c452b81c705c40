"""Pages looked at in a real browser: a probe runs inside a copy of the page and writes what it finds.

The browser has no network, and the page's own policy lets nothing in.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from costmodel.figures import static

#: What every probe does: lists what is wrong with what is shown, and leaves it in the page.
LOOK = """
<script>
(async function () {
  const root = document.documentElement, found = [];
  const pause = (ms) => new Promise((next) => setTimeout(next, ms));
  const until = async (done) => { for (let i = 0; i < 600 && !done(); i++) await pause(50); };
  const say = (kind, text) => found.push(theme() + " " + part + " " + kind + ": " + text);
  const theme = () => root.dataset.theme || "";
  let part = "", errors = 0;
  for (const kind of ["error", "unhandledrejection"]) window.addEventListener(kind, () => errors++);

  // Texts with their boxes; a box is as high as its letters, not as its line.
  function boxes(svgs) {
    const out = [];
    for (const svg of svgs) for (const node of svg.querySelectorAll("text")) {
      const lines = node.querySelectorAll("tspan.line");
      for (const line of lines.length ? lines : [node]) {
        const box = line.getBoundingClientRect();
        const text = line.textContent.trim();
        if (!text || !box.width || getComputedStyle(node).opacity === "0") continue;
        const trim = 0.13 * Math.min(box.height, parseFloat(getComputedStyle(line).fontSize) * 1.2);
        const upright = box.height > 1.5 * box.width && text.length > 2;
        const [x, y] = upright ? [trim, 0] : [0, trim];
        out.push([text, {
          left: box.left + x, right: box.right - x, top: box.top + y, bottom: box.bottom - y,
        }, node]);
      }
    }
    return out;
  }

  function shade(colour) {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(one, other) {
    const [a, b] = [shade(one), shade(other)].sort((x, y) => x - y);
    return (b + 0.05) / (a + 0.05);
  }

  // Whether a line runs through a text that stands in the plot.
  function strikes(path, box) {
    const matrix = path.getScreenCTM(), length = path.getTotalLength();
    const steps = Math.min(800, Math.ceil(length / 2));
    for (let i = 0; i <= steps; i++) {
      const p = path.getPointAtLength((length * i) / Math.max(steps, 1)).matrixTransform(matrix);
      if (p.x > box.left + 1 && p.x < box.right - 1 && p.y > box.top + 1 && p.y < box.bottom - 1) {
        return true;
      }
    }
    return false;
  }

  // Points and ends of error bars that lie outside the axes they stand on, and panels without any.
  function outside(place, name) {
    const layout = place._fullLayout;
    const filled = new Set();
    for (const t of place._fullData) {
      if (!t.xaxis) continue;
      filled.add(t.xaxis + t.yaxis);
      if (t.type !== "scatter" || !/markers/.test(t.mode || "")) continue;
      for (const [letter, id] of [["x", t.xaxis], ["y", t.yaxis]]) {
        const axis = layout[letter + "axis" + id.slice(1)];
        const [lo, hi] = axis.range.map(Number).sort((a, b) => a - b);
        const slack = 1e-6 * (hi - lo), error = t["error_" + letter];
        Array.from(t[letter]).forEach((value, i) => {
          if (value === null || Number.isNaN(value)) return;
          const ends = [value];
          if (error && error.visible && error.type === "data") {
            ends.push(value + error.array[i], value - (error.arrayminus || error.array)[i]);
          }
          for (const end of ends) {
            const at = axis.d2l(end);
            if (!(at >= lo - slack && at <= hi + slack)) {
              say("outside", name + ": " + (t.name || t.type) + " " + letter + " " + end);
            }
          }
        });
      }
    }
    for (const id of Object.keys(layout._plots)) {
      const { xaxis, yaxis, plotgroup } = layout._plots[id];
      const marks = plotgroup.node().querySelectorAll(
        ".trace path, .point path, .point, .heatmaplayer image, .contourlayer path, .barlayer path");
      if (!filled.has(xaxis._id + yaxis._id) || !marks.length) say("empty", name + ": " + id);
    }
  }

  function look(shown) {
    if (root.scrollWidth > root.clientWidth + 1) say("overflow", root.scrollWidth);
    for (const img of shown.querySelectorAll("img")) {
      if (!img.alt || /no description/i.test(img.alt)) say("alt", img.outerHTML.slice(0, 80));
      if (img.getBoundingClientRect().right > root.clientWidth + 1) say("wide", img.alt);
    }
    for (const place of shown.querySelectorAll(".figure")) {
      const name = place.dataset.figure || "explorer";
      if (!place.querySelector(".main-svg")) { say("not drawn", name); continue; }
      if (place.dataset.figure && (place.getAttribute("aria-label") || "").length < 20) {
        say("alt", name);
      }
      const all = boxes(place.querySelectorAll(".main-svg")), frame = place.getBoundingClientRect();
      const ground = getComputedStyle(place.querySelector(".main-svg")).backgroundColor;
      const lines = Array.from(place.querySelectorAll(".shapelayer path, .js-line"));
      all.forEach(([text, a, node], i) => {
        if (a.left < frame.left - 2 || a.right > frame.right + 2) say("cut", name + ": " + text);
        if (a.top < frame.top - 2 || a.bottom > frame.bottom + 2) say("cut", name + ": " + text);
        if (contrast(getComputedStyle(node).fill, ground) < 3.9) say("faint", name + ": " + text);
        for (const [other, b] of all.slice(i + 1)) {
          const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          if (wide > 1 && high > 1) say("overlap", name + ": " + text + " | " + other);
        }
        if (!node.closest(".annotation, .textpoint, .shape-label")) return;
        if (lines.some((line) => strikes(line, a))) say("struck", name + ": " + text);
      });
      // The buttons that come when the mouse is on a figure.
      for (const button of place.querySelectorAll(".modebar-btn")) {
        const b = button.getBoundingClientRect();
        for (const [text, a] of all) {
          const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          if (wide > 1 && high > 1) say("buttons", name + ": " + text);
        }
      }
      outside(place, name);
    }
  }

  function leave(more) {
    const left = performance.getEntriesByType("resource").map((e) => e.name);
    const done = document.createElement("script");
    done.type = "application/json";
    done.id = "found";
    done.textContent = JSON.stringify(Object.assign({ found, left, errors: String(errors) }, more))
      .replace(/</g, "\\u003c");
    document.body.replaceChildren(done);
  }
"""

#: Shows every part of a report's page in both themes.
PROBE = (
    LOOK
    + """
  await until(() => root.dataset.ready);
  const tabs = Array.from(document.querySelectorAll('[role="tab"]'));
  for (let turn = 0; turn < 2; turn++) {
    for (const tab of tabs) {
      part = tab.getAttribute("aria-controls");
      tab.click();
      const shown = document.getElementById(part);
      for (const fold of shown.querySelectorAll("details")) fold.open = true;
      await until(() => !shown.querySelector('[data-figure]:not(.js-plotly-plot)'));
      await pause(200);
      look(shown);
    }
    document.getElementById("theme").click();
    await pause(200);
  }
  // A window that is resized, or a scroll bar that comes, leaves figures as they should be.
  tabs[tabs.length - 1].click();
  const last = document.getElementById(tabs[tabs.length - 1].getAttribute("aria-controls"));
  for (const fold of last.querySelectorAll("details")) fold.open = true;
  await until(() => !last.querySelector("[data-figure]:not(.js-plotly-plot)"));
  const main = document.getElementById("main");
  main.style.width = main.clientWidth - 8 + "px";
  window.dispatchEvent(new Event("resize"));
  part = "resized";
  await pause(300);
  await until(() => !last.querySelector("[data-figure]:not(.js-plotly-plot)"));
  await pause(200);
  look(last);
  main.style.width = "";
  // The arrow keys walk through the parts.
  tabs[0].click();
  tabs[0].focus();
  tabs[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  if (document.activeElement !== tabs[1]) say("keys", document.activeElement.outerHTML);
  // On paper every part and fold is open, every figure drawn, at a sheet's width and on white.
  window.dispatchEvent(new Event("beforeprint"));
  part = "print";
  await pause(300);
  const undrawn = document.querySelectorAll("[data-figure]:not(.js-plotly-plot)").length;
  const shut = document.querySelectorAll("section[hidden], details:not([open])").length;
  if (undrawn || shut) say("paper", undrawn + " not drawn, " + shut + " shut");
  if (theme() !== "light") say("paper", theme());
  for (const figure of document.querySelectorAll("[data-figure] .main-svg")) {
    if (figure.getBoundingClientRect().right > 700) say("paper", "wide");
  }
  window.dispatchEvent(new Event("afterprint"));
  if (document.querySelectorAll("section:not([hidden])").length !== 1) say("paper", "left open");
  const answer = document.querySelector(".answer");
  leave({
    errors: root.dataset.errors, figures: root.dataset.figures,
    answer: answer ? answer.textContent : "",
  });
})();
</script>
"""
)

#: Looks at a page as it is.
PLAIN = (
    LOOK
    + """
  await until(() => document.readyState === "complete");
  await pause(50);
  look(document.body);
  leave({ pictures: document.querySelectorAll("img").length });
})();
</script>
"""
)

#: Draws the figures of ``window.drawn`` in both themes.
FIGURES = (
    LOOK
    + """
  for (const [name, template] of Object.entries(window.templates)) {
    root.dataset.theme = name;
    for (const place of document.querySelectorAll(".figure")) {
      const figure = window.drawn[place.dataset.figure];
      Plotly.purge(place);
      await Plotly.newPlot(place, figure.data, { ...figure.layout, template },
        { responsive: true, displayModeBar: false });
    }
    await pause(100);
    look(document.body);
  }
  leave({ figures: document.querySelectorAll(".js-plotly-plot").length });
})();
</script>
"""
)


def dom(file: Path, *options: str) -> tuple[str, list[str]]:
    """Return the page as a headless browser without network leaves it, and its console's lines."""
    done = subprocess.run(
        [
            static.browser(), "--headless", "--no-sandbox", "--disable-gpu",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=120000",
            # With a mouse, as on a desk: without one figures have no buttons.
            "--blink-settings=primaryHoverType=2,availableHoverTypes=2",
            "--host-resolver-rules=MAP * ~NOTFOUND", *options, "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=400, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def printed(page: Path, out: Path) -> int:
    """Print a page to a PDF file and return how many sheets it takes."""
    subprocess.run(
        [
            static.browser(), "--headless", "--no-sandbox", "--disable-gpu",
            "--virtual-time-budget=60000", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--no-pdf-header-footer", f"--print-to-pdf={out}", page.as_uri(),
        ],
        capture_output=True, timeout=400, check=True,
    )  # fmt: skip
    return len(re.findall(rb"/Type\s*/Page[^s]", out.read_bytes()))


def probed(page: Path, width: int, directory: Path, probe: str = PROBE) -> dict:
    """Return what a probe finds on a page at a width: ``found`` lists what is wrong."""
    copy = directory / f"probed-{width}.html"
    whole, body, rest = page.read_text().rpartition("</body>")
    copy.write_text(f"{whole}{probe}{body}{rest}")
    text, said = dom(copy, f"--window-size={width},1200")
    match = re.search(r'<script type="application/json" id="found">(.*?)</script>', text, re.S)
    assert match, (text[-2000:], said)
    return {**json.loads(html.unescape(match[1])), "console": said}


def page_of_figures(figures: Mapping[str, tuple[str, dict]], out: Path) -> Path:
    """Write a page of plotly figures, name -> (words, record), for :data:`FIGURES` to draw."""
    from plotly.offline import get_plotlyjs

    from costmodel.figures.template import template

    places = "".join(
        f'<div class="figure" data-figure="{name}" aria-label="{html.escape(words)}"></div>'
        for name, (words, _) in figures.items()
    )
    data = {
        "templates": {n: template(dark=n == "dark").to_plotly_json() for n in ("light", "dark")},
        "drawn": {name: record for name, (_, record) in figures.items()},
    }
    given = "".join(
        f"window.{name} = {json.dumps(value)};" for name, value in data.items()
    ).replace("</", "<\\/")
    out.write_text(
        # With its scroll bar from the start: figures take the width that is left.
        "<!doctype html><html style='overflow-y: scroll'><head><meta charset='utf-8'></head>"
        "<body style='margin: 0'>"
        f"{places}<script>{get_plotlyjs()}</script><script>{given}</script></body></html>"
    )
    return out
