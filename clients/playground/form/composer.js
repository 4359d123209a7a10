import { html } from "../vendor/htm-preact.js";
import { CopyLink } from "./copy-link.js";
import { Samples } from "./samples.js";
import { Method, More } from "./settings.js";
import { Tray } from "./tray.js";

/** @typedef {import("../lib/types.js").Picture} Picture */
/** @typedef {import("../lib/link.js").Shared} Shared */

/**
 * @typedef {object} Common
 * @property {Shared} shared
 * @property {(fields: Partial<Shared>) => void} change
 * @property {Picture[]} pictures
 * @property {(pictures: Picture[]) => void} setPictures
 * @property {import("../lib/server.js").Server} server
 * @property {string} apiKey
 * @property {(key: string) => void} setKey
 */

/**
 * The form of a question.
 *
 * @param {Common & {busy: boolean, ask: () => void, cancel: () => void}} props
 */
export function Composer({ busy, ask, cancel, ...common }) {
  const { shared, change, pictures, setPictures, server } = common;
  const { question, settings } = shared;
  const ready = !busy && server.model !== "" && question.trim() !== "";

  return html`
    <form onSubmit=${submit} onKeyDown=${submitByKey}>
      <${Tray} pictures=${pictures} setPictures=${setPictures} />
      <${Samples} samples=${server.samples} empty=${!pictures.length && !question}
        take=${(/** @type {Picture} */ picture, /** @type {string} */ text) => {
          setPictures([picture]);
          change({ question: text });
        }} />
      <div class="field">
        <label for="question">Question</label>
        <textarea id="question" rows="3" required value=${question}
          onInput=${(/** @type {any} */ event) => change({ question: event.target.value })}></textarea>
      </div>
      <${Method} settings=${settings} setSettings=${(/** @type {any} */ next) => change({ settings: next })} />
      <div class="buttons">
        ${busy
          ? html`<button type="button" class="primary" key="cancel" onClick=${cancel}>Cancel</button>`
          : html`<button type="submit" class="primary" key="ask" disabled=${!ready}>Ask</button>`}
        <${CopyLink} />
      </div>
      ${!pictures.length && html`<p class="hint">Without a picture the model answers plainly.</p>`}
      <${More} settings=${settings} setSettings=${(/** @type {any} */ next) => change({ settings: next })}
        server=${server} apiKey=${common.apiKey} setKey=${common.setKey} />
    </form>
  `;

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    if (ready) ask();
  }

  /** @param {KeyboardEvent} event */
  function submitByKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  }
}
