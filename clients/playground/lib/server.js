import { useEffect, useState } from "../vendor/htm-preact.js";
import { gatedModels, samples } from "../wire/api.js";
import { inWords } from "../wire/errors.js";

/** @typedef {import("./types.js").Sample} Sample */

/**
 * @typedef {object} Server
 * @property {string[]} models gated names
 * @property {string} model the name to ask
 * @property {(name: string) => void} choose
 * @property {string} problem why the models are unknown
 * @property {Sample[]} samples of the model's world, or of all where it is none of the bundled ones
 */

/**
 * Return what the server serves.
 *
 * @param {string} key
 * @returns {Server}
 */
export function useServer(key) {
  const [models, setModels] = useState(/** @type {string[]} */ ([]));
  const [chosen, choose] = useState("");
  const [problem, setProblem] = useState("");
  const [all, setAll] = useState(/** @type {Sample[]} */ ([]));

  useEffect(() => {
    const controller = new AbortController();
    // A key is typed letter by letter.
    const timer = setTimeout(load, key ? 400 : 0);

    async function load() {
      try {
        const names = await gatedModels({ key, signal: controller.signal });
        setModels(names);
        setProblem(names.length ? "" : "The server lists no gated model: its MIRL plugin is off.");
      } catch (error) {
        const words = inWords(error);
        if (words !== null) setProblem(words);
      }
    }
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [key]);
  useEffect(() => {
    samples().then(setAll, () => {});
  }, []);

  const model = models.includes(chosen) ? chosen : (models[0] ?? "");
  const own = all.filter((sample) => sample.model === model);
  // Which are the model's is known with its name.
  const known = own.length || !model ? own : all;
  return { models, model, choose, problem, samples: known };
}
