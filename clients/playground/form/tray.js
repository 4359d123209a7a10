import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { MOST, picturesIn, readPicture } from "../lib/pictures.js";
import { inWords } from "../wire/errors.js";

/** @typedef {import("../lib/types.js").Picture} Picture */

/**
 * The pictures of a question: dropped anywhere on the page, pasted, photographed or picked.
 *
 * @param {{pictures: Picture[], setPictures: (pictures: Picture[]) => void}} props
 */
export function Tray({ pictures, setPictures }) {
  const [over, setOver] = useState(false);
  const [problem, setProblem] = useState("");
  const current = useRef(pictures);
  current.current = pictures;

  /** @param {File[]} files */
  async function add(files) {
    setProblem("");
    try {
      const read = await Promise.all(files.map((file) => readPicture(file, file.name || "The picture")));
      setPictures([...current.current, ...read].slice(0, MOST));
      if (current.current.length + read.length > MOST) setProblem(`A question has at most ${MOST} pictures.`);
    } catch (error) {
      setProblem(inWords(error) ?? "");
    }
  }
  useEffect(() => {
    /** @param {ClipboardEvent} event */
    function paste(event) {
      const files = picturesIn(event.clipboardData);
      if (!files.length) return;
      event.preventDefault();
      add(files);
    }
    /** @param {DragEvent} event */
    function drag(event) {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(event.type === "dragover");
      if (event.type === "drop") add(picturesIn(event.dataTransfer));
    }
    const listeners = /** @type {[string, any][]} */ ([
      ["paste", paste],
      ["dragover", drag],
      ["dragleave", drag],
      ["drop", drag],
    ]);
    for (const [name, listener] of listeners) addEventListener(name, listener);
    return () => {
      for (const [name, listener] of listeners) removeEventListener(name, listener);
    };
  }, []);

  /** @param {any} event */
  function pick(event) {
    add([...event.target.files]);
    event.target.value = "";
  }

  return html`
    <fieldset class=${`tray ${over ? "over" : ""} ${pictures.length ? "filled" : ""}`}>
      <legend>${pictures.length > 1 ? "Pictures" : "Picture"}</legend>
      ${pictures.map(
        (picture, index) => html`<figure class="picture" key=${picture.url}>
          <img src=${picture.url} alt=${`Picture ${index + 1}: ${picture.name}`}
            class=${picture.width < 200 ? "pixels" : ""} />
          <button type="button" class="remove" aria-label=${`Remove picture ${index + 1}: ${picture.name}`}
            onClick=${() => setPictures(pictures.filter((_, other) => other !== index))}>
            <span aria-hidden="true">×</span>
          </button>
        </figure>`,
      )}
      <div class="sources">
        <label class="source">
          <input type="file" accept="image/*" multiple onChange=${pick} />
          <span>${pictures.length ? "Add" : "Choose"} a picture</span>
        </label>
        <label class="source camera">
          <input type="file" accept="image/*" capture="environment" onChange=${pick} />
          <span>Take a photo</span>
        </label>
        <p class="hint">${over ? "Let go to add it." : "Or drop or paste a picture anywhere."}</p>
      </div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    </fieldset>
  `;
}
