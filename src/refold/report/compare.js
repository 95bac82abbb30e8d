// Draws the data of a comparison of runs; common.js stands before it.

function fillTable() {
  const { columns, rows, first_metric, best, finished } = data.table;
  fill("table", columns, rows);
  element("table").querySelectorAll("tbody tr").forEach((row, r) => {
    row.classList.toggle("unfinished", !finished[r]);
    best.forEach((winner, m) => winner === r && row.children[first_metric + m].classList.add("best"));
    row.querySelectorAll("td").forEach((cell, c) => c >= first_metric && (cell.className += " number"));
  });
  element("table-note").textContent = data.table.note;
}

function drawParallel() {
  const { dimensions, metric, smaller_is_better } = data.parallel;
  const values = dimensions[dimensions.length - 1].values;
  draw("parallel-plot", [{
    type: "parcoords",
    dimensions: dimensions.map((axis) => ({
      label: escaped(axis.label), values: axis.values,
      ...(axis.names ? { tickvals: axis.names.map((_, n) => n), ticktext: axis.names.map(escaped) } : {}),
    })),
    line: {
      color: values, colorscale: "Viridis", reversescale: !smaller_is_better, showscale: true,
      colorbar: { title: { text: escaped(metric), side: "right" } },
    },
  }], { margin: { l: 90, r: 60, t: 50, b: 30 } });
}

function drawImportance() {
  const { names, shares, spreads } = data.importance;
  element("importance-note").textContent = data.importance.note;
  element("importance-plot").hidden = !names.length;
  if (!names.length) return;
  element("importance-plot").style.height = `${90 + 30 * names.length}px`;
  draw("importance-plot", [{
    type: "bar", orientation: "h", y: names.map(escaped), x: shares, marker: { color: color("score") },
    error_x: { type: "data", array: spreads, color: color("faint") }, hovertemplate: "%{y}: %{x:.3f}<extra></extra>",
  }], {
    yaxis: { autorange: "reversed" }, margin: { l: 140, r: 18, t: 10, b: 44 },
    xaxis: { title: { text: "rise of the squared error when the setting is shuffled, in variances of the metric" } },
  });
}

function drawCurves() {
  const quantity = element("quantity").value;
  const traces = data.curves.runs.filter((run) => run.curves[quantity]).map((run) => ({
    type: "scatter", mode: "lines", name: escaped(run.name), x: run.curves[quantity].x, y: run.curves[quantity].y,
    line: { width: 1.4 }, hovertemplate: "step %{x}: %{y:.6~g}",
  }));
  draw("curves-plot", traces, {
    xaxis: { title: { text: "optimizer step" } }, legend: { orientation: "v", x: 1.02, y: 1, font: { size: 11 } },
    yaxis: { title: { text: escaped(quantity) }, type: element("logarithmic").checked ? "log" : "linear" },
  });
}

function drawWindow() {
  const { features, truth, runs } = data.windows, window = Number(element("window").value);
  const bars = truth[window][0].map((_, bar) => bar), count = features.length, traces = [], axes = {};
  features.forEach((feature, f) => {
    const axis = { x: "x", y: f ? `y${f + 1}` : "y" };
    const line = (name, y, look, visible) => traces.push({
      type: "scatter", mode: "lines", name: escaped(name), legendgroup: name, showlegend: f === 0, visible,
      x: bars, y: y[window][f], xaxis: axis.x, yaxis: axis.y, connectgaps: false, line: look,
    });
    line("truth", truth, { color: color("text"), width: 2 }, true);
    runs.forEach((run, n) => line(run.name, run.made, { width: 1.3, color: PALETTE[n % PALETTE.length] }, n < 4 ? true : "legendonly"));
    axes[f ? `yaxis${f + 1}` : "yaxis"] = {
      title: { text: escaped(feature), font: { size: 10 } }, domain: [1 - (f + 0.9) / count, 1 - f / count],
    };
  });
  element("windows-plot").style.height = `${120 + 130 * count}px`;
  draw("windows-plot", traces, { ...axes, xaxis: { title: { text: "bar of the window" }, anchor: count > 1 ? `y${count}` : "y" },
    legend: { orientation: "v", x: 1.02, y: 1, font: { size: 11 } } });
}

const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d31", "#7f8c8d"];

function drawAll() {
  if (data.parallel) drawParallel();
  drawImportance();
  if (data.curves.names.length) drawCurves();
  if (data.windows) drawWindow();
}

async function start() {
  await load();
  for (const note of data.notes) element("notes").appendChild(document.createElement("p")).textContent = "Note: " + note;
  element("parallel").hidden = !data.parallel;
  element("curves").hidden = !data.curves.names.length;
  element("windows").hidden = !data.windows;
  offer("quantity", data.curves.names);
  element("curves-note").textContent = data.curves.note;
  if (data.windows) {
    offer("window", data.windows.labels, data.windows.labels.map((_, n) => n));
    element("windows-note").textContent = data.windows.note;
  }
  element("problem").hidden = true;
  document.querySelector("main").hidden = false;
  fillTable();
  drawAll();
  element("quantity").addEventListener("change", drawCurves);
  element("logarithmic").addEventListener("change", drawCurves);
  element("window").addEventListener("change", drawWindow);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.body.dataset.ready = "yes";
}

start();
