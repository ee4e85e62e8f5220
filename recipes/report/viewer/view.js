// The page: what is open, the keyboard, light and dark, the overview of the run.

const KEYS = [
  ["j or \u2193", "next episode"],
  ["k or \u2191", "previous episode"],
  ["n, p", "next, previous turn"],
  ["d", "the turn at which methods disagree most"],
  ["r", "open or fold all reasoning"],
  ["/", "search"],
  ["\u2190 \u2192", "in the chart: the numbers of a turn"],
  ["t", "light, dark, as the system is"],
  ["Esc", "leave the search, close the episode"],
  ["?", "this list"],
];
const THEMES = ["auto", "light", "dark"];
let turnAt = -1;

async function openRow(row) {
  state.open = row;
  turnAt = -1;
  const like = two() ? other(row) : null;
  const sides = two() ? (row.run ? [null, row] : [row, like]) : [row];
  const records = await Promise.all(sides.map((side) => (side ? recordOf(side) : null)));
  if (state.open !== row) return;
  const names = index.runs.map((run) => run.name);
  const shown = sides.map((side, i) => (side ? { row: side, record: records[i], name: two() ? names[i] : "" } : null));
  const pane = document.getElementById("pane");
  const back = el("button", { type: "button", class: "back", onclick: closeEpisode }, "\u2190 Episodes");
  pane.replaceChildren(back, episodeView(shown, goTo));
  pane.scrollTop = 0;
  document.body.classList.add("reading");
  history.replaceState(null, "", `#${two() && row.run ? "other-" : ""}${row.number}`);
  reveal();
}

function reveal() {
  const list = document.getElementById("list");
  const top = state.shown.indexOf(state.open) * ROW;
  const room = list.clientHeight - document.getElementById("heads").offsetHeight - ROW;
  if (top >= 0 && room > 0) list.scrollTop = Math.max(Math.min(list.scrollTop, top), top - room);
  draw();
}

function closeEpisode() {
  state.open = null;
  turnAt = -1;
  document.body.classList.remove("reading");
  history.replaceState(null, "", location.pathname + location.search);
  overview();
  draw();
}

function step(by) {
  const at = state.shown.indexOf(state.open);
  const to = at < 0 ? (by > 0 ? 0 : state.shown.length - 1) : at + by;
  if (state.shown[to]) openRow(state.shown[to]);
}

function goTo(t) {
  const rows = document.querySelectorAll(".turn-row");
  if (!rows.length) return;
  turnAt = Math.min(Math.max(0, t), rows.length - 1);
  rows.forEach((row, i) => row.classList.toggle("current", i === turnAt));
  rows[turnAt].focus({ preventScroll: true });
  rows[turnAt].scrollIntoView({ block: "start" });
}

function keyed(event) {
  const typing = event.target.matches("input[type=search], select");
  const dialog = document.getElementById("keys");
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.key === "Escape") {
    hideTip();
    if (typing) return event.target.blur(), document.getElementById("list").focus();
    return closeEpisode();
  }
  if (typing) return;
  const arrows = !document.getElementById("pane").contains(event.target);
  const keys = {
    j: () => step(1),
    k: () => step(-1),
    ArrowDown: arrows ? () => step(1) : null,
    ArrowUp: arrows ? () => step(-1) : null,
    n: () => goTo(turnAt + 1),
    p: () => goTo(turnAt - 1),
    d: () => state.open && state.open.gap && goTo(state.open.gap[0]),
    r: foldReasoning,
    t: () => theme(1),
    "/": () => document.getElementById("search").select(),
    "?": () => dialog.showModal(),
  };
  const own = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (own) event.preventDefault(), own();
}

function foldReasoning() {
  const all = [...document.querySelectorAll(".part.thought details")];
  const open = !all.every((node) => node.open);
  for (const node of all) node.open = open;
}

function theme(by) {
  let now = "auto";
  try {
    now = localStorage.getItem("milepost-theme") || "auto";
  } catch {} // a browser that keeps nothing for files
  now = document.documentElement.dataset.theme || now;
  now = THEMES[(Math.max(0, THEMES.indexOf(now)) + by) % THEMES.length];
  document.documentElement.dataset.theme = now;
  document.getElementById("theme").textContent = `Theme: ${now}`;
  try {
    if (by) localStorage.setItem("milepost-theme", now);
  } catch {}
}

function header() {
  const links = index.pages.map((page, i) => el("a", { href: page.file, "aria-current": i === index.page ? "page" : null }, String(i + 1)));
  const all = el("small", null, ` of ${many(index.runs[0].whole.episodes, "episode")}`);
  if (links.length > 1) document.getElementById("pages").replaceChildren("Page ", ...links, all);
  const named = index.runs.map((run) => {
    const facts = [run.kind, run.status, ...run.policies.slice(0, 3), run.digest ? `settings ${run.digest}` : null];
    const name = el("span", null, el("strong", null, plain(run.name)), share(run.whole));
    return el("span", { class: "named" }, name, el("small", null, facts.filter(Boolean).map(plain).join("  \u00b7  ")));
  });
  document.getElementById("run").replaceChildren(...named);
}

function share(whole) {
  const title = "Share solved, with its Wilson interval of 95 %; failed and cancelled episodes are left out";
  const solved = [el("strong", null, percent(whole.success)), ` solved ${interval(whole)}`];
  return el("span", { class: "share", title }, whole.counted ? solved : "nothing counted");
}

function interval(share) {
  if (!share.counted) return "nothing counted";
  return `[${(100 * share.low).toFixed(1)}, ${(100 * share.high).toFixed(1)}] of ${share.counted.toLocaleString("en")}`;
}

function overview() {
  const parts = index.runs.map((run) => {
    const rows = [...run.tallies].sort((a, b) => a.entry.localeCompare(b.entry) || a.split.localeCompare(b.split));
    if (rows.length > 1) rows.push({ ...run.whole, entry: "all", policy: "" });
    const body = rows.map((tally) => {
      const words = [tally.entry, tally.policy ?? "\u2013", tally.split].map((text) => el("td", null, plain(text)));
      const turns = tally.episodes ? (tally.turns / tally.episodes).toFixed(1) : "\u2013";
      const figures = [tally.episodes, percent(tally.success), interval(tally), tally.failed, turns];
      return el("tr", null, words, figures.map((text) => el("td", { class: "figure" }, String(text))));
    });
    const names = ["entry", "policy", "split", "episodes", "solved", "95 %", "failed", "turns"];
    const head = el("thead", null, el("tr", null, names.map((name) => el("th", { scope: "col" }, name))));
    const objects = [["Settings", run.settings], ["Versions", run.versions], ...Object.entries(run.results)];
    const folded = objects.filter(([, object]) => object && Object.keys(object).length);
    const unread = [el("strong", null, "Not everything could be read. "), el("ul", null, run.notes.map((note) => el("li", null, plain(note))))];
    return el(
      "section",
      { class: "overview" },
      el("h2", null, plain(run.name)),
      quiet(`${plain(run.kind)}, ${plain(run.status)}; ${many(run.whole.episodes, "episode")}`),
      run.notes.length ? el("div", { class: "failure", role: "note" }, unread) : null,
      el("div", { class: "card scrolling" }, el("table", { class: "tallies" }, head, el("tbody", null, body))),
      el("div", { class: "folds" }, folded.map(([title, object]) => details(plain(title), () => table(object)))),
    );
  });
  const paired = index.paired ? el("p", { class: "verdict" }, `The second against the first, task by task: ${index.paired}`) : null;
  const hint = el("p", { class: "quiet" }, "Choose an episode, or press ", el("kbd", null, "j"), ". All keys: ", el("kbd", null, "?"));
  document.getElementById("pane").replaceChildren(...[paired, ...parts, hint].filter(Boolean));
}

async function start() {
  theme(0);
  index = await inflate("index");
  index.rows.forEach((rows, run) => rows.forEach((row) => (row.run = run)));
  header();
  startList();
  overview();
  const dialog = document.getElementById("keys");
  const shut = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const rows = KEYS.map(([keys, what]) => el("tr", null, el("th", { scope: "row" }, el("kbd", null, keys)), el("td", null, what)));
  dialog.append(el("h2", { id: "keys-title" }, "Keyboard"), el("table", null, el("tbody", null, rows)), shut);
  document.getElementById("help").onclick = () => dialog.showModal();
  document.getElementById("theme").onclick = () => theme(1);
  document.addEventListener("keydown", keyed);
  document.getElementById("pane").addEventListener("scroll", hideTip);
  const asked = /^#(other-)?(\d+)$/.exec(location.hash);
  const row = asked && state.rows.find((candidate) => candidate.number === Number(asked[2]) && candidate.run === (asked[1] ? 1 : 0));
  if (row) await openRow(row);
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  document.getElementById("pane").replaceChildren(el("p", { class: "failure" }, `This page cannot be shown: ${error.message}`));
  throw error;
});
