import { html, useState } from "../vendor/htm-preact.js";

/** Copies the page's address, whose fragment holds question and settings. */
export function CopyLink() {
  const [state, setState] = useState("");

  async function copy() {
    try {
      await navigator.clipboard.writeText(location.href);
      setState("Copied");
    } catch {
      // Without TLS a page may not write to the clipboard; the address bar has the link.
      setState("It is in the address bar");
    }
    setTimeout(() => setState(""), 2500);
  }

  return html`
    <button type="button" class="quiet" title="A link with question and settings, without picture and key" onClick=${copy}>
      Copy link
    </button>
    <span class="hint" role="status">${state}</span>
  `;
}
