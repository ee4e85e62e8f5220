"use strict";
// Data: what is embedded in the page, inflated when it is asked for. Nothing of it is ever markup.

const KEPT_CHUNKS = 6;
const chunks = new Map(); // number -> promise of {shared, episodes}; the newest few

async function inflate(id) {
  const binary = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function chunk(number) {
  const found = chunks.get(number) || inflate("chunk-" + number);
  if (!chunks.has(number)) {
    const root = document.documentElement;
    root.dataset.inflated = Number(root.dataset.inflated || 0) + 1;
  }
  chunks.delete(number);
  chunks.set(number, found);
  if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  return found;
}

async function recordOf(row) {
  const { shared, episodes } = await chunk(row.chunk);
  const record = { ...episodes[row.place] };
  for (const key of ["instructions", "tools", "runtime", "env_kwargs"])
    if (key in record) record[key] = shared[record[key]];
  return record;
}

function pictureSource(name) {
  const block = document.getElementById("picture-" + String(name).replace(/\.png$/, ""));
  return block ? "data:image/png;base64," + block.textContent : null;
}

// All that was seen, thought and done in an episode, for the search.
function wordsOf(record) {
  const words = [];
  const add = (value) => {
    if (typeof value === "string") words.push(value);
    else if (Array.isArray(value)) value.forEach(add);
    else if (value && typeof value === "object") Object.values(value).forEach(add);
  };
  for (const turn of record.turns) {
    add(turn.observation);
    add(turn.action);
    add(turn.act && [turn.act.reasoning, turn.act.move, turn.act.calls]);
  }
  add(record.last);
  add(record.failure);
  return words.join("\n").toLowerCase();
}
