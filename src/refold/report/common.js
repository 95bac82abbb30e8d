"use strict";
// What the pages share. All text from the data goes through textContent or `escaped`: a name may hold anything.

const element = (id) => document.getElementById(id);
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const shown = (value, whole) => value === null ? "" : typeof value === "string" ? value
  : whole || Math.abs(value) >= 100 ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : value.toFixed(4);
const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
let data;

async function unpack(id) {
  const holder = element(id), bytes = Uint8Array.from(atob(holder.textContent), (c) => c.charCodeAt(0));
  holder.remove(); // the text is as large as the page
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// unpacks data and library, and shows the facts at the top
async function load() {
  data = JSON.parse(await unpack("packed-data"));
  const library = document.createElement("script");
  library.textContent = await unpack("packed-plotly");
  document.head.append(library);
  for (const [name, text] of Object.entries(data.facts)) {
    const pair = element("facts").appendChild(document.createElement("div"));
    pair.appendChild(document.createElement("dt")).textContent = name;
    pair.appendChild(document.createElement("dd")).textContent = text;
  }
}

function layout(more) {
  const axis = () => ({ automargin: true, gridcolor: color("line"), linecolor: color("line"), zerolinecolor: color("line") });
  const made = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 64, r: 18, t: 26, b: 44 },
    font: { color: color("text"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    hoverlabel: { align: "left", bgcolor: color("pane"), bordercolor: color("line"), font: { color: color("text") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("faint"), activecolor: color("score") },
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 }, ...more,
  };
  for (const key of Object.keys(made)) if (/^[xy]axis/.test(key)) made[key] = { ...axis(), ...made[key] };
  return made;
}

function draw(id, traces, more) {
  Plotly.react(element(id), traces, layout(more), CONFIG);
}

// `lastCell` gives a row's number to what makes its last cell, such as buttons
function fill(section, columns, rows, onClick, lastCell) {
  const [head, body] = element(section).querySelectorAll("thead, tbody");
  const numeric = columns.map((_, n) => rows.some((cells) => typeof cells[n] === "number"));
  const whole = columns.map((_, n) => rows.every((cells) => typeof cells[n] !== "number" || Number.isInteger(cells[n])));
  const row = (cells, tag) => {
    const made = document.createElement("tr");
    cells.forEach((value, n) => {
      const cell = made.appendChild(document.createElement(tag));
      cell.textContent = shown(value, whole[n]);
      if (numeric[n]) cell.className = "number";
    });
    return made;
  };
  head.replaceChildren(row(columns, "th"));
  if (lastCell) head.firstChild.appendChild(document.createElement("th"));
  body.replaceChildren(...rows.map((cells, number) => {
    const made = row(cells, "td");
    if (onClick) made.addEventListener("click", () => onClick(number));
    if (lastCell) made.appendChild(document.createElement("td")).append(...lastCell(number));
    return made;
  }));
}

function offer(id, labels, values = labels) {
  element(id).replaceChildren(...labels.map((label, n) => new Option(label, values[n])));
}
