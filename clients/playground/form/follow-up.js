import { html, useState } from "../vendor/htm-preact.js";

/**
 * The form of a further question in the same conversation.
 *
 * @param {{ask: (question: string, look: boolean) => void}} props
 */
export function FollowUp({ ask }) {
  const [question, setQuestion] = useState("");
  const [look, setLook] = useState(true);

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    if (!question.trim()) return;
    ask(question.trim(), look);
    setQuestion("");
  }

  return html`
    <form class="follow-up" onSubmit=${submit}>
      <label for="follow-up">Ask on in this conversation</label>
      <div class="line">
        <input id="follow-up" type="text" autocomplete="off" value=${question}
          onInput=${(/** @type {any} */ event) => setQuestion(event.target.value)} />
        <button type="submit" class="primary" disabled=${!question.trim()}>Ask on</button>
      </div>
      <label class="check">
        <input type="checkbox" checked=${look}
          onChange=${(/** @type {any} */ event) => setLook(event.target.checked)} />
        <span>Look at the picture again. Otherwise the model answers plainly, from the conversation.</span>
      </label>
    </form>
  `;
}
