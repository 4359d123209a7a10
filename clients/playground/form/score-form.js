import { html } from "../vendor/htm-preact.js";
import { DEFAULTS, fieldsOf, message } from "../wire/requests.js";
import { CopyLink } from "./copy-link.js";
import { Samples } from "./samples.js";
import { More } from "./settings.js";
import { Tray } from "./tray.js";

/** @typedef {import("../lib/types.js").Picture} Picture */

/**
 * The form of descriptions to score.
 *
 * @param {import("./composer.js").Common & {scoring: import("../lib/scores.js").Scoring,
 *   suggested: string[]}} props `suggested`: descriptions of the last answer that went on
 */
export function ScoreForm({ scoring, suggested, ...common }) {
  const { shared, change, pictures, setPictures, server } = common;
  const texts = shared.descriptions.split("\n").map((line) => line.trim()).filter(Boolean);
  const ready = !scoring.busy && server.model !== "" && pictures.length > 0 && texts.length > 0;

  return html`
    <form onSubmit=${submit}>
      <${Tray} pictures=${pictures} setPictures=${setPictures} />
      <${Samples} samples=${server.samples} empty=${!pictures.length}
        take=${(/** @type {Picture} */ picture, /** @type {string} */ question) => {
          setPictures([picture]);
          change({ question });
        }} />
      <div class="field">
        <label for="descriptions-to-score">Descriptions, one a line</label>
        <textarea id="descriptions-to-score" rows="5" required value=${shared.descriptions}
          placeholder="True and false ones, to compare"
          aria-describedby="about-scores"
          onInput=${(/** @type {any} */ event) => change({ descriptions: event.target.value })}></textarea>
        <p class="hint" id="about-scores">
          MI is how much likelier a description is with the picture than without it.
        </p>
      </div>
      ${suggested.length > 0 &&
      html`<button type="button" class="quiet" onClick=${() => change({ descriptions: suggested.join("\n") })}>
        Take those of the last answer
      </button>`}
      <div class="field">
        <label for="score-question">Question that they are for</label>
        <input id="score-question" type="text" autocomplete="off" value=${shared.question}
          onInput=${(/** @type {any} */ event) => change({ question: event.target.value })} />
      </div>
      <div class="buttons">
        ${scoring.busy
          ? html`<button type="button" class="primary" key="cancel" onClick=${scoring.cancel}>Cancel</button>`
          : html`<button type="submit" class="primary" key="score" disabled=${!ready}>Score</button>`}
        <${CopyLink} />
      </div>
      <${More} scoring settings=${shared.settings}
        setSettings=${(/** @type {any} */ settings) => change({ settings })}
        server=${server} apiKey=${common.apiKey} setKey=${common.setKey} />
    </form>
  `;

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    if (!ready) return;
    const weight = shared.settings.mi_weight.trim() || "1";
    const { mirl } = fieldsOf({ ...DEFAULTS, mi_weight: weight });
    const messages = [message(shared.question.trim(), pictures)];
    scoring.run({ model: server.model, messages, descriptions: texts, mirl }, common.apiKey);
  }
}
