"use strict";
// Draws the figures of the page and runs its explorer. All text from the data goes in as text.
(function () {
  const root = document.documentElement;
  root.dataset.errors = "0";
  window.addEventListener("error", () => {
    root.dataset.errors = String(Number(root.dataset.errors) + 1);
  });
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = "";

  function theme() {
    return chosen || (dark.matches ? "dark" : "light");
  }

  const config = { responsive: true, displaylogo: false, displayModeBar: "hover" };

  function draw(place, figure) {
    const layout = Object.assign({}, figure.layout, { template: data.templates[theme()] });
    return Plotly.newPlot(place, figure.data, layout, config);
  }

  function drawAll() {
    const places = Array.from(document.querySelectorAll("[data-figure]"));
    let drawn = 0;
    // One figure per turn of the event loop, so that the page answers meanwhile.
    (function next() {
      const place = places[drawn];
      if (!place) {
        root.dataset.figures = String(drawn);
        return;
      }
      draw(place, data.figures[place.dataset.figure]).then(() => {
        drawn += 1;
        setTimeout(next, 0);
      });
    })();
  }

  function paint() {
    root.dataset.theme = theme();
    button.textContent = theme() === "dark" ? "Light" : "Dark";
    for (const place of document.querySelectorAll(".js-plotly-plot")) {
      Plotly.relayout(place, { template: data.templates[theme()] });
    }
  }

  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    paint();
  });
  dark.addEventListener("change", paint);

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

  function explore(section) {
    const x = data.explorer;
    const ranks = make("select", { "aria-label": "ranks" });
    const hidden = make("select", { "aria-label": "hidden size" });
    const slider = make("input", {
      type: "range", min: 0, max: x.batch.length - 1, step: 1, value: x.start.batch,
      "aria-label": "batch size",
    });
    const shown = make("output");
    for (const n of Object.keys(x.calls)) ranks.append(make("option", { value: n }, "TP" + n));
    for (const h of x.hidden) hidden.append(make("option", { value: h }, String(h)));
    ranks.value = x.start.worldSize;
    hidden.value = x.start.hidden;
    const controls = make("div", { class: "controls" });
    for (const [name, ...nodes] of [["ranks ", ranks], ["hidden size ", hidden],
                                    ["tokens ", slider, shown]]) {
      const label = make("label", {}, name);
      label.append(...nodes);
      controls.append(label);
    }
    const answer = make("p", { class: "answer" });
    const plot = make("div", { class: "figure", style: "min-height: 190px" });
    const rules = make("ul", { class: "rules" });
    section.append(make("h3", {}, "Explore a call"), controls, answer, plot, rules);

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
    update();
  }

  paint();
  const section = document.getElementById("explorer");
  if (section) explore(section);
  drawAll();
})();
