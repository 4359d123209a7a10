/** A server of recorded shapes. */

import { once } from "node:events";
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import type { Chain, Description, Evidence } from "mirl-client";

export const PNG = Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 1, 2]);
export const PNG_URL = "data:image/png;base64,iVBORw0KGgoAAQI=";
export const USAGE = { prompt_tokens: 70, completion_tokens: 212, total_tokens: 282 };
const TOO_COLD = { error: { message: "at least 0", type: "invalid", param: "temperature", code: "out_of_range" } };
const REASONING = "limes 6, apples 18\n\n6 + 18 = 24";

/** Body of a request to the stub. */
export interface Body {
  model: string;
  messages: { role: string; content: string | { type: string; text?: string; image_url?: { url: string } }[] }[];
  stream?: boolean;
  descriptions: string[];
  [field: string]: unknown;
}

function description(index: number, text: string, score: number | null, reason: string | null = null): Description {
  const mi = score === null ? null : 8 * score;
  return { index, text, tokens: 9, mi, mi_per_token: score, score, kept: reason === null, reason };
}

function chain(description: number, fork: number, answer: string | null): Chain {
  return { description, fork, answer, tokens: 40, finish_reason: answer === null ? "abort" : "stop", votes: 1 };
}

export const EVIDENCE: Evidence = {
  budget: { descriptions: 4, keep: 2, forks: 2 },
  descriptions: [
    description(0, "limes 6, apples 17", 0.25, "gate"),
    description(1, "limes 6, apples 18", 0.5),
    description(2, "limes 6", null, "truncated"),
    description(3, "apples 18, limes 6", 0.75),
  ],
  chains: [chain(1, 0, "24"), chain(1, 1, "24"), chain(3, 0, "25"), chain(3, 1, null)],
  representative: { description: 1, fork: 0 },
  vote: { answer: "24", counts: { "24": 2, "25": 1 }, share: 2 / 3 },
  confidence: 0.75,
  calibrated: false,
  uncalibrated: "the request has options of its own",
  warnings: ["Chains disagree."],
  margin: -0.25,
  aggregation: "majority",
  partial: false,
  fallback: null,
  mi_weight: 0.5,
  stages: [
    { stage: "describe", sequences: 4, generated_tokens: 92, scored_tokens: 0, seconds: 1.14 },
    { stage: "score", sequences: 3, generated_tokens: 0, scored_tokens: 18, seconds: 0.2 },
    { stage: "fork", sequences: 4, generated_tokens: 120, scored_tokens: 0, seconds: 3.04 },
  ],
};

/** A server that answers by rule, and keeps the requests. */
export class Stub {
  readonly requests: { path: string; body: Body; headers: IncomingMessage["headers"] }[] = [];
  /** Status and body of every answer but the list of models; undefined: the usual ones. */
  failure: [number, object] | undefined;
  /** What ends a stream after its first event; undefined: its end. */
  streamEnd: "error" | "break" | "early" | "wait" | undefined;
  names = ["lora", "toy", "toy:direct"];
  url = "";
  #left = 0;
  #onLeave: (() => void) | undefined;

  /** Start a server, which ends with the test. */
  static async start(test: TestContext): Promise<Stub> {
    const stub = new Stub();
    const server = createServer((request, response) => void stub.#answer(request, response));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    stub.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    test.after(() => {
      server.closeAllConnections();
      server.close();
    });
    return stub;
  }

  /** Return the body of the last request. */
  get body(): Body {
    const last = this.requests.at(-1);
    if (last === undefined) throw new Error("no request came");
    return last.body;
  }

  /** Resolve once a client has left a stream that waits. */
  async left(): Promise<void> {
    if (this.#left === 0) await new Promise<void>((resolve) => (this.#onLeave = resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const text = Buffer.concat(pieces).toString();
    const body = (text ? JSON.parse(text) : {}) as Body;
    const path = request.url ?? "";
    this.requests.push({ path, body, headers: request.headers });
    const send = (value: object, status = 200) =>
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
    if (path === "/v1/models") return void send({ object: "list", data: this.names.map((id) => ({ id })) });
    if (path.endsWith(".png")) return void response.end(PNG);
    if (this.failure) return void send(this.failure[1], this.failure[0]);
    if (body["temperature"] === -1) return void send(TOO_COLD, 400);
    if (path === "/v1/mirl/score") return void send(scores(body));
    if (path === "/v1/mirl/describe") {
      const usage = { ...USAGE, scored_tokens: 18 };
      const { descriptions: data, stages, mi_weight } = EVIDENCE;
      return void send({ model: body.model, mi_weight, data, stages, usage });
    }
    if (!body.stream) return void send(completion(body));
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const line of chunks(body)) {
      response.write(`data: ${JSON.stringify(line)}\n\n`);
      if (this.streamEnd) return void this.#end(response);
    }
    response.end("data: [DONE]\n\n");
  }

  #end(response: ServerResponse): void {
    if (this.streamEnd === "break") setImmediate(() => response.destroy());
    else if (this.streamEnd === "early") response.end("data: [DONE]\n\n");
    else if (this.streamEnd === "error") {
      const error = { message: "the engine has died", type: "server_error", code: "engine_dead" };
      response.end(`data: ${JSON.stringify({ error })}\n\n`);
    } else {
      response.on("close", () => {
        this.#left += 1;
        this.#onLeave?.();
      });
    }
  }
}

function isPlain(body: Body): boolean {
  return body.model.endsWith(":direct") || typeof body.messages.at(-1)?.content === "string";
}

function completion(body: Body): object {
  const fields = { id: "1", object: "chat.completion", created: 1, model: body.model, usage: USAGE };
  const message = isPlain(body)
    ? { role: "assistant", content: "25" }
    : { role: "assistant", content: "24", reasoning: REASONING };
  const choices = [{ index: 0, finish_reason: "stop", message }];
  return isPlain(body) ? { ...fields, choices } : { ...fields, choices, mirl: EVIDENCE };
}

function* chunks(body: Body): Generator<object> {
  const frame = { id: "1", object: "chat.completion.chunk", created: 1, model: body.model };
  const chunk = (delta: object, mirl?: object, finish_reason: string | null = null) => ({
    ...frame,
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
    ...(mirl ? { mirl } : {}),
  });
  if (isPlain(body)) {
    yield chunk({ role: "assistant", content: "" });
    yield chunk({ content: "2" });
    yield chunk({ content: "5" }, undefined, "stop");
    yield { ...frame, choices: [], usage: USAGE };
    return;
  }
  const { descriptions, chains, vote, representative, mi_weight, budget } = EVIDENCE;
  yield chunk({ role: "assistant", content: "" }, { event: "started", prompt_tokens: 70, budget });
  for (const each of descriptions) yield chunk({}, { event: "described", description: each });
  yield chunk({}, { event: "gated", descriptions, mi_weight });
  yield chunk({}, { event: "an event of a newer server" });
  for (const each of chains.slice(0, 3)) yield chunk({}, { event: "chain", chain: each });
  yield chunk({}, { event: "decided", vote, representative, outstanding: 1 });
  yield chunk({}, { event: "chain", chain: chains[3] });
  yield chunk({ reasoning: REASONING, reasoning_content: REASONING });
  yield chunk({ content: "24" });
  yield chunk({}, { event: "finished", ...EVIDENCE }, "stop");
  yield { ...frame, choices: [], usage: USAGE };
}

/** Each word has one nat, but the first has -0.5. */
function scores(body: Body): object {
  const data = body.descriptions.map((text, index) => {
    const token_texts = text.split(/(?= )/);
    const token_mi = token_texts.map((_, position) => (position ? 1 : -0.5));
    const mi = token_mi.reduce((total, value) => total + value, 0);
    const tokens = token_mi.length;
    return { index, text, tokens, logprob: -1, marginal: -1 - mi, mi, mi_per_token: mi / tokens, token_mi, token_texts };
  });
  const usage = { prompt_tokens: 70, scored_tokens: 8, completion_tokens: 0 };
  return { object: "mirl.score", model: body.model, mi_weight: 1, data, usage };
}
