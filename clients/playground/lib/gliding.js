import { useLayoutEffect, useRef } from "../vendor/htm-preact.js";

const QUIET = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Return a reference to an element whose descendants with `data-key` glide to where a change of `order` puts them.
 *
 * @param {string} order
 * @returns {import("../vendor/htm-preact.js").Ref<HTMLElement | null>}
 */
export function useGliding(order) {
  const root = useRef(/** @type {HTMLElement | null} */ (null));
  const before = useRef(/** @type {Map<string, number>} */ (new Map()));

  useLayoutEffect(() => {
    /** @type {Map<string, number>} */
    const tops = new Map();
    const base = root.current?.getBoundingClientRect().top ?? 0;
    for (const element of root.current?.querySelectorAll("[data-key]") ?? []) {
      const key = element.getAttribute("data-key") ?? "";
      const top = element.getBoundingClientRect().top - base;
      const moved = (before.current.get(key) ?? top) - top;
      tops.set(key, top);
      if (!moved || QUIET.matches) continue;
      element.animate([{ transform: `translateY(${moved}px)` }, { transform: "none" }], {
        duration: 450,
        easing: "cubic-bezier(.2,.8,.2,1)",
      });
    }
    before.current = tops;
  }, [order]);
  return root;
}
