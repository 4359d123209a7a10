/**
 * The presets, and the class of each method's colour. A method has one colour everywhere: styles/theme.css has
 * those of the figures (mirl_core/tasks/plotting.py), which a test compares.
 *
 * @type {{name: string, label: string, about: string}[]}
 */
export const PRESETS = [
  { name: "", label: "the model's own", about: "What the model's settings say." },
  { name: "paper", label: "paper", about: "10 sampled descriptions, 6 go on, 2 chains each." },
  { name: "gate", label: "gate", about: "10 sampled descriptions, 3 go on, 2 chains each." },
  { name: "waves", label: "waves", about: "12 sampled descriptions; more chains only while the vote is open." },
  { name: "steered", label: "steered", about: "3 decoded descriptions, more only while the vote is open." },
  { name: "triple", label: "triple", about: "3 decoded descriptions, weighed by their MI." },
  { name: "fast", label: "fast", about: "1 decoded description, 1 chain." },
];

/** @param {string} preset */
export function methodOf(preset) {
  return preset || "mirl";
}

/**
 * Return the name of a method as the page shows it.
 *
 * @param {string} method
 */
export function methodLabel(method) {
  return method === "mirl" ? "MIRL" : `MIRL, ${method}`;
}
