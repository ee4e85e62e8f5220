// The chart of an episode: a bar per turn and method, a line for the running sum, each method on its own scale.

const NUMBERED = 40; // more turns than this are numbered every fifth or more

// Return [{label, values, sums, total, kind}] in order of appearance; undefined and null: never judged.
function seriesOf(record) {
  return (record.series ??= seriesMade(record));
}

function seriesMade(record) {
  const labels = new Map();
  record.turns.forEach((turn, t) => {
    for (const [label, value] of turn.credit || []) {
      if (!labels.has(label)) labels.set(label, new Array(record.turns.length).fill(null));
      labels.get(label)[t] = value;
    }
  });
  const series = [...labels].map(([label, values]) => ({ label, values, kind: "credit" }));
  if (record.turns.some((turn) => turn.reward))
    series.unshift({ label: "reward", values: record.turns.map((turn) => turn.reward || 0), kind: "reward" });
  if (record.turns.some((turn) => turn.advantage !== null && turn.advantage !== undefined))
    series.push({ label: "advantage", values: record.turns.map((turn) => turn.advantage ?? null), kind: "advantage" });
  for (const row of series) {
    let sum = 0;
    row.heights = row.values.map(height);
    row.sums = row.heights.map((value) => (sum += value ?? 0));
    row.judged = row.heights.filter((value) => value !== null).length;
    row.total = row.judged ? sum : null;
  }
  return series;
}

function height(value) {
  const plainValue = value !== null && typeof value === "object" ? value.sum : value;
  return typeof plainValue === "number" ? plainValue : null;
}

function chart(record, gap, goTo) {
  const series = seriesOf(record);
  const n = record.turns.length;
  if (!series.length || !n)
    return quiet("No credit was assigned in this episode, and no turn was rewarded.");
  const below = series.some((row) => row.heights.concat(row.sums).some((value) => value < 0));
  const node = el("div", { class: "chart", role: "group", "aria-label": "What every turn earned, by method" });
  node.style.setProperty("--turns", n);
  for (const row of series) {
    const name = el("span", { class: "label", title: plain(row.label) }, plain(row.label));
    if (row.kind !== "credit") name.append(el("small", null, row.kind === "reward" ? "the environment's own" : "what trains"));
    const sum = el("span", { class: "total", title: "sum over the episode" }, number(row.total, true));
    node.append(el("div", { class: "series" }, name, plot(row, n, below), sum));
  }
  const every = n <= NUMBERED ? 1 : 5 * Math.ceil(n / (5 * NUMBERED));
  const numbers = el("div", { class: "numbers", "aria-hidden": "true" });
  for (let t = 0; t < n; t++) numbers.append(el("span", null, t % every ? "" : String(t)));
  node.append(el("div", { class: "series axis" }, el("span", { class: "label" }, "turn"), numbers, el("span", { class: "total" }, "sum")));
  node.append(columns(series, n, gap, goTo));
  const parts = ["Bars: what the turn earned, each method on its own scale. ", el("i", { class: "key line" }), " running sum. "];
  parts.push(el("i", { class: "key zero" }), " judged 0. ", el("i", { class: "key none" }), " never judged.");
  const legend = el("p", { class: "legend" }, parts);
  return el("div", null, gap ? verdict(gap, series, goTo) : null, node, legend);
}

function verdict(gap, series, goTo) {
  const [turn, , high, low] = gap;
  const at = (label) => number((series.find((row) => row.kind === "credit" && row.label === label) || { values: [] }).values[turn], true);
  const button = el("button", { type: "button", class: "link", onclick: () => goTo(turn) }, `turn ${turn}`);
  return el("p", { class: "verdict" }, "The methods disagree most at ", button, `: ${plain(high)} ${at(high)}, ${plain(low)} ${at(low)}.`);
}

function plot(row, n, below) {
  const H = 100;
  const axis = below ? H / 2 : H - 2;
  const reach = below ? H / 2 - 4 : H - 8;
  const top = (values) => Math.max(...values.map((value) => Math.abs(value ?? 0))) || 1;
  const bars = top(row.heights);
  const sums = top(row.sums);
  const node = svg("svg", { viewBox: `0 0 ${n} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  node.append(svg("line", { class: "ground", x1: 0, x2: n, y1: axis, y2: axis }));
  row.heights.forEach((value, t) => {
    const x = t + 0.2;
    if (value === null) node.append(svg("rect", { class: "none", x, width: 0.6, y: axis - 5, height: below ? 10 : 7 }));
    else if (value === 0) node.append(svg("line", { class: "zero", x1: x, x2: x + 0.6, y1: axis, y2: axis }));
    else {
      const tall = Math.max(2, (Math.abs(value) / bars) * reach);
      node.append(svg("rect", { class: value > 0 ? "up" : "down", x, width: 0.6, y: value > 0 ? axis - tall : axis, height: tall }));
    }
  });
  const points = row.sums.map((value, t) => `${t + 0.5},${axis - (value / sums) * reach}`);
  if (row.judged) node.append(svg("polyline", { class: "sum", points: points.join(" ") }));
  return node;
}

// One button a turn over all methods: hover, focus and the arrow keys show its numbers.
function columns(series, n, gap, goTo) {
  const node = el("div", { class: "columns" });
  const buttons = Array.from({ length: n }, (_, t) => {
    const said = series.map((row) => `${plain(row.label)} ${row.heights[t] === null ? spoken(row.values[t]) : number(row.values[t], true)}`);
    const here = gap && gap[0] === t;
    const name = `turn ${t}: ${said.join(", ")}${here ? "; methods disagree most here" : ""}`;
    const button = el("button", { type: "button", "aria-label": name, "data-turn": t, class: here ? "gap" : "", tabindex: t ? -1 : 0 });
    button.onmouseenter = button.onfocus = () => tip(button, numbersOf(series, t, here));
    button.onmouseleave = button.onblur = hideTip;
    button.onclick = () => goTo(t);
    button.onkeydown = (event) => {
      const to = { ArrowLeft: t - 1, ArrowRight: t + 1, Home: 0, End: n - 1 }[event.key];
      if (to === undefined || !buttons[to]) return;
      event.preventDefault();
      event.stopPropagation();
      buttons.forEach((other) => (other.tabIndex = -1));
      buttons[to].tabIndex = 0;
      buttons[to].focus();
    };
    return button;
  });
  node.append(...buttons);
  return node;
}

function spoken(value) {
  return value === null || value === undefined ? "never judged" : String(height(value) ?? value.sum ?? value);
}

function numbersOf(series, t, here) {
  const rows = series.map((row) => {
    const value = row.heights[t] === null ? spoken(row.values[t]) : number(row.values[t], true);
    const kind = row.heights[t] > 0 ? "up" : row.heights[t] < 0 ? "down" : "";
    return el("tr", null, el("th", { scope: "row" }, plain(row.label)), el("td", { class: kind }, value), el("td", null, number(row.sums[t], true)));
  });
  const head = el("tr", null, el("th", null, `turn ${t}`), el("th", null, "earned"), el("th", null, "sum so far"));
  return [el("table", null, el("thead", null, head), el("tbody", null, rows)), here ? el("p", null, "The methods disagree most here.") : null];
}

function tip(anchor, content) {
  const node = document.getElementById("tip");
  node.replaceChildren(...content.filter(Boolean));
  node.hidden = false;
  const at = anchor.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left + at.width / 2 - node.offsetWidth / 2), innerWidth - node.offsetWidth - 8);
  const over = at.top - node.offsetHeight - 6;
  node.style.left = `${left}px`;
  node.style.top = `${over > 4 ? over : Math.min(at.bottom + 6, innerHeight - node.offsetHeight - 4)}px`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}
