import { DEFAULTS } from "../wire/requests.js";

/** @typedef {import("./types.js").Settings} Settings */
/** @typedef {import("./types.js").Mode} Mode */
/** @typedef {{mode: Mode, question: string, descriptions: string, settings: Settings}} Shared */

const NAMES = /** @type {(keyof Settings)[]} */ (Object.keys(DEFAULTS));

/**
 * Return the fragment of a link with question and settings; never a picture or a key.
 *
 * @param {Shared} shared
 */
export function fragmentOf({ mode, question, descriptions, settings }) {
  const fields = new URLSearchParams();
  if (mode === "score") fields.set("mode", mode);
  if (question) fields.set("q", question);
  if (mode === "score" && descriptions) fields.set("d", descriptions);
  for (const name of NAMES) {
    const value = settings[name];
    if (value) fields.set(name, value === true ? "1" : String(value));
  }
  const text = fields.toString();
  return text ? `#${text}` : "";
}

/**
 * Return what a fragment holds; what it lacks is the default.
 *
 * @param {string} fragment
 * @returns {Shared}
 */
export function readFragment(fragment) {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const settings = { ...DEFAULTS };
  for (const name of NAMES) {
    const value = fields.get(name);
    if (value === null) continue;
    if (name === "compare") settings.compare = value === "1";
    else settings[name] = value.slice(0, 20);
  }
  return {
    mode: fields.get("mode") === "score" ? "score" : "ask",
    question: fields.get("q") ?? "",
    descriptions: fields.get("d") ?? "",
    settings,
  };
}
