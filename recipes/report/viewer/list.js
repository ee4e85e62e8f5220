// The list of episodes: filtered, sorted, searched, and drawn only where it is seen.

const ROW = 46;
const state = { rows: [], shown: [], query: "", deep: false, hits: null, sort: "number", down: false, open: null };
let index = null;
let facets = [];

const two = () => index.runs.length > 1;
const task = (row) => String(row.task ?? (row.seed === null ? row.id : `seed ${row.seed}`));
const other = (row) => (row.pair === undefined ? null : index.rows[1 - row.run][row.pair]);

const NAMED = ["entry", "environment", "policy", "split"]; // named in a row where they differ

const PAIRS = [
  ["both solved", (a, b) => a && b],
  ["only the first solved", (a, b) => a && b === false],
  ["only the second solved", (a, b) => a === false && b],
  ["neither solved", (a, b) => a === false && b === false],
];

function pairing(row) {
  const like = other(row);
  if (!like) return `only in ${index.runs[row.run].name}`;
  return (PAIRS.find(([, test]) => test(row.success, like.success)) || ["not counted"])[0];
}

// Return [name, text of a row] for every property that splits the episodes.
function facetsOf() {
  const named = [
    ["end", (row) => row.stop ?? "not ended"],
    ["solved", (row) => (row.success === null ? "not counted" : row.success ? "solved" : "not solved")],
    ["entry", (row) => row.entry],
    ["environment", (row) => row.env_id],
    ["split", (row) => row.split],
    ["policy", (row) => row.policy ?? "none"],
  ];
  if (two()) named.unshift(["pair", pairing]);
  const sets = named.map(([name, get]) => ({ name, get, values: [...new Set(state.rows.map(get))].sort(), value: "" }));
  const splits = sets.filter((facet) => facet.values.length > 1);
  const joint = (a, b) => new Set(state.rows.map((row) => json([a.get(row), b.get(row)]))).size;
  const alike = (a, b) => a.values.length === b.values.length && joint(a, b) === a.values.length;
  return splits.filter((facet, i) => !splits.slice(0, i).some((before) => alike(before, facet)));
}

function sorts() {
  const labels = new Set(state.rows.flatMap((row) => row.credit.map(([label]) => label)));
  const plainSorts = [
    ["number", "order of play", (row) => row.number],
    ["task", "task", task],
    ["success", "solved", (row) => (row.success === null ? null : Number(row.success))],
    ["outcome", "outcome", (row) => (typeof row.outcome === "number" ? row.outcome : null)],
    ["turns", "turns", (row) => row.turns],
    ["stop", "end", (row) => row.stop],
    ["entry", "entry", (row) => row.entry],
    ["policy", "policy", (row) => row.policy],
    ["split", "split", (row) => row.split],
    ["id", "id", (row) => row.id],
    ["attempt", "attempt", (row) => row.attempt],
    ["tokens", "tokens", (row) => row.tokens],
    ["cost", "cost", (row) => row.cost],
    ["seconds", "seconds", (row) => row.seconds],
    ["reward", "reward", (row) => row.reward],
    ["gap", "disagreement of methods", (row) => (row.gap ? row.gap[1] : null)],
  ];
  if (two()) plainSorts.push(["change", "change of outcome", (row) => (other(row) ? (other(row).outcome ?? 0) - (row.outcome ?? 0) : null)]);
  const sum = (row, label) => (row.credit.find(([name]) => name === label) || [])[1] ?? null;
  const credit = [...labels].map((label) => ["credit " + label, `sum of ${plain(label)}`, (row) => sum(row, label)]);
  return [...plainSorts.filter(([key, , get]) => key === "number" || new Set(state.rows.map(get)).size > 1), ...credit];
}

function startList() {
  state.rows = [...index.rows[0], ...index.rows[1].filter((row) => row.pair === undefined)];
  state.attempts = state.rows.some((row) => row.attempt);
  facets = facetsOf();
  const boxes = facets.map((facet) => {
    const options = facet.values.map((value) => el("option", { value }, plain(value)));
    const select = el("select", { id: `facet-${facet.name}`, "aria-label": facet.name }, el("option", { value: "" }, `any ${facet.name}`), options);
    select.onchange = () => ((facet.value = select.value), select.classList.toggle("set", Boolean(select.value)), refresh());
    return select;
  });
  const sort = el("select", { id: "sort", "aria-label": "Sort by" }, sorts().map(([key, name]) => el("option", { value: key }, `by ${name}`)));
  sort.onchange = () => sortBy(sort.value, false);
  const name = "Turn the order round";
  const turn = el("button", { id: "direction", type: "button", title: name, "aria-label": name }, "\u2191");
  turn.onclick = () => sortBy(state.sort, !state.down);
  document.getElementById("facets").replaceChildren(...boxes, el("span", { class: "sorting" }, sort, turn));
  const search = document.getElementById("search");
  const deep = document.getElementById("deep");
  let timer = 0;
  const look = () => ((state.query = search.value.trim().toLowerCase()), (state.deep = deep.checked), searchTexts());
  search.oninput = () => (clearTimeout(timer), (timer = setTimeout(look, 120)));
  deep.onchange = look;
  const list = document.getElementById("list");
  list.onscroll = () => requestAnimationFrame(draw);
  new ResizeObserver(draw).observe(list);
  refresh();
}

// Find the query in the texts of all turns, chunk by chunk; a newer search ends an older one.
let searches = 0;
async function searchTexts() {
  const own = ++searches;
  state.hits = null;
  if (!state.deep || !state.query) return refresh();
  const hits = new Set();
  const shown = document.getElementById("shown");
  shown.setAttribute("aria-busy", "true");
  const all = two() ? [...state.rows, ...state.rows.map(other).filter(Boolean)] : state.rows;
  const sorted = [...all].sort((a, b) => a.chunk - b.chunk);
  for (const [i, row] of sorted.entries()) {
    if (i % 100 === 0) shown.textContent = `Searching the texts: ${i} of ${sorted.length}`;
    const words = wordsOf(await recordOf(row));
    if (own !== searches) return;
    if (words.includes(state.query)) hits.add(row.id);
  }
  state.hits = hits;
  refresh();
}

function matches(row) {
  if (!state.query) return true;
  const like = two() ? other(row) : null;
  if (state.hits && (state.hits.has(row.id) || (like && state.hits.has(like.id)))) return true;
  return [task(row), row.id, row.entry, row.env_id].some((text) => String(text).toLowerCase().includes(state.query));
}

function sortBy(key, down) {
  state.sort = key;
  state.down = down;
  refresh();
}

function refresh() {
  const [, , get] = sorts().find(([key]) => key === state.sort) || ["", "", (row) => row.number];
  const kept = state.rows.filter((row) => facets.every((facet) => !facet.value || facet.get(row) === facet.value) && matches(row));
  const keyed = kept.map((row) => [get(row), row]);
  const sign = state.down ? -1 : 1;
  keyed.sort(([a, x], [b, y]) => {
    const missing = (a === null || a === undefined) - (b === null || b === undefined);
    if (missing) return missing; // what has no value is last in either order
    const words = typeof a === "string" || typeof b === "string";
    if (a !== b && words) return sign * String(a).localeCompare(String(b), "en", { numeric: true });
    if (a !== b && a !== null) return sign * (a - b);
    return x.run - y.run || x.number - y.number;
  });
  state.shown = keyed.map(([, row]) => row);
  document.getElementById("sort").value = state.sort;
  document.getElementById("direction").textContent = state.down ? "\u2193" : "\u2191";
  document.getElementById("list").scrollTop = 0;
  heads();
  draw();
  const counted = state.shown.filter((row) => row.success !== null);
  const won = counted.filter((row) => row.success).length;
  const [low, high] = wilson(won, counted.length);
  const whose = two() ? `${index.runs[0].name}: ` : "";
  const band = `${percent(won / counted.length)} [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
  const share = counted.length ? `; ${whose}solved ${won} of ${counted.length}, ${band}` : "";
  const filtered = state.query || facets.some((facet) => facet.value);
  const clear = filtered ? el("button", { type: "button", class: "link", onclick: clearFilters }, "clear") : "";
  const told = document.getElementById("shown");
  told.removeAttribute("aria-busy");
  told.replaceChildren(`${many(state.shown.length, "episode")}${share} `, clear);
}

function clearFilters() {
  for (const facet of facets) facet.value = "";
  for (const select of document.querySelectorAll("#facets select[id^=facet]")) (select.value = ""), select.classList.remove("set");
  document.getElementById("search").value = "";
  state.query = "";
  searchTexts();
}

function heads() {
  const cells = two()
    ? [["number", "#"], ["task", "task"], ["outcome", "1st"], ["change", "2nd"], ["turns", "turns"]]
    : [["number", "#"], ["task", "task"], ["outcome", "outcome"], ["turns", "turns"]];
  const nodes = cells.map(([key, name]) => {
    const sorted = state.sort === key ? (state.down ? "descending" : "ascending") : "none";
    const arrow = sorted === "none" ? "" : state.down ? " \u2193" : " \u2191";
    const button = el("button", { type: "button", tabindex: -1 }, name, arrow);
    button.onclick = () => sortBy(key, state.sort === key && !state.down);
    return el("span", { role: "columnheader", class: `cell ${key}`, "aria-sort": sorted }, button);
  });
  document.getElementById("heads").replaceChildren(el("div", { role: "row", class: "row" + (two() ? " pair" : "") }, nodes));
  const list = document.getElementById("list");
  list.setAttribute("aria-rowcount", state.shown.length + 1);
}

function draw() {
  const list = document.getElementById("list");
  const rows = document.getElementById("rows");
  rows.style.height = state.shown.length ? `${state.shown.length * ROW}px` : "auto";
  const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const to = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
  rows.replaceChildren(...state.shown.slice(from, to).map((row, i) => rowView(row, from + i)));
  if (!state.shown.length) rows.replaceChildren(quiet("No episode is like that."));
  const at = state.shown.indexOf(state.open);
  if (at >= from && at < to) list.setAttribute("aria-activedescendant", `row-${at}`);
  else list.removeAttribute("aria-activedescendant");
}

function rowView(row, at) {
  const like = two() ? other(row) : null;
  const sides = row.run ? [null, row] : [row, like];
  const cell = (kind, ...content) => el("span", { role: "gridcell", class: `cell ${kind}` }, content);
  const dot = (side) => cell("outcome", side ? [el("i", { class: `dot ${kindOf(side)}` }), mark(side)] : "\u2013");
  const small = state.attempts ? [`attempt ${row.attempt}`] : [];
  for (const facet of facets) if (NAMED.includes(facet.name) && !(two() && facet.name === "policy")) small.push(facet.get(row));
  if (row.stop && row.stop !== "terminated") small.push(row.stop);
  const cells = [
    cell("number", String(row.number)),
    cell("task", el("b", { dir: "auto", title: plain(row.id) }, plain(task(row))), el("small", null, plain(small.join("  \u00b7  ") || row.entry))),
    dot(sides[0]),
    two() ? dot(sides[1]) : null,
    cell("turns", two() ? sides.map((side) => (side ? side.turns : "\u2013")).join(" / ") : String(row.turns)),
  ];
  const open = state.open === row;
  const kind = `row${open ? " open" : ""}${two() ? " pair" : ""}`;
  const node = el("div", { role: "row", id: `row-${at}`, class: kind, "aria-selected": open, "aria-rowindex": at + 2 }, cells);
  node.onclick = () => openRow(row);
  node.style.top = `${at * ROW}px`;
  return node;
}

function mark(row) {
  let word = row.success === null ? "\u2013" : row.success ? "yes" : "no";
  if (typeof row.outcome === "number") word = number(row.outcome);
  if (isBroken(row)) word = row.stop;
  return el("span", { title: `${row.success === null ? "not counted" : row.success ? "solved" : "not solved"}, ${row.stop ?? "not ended"}` }, word);
}
