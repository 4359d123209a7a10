import { useRef, useState } from "../vendor/htm-preact.js";
import { score } from "../wire/api.js";
import { inWords } from "../wire/errors.js";

/** @typedef {import("./types.js").Scores} Scores */

/**
 * @typedef {object} Scoring
 * @property {Scores | null} scores
 * @property {boolean} busy
 * @property {string} problem
 * @property {string} spoken what a screen reader says
 * @property {(body: object, key: string) => Promise<void>} run
 * @property {() => void} cancel
 */

/** @returns {Scoring} */
export function useScores() {
  const [scores, setScores] = useState(/** @type {Scores | null} */ (null));
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const running = useRef(/** @type {AbortController | null} */ (null));

  /** @param {object} body @param {string} key */
  async function run(body, key) {
    const controller = new AbortController();
    running.current = controller;
    setBusy(true);
    setProblem("");
    try {
      setScores(await score(body, { key, signal: controller.signal }));
    } catch (error) {
      setProblem(inWords(error) ?? "Cancelled.");
    } finally {
      setBusy(false);
    }
  }
  // A problem is an alert.
  const spoken = busy ? "Scoring." : scores && !problem ? "Scored." : "";
  return { scores, busy, problem, spoken, run, cancel: () => running.current?.abort() };
}
