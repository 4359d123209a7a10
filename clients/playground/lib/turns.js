import { useReducer, useRef } from "../vendor/htm-preact.js";
import { stream } from "../wire/api.js";
import { inWords, Problem } from "../wire/errors.js";
import { plainAnswers } from "../wire/plain.js";
import { conversation, fieldsOf } from "../wire/requests.js";
import { advance, EMPTY } from "../wire/stages.js";
import { methodOf } from "./methods.js";

/** @typedef {import("./types.js").Turn} Turn */
/** @typedef {import("./types.js").Picture} Picture */
/** @typedef {import("./types.js").Settings} Settings */
/** @typedef {import("./types.js").Plain} Plain */
/** @typedef {{question: string, pictures: Picture[], settings: Settings, model: string, key: string}} Question */

/**
 * @typedef {{type: "add", turn: Turn} | {type: "chunk", id: number, chunk: any}
 *   | {type: "change", id: number, fields: Partial<Turn>} | {type: "plain", id: number, plain: Plain}
 *   | {type: "clear"}} Action
 */

/**
 * @param {Turn[]} turns
 * @param {Action} action
 * @returns {Turn[]}
 */
function reduce(turns, action) {
  if (action.type === "clear") return [];
  if (action.type === "add") return [...turns, action.turn];
  return turns.map((turn) => {
    if (turn.id !== action.id) return turn;
    if (action.type === "chunk") return { ...turn, run: advance(turn.run, action.chunk) };
    if (action.type === "plain") return { ...turn, plain: [...turn.plain, action.plain] };
    return { ...turn, ...action.fields };
  });
}

/**
 * Return the conversation, and how to ask and cancel.
 *
 * @returns {{turns: Turn[], busy: boolean, ask: (question: Question, anew: boolean) => Promise<void>,
 *   cancel: () => void}}
 */
export function useTurns() {
  const [turns, dispatch] = useReducer(reduce, /** @type {Turn[]} */ ([]));
  const running = useRef(/** @type {AbortController | null} */ (null));
  const last = turns.at(-1);

  /**
   * @param {Question} question
   * @param {boolean} anew whether it begins a new conversation
   */
  async function ask(question, anew) {
    const before = anew ? [] : turns;
    if (anew) dispatch({ type: "clear" });
    const controller = new AbortController();
    running.current = controller;
    const id = (last?.id ?? 0) + 1;
    /** @type {Turn} */
    const turn = {
      id,
      question: question.question,
      pictures: question.pictures,
      method: methodOf(question.settings.preset),
      run: EMPTY,
      plain: [],
      compares: question.settings.compare && question.pictures.length > 0,
      status: "running",
      error: "",
      seconds: 0,
    };
    dispatch({ type: "add", turn });
    try {
      await answer(turn, before, question, controller.signal);
      dispatch({ type: "change", id, fields: { status: "done" } });
    } catch (error) {
      const words = inWords(error);
      const status = words === null ? "cancelled" : "failed";
      dispatch({ type: "change", id, fields: { status, error: words ?? "" } });
    } finally {
      controller.abort();
      running.current = null;
    }
  }

  /**
   * @param {Turn} turn
   * @param {Turn[]} before
   * @param {Question} question
   * @param {AbortSignal} signal
   */
  async function answer(turn, before, question, signal) {
    const messages = conversation(before, question.question, question.pictures);
    const access = { key: question.key, signal };
    const { mirl, ...fields } = fieldsOf(question.settings);
    const gated = question.pictures.length > 0;
    const started = performance.now();
    let finished = false;
    const body = { ...fields, model: question.model, messages, ...(gated ? { mirl } : {}) };
    for await (const chunk of stream(body, access)) {
      finished ||= Boolean(chunk.choices?.[0]?.finish_reason);
      dispatch({ type: "chunk", id: turn.id, chunk });
    }
    const seconds = (performance.now() - started) / 1000;
    dispatch({ type: "change", id: turn.id, fields: { seconds } });
    if (!finished) throw new Problem("The connection ended before the answer was complete.");
    if (!turn.compares) return;
    dispatch({ type: "change", id: turn.id, fields: { status: "comparing" } });
    for await (const plain of plainAnswers(question.model, messages, fields, access)) {
      dispatch({ type: "plain", id: turn.id, plain });
    }
  }

  return {
    turns,
    busy: last?.status === "running" || last?.status === "comparing",
    ask,
    cancel: () => running.current?.abort(),
  };
}
