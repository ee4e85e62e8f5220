// Text and elements. Everything that an episode says goes through text nodes.

const LONG = 3000;
const MANY_HIDDEN = 2000;
// Control characters, direction marks, invisible ones and lone surrogates: shown as escapes, so that none acts unseen.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}\p{Cs}]+/gu;

function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    const aria = key.startsWith("aria-"); // there "false" is said
    if (value === null || value === undefined || (value === false && !aria)) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value === true && !aria ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function svg(tag, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(props || {})) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
}

function escaped(run) {
  return [...run]
    .map((c) => {
      const code = c.codePointAt(0);
      const hex = code.toString(16);
      return code < 0x100 ? "\\x" + hex.padStart(2, "0") : code < 0x10000 ? "\\u" + hex.padStart(4, "0") : `\\u{${hex}}`;
    })
    .join("");
}

// Return the nodes of a text: visible as it is, what cannot be seen as a marked escape, the words searched for marked.
function visible(text, marked) {
  const nodes = [];
  let at = 0;
  let n = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (++n > MANY_HIDDEN) {
      nodes.push(text.slice(at).replace(HIDDEN, escaped));
      return nodes;
    }
    if (match.index > at) nodes.push(...found(text.slice(at, match.index), marked));
    nodes.push(el("span", { class: "hidden-char", title: "characters that cannot be seen" }, escaped(match[0])));
    at = match.index + match[0].length;
  }
  if (at < text.length) nodes.push(...found(text.slice(at), marked));
  return nodes;
}

function found(text, marked) {
  if (!marked) return [text];
  const nodes = [];
  const lower = text.toLowerCase();
  let at = 0;
  if (lower.length !== text.length) return [text];
  for (let i = lower.indexOf(marked); i >= 0 && nodes.length < MANY_HIDDEN; i = lower.indexOf(marked, at)) {
    if (i > at) nodes.push(text.slice(at, i));
    nodes.push(el("mark", null, text.slice(i, i + marked.length)));
    at = i + marked.length;
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

// A text as its block; a long one begins folded.
function block(text, kind) {
  text = typeof text === "string" ? text : json(text);
  const marked = state.deep ? state.query : "";
  const node = el("div", { class: "text " + (kind || ""), dir: "auto" });
  if (text.length <= LONG * 1.5) {
    node.append(...visible(text, marked));
    return node;
  }
  const button = el("button", { type: "button", class: "more" });
  const fold = (folded) => {
    node.replaceChildren(...visible(folded ? text.slice(0, LONG) : text, marked));
    button.textContent = folded ? `Show all, ${size(text.length)}` : "Show less";
    button.onclick = () => fold(!folded);
  };
  fold(true);
  return el("div", { class: "folding" }, node, button);
}

function size(n) {
  return n < 1000 ? n + " characters" : n < 1e6 ? Math.round(n / 1000) + ",000 characters" : (n / 1e6).toFixed(1) + " million characters";
}

function plain(text) {
  return String(text).replace(HIDDEN, escaped);
}

function json(value, indent) {
  return JSON.stringify(value, null, indent === undefined ? 2 : indent);
}

// Return a number as it is read: three digits, "+" where it was earned; a dash was never judged.
function number(value, sign) {
  if (value === null || value === undefined) return "\u2013";
  if (typeof value === "object") return `${number(value.sum, sign)} over ${value.n} tokens`;
  if (typeof value !== "number") return String(value);
  const digits = Math.abs(value) >= 1000 && Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
  return (sign && value >= 0 ? "+" : "") + digits;
}

function quiet(text) {
  return el("p", { class: "quiet" }, text);
}

function percent(share) {
  return share === null || share === undefined ? "\u2013" : `${(100 * share).toFixed(1)} %`;
}

function wilson(k, n) {
  if (!n) return [0, 1];
  const z = 1.959963984540054;
  const center = (k + (z * z) / 2) / (n + z * z);
  const half = (z * Math.sqrt((k * (n - k)) / n + (z * z) / 4)) / (n + z * z);
  return [k === 0 ? 0 : center - half, k === n ? 1 : center + half];
}

function many(n, noun) {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}

function details(title, content, open, kind) {
  const node = el("details", { class: kind || "", open: open }, el("summary", null, title));
  const fill = () => node.childElementCount === 1 && node.append(...[content()].flat());
  if (open) fill();
  else node.addEventListener("toggle", fill);
  return node;
}

// Keys and values of an object, in the order in which they were recorded.
function table(object) {
  const rows = Object.entries(object).map(([key, value]) =>
    el("tr", null, el("th", { scope: "row" }, plain(key)), el("td", null, block(typeof value === "string" ? value : json(value, 1)))),
  );
  return el("table", { class: "facts" }, el("tbody", null, ...rows));
}
