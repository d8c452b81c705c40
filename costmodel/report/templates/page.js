"use strict";
// Draws the figures of the page and runs its explorer. All text from the data goes in as text.
(function () {
  const root = document.documentElement;
  root.dataset.errors = "0";
  for (const kind of ["error", "unhandledrejection"]) {
    window.addEventListener(kind, () => {
      root.dataset.errors = String(Number(root.dataset.errors) + 1);
    });
  }
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // Two buttons: more of them would lie on the titles. Where nothing hovers they would stay there.
  const config = {
    displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]],
    displayModeBar: window.matchMedia("(hover: hover)").matches ? "hover" : false,
  };
  let chosen = "";
  let data = null;

  function theme() {
    return chosen || (dark.matches ? "dark" : "light");
  }

  // Text that was packed as gzip in base64.
  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) =>
      c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  async function load() {
    data = JSON.parse(await unpack("data"));
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
  }

  async function draw(place) {
    const figure = data.figures[place.dataset.figure];
    const layout = Object.assign({}, figure.layout, { template: data.templates[theme()] });
    await Plotly.newPlot(place, figure.data, layout, config);
  }

  // Figures of a part are drawn when it is first shown, one per turn of the event loop.
  const waiting = [];
  let drawing = false;

  async function drawWaiting() {
    if (drawing || !data) return;
    drawing = true;
    while (waiting.length) {
      await draw(waiting.shift());
      root.dataset.figures = String(document.querySelectorAll(".js-plotly-plot").length);
      await new Promise((next) => setTimeout(next, 0));
    }
    drawing = false;
  }

  function drawIn(part) {
    for (const place of part.querySelectorAll("[data-figure]:not([data-seen])")) {
      if (place.closest("details:not([open])")) continue;
      place.dataset.seen = "1";
      waiting.push(place);
    }
    return drawWaiting();
  }

  const tabs = Array.from(document.querySelectorAll('[role="tab"]'));

  function panel(tab) {
    return document.getElementById(tab.getAttribute("aria-controls"));
  }

  function show(tab, focus) {
    for (const other of tabs) {
      const mine = other === tab;
      other.setAttribute("aria-selected", String(mine));
      other.tabIndex = mine ? 0 : -1;
      panel(other).hidden = !mine;
    }
    if (focus) tab.focus();
    if (panel(tab).id === "explore" && data) explore();
    return drawIn(panel(tab));
  }

  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => show(tab, false));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(tabs[(to + tabs.length) % tabs.length], true);
    });
  });

  for (const fold of document.querySelectorAll("details")) {
    fold.addEventListener("toggle", () => drawIn(fold));
  }

  // A printed page has every part and fold open, and on paper's colours, so every figure is drawn
  // before: at once, since the browser waits for no promise.
  let closed = null;
  window.addEventListener("beforeprint", () => {
    if (!data || !window.Plotly || closed) return;
    closed = {
      theme: chosen, tabs: tabs.filter((tab) => panel(tab).hidden),
      folds: Array.from(document.querySelectorAll("details:not([open])")),
    };
    for (const tab of closed.tabs) panel(tab).hidden = false;
    for (const fold of closed.folds) fold.open = true;
    chosen = "light";
    root.dataset.theme = theme();
    root.dataset.paper = "1";
    waiting.length = 0;
    for (const place of document.querySelectorAll("[data-figure]")) {
      place.dataset.seen = "1";
      draw(place);
    }
  });
  window.addEventListener("afterprint", () => {
    if (!closed) return;
    for (const tab of closed.tabs) panel(tab).hidden = true;
    for (const fold of closed.folds) fold.open = false;
    chosen = closed.theme;
    closed = null;
    delete root.dataset.paper;
    paint();
  });

  function paint() {
    root.dataset.theme = theme();
    button.textContent = theme() === "dark" ? "Light" : "Dark";
    // A figure is drawn anew: relayout would leave its subtitle on its title.
    for (const place of document.querySelectorAll("[data-seen]")) {
      if (waiting.includes(place)) continue;
      Plotly.purge(place);
      delete place.dataset.seen;
    }
    if (explored) explored();
    for (const tab of tabs) if (!panel(tab).hidden) drawIn(panel(tab));
  }

  // A figure that is only resized loses its subtitle to its title: it is drawn anew.
  const main = document.getElementById("main");
  let wide = main.clientWidth;
  let later = 0;
  new ResizeObserver(() => {
    if (closed || !main.isConnected || main.clientWidth === wide) return;
    if (!data || !window.Plotly) return;
    wide = main.clientWidth;
    clearTimeout(later);
    later = setTimeout(paint, 100);
  }).observe(main);

  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    if (data && window.Plotly) paint();
  });
  dark.addEventListener("change", () => { if (data && window.Plotly) paint(); });

  function make(tag, attributes, text) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function at(values, i) {
    return Array.isArray(values) ? values[i] : values;
  }

  function percent(share) {
    if (share > 0.995) return "more than 99 %";
    if (share < 0.005) return "less than 1 %";
    return Math.round(100 * share) + " %";
  }

  let explored = null;

  function explore() {
    const section = document.getElementById("explorer");
    if (explored || !section) return;
    explored = () => update();
    const gpus = Object.keys(data.explorer);
    const gpu = make("select", { "aria-label": "GPU" });
    const ranks = make("select", { "aria-label": "ranks" });
    const hidden = make("select", { "aria-label": "hidden size" });
    const slider = make("input", { type: "range", min: 0, step: 1, "aria-label": "batch size" });
    const shown = make("output");
    for (const name of gpus) gpu.append(make("option", { value: name }, name));
    const note = make("p", { class: "note" });
    let x = data.explorer[gpus[0]];

    function fill() {
      x = data.explorer[gpu.value];
      slider.max = x.batch.length - 1;
      ranks.replaceChildren(...Object.keys(x.calls).map((n) =>
        make("option", { value: n }, "TP" + n)));
      hidden.replaceChildren(...x.hidden.map((h) => make("option", { value: h }, String(h))));
      ranks.value = x.start.worldSize;
      hidden.value = x.start.hidden;
      slider.value = x.start.batch;
      note.textContent = x.note;
    }
    fill();
    const controls = make("div", { class: "controls" });
    const named = [["ranks ", ranks], ["hidden size ", hidden], ["tokens ", slider, shown]];
    if (gpus.length > 1) named.unshift(["GPU ", gpu]);
    for (const [name, ...nodes] of named) {
      const label = make("label", {}, name);
      label.append(...nodes);
      controls.append(label);
    }
    const answer = make("p", { class: "answer", "aria-live": "polite" });
    const plot = make("div", { class: "figure", style: "min-height: 190px" });
    const rules = make("ul", { class: "rules" });
    section.append(controls, answer, plot, rules, note);

    function update() {
      const call = x.calls[ranks.value][hidden.value];
      const i = Number(slider.value);
      shown.textContent = x.batch[i] + " (" + call.size[i] + ")";
      const wins = at(call.wins, i);
      const one = call.choice[i] === "1";
      const margin = at(call.margin, i);
      const slower = margin > 0 ? x.arms["2"] : x.arms["1"];
      const sign = margin > 0 ? 1 : -1;
      const ends = [sign * at(call.lo, i), sign * at(call.hi, i)].sort((a, b) => a - b);
      answer.textContent = "Run " + (one ? x.arms["1"] : x.arms["2"]) + ": faster with " +
        percent(one ? wins : 1 - wins) + " probability. " + slower + " takes " +
        Math.abs(margin).toFixed(2) + " us more (90 %: " + ends[0].toFixed(1) + " to " +
        ends[1].toFixed(1) + ").";
      const traces = [];
      for (const [name, term] of Object.entries(x.terms)) {
        const us = ["2", "1"].map((a) => at(call.terms[a][name] ?? 0, i));
        if (Math.max(...us) < 0.005) continue;
        traces.push({
          type: "bar", orientation: "h", name: term.name, x: us,
          y: [x.arms["2"], x.arms["1"]], marker: { color: term.colour },
          hovertemplate: term.name + " %{x:.2f} us<extra></extra>",
        });
      }
      Plotly.react(plot, traces, {
        template: data.templates[theme()], barmode: "stack", height: 190,
        margin: { l: 70, r: 20, t: 10, b: 40 }, xaxis: { ticksuffix: " us" },
        legend: { orientation: "h", y: -0.3, traceorder: "normal" },
      }, { responsive: true, displayModeBar: false });
      rules.replaceChildren();
      x.rules.forEach((rule, k) => {
        const says = call.rules[k][i];
        if (!says) return;
        const agrees = says === call.choice[i];
        rules.append(make("li", { class: agrees ? "agree" : "differ", title: rule.words },
          rule.name + ": " + x.arms[says]));
      });
    }
    for (const node of [ranks, hidden, slider]) node.addEventListener("input", update);
    gpu.addEventListener("input", () => { fill(); update(); });
    update();
  }

  root.dataset.theme = theme();
  button.textContent = theme() === "dark" ? "Light" : "Dark";
  for (const tab of tabs.slice(1)) panel(tab).hidden = true;
  load().then(async () => {
    await show(tabs.find((t) => t.getAttribute("aria-selected") === "true") || tabs[0], false);
    root.dataset.ready = "1";
  });
})();
