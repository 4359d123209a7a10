import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { Composer } from "./form/composer.js";
import { FollowUp } from "./form/follow-up.js";
import { ScoreForm } from "./form/score-form.js";
import { fragmentOf, readFragment } from "./lib/link.js";
import { useScores } from "./lib/scores.js";
import { useServer } from "./lib/server.js";
import { useTurns } from "./lib/turns.js";
import { nowWords } from "./lib/words.js";
import { Intro } from "./story/intro.js";
import { ScoreResults } from "./story/score-results.js";
import { TurnStory } from "./story/turn.js";
import { ranked } from "./wire/stages.js";

/** @typedef {import("./lib/types.js").Turn} Turn */
/** @typedef {import("./lib/types.js").Picture} Picture */

function App() {
  const [shared, setShared] = useState(() => readFragment(location.hash));
  const [pictures, setPictures] = useState(/** @type {Picture[]} */ ([]));
  const [key, setKey] = useState("");
  const server = useServer(key);
  const talk = useTurns();
  const scoring = useScores();
  const { mode, settings } = shared;

  useEffect(() => {
    const follow = () => setShared(readFragment(location.hash));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  useEffect(() => {
    history.replaceState(null, "", fragmentOf(shared) || location.pathname + location.search);
  }, [shared]);

  /** @param {Partial<typeof shared>} fields */
  const change = (fields) => setShared((before) => ({ ...before, ...fields }));
  const common = { shared, change, pictures, setPictures, server, apiKey: key, setKey };

  /** @param {string} question @param {Picture[]} shown @param {boolean} anew */
  const ask = (question, shown, anew) =>
    talk.ask({ question, pictures: shown, settings, model: server.model, key }, anew);
  const last = talk.turns.at(-1);
  const answered = talk.turns.findLast((turn) => turn.run.evidence)?.run;
  const suggested = answered ? [...new Set(ranked(answered).kept.map(({ text }) => text))] : [];
  const seen = talk.turns.findLast((turn) => turn.pictures.length)?.pictures ?? [];

  return html`
    <nav class="modes" aria-label="Modes">
      ${mark("ask", "Ask a question")} ${mark("score", "Score descriptions")}
    </nav>
    <main class="page">
      <section class="panel" aria-label=${mode === "ask" ? "Question and settings" : "Descriptions and settings"}>
        ${mode === "ask"
          ? html`<${Composer} ...${common} busy=${talk.busy} cancel=${talk.cancel}
              ask=${() => ask(shared.question, pictures, true)} />`
          : html`<${ScoreForm} ...${common} scoring=${scoring} suggested=${suggested} />`}
      </section>
      <section class="stories" aria-label=${mode === "ask" ? "Answers" : "Scores"}>
        ${mode === "score" && html`<${ScoreResults} scoring=${scoring} />`}
        ${mode === "ask" && !last && html`<${Intro} />`}
        ${mode === "ask" && talk.turns.map((turn) => html`<${TurnStory} key=${turn.id} turn=${turn} />`)}
        ${mode === "ask" && last?.status === "done" &&
        html`<${FollowUp} ask=${(/** @type {string} */ question, /** @type {boolean} */ look) =>
          ask(question, look ? seen : [], false)} />`}
      </section>
    </main>
    <div class="hidden" role="status" aria-live="polite">${mode === "ask" ? spoken(last) : scoring.spoken}</div>
  `;

  /** @param {"ask" | "score"} name @param {string} label */
  function mark(name, label) {
    return html`<button type="button" aria-pressed=${String(mode === name)} onClick=${() => change({ mode: name })}>
      ${label}
    </button>`;
  }
}

/**
 * Return what a screen reader says as an answer comes about.
 *
 * @param {Turn | undefined} turn
 */
function spoken(turn) {
  if (!turn) return "";
  if (turn.status === "failed") return ""; // the error is an alert
  if (turn.status === "cancelled") return "Cancelled.";
  if (turn.status === "comparing") return "Answered. The plain model answers too.";
  if (turn.status === "done") return `The answer is: ${turn.run.text}`;
  return `${nowWords(turn.run)}.`;
}

const root = /** @type {HTMLElement} */ (document.getElementById("page"));
root.replaceChildren();
render(html`<${App} />`, root);
