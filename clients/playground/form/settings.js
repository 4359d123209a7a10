import { html } from "../vendor/htm-preact.js";
import { PRESETS } from "../lib/methods.js";

/** @typedef {import("../lib/types.js").Settings} Settings */
/** @typedef {import("../lib/server.js").Server} Server */

/**
 * @typedef {object} Props
 * @property {Settings} settings
 * @property {(settings: Settings) => void} setSettings
 * @property {Server} server
 * @property {string} apiKey
 * @property {(key: string) => void} setKey
 */

/** @type {["descriptions" | "keep" | "forks" | "mi_weight" | "seed" | "timeout", string, string][]} */
const FIELDS = [
  ["descriptions", "Descriptions", "N"],
  ["keep", "Kept", "k"],
  ["forks", "Chains each", "m"],
  ["mi_weight", "MI weight", "λ"],
  ["seed", "Seed", "any"],
  ["timeout", "Time limit", "s"],
];

/**
 * The preset, and whether the plain model answers beside it.
 *
 * @param {Pick<Props, "settings" | "setSettings">} props
 */
export function Method({ settings, setSettings }) {
  const preset = PRESETS.find(({ name }) => name === settings.preset);
  return html`
    <div class="field method">
      <label for="preset">How it answers</label>
      <select id="preset" value=${settings.preset} aria-describedby="about-preset"
        onChange=${(/** @type {any} */ event) => setSettings({ ...settings, preset: event.target.value })}>
        ${PRESETS.map(({ name, label }) => html`<option value=${name} selected=${name === settings.preset}>${label}</option>`)}
      </select>
      <p class="hint" id="about-preset">${preset?.about ?? "A preset of this server."}</p>
    </div>
    <label class="check">
      <input type="checkbox" checked=${settings.compare}
        onChange=${(/** @type {any} */ event) => setSettings({ ...settings, compare: event.target.checked })} />
      <span>Compare with greedy and with 16 votes</span>
    </label>
  `;
}

/** @param {Props & {scoring?: boolean}} props */
export function More({ settings, setSettings, server, apiKey, setKey, scoring }) {
  const fields = scoring ? FIELDS.filter(([name]) => name === "mi_weight") : FIELDS;
  // Without the models the key is probably missing: its field must be seen.
  return html`
    <details class="more" open=${Boolean(server.problem)}>
      <summary>Settings</summary>
      <div class="numbers">
        ${fields.map(
          ([name, label, unit]) => html`<div class="field" key=${name}>
            <label for=${name}>${label}</label>
            <input id=${name} type="text" inputmode="decimal" autocomplete="off" placeholder=${unit}
              value=${settings[name]}
              onInput=${(/** @type {any} */ event) => setSettings({ ...settings, [name]: event.target.value })} />
          </div>`,
        )}
      </div>
      ${server.models.length > 1 &&
      html`<div class="field">
        <label for="model">Model</label>
        <select id="model" value=${server.model}
          onChange=${(/** @type {any} */ event) => server.choose(event.target.value)}>
          ${server.models.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </div>`}
      <div class="field">
        <label for="key">API key</label>
        <input id="key" type="password" autocomplete="off" spellcheck=${false} value=${apiKey}
          aria-describedby="about-key"
          onInput=${(/** @type {any} */ event) => setKey(event.target.value.trim())} />
        <p class="hint" id="about-key">Where the server needs a key. It stays in this tab's memory.</p>
      </div>
    </details>
    ${server.problem && html`<p class="problem" role="alert">${server.problem}</p>`}
  `;
}
