// Draws the data of a page about scored bars; common.js stands before it.

const KINDS = { // Okabe and Ito's colours, which colour-blind readers tell apart; a shape each for those who print
  "bad tick": ["#D55E00", "x"], "stale": ["#0072B2", "square"], "split": ["#CC79A7", "triangle-down"],
  "unit": ["#E69F00", "diamond"], "regime": ["#009E73", "circle"],
};
const OTHER_KIND = ["#7f8c8d", "circle-open"];
const CHECKED = ["#56B4E9", "star-triangle-down-open"]; // what checks found, beside what the model flags
const REASONS = { // of bars without a score; any other is the name of the check that found the bar
  warming: "features look back beyond the first bar", hole: "features look back beyond a hole",
  masked: "features look back on a bar without values", few_assets: "too few assets have a bar", no_window_before: "no window ends before the bar to predict it",
  short_run: "too few bars in a row for a window", no_score: "no finite score",
};
const day = (milliseconds) => milliseconds === null ? ""
  : new Date(milliseconds).toISOString().replace("T", " ").slice(0, 16).replace(" 00:00", "");
let names;

// ---- price and score -------------------------------------------------------------------------------------------------

function flaggedTraces(flagged, column, axis, withLegend) {
  const times = numbers(flagged.time), values = numbers(flagged[column]);
  const kinds = [...new Set(flagged.kind)].sort();
  return kinds.map((kind) => {
    const rows = times.map((_, row) => row).filter((row) => flagged.kind[row] === kind);
    const [fill, symbol] = KINDS[kind] ?? OTHER_KIND;
    return {
      type: "scatter", mode: "markers", name: escaped(kind ?? "flagged"), legendgroup: kind ?? "flagged",
      showlegend: withLegend, yaxis: axis, x: rows.map((row) => times[row]), y: rows.map((row) => values[row]),
      text: rows.map((row) => flagged.reason[row]), hovertemplate: "%{text}<extra></extra>",
      marker: { color: fill, symbol, size: 9, line: { width: 1, color: color("pane") } },
    };
  });
}

// spans of time as thick lines in a row of the strip between the two panes; each point carries the text of its span
function spanTrace(spans, row, name, texts, look) {
  const some = (values) => spans.start.flatMap((_, n) => values(n));
  return {
    type: "scatter", mode: "lines+markers", name, yaxis: "y3", connectgaps: false, showlegend: spans.start.length > 0,
    x: some((n) => [spans.start[n], spans.end[n], null]), y: some(() => [row, row, null]),
    text: some((n) => [texts[n], texts[n], ""]), hovertemplate: "%{text}<extra></extra>",
    marker: { symbol: look.symbol, size: look.size, color: look.color }, line: { color: look.color, width: look.width },
  };
}

// what the bars of events should have been, with the interval; of a split the prices before it
function repairTraces({ repairs, lines, time }) {
  const { values, splits } = repairs, traces = [];
  if (values.time.length) traces.push({
    type: "scatter", mode: "markers", name: "proposed repair", legendgroup: "repair", yaxis: "y", x: values.time, y: values.proposed,
    error_y: {
      type: "data", symmetric: false, array: values.high.map((v, n) => v - values.proposed[n]), color: color("repair"),
      arrayminus: values.low.map((v, n) => values.proposed[n] - v), thickness: 1.5, width: 3,
    },
    text: values.text.map(escaped), hovertemplate: "%{text}<extra></extra>", marker: { symbol: "cross", size: 8, color: color("repair") },
  });
  const times = splits.time.length ? numbers(time) : [], close = splits.time.length ? numbers(lines.close) : [];
  splits.time.forEach((moment, n) => {
    const rows = times.map((_, row) => row).filter((row) => times[row] < moment).slice(-60);
    traces.push({
      type: "scatter", mode: "lines", name: "proposed repair", legendgroup: "repair", showlegend: !values.time.length && n === 0, yaxis: "y",
      x: rows.map((row) => times[row]), y: rows.map((row) => close[row] / splits.factor[n]), connectgaps: false,
      line: { color: color("repair"), width: 1.5, dash: "dash" }, text: rows.map(() => escaped(splits.text[n])), hovertemplate: "%{text}<extra></extra>",
    });
  });
  return traces;
}

function checkedTraces({ findings, unscored, beside }) {
  const told = (spans, n, first, more) => [`<b>${escaped(first)}</b>`,
    day(spans.start[n]) + (spans.end[n] > spans.start[n] ? ` to ${day(spans.end[n])}` : ""),
    `${spans.bars[n].toLocaleString("en")} bar${spans.bars[n] === 1 ? "" : "s"}${more}`].join("<br>");
  const found = findings.start.map((_, n) => told(findings, n, findings.kind[n], findings.done ? `: ${escaped(findings.done[n])}` : ""));
  const lacking = unscored.start.map((_, n) => told(unscored, n, "no score", unscored.reason[n] === null ? ""
    : `: ${escaped(REASONS[unscored.reason[n]] ?? `found by ${unscored.reason[n]}`)}`));
  const [fill, symbol] = CHECKED;
  const priced = findings.close ? [{ // on the price line, where a reader looks first
    type: "scatter", mode: "markers", name: "found by checks", legendgroup: "checks", showlegend: false, yaxis: "y",
    x: findings.start, y: findings.close, text: found, hovertemplate: "%{text}<extra></extra>",
    marker: { color: fill, symbol, size: 9 },
  }] : [];
  const also = beside.start.map((_, n) => told(beside, n, beside.kind[n] ?? "flagged", ""));
  return [...priced, spanTrace(beside, 2, escaped(data.beside ?? ""), also, { color: color("made"), symbol: "diamond", size: 8, width: 4 }),
    spanTrace(findings, 1, "found by checks", found, { color: fill, symbol, size: 9, width: 4 }),
    spanTrace(unscored, 0, "no score", lacking, { color: color("faint"), symbol: "line-ns-open", size: 5, width: 5 })];
}

// a typed array of the page as a plain array
function numbers(packed) {
  const bytes = Uint8Array.from(atob(packed.bdata), (c) => c.charCodeAt(0));
  return Array.from(packed.dtype === "f4" ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer));
}

function drawAsset(name, span) {
  const asset = data.assets[name], { lines, flagged } = asset, priced = "close" in lines, traces = [];
  const line = (key, title, axis, look, width = 1.2) => key in lines && traces.push({
    type: "scatter", mode: "lines", name: title, x: asset.time, y: lines[key], yaxis: axis, connectgaps: false,
    line: { ...look, width }, hovertemplate: `${title} %{y:.6~g}<extra></extra>`,
  });
  if (priced) {
    line("reconstructed_close", "reconstructed close", "y", { color: color("made"), dash: "dot" });
    line("close", "close", "y", { color: color("price") });
    traces.push(...flaggedTraces(flagged, "close", "y", true), ...repairTraces(asset));
  }
  line("score", "score", "y2", { color: color("score") });
  line("threshold", "threshold", "y2", { color: color("threshold"), dash: "dash" }, 1.5);
  traces.push(...flaggedTraces(flagged, "score", "y2", !priced), ...checkedTraces(asset));
  const { unscored } = asset, strip = asset.findings.start.length + asset.beside.start.length + unscored.start.length > 0;
  const zone = data.zone ? `time, ${escaped(data.zone)}` : "";
  draw("bars-plot", traces, {
    hovermode: "closest", uirevision: span ? JSON.stringify([name, span]) : name,
    xaxis: { type: "date", anchor: "y2", title: { text: zone }, ...(span ? { range: span } : {}) },
    shapes: unscored.start.map((start, n) => ({ // behind the scores: there are none here
      type: "rect", layer: "below", x0: start, x1: unscored.end[n], yref: "y2 domain", y0: 0, y1: 1, line: { width: 0 },
      fillcolor: color("faint"), opacity: 0.18,
    })),
    yaxis: { title: { text: "price" }, domain: priced ? [0.42, 1] : [0.99, 1], visible: priced },
    yaxis3: { domain: priced ? [0.365, 0.415] : [0.94, 0.99], range: [-0.8, 2.8], visible: false, fixedrange: true },
    yaxis2: {
      title: { text: "score" }, domain: priced ? [0, 0.36] : [0, strip ? 0.93 : 1],
      type: element("logarithmic").checked ? "log" : "linear",
    },
  });
  element("bars-of").textContent = name;
  element("thinned").textContent = asset.shown < asset.bars
    ? `${asset.shown.toLocaleString("en")} of ${asset.bars.toLocaleString("en")} bars drawn: the extremes, and all flagged`
    : `${asset.bars.toLocaleString("en")} bars`;
  for (const [spans, what] of [[asset.findings, "findings"], [unscored, "stretches without scores"]])
    if (spans.start.length < spans.total)
      element("thinned").textContent += `; the ${spans.start.length.toLocaleString("en")} longest of ${spans.total.toLocaleString("en")} ${what}`;
}

function select(name, span) {
  element("asset").value = name;
  history.replaceState(null, "", "#asset=" + encodeURIComponent(name));
  drawAsset(name, span);
  if (element("own-events").checked) showEvents();
  const own = data.windows.findIndex((window) => window.asset === name);
  if (own >= 0 && data.windows[element("window").value].asset !== name) drawWindow(own);
}

// ---- tables ----------------------------------------------------------------------------------------------------------

// columns of each list: title, and what an event has there; a column that is empty throughout is left out
const LISTS = {
  named: [["kind", "kind"], ["probability", "probability"], ["second guess", "guess"]],
  unusual: [["how often", "once_in"], ["kind", "kind"], ["second guess", "guess"], ["score at peak", "score"]],
  checks: [["check", "kind"]],
};
const SPAN = [["start", "start"], ["end", "end"]], MORE = {
  named: [["reason", "features"], ["proposed repair", "repair"]], unusual: [["reason", "features"], ["proposed repair", "repair"]],
  checks: [["bars", "bars"], ["what was done", "done"]],
};

function fillEvents() {
  const own = element("own-events").checked ? element("asset").value : null;
  for (const [verdict, events] of Object.entries(data.events)) {
    const rows = events.asset.map((_, n) => n).filter((n) => own === null || events.asset[n] === own);
    const columns = [["asset", "asset"], ...LISTS[verdict], ...SPAN, ...MORE[verdict]]
      .filter(([, key]) => key in events && events[key].some((value) => value !== null));
    const cell = (key, n) => key === "start" || key === "end" ? day(events[key][n])
      : key === "features" ? (events[key][n] ?? "").replaceAll(";", ", ") : events[key][n];
    fill(`${verdict}-events`, columns.map(([title]) => title), rows.map((n) => columns.map(([, key]) => cell(key, n))),
      (row) => show(events, rows[row]), verdict !== "checks" && data.run ? (row) => buttons(verdict, events, rows[row]) : undefined);
    element(`${verdict}-events`).querySelector("p").textContent = `${rows.length.toLocaleString("en")} of ${events.total.toLocaleString("en")}`
      + (verdict === "checks" ? "." : `, ${verdict === "named" ? "most probable" : "rarest"} first; ${events.by}.`);
  }
}

function showEvents() {
  fillEvents();
  showDecisions();
}

function show(events, event) {
  const name = events.asset[event], room = 40 * (data.assets[name]?.spacing ?? 864e5);
  if (!Object.hasOwn(data.assets, name) || events.start[event] === null) return;
  select(name, [events.start[event] - room, events.end[event] + room].map((t) => new Date(t).toISOString()));
  element("bars").scrollIntoView({ behavior: "smooth" });
}

// ---- decisions about events ------------------------------------------------------------------------------------------

const CHOICES = ["confirmed", "false alarm"], decided = new Map(); // key of an event -> decision, "" where it was taken back
const decisionKey = (one) => JSON.stringify([one.verdict, one.asset, one.start, one.end]);
const storage = () => `refold-decisions:${data.run}`;

function loadDecisions() {
  let kept = [];
  try {
    kept = JSON.parse(localStorage.getItem(storage()) ?? "[]");
  } catch { /* the browser keeps nothing for this page, or something that is not ours */ }
  for (const one of [...data.decisions, ...(Array.isArray(kept) ? kept : [])])
    if (one !== null && ["asset", "start", "end", "kind"].every((name) => typeof one[name] === "string")
      && ["named", "unusual"].includes(one.verdict) && ["", ...CHOICES].includes(one.decision)) decided.set(decisionKey(one), one);
}

function decide(one, choice) {
  decided.set(decisionKey(one), { ...one, decision: decided.get(decisionKey(one))?.decision === choice ? "" : choice });
  try {
    localStorage.setItem(storage(), JSON.stringify([...decided.values()]));
  } catch { /* the file that is saved has them */ }
  showDecisions();
}

function buttons(verdict, events, n) {
  const one = { verdict, asset: events.asset[n], start: events.from[n], end: events.to[n], kind: events.kind[n] ?? "" };
  return CHOICES.map((choice) => {
    const button = document.createElement("button");
    button.textContent = choice;
    button.dataset.event = decisionKey(one);
    button.addEventListener("click", (click) => {
      click.stopPropagation(); // the row would zoom
      decide(one, choice);
    });
    return button;
  });
}

function showDecisions() {
  document.querySelectorAll("#events td button").forEach((button) =>
    button.setAttribute("aria-pressed", decided.get(button.dataset.event)?.decision === button.textContent));
  const parts = ["named", "unusual"].map((verdict) => {
    const own = [...decided.values()].filter((one) => one.verdict === verdict && one.decision);
    const right = own.filter((one) => one.decision === "confirmed").length;
    return own.length ? `${right} of ${own.length} ${verdict} events confirmed (precision ${(right / own.length).toFixed(2)})` : "";
  }).filter(Boolean);
  element("decided").textContent = parts.join(", ");
  element("save-decisions").disabled = !parts.length;
}

function saveDecisions() {
  const decisions = [...decided.values()].filter((one) => one.decision), link = document.createElement("a");
  const text = JSON.stringify({ refold_decisions: 1, run: data.run, decisions }, null, 1);
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `decisions_${data.run}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- other tables ------------------------------------------------------------------------------------------------------

function fillDrift() {
  const { columns, rows, total } = data.drift;
  fill("drift", columns, rows);
  element("drift-shown").textContent = rows.length < total ? `${rows.length} of ${total.toLocaleString("en")} rows are shown.` : "";
}

function addTables(section) {
  data[section].forEach((table, n) => {
    element(section).appendChild(document.createElement("p")).textContent = table.caption;
    const holder = element(section).appendChild(document.createElement("div"));
    holder.className = "scroll";
    holder.id = `${section}-${n}`;
    holder.innerHTML = "<table><thead></thead><tbody></tbody></table>";
    fill(holder.id, ["", ...table.columns], table.rows.map((name, row) => [name, ...table.cells[row]]));
  });
}

// ---- windows, parts, features, codes -----------------------------------------------------------------------------------

function drawWindow(number) {
  const window = data.windows[number], count = window.features.length, height = 115 * count, traces = [], titles = [], more = {};
  element("window").value = number;
  element("window-note").textContent = `In ${data.unit}.`
    + (count < window.of ? ` The ${count} of ${window.of} features with the largest errors.` : "");
  element("windows-plot").style.height = `${70 + height}px`; // 30 above and 40 below the panes
  window.features.forEach((feature, n) => {
    const axis = n ? String(n + 1) : "", top = 1 - n / count;
    const curve = (name, y, look) => traces.push({
      type: "scatter", mode: "lines+markers", name, x: window.time, y, yaxis: "y" + axis, showlegend: n === 0,
      legendgroup: name, line: { width: 1.5, ...look }, marker: { size: 4 }, hovertemplate: `${name} %{y:.4~g}<extra></extra>`,
    });
    curve("truth", window.truth[n], { color: color("price") });
    curve("reconstruction", window.made[n], { color: color("made") });
    const error = window.errors[n] === null ? "" : `, mean squared error ${window.errors[n].toPrecision(3)}`;
    more["yaxis" + axis] = { domain: [Math.max(0, top - 1 / count), top - 24 / height], nticks: 5 };
    titles.push({
      text: escaped(feature) + error, xref: "paper", yref: "paper", x: 0, y: top - 24 / height, xanchor: "left",
      yanchor: "bottom", showarrow: false, font: { size: 11 },
    });
  });
  draw("windows-plot", traces, {
    hovermode: "x", margin: { l: 64, r: 18, t: 30, b: 40 }, uirevision: number, annotations: titles,
    xaxis: { type: "date", anchor: "y" + (count > 1 ? count : "") }, ...more,
  });
}

function drawHistogram() {
  const { edges, parts, threshold, logarithmic } = data.histogram, ends = numbers(edges), look = ["score", "made", "price"];
  const middle = ends.slice(1).map((end, n) => logarithmic ? Math.sqrt(end * ends[n]) : (end + ends[n]) / 2);
  const widths = ends.slice(1).map((end, n) => end - ends[n]);
  const traces = Object.entries(parts).map(([name, { share, count }], n) => ({
    type: "bar", opacity: 0.6, width: widths, marker: { color: color(look[n % 3]) },
    name: `${escaped(name)}, ${count.toLocaleString("en")} bars`, x: middle, y: numbers(share),
    hovertemplate: "score about %{x:.3~g}: %{y:.3~p}<extra></extra>",
  }));
  const line = threshold === null ? {} : {
    shapes: [{ type: "line", x0: threshold, x1: threshold, yref: "paper", y0: 0, y1: 1, line: { color: color("threshold"), dash: "dash", width: 1.5 } }],
  };
  draw("histogram-plot", traces, {
    xaxis: { title: { text: "score of a bar" }, type: logarithmic ? "log" : "linear", exponentformat: "power", nticks: 8 },
    yaxis: { title: { text: "share of bars" }, type: "log", tickformat: ".1~p" }, barmode: "overlay", ...line,
  });
}

function drawFeatures() {
  const { errors, names: features, contributions } = data.features, groups = Object.entries(errors), traces = [];
  const bars = (name, x, y, look, text) => traces.push({
    type: "bar", name: escaped(name), x: x.map(escaped), y, marker: { color: look }, hovertemplate: `%{x}: %{y:.4~g}<extra>${escaped(name)}</extra>`, ...text,
  });
  const looks = [color("score"), color("made"), color("price")];
  groups.forEach(([part, values], n) => bars(part, Object.keys(values), Object.values(values), looks[n % 3], {}));
  const both = groups.length && contributions;
  const axis = both ? { xaxis: "x2", yaxis: "y2" } : {};
  if (contributions)
    Object.entries(contributions).forEach(([part, values]) => bars(part, features, values, part === "flagged bars" ? color("threshold") : color("faint"), axis));
  element("features-note").textContent = [
    groups.length ? "Mean squared error, in training variances." : "",
    contributions ? `${both ? "Right: mean" : "Mean"} contribution to the score.` : ""].join(" ");
  draw("features-plot", traces, {
    xaxis: both ? { domain: [0, 0.46] } : {}, yaxis: { title: { text: groups.length ? "mean squared error" : "contribution" }, type: groups.length ? "linear" : "log" },
    ...(both ? { xaxis2: { domain: [0.58, 1], anchor: "y2" }, yaxis2: { anchor: "x2", type: "log", title: { text: "contribution" } } } : {}),
  });
}

function drawLatents() {
  const { x, y, time, asset, score, shares, brightest, total } = data.latents, times = numbers(time);
  const values = score?.map((v) => v ?? NaN);
  const text = times.map((t, n) => `${escaped(asset[n])}, ${day(t)}` + (score && score[n] !== null ? `<br>score ${score[n].toPrecision(4)}` : ""));
  const axis = (n, place) => ({ title: { text: `${place} axis, ${(100 * shares[n]).toFixed(0)} % of the variance` }, zeroline: false });
  const map = (id, title, marker) => draw(id, [{
    type: "scatter", mode: "markers", x, y, text, hovertemplate: "%{text}<extra></extra>",
    marker: { size: 5, opacity: 0.75, colorscale: "Viridis", ...marker, colorbar: { thickness: 12, ...marker.colorbar } },
  }], { title: { text: title, font: { size: 13 }, x: 0, xanchor: "left" }, hovermode: "closest", xaxis: axis(0, "first"), yaxis: axis(1, "second") });
  const years = times.map((t) => 1970 + t / 31557600000);
  map("latents-time-plot", "coloured by the time of the window's last bar", { color: years, colorbar: { tickformat: "d", nticks: 6, title: { text: "year" } } });
  element("latents-score-plot").hidden = !score;
  if (score) map("latents-score-plot", "coloured by score, brightest at the 99th percentile", { color: values, cmin: 0, cmax: brightest, colorscale: [[0, color("line")], [0.4, color("made")], [1, color("threshold")]], colorbar: { title: { text: "score" } } });
  element("latents-note").textContent = times.length < total ? `${times.length.toLocaleString("en")} of ${total.toLocaleString("en")} are drawn.` : "";
}

// ---- the page --------------------------------------------------------------------------------------------------------

function drawAll() {
  if (names.length) drawAsset(element("asset").value);
  if (data.windows.length) drawWindow(Number(element("window").value));
  if (data.histogram) drawHistogram();
  if (data.features) drawFeatures();
  if (data.latents) drawLatents();
}

function listen() {
  const step = (by) => select(names[(names.indexOf(element("asset").value) + by + names.length) % names.length]);
  element("asset").addEventListener("change", () => select(element("asset").value));
  element("before").addEventListener("click", () => step(-1));
  element("after").addEventListener("click", () => step(1));
  element("logarithmic").addEventListener("change", () => drawAsset(element("asset").value));
  element("own-events").addEventListener("change", showEvents);
  element("save-decisions").addEventListener("click", saveDecisions);
  element("window").addEventListener("change", () => drawWindow(Number(element("window").value)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
}

async function start() {
  await load();
  names = Object.keys(data.assets);
  const there = { bars: names.length, events: data.events, windows: data.windows.length, histogram: data.histogram,
    features: data.features, latents: data.latents, alarms: data.alarms.length, drift: data.drift, baselines: data.baselines.length };
  for (const [section, part] of Object.entries(there)) element(section).hidden = !part;
  offer("asset", names);
  offer("window", data.windows.map((w) => `${w.asset}, from ${day(w.start)}: ${w.label}`), data.windows.map((_, n) => n));
  element("logarithmic").checked = data.logarithmic;
  const wanted = new URLSearchParams(location.hash.slice(1)).get("asset");
  if (names.includes(wanted)) element("asset").value = wanted;
  const own = data.windows.findIndex((window) => window.asset === element("asset").value);
  if (own >= 0) element("window").value = own;
  element("problem").hidden = true;
  element("tools").hidden = !names.length;
  document.querySelector("main").hidden = false;
  drawAll();
  for (const verdict of Object.keys(LISTS)) element(`${verdict}-events`).hidden = !(data.events && verdict in data.events);
  element("decisions").hidden = !data.run;
  loadDecisions();
  if (data.events) showEvents();
  if (data.drift) fillDrift();
  addTables("alarms");
  addTables("baselines");
  listen();
  document.body.dataset.ready = "yes";
}

start();
