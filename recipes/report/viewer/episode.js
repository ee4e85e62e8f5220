// An episode, or two of one task, as turns: what was seen, thought and done, what came back, what it earned.

function episodeView(sides, goTo) {
  const node = el("article", { class: sides.length > 1 ? "two" : "one" });
  const column = (make) => el("div", { class: "columns-of-episodes" }, sides.map((side) => make(side)));
  const absent = () => quiet("The other run has no such episode.");
  node.append(column((side) => el("div", { class: "head" }, side ? head(side, goTo) : absent())));
  const n = Math.max(...sides.map((side) => (side ? side.record.turns.length : 0)));
  const parting = sides.length > 1 && sides.every(Boolean) ? firstUnlike(sides.map((side) => side.record)) : -1;
  for (let t = 0; t < n; t++) {
    if (t === parting) node.append(el("p", { class: "parting" }, `The two act differently from turn ${t} on`));
    const cells = sides.map((side) => (side && t < side.record.turns.length ? turnView(side, t) : el("div", { class: "absent" })));
    const props = { id: `turn-${t}`, "data-turn": t, tabindex: -1, role: "group", "aria-label": `turn ${t}` };
    node.append(el("div", { class: "columns-of-episodes turn-row", ...props }, cells));
  }
  node.append(column((side) => el("div", { class: "end" }, side ? ending(side) : null)));
  return node;
}

function firstUnlike(records) {
  const done = (record, t) => (record.turns[t] ? json([record.turns[t].action, (record.turns[t].act || {}).calls?.map((c) => c.slice(1))]) : null);
  const n = Math.max(...records.map((record) => record.turns.length));
  for (let t = 0; t < n; t++) if (done(records[0], t) !== done(records[1], t)) return t;
  return -1;
}

function head({ row, record, name }, goTo) {
  const facts = [
    [record.env_id || "", "environment"],
    [row.entry !== record.env_id ? row.entry : "", "entry"],
    [row.policy, "policy"],
    [record.split, "split"],
    [record.seed === undefined ? null : `seed ${record.seed}`, "seed"],
    [`attempt ${record.attempt || 0}`, "attempt"],
    [record.parent ? `branched from ${record.parent.episode}, turn ${record.parent.turn}` : null, "parent"],
    [row.tokens === null ? null : `${row.tokens.toLocaleString("en")} tokens`, "prompt and completion tokens"],
    [row.cost === null ? null : `cost ${number(row.cost)}`, "cost"],
    [row.seconds ? `${number(row.seconds)} s` : null, "seconds in the environment and the agent"],
  ].filter(([value]) => value);
  const folded = [];
  const texts = record.instructions && typeof record.instructions === "object" ? Object.entries(record.instructions) : [["", record.instructions]];
  for (const [agent, text] of texts) if (text) folded.push(details(`Instructions ${plain(agent)}`, () => block(text)));
  if ((record.tools || []).length) folded.push(details(many(record.tools.length, "tool"), () => block(json(record.tools))));
  for (const [title, object] of [["Info at reset", record.info], ["Options", record.env_kwargs], ["Played with", record.runtime]])
    if (object && Object.keys(object).length) folded.push(details(title, () => table(object)));
  return [
    name ? el("p", { class: "side-name" }, plain(name)) : null,
    el("h2", { dir: "auto" }, ...visible(task(row))),
    el("p", { class: "verdict-line" }, badge(row), el("code", { title: "id of the episode" }, `#${row.number} ${plain(row.id)}`)),
    el("p", { class: "chips" }, facts.map(([value, title]) => el("span", { title }, plain(value)))),
    folded.length ? el("div", { class: "folds" }, folded) : null,
    row.stop === "failed" ? failure(record) : null,
    el("div", { class: "card" }, chart(record, row.gap, goTo)),
  ];
}

function badge(row) {
  let outcome = "";
  if (typeof row.outcome === "number") outcome = `, outcome ${number(row.outcome)}`;
  else if (row.outcome) outcome = ", " + Object.entries(row.outcome).map(([who, value]) => `${plain(who)} ${number(value)}`).join("  ");
  let word = row.stop === null ? "not ended" : isBroken(row) ? row.stop : "ended";
  if (row.success !== null) word = row.success ? "solved" : "not solved";
  const how = row.stop && row.stop !== word ? `, ${row.stop}` : "";
  return el("span", { class: `badge ${kindOf(row)}` }, `${word}${outcome}${how}, ${many(row.turns, "turn")}`);
}

function isBroken(row) {
  return row.stop === "failed" || row.stop === "cancelled";
}

function kindOf(row) {
  if (row.success === true) return "won";
  if (isBroken(row) || row.stop === null) return "broken";
  return row.success === false ? "lost" : "even";
}

function failure(record) {
  const lines = String(record.failure || "").trim().split("\n");
  const whole = lines.length > 1 ? details("Traceback", () => block(record.failure)) : null;
  const said = el("strong", null, "The machine failed; this episode is never scored. ");
  return el("div", { class: "failure", role: "note" }, said, block(lines[lines.length - 1]), whole);
}

function turnView(side, t) {
  const { record, row } = side;
  const turn = record.turns[t];
  const act = turn.act || {};
  const info = turn.info || {};
  const used = act.usage;
  const disagree = row.gap && row.gap[0] === t;
  const facts = [
    record.turns.some((other) => other.agent) ? plain(turn.agent || "agent") : null,
    used && used[0] + used[2] ? `${used[0].toLocaleString("en")} + ${used[2].toLocaleString("en")} tokens` : turn.n_tokens !== null ? `${turn.n_tokens} tokens` : null,
    used && used[4] !== null && used[4] !== undefined ? `cost ${number(used[4])}` : null,
    turn.seconds || (used && used[3]) ? `${number((turn.seconds || 0) + (used ? used[3] : 0))} s` : null,
  ].filter(Boolean);
  const flags = [
    info.valid === false ? el("span", { class: "flag bad" }, "not executed") : null,
    act.finish && act.finish !== "stop" && act.finish !== "calls" ? el("span", { class: "flag bad" }, `cut: ${plain(act.finish)}`) : null,
    disagree ? el("span", { class: "flag gap" }, "methods disagree here") : null,
  ];
  const of = side.name ? el("span", { class: "of" }, plain(side.name)) : null;
  const content = el("div", { class: "said" });
  content.append(...seen(turn.observation, askedBefore(record, t)));
  if (turn.view) {
    const summary = turn.view.summary ? details("Summary that was shown", () => block(turn.view.summary)) : null;
    content.append(part("shown", quiet(dropped(turn.view, t)), summary));
  }
  if (act.reasoning) {
    const title = `Reasoning, ${size(act.reasoning.length)}`;
    content.append(part("thought", details(title, () => block(act.reasoning, "thought"), act.reasoning.length < 400)));
  }
  if (turn.action || !(act.calls || []).length)
    content.append(part("did", turn.action ? block(turn.action, "action") : quiet("an empty message")));
  if (act.move !== undefined && act.move !== null) content.append(part("move", block(act.move, "action")));
  if ((act.calls || []).length) content.append(part("called", calls(record, t)));
  return el(
    "section",
    { class: `turn${disagree ? " gap" : ""}` },
    el("header", null, el("h3", null, `Turn ${t}`), of, flags, el("span", { class: "facts-line" }, facts.join("  \u00b7  "))),
    content,
    earned(record, t, info),
  );
}

function part(word, ...content) {
  return el("div", { class: `part ${word}` }, el("span", { class: "word" }, word), el("div", null, content));
}

function dropped(view, t) {
  const spans = (view.turns || [[0, t]]).filter(([from, to]) => to > from);
  const named = spans.map(([from, to]) => (to - from === 1 ? `${from}` : `${from}\u2013${to - 1}`));
  const turns = named.length ? `turns ${named.join(", ")}` : "no turn";
  return `Of the history before it the agent was shown ${turns}${view.summary ? " and a summary" : ""}.`;
}

function pictures(images) {
  return (images || []).map((image) => {
    const source = image && image.$image ? pictureSource(image.$image) : null;
    if (!source) return quiet("A picture that is missing from the run's folder.");
    return el("img", { src: source, alt: "what was seen", loading: "lazy" });
  });
}

// What was seen. Results of calls stand beside their calls, in the turn before.
function seen(observation, asked) {
  if (observation === null || observation === undefined) return [];
  if (typeof observation !== "object") return [part("saw", block(observation))];
  const results = Array.isArray(observation.results) ? observation.results : [];
  const nodes = [];
  for (const result of results.filter((answer) => !asked.has(answer.id)))
    nodes.push(quiet(`result of ${plain(result.id)}`), ...answered(result));
  if (typeof observation.text === "string") nodes.push(block(observation.text));
  nodes.push(...pictures(observation.images));
  if (!nodes.length && results.length) return [];
  return [part("saw", nodes.length ? nodes : quiet("nothing"))];
}

function answered(result) {
  return [block(result.text ?? ""), ...pictures(result.image ? [result.image] : [])];
}

function askedBefore(record, t) {
  const turn = turnBefore(record, t);
  return new Set(((turn && turn.act && turn.act.calls) || []).map((call) => call[0]));
}

function turnBefore(record, t) {
  const who = t < record.turns.length ? record.turns[t].agent : undefined;
  for (let i = t - 1; i >= 0; i--) if (t === record.turns.length || record.turns[i].agent === who) return record.turns[i];
  return null;
}

function calls(record, t) {
  const own = record.turns[t];
  const next = record.turns.find((turn, i) => i > t && turn.agent === own.agent);
  const after = next ? next.observation : record.last;
  const waiting = after && Array.isArray(after.results) ? [...after.results] : [];
  return own.act.calls.map(([id, name, text]) => {
    const place = waiting.findIndex((result) => result.id === id);
    const result = place < 0 ? null : waiting.splice(place, 1)[0];
    let shown = text;
    let broken = false;
    try {
      const value = JSON.parse(text);
      shown = json(value, 1).replace(/\n */g, " ");
      if (shown.length > 60) shown = json(value);
    } catch {
      broken = true;
    }
    const flag = broken ? el("span", { class: "flag bad" }, "not JSON") : null;
    const title = el("p", null, el("b", null, plain(name)), " ", el("small", { title: "id of the call" }, plain(id)), flag);
    const answer = result ? answered(result) : quiet("no result was recorded");
    return el(
      "div",
      { class: "call" },
      el("div", { class: "asked" }, title, block(shown, "action")),
      el("div", { class: "answered" }, el("p", null, el("small", null, "result")), answer),
    );
  });
}

function earned(record, t, info) {
  const rows = seriesOf(record).map((row) => {
    const scale = Math.max(...row.heights.map((value) => Math.abs(value ?? 0))) || 1;
    return measure(row.label, row.values[t], row.heights[t] === null ? null : row.heights[t] / scale);
  });
  const parts = info.reward_components && typeof info.reward_components === "object" ? Object.entries(info.reward_components) : [];
  const scale = Math.max(...parts.map(([, value]) => Math.abs(Number(value)) || 0)) || 1;
  const node = el("aside", { class: "earned", "aria-label": `What turn ${t} earned` });
  if (rows.length) node.append(el("h4", null, "earned"), ...rows);
  const measured = parts.map(([name, value]) => measure(name, value, typeof value === "number" ? value / scale : null));
  if (parts.length) node.append(el("h4", null, "components"), ...measured);
  const rest = Object.fromEntries(Object.entries(info).filter(([key]) => key !== "reward_components"));
  if (Object.keys(rest).length) node.append(details(`info: ${Object.keys(rest).map(plain).join(", ")}`, () => table(rest), false, "info"));
  return node;
}

function measure(label, value, share) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" });
  const fill = el("i", { class: share === null ? "none" : share > 0 ? "up" : share < 0 ? "down" : "zero" });
  if (share) fill.style.width = `${Math.max(3, Math.abs(share) * 50)}%`;
  bar.append(fill);
  const perToken = value !== null && typeof value === "object";
  const tokens = perToken ? many(value.n, "token") : "";
  const text = value === null || value === undefined ? "never judged" : number(value, true);
  const figure = perToken ? number(value.sum, true) : text;
  const name = el("span", { class: "label" }, plain(label), tokens ? el("small", null, ` ${tokens}`) : null);
  return el("div", { class: "measure", title: `${plain(label)}: ${text}` }, name, bar, el("span", { class: "value" }, figure));
}

function ending({ record, row }) {
  const node = el("section", { class: "turn last" }, el("header", null, el("h3", null, "End"), badge(row)));
  const content = seen(record.last, askedBefore(record, record.turns.length));
  if (content.length) node.append(el("div", { class: "said" }, content));
  return node;
}
