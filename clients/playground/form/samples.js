import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { fetchPicture } from "../lib/pictures.js";
import { inWords } from "../wire/errors.js";

/** @typedef {import("../lib/types.js").Sample} Sample */
/** @typedef {import("../lib/types.js").Picture} Picture */

/**
 * Sample questions of the bundled worlds. The first is taken where the form is empty, so that a press of Ask is enough.
 *
 * @param {{samples: Sample[], empty: boolean, take: (picture: Picture, question: string) => void}} props
 */
export function Samples({ samples, empty, take }) {
  const [problem, setProblem] = useState("");
  const touched = useRef(false);

  /** @param {Sample} sample */
  async function choose(sample) {
    touched.current = true;
    setProblem("");
    try {
      take(await fetchPicture(sample.file), sample.question);
    } catch (error) {
      setProblem(inWords(error) ?? "");
    }
  }
  useEffect(() => {
    const first = samples[0];
    if (empty && first && !touched.current) choose(first);
  }, [samples]);
  if (!samples.length) return null;

  return html`
    <div class="samples">
      <h2>Samples</h2>
      <ul>
        ${samples.map(
          (sample) => html`<li key=${sample.file}>
            <button type="button" title=${sample.question} onClick=${() => choose(sample)}>
              <img src=${sample.file} alt=${`Sample: ${sample.question}`} width="64" height="64" />
            </button>
          </li>`,
        )}
      </ul>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    </div>
  `;
}
