import { html } from "../vendor/htm-preact.js";

const STEPS = [
  ["Look", "The model describes the picture several times."],
  ["Weigh", "Mutual information shows which descriptions owe most to the picture. The others are thrown out."],
  ["Reason", "Each description that is left goes on into chains of reasoning."],
  ["Vote", "The chains vote. The vote closes as soon as the rest can't change it."],
];

/** What the page shows before the first question. */
export function Intro() {
  return html`
    <div class="intro">
      <p class="lead">A model that looks before it reasons. Take a sample or a picture of your own, press Ask, and watch.</p>
      <ol>
        ${STEPS.map(([name, words], index) => html`<li>
          <span class=${`glyph glyph-${index + 1}`} aria-hidden="true"><i></i><i></i><i></i><i></i></span>
          <h2>${name}</h2><p>${words}</p>
        </li>`)}
      </ol>
    </div>
  `;
}
