// The page of questions. All texts enter as text nodes; nothing is read but the JSON block in the page.
"use strict";
const run = JSON.parse(document.getElementById("run").textContent);
const colours = new Map(run.methods.map((method) => [method.name, method.colour]));
// A method that ranks descriptions shows most.
const first = run.methods.find((method) => method.score) ?? run.methods[0];
const state = { data: "", family: "", method: first?.name ?? "", outcome: "", text: "", at: 0, shown: [] };

/** Return an element; children are nodes, texts, or nothing. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Give an element the method's colour; dark colours are lighter on a dark ground. */
function coloured(element, name) {
  const colour = colours.get(name) ?? "#777777";
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  element.classList.toggle("dark-colour", .3 * red + .59 * green + .11 * blue < 110);
  element.style.setProperty("--m", colour);
  return element;
}
const dot = (name) => coloured(h("span", { class: "dot", "aria-hidden": "true" }), name);
const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)}%`);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** Return the mark of right or wrong, readable without colours. */
function mark(right, what = "") {
  if (right === null) return h("span", { class: "mark muted", title: `${what} not judged` }, "·");
  const words = `${what} ${right ? "right" : "wrong"}`.trim();
  return h("span", { class: `mark ${right ? "good" : "bad"}`, title: words },
    h("span", { "aria-hidden": "true" }, right ? "✓" : "✗"), h("span", { class: "hidden" }, words));
}

/** Return an answer as a pill; -1: the chain has none. */
function pill(question, index, note = "") {
  if (index < 0) return h("span", { class: "pill open" }, "no answer", note);
  const [text, right] = question.answers[index];
  return h("span", { class: `pill ${right ? "good" : "bad"}`, title: right ? "right" : "wrong" }, text, note);
}

const groupOf = (question, index) => (index < 0 ? -1 : question.answers[index][2]);
/** Return whether a method's answer is another than the baseline's; null where either is missing. */
function differs(question, name) {
  const mine = question.methods[name], base = question.methods[run.baseline];
  if (!mine || !base || name === run.baseline) return null;
  return groupOf(question, mine.answer) !== groupOf(question, base.answer);
}

function matches(question) {
  if (state.data !== "" && question.data !== Number(state.data)) return false;
  if (state.family !== "" && question.family !== state.family) return false;
  const method = question.methods[state.method];
  if (state.outcome === "right" && !method?.right) return false;
  if (state.outcome === "wrong" && (!method || method.right)) return false;
  const base = question.methods[run.baseline];
  if (state.outcome === "differs" && !differs(question, state.method)) return false;
  if (state.outcome === "gains" && !(method?.right && base && !base.right)) return false;
  if (state.outcome === "loses" && !(method && !method.right && base?.right)) return false;
  if (!state.text) return true;
  question.words ??= [question.text, question.key, question.family, question.truth,
    ...question.answers.map(([text]) => text), ...question.descriptions.map((one) => one.text)].join("\n").toLowerCase();
  return state.text.toLowerCase().split(/\s+/).every((word) => question.words.includes(word));
}

function option(value, label, chosen) {
  return h("option", { value, selected: value === chosen }, label);
}
function choice(label, name, options, wide = false) {
  const select = h("select", { onchange: (event) => { state[name] = event.target.value; refilter(); } },
    options.map(([value, text]) => option(value, text, state[name])));
  return h("label", { class: wide ? "wide" : null }, label, select);
}

const list = h("ol", { class: "list", "aria-label": "Questions" });
const count = h("p", { class: "count", role: "status" });
const main = h("main", { tabindex: "-1" });
const search = h("input", { type: "search", placeholder: "question, answer, description", oninput: (event) => {
  state.text = event.target.value; refilter();
} });

function build() {
  const families = [...new Set(run.questions.map((question) => question.family))].filter(Boolean).sort();
  const base = run.baseline;
  const outcomes = [["", "all"], ["right", "right"], ["wrong", "wrong"]];
  if (base) outcomes.push(["differs", `answer differs from ${base}`], ["gains", `right where ${base} is wrong`],
    ["loses", `wrong where ${base} is right`]);
  const sizes = run.data.map((data) => `${data.name}: ${data.shown} of ${data.all}`).join(", ");
  const filters = h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    choice("Data set", "data", [["", "all"], ...run.data.map((data, index) => [String(index), data.name])]),
    choice("Family", "family", [["", "all"], ...families.map((name) => [name, name])]),
    choice("Method", "method", run.methods.map(({ name }) => [name, name]), true),
    choice("Outcome of this method", "outcome", outcomes, true),
    h("label", { class: "wide" }, "Search", search), count);
  document.getElementById("app").replaceChildren(
    h("div", { class: "side" },
      h("div", { class: "top" }, h("h1", {}, `Questions of ${run.model}`), h("p", { class: "muted" }, run.part, " · ", sizes),
        h("p", { class: "muted keys" }, h("kbd", {}, "j"), " ", h("kbd", {}, "k"), " question, ", h("kbd", {}, "n"), " ",
          h("kbd", {}, "p"), " method, ", h("kbd", {}, "/"), " search")),
      filters, list), main);
}

function refilter() {
  const before = state.shown[state.at];
  state.shown = run.questions.filter(matches);
  state.at = Math.max(0, state.shown.indexOf(before));
  const right = state.shown.filter((question) => question.methods[state.method]?.right).length;
  count.textContent = `${plural(state.shown.length, "question")}; ${state.method} has ${right} right`;
  list.replaceChildren(...state.shown.map((question, index) => {
    const method = question.methods[state.method];
    return h("li", {}, h("button", { type: "button", onclick: () => go(index) },
      method ? mark(method.right) : h("span", {}, "–"),
      h("span", { class: "text" }, question.text || question.key),
      h("span", { class: "muted" }, `${run.data[question.data].name} · ${question.family} · truth ${question.truth || "–"}`)));
  }));
  show();
}

function go(index) {
  state.at = Math.min(Math.max(index, 0), state.shown.length - 1);
  show();
}

function chooseMethod(name) {
  state.method = name;
  const select = document.querySelectorAll(".filters select")[2];
  if (select) select.value = name;
  refilter();
}

function methodsTable(question) {
  const rows = run.methods.filter(({ name }) => question.methods[name]).map(({ name }) => {
    const one = question.methods[name], chosen = name === state.method;
    return h("tr", { class: chosen ? "chosen" : null, onclick: () => chooseMethod(name) },
      h("td", {}, h("span", { class: "name" }, dot(name),
        h("button", { type: "button", "aria-pressed": String(chosen) }, name))),
      h("td", { class: "answer" }, mark(one.right), " ", one.answer < 0 ? h("span", { class: "muted" }, "no answer") : question.answers[one.answer][0],
        differs(question, name) ? h("span", { class: "muted optional", title: `another answer than ${run.baseline}` }, " ≠") : null),
      h("td", { class: "n" }, percent(one.confidence)),
      h("td", { class: "n optional" }, String(one.generated + one.scored)),
      h("td", { class: "n optional" }, `${one.rights} / ${one.replays}`));
  });
  return h("div", { class: "card methods", role: "region", tabindex: "0", "aria-label": "Methods" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", {}, "method"), h("th", {}, "answer"), h("th", { class: "n" }, "confidence"),
      h("th", { class: "n optional" }, "tokens"), h("th", { class: "n optional" }, "replays right"))),
    h("tbody", {}, rows)));
}

/** Return the votes of a method's chains, by groups of equal answers. */
function votes(question, method) {
  const groups = new Map();
  let all = 0;
  for (const [, , , , chains] of method.rows) for (const chain of chains) {
    if (!chain || chain[0] < 0) continue;
    const [index, weight] = chain, group = groupOf(question, index);
    const entry = groups.get(group) ?? { index, total: 0 };
    entry.total += weight; all += weight;
    groups.set(group, entry);
  }
  const winner = groupOf(question, method.answer);
  return h("div", { class: "votes" }, [...groups.entries()].sort((a, b) => b[1].total - a[1].total).map(([group, { index, total }]) => {
    const fill = h("i", { class: question.answers[index][1] ? "good" : "bad" });
    fill.style.width = `${(100 * total) / all}%`;
    const wins = group === winner;
    return [pill(question, index), h("span", { class: "track", "aria-hidden": "true" }, fill),
      h("span", { class: wins ? "wins" : "muted" }, plural(total, "vote"), wins ? " · the answer" : "")];
  }));
}

/** Return what decided: how many descriptions and chains were right. */
function reasons(question, method) {
  const rows = method.rows.filter(([number]) => number !== null);
  const judged = rows.filter(([number]) => question.descriptions[number].right !== null);
  const right = (some) => some.filter(([number]) => question.descriptions[number].right).length;
  const kept = judged.filter(([, keeps]) => keeps);
  const chains = method.rows.flatMap((row) => row[4]).filter(Boolean);
  const rights = chains.filter(([index]) => index >= 0 && question.answers[index][1]).length;
  return [
    judged.length ? `Right descriptions: ${right(kept)} of ${kept.length}${kept.length < judged.length ? " kept" : ""}` : null,
    kept.length < judged.length ? `${right(judged) - right(kept)} of ${judged.length - kept.length} dropped` : null,
    chains.length ? `right chains: ${rights} of ${chains.length}` : null,
  ].filter(Boolean).join(", ");
}

function bar(value, largest, smallest, name) {
  const track = h("span", { class: "bar", "aria-hidden": "true" });
  if (value === null) return h("span", {});
  const span = largest - smallest || 1, zero = (0 - smallest) / span, end = (value - smallest) / span;
  const fill = coloured(h("i"), name), axis = h("b");
  fill.style.left = `${100 * Math.min(zero, end)}%`;
  fill.style.width = `${Math.max(100 * Math.abs(end - zero), .8)}%`;
  axis.style.left = `${100 * zero}%`;
  track.append(fill, axis);
  return track;
}

function story(question) {
  const method = question.methods[state.method];
  if (!method) return h("section", { class: "card" }, "The run has no outcome of this method on this question.");
  const ranked = run.methods.find(({ name }) => name === state.method).score;
  const differing = differs(question, state.method);
  const head = h("header", {}, h("h3", {}, dot(state.method), state.method),
    h("span", { class: method.right ? "good" : "bad" }, mark(method.right), " ", method.right ? "right" : "wrong"),
    h("span", { class: "muted" }, [
      method.confidence === null ? "no confidence" : `confidence ${percent(method.confidence)}`,
      `${method.generated} tokens generated` + (method.scored ? `, ${method.scored} scored without the picture` : ""),
      `right in ${method.rights} of ${method.replays} replays`,
      differing === null ? null : `${differing ? "another" : "the same"} answer ${differing ? "than" : "as"} ${run.baseline}`,
    ].filter(Boolean).join(" · ")));
  if (!method.rows) return h("section", { class: "card story" }, head,
    h("p", {}, "The bank no longer replays to this outcome, so its descriptions and chains are not shown."));
  const values = method.rows.map(([number, , score]) => score ?? (number === null ? null : question.descriptions[number].mi));
  const numbers = values.filter((value) => value !== null);
  const largest = Math.max(0, ...numbers), smallest = Math.min(0, ...numbers);
  const kept = method.rows.filter(([number, keeps]) => keeps && number !== null).length;
  const all = method.rows.filter(([number]) => number !== null).length;
  const label = ranked || "MI, λ = 1, nats a token";
  const open = method.rows.flatMap((row) => row[4]).filter((chain) => chain === null).length;
  const rows = [h("li", { class: "row heads", "aria-hidden": "true" }, h("span"), h("span", {}, `${plural(all, "description")}, replay 1`),
    h("span", {}, label), h("span"), h("span", {}, "answers of its chains"))];
  method.rows.forEach(([number, keeps, score, reason, chains], index) => {
    if (number !== null && !keeps && index === kept) rows.push(coloured(h("li", { class: "cut" },
      kept ? `kept ${kept} of ${all}` : "no description is usable"), state.method));
    const one = number === null ? null : question.descriptions[number];
    const value = values[index];
    const notes = [one && one.kind !== "sampled" ? one.kind : null, reason && reason !== "gate" ? reason : null]
      .filter(Boolean).join(", ");
    rows.push(h("li", { class: `row ${keeps ? "kept" : "dropped"}` },
      one ? mark(one.right, "description") : h("span"),
      h("span", { class: "text" }, one ? one.text || "(empty)" : "plain generation, without a description",
        notes ? h("span", { class: "muted" }, ` ${notes}`) : null),
      bar(value, largest, smallest, ranked ? state.method : ""),
      h("span", { class: "value" }, value === null ? "" : value.toFixed(2)),
      h("span", { class: "chains" }, chains.map((chain) => chain === null
        ? h("span", { class: "pill open", title: "not started, or stopped when the vote was decided" }, "–")
        : pill(question, chain[0], chain[1] > 1 ? ` ×${chain[1]}` : "")))));
  });
  return h("section", { class: "card story" }, head, votes(question, method), h("p", {}, reasons(question, method)),
    ranked ? null : h("p", { class: "muted" }, "This method ranks no descriptions: the bars show their MI all the same."),
    h("ol", {}, rows),
    open ? h("p", { class: "muted" }, `The vote was decided without ${plural(open, "chain")}: –`) : null);
}

/** Return the buttons that a key may have been pressed on, of the part of the page that `show` makes anew. */
const controls = () => [...main.querySelectorAll("nav button, .methods button")];

function show() {
  const question = state.shown[state.at];
  const focused = controls().indexOf(document.activeElement);
  if (question !== state.question) main.scrollTop = 0;
  state.question = question;
  list.querySelectorAll("button").forEach((button, index) => {
    button.setAttribute("aria-current", String(index === state.at));
    if (index === state.at && matchMedia("(min-width: 52.01rem)").matches) button.scrollIntoView({ block: "nearest" });
  });
  if (!question) {
    main.replaceChildren(h("p", {}, "No question matches the filters."));
    return;
  }
  const step = (by, words, off) => h("button", { type: "button", disabled: off, onclick: () => go(state.at + by) }, words);
  main.replaceChildren(h("div", { class: "inner" },
    h("div", { class: "bar-top" },
      h("span", { class: "muted" }, `${run.data[question.data].name} · ${question.family} · ${question.key}`),
      h("nav", { "aria-label": "Other questions" }, step(-1, "← Previous", state.at === 0),
        step(1, "Next →", state.at === state.shown.length - 1))),
    h("div", {}, h("h2", {}, question.text || question.key),
      h("p", { class: "truth" }, h("span", { class: "muted" }, "Truth "), question.truth ? h("strong", {}, question.truth) : "not known")),
    h("div", { class: "look" },
      h("div", { class: "pictures" }, question.pictures.length
        ? question.pictures.map((source) => h("img", { src: source, alt: "The picture of the question",
          onload: (event) => event.target.classList.toggle("photo", event.target.naturalWidth > 160) }))
        : h("p", { class: "card muted" }, "The run kept no picture of this question.")),
      methodsTable(question)),
    story(question)));
  // The methods of a question are nearly always those of the question before.
  if (focused >= 0) controls()[focused]?.focus({ preventScroll: true });
  const table = main.querySelector(".methods"), chosen = table.querySelector(".chosen");
  if (chosen) table.scrollTop = chosen.offsetTop - table.clientHeight / 2;
  const hash = new URLSearchParams({ q: question.key, d: run.data[question.data].name, m: state.method });
  history.replaceState(null, "", `#${hash}`);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === search) { search.blur(); return; }
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
  const names = run.methods.map(({ name }) => name), at = names.indexOf(state.method);
  const keys = {
    j: () => go(state.at + 1), k: () => go(state.at - 1),
    n: () => chooseMethod(names[(at + 1) % names.length]), p: () => chooseMethod(names[(at + names.length - 1) % names.length]),
    "/": () => search.focus(),
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

/** Read the question and the method that a link names. */
function open() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (colours.has(link.get("m"))) state.method = link.get("m");
  build();
  refilter();
  const at = state.shown.findIndex((question) =>
    question.key === link.get("q") && run.data[question.data].name === link.get("d"));
  if (at > 0) go(at);
}
open();
