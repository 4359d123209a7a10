import { html } from "../vendor/htm-preact.js";

/** @typedef {{low: number, high: number, origin: number}} Span the values of a lane, and where its bars begin */

/** Share of the lane that the least value has where bars don't begin at 0. */
const STUB = 0.06;

/**
 * Return the span of values.
 *
 * @param {(number | null)[]} values
 * @param {number | null} weight their λ. At 1 a value of 0 means something: the picture makes no difference, and
 *   bars begin there. At another λ values only compare, and bars begin below the least.
 * @returns {Span}
 */
export function spanOf(values, weight) {
  const known = values.filter((value) => value !== null);
  if (weight === 1 || !known.length) {
    return { low: Math.min(0, ...known), high: Math.max(0, ...known), origin: 0 };
  }
  const high = Math.max(...known);
  const least = Math.min(...known);
  const low = least - (STUB * (high - least || Math.abs(high) || 1)) / (1 - STUB);
  return { low, high, origin: low };
}

/**
 * A value as a bar from the origin: to the right above it, to the left below it.
 *
 * @param {{value: number | null, span: Span}} props
 */
export function Bar({ value, span }) {
  const range = span.high - span.low;
  if (value === null || !range) return html`<span class="lane" aria-hidden="true"></span>`;
  const origin = (span.origin - span.low) / range;
  const width = Math.abs(value - span.origin) / range;
  const left = value < span.origin ? origin - width : origin;
  const share = (/** @type {number} */ part) => `${(part * 100).toFixed(2)}%`;
  return html`<span class="lane" aria-hidden="true">
    <span class=${`bar ${value < span.origin ? "below" : ""}`} style=${{ left: share(left), width: share(width) }}></span>
    ${span.low < span.origin && html`<span class="zero" style=${{ left: share(origin) }}></span>`}
  </span>`;
}
