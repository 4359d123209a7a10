/** Streams: their events, and how they end. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Mirl, type MirlEvent, NotMIRLError } from "mirl-client";
import { APIConnectionError, APIError, APIUserAbortError } from "openai";
import { EVIDENCE, PNG, Stub } from "./stub.js";

function stream(stub: Stub, settings = {}): AsyncGenerator<MirlEvent, void, undefined> {
  return new Mirl(stub.url, { maxRetries: 0 }).stream(PNG, "How many?", settings);
}

async function collect(events: AsyncIterable<MirlEvent>): Promise<MirlEvent[]> {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

/** Read a stream until it throws; return what came before, and the error. */
async function failing(events: AsyncIterable<MirlEvent>): Promise<[string[], unknown]> {
  const types: string[] = [];
  try {
    for await (const event of events) types.push(event.type);
  } catch (error) {
    return [types, error];
  }
  return assert.fail("the stream ended without an error");
}

test("the stages come in order, and the last event has the answer of ask", async (context) => {
  const stub = await Stub.start(context);
  const events = await collect(stream(stub, { preset: "gate", seed: 1 }));
  assert.deepEqual(
    events.map(({ type }) => type),
    ["started", ...Array(4).fill("described"), "gated", ...Array(3).fill("chain"), "decided", "chain", "text", "text",
      "finished"],
  );
  assert.deepEqual(events[0], { type: "started", prompt_tokens: 70, budget: EVIDENCE.budget });
  assert.deepEqual(events[1], { type: "described", description: EVIDENCE.descriptions[0] });
  assert.deepEqual(events[5], { type: "gated", descriptions: EVIDENCE.descriptions, mi_weight: 0.5 });
  assert.deepEqual(events[6], { type: "chain", chain: EVIDENCE.chains[0] });
  const { vote, representative } = EVIDENCE;
  assert.deepEqual(events[9], { type: "decided", vote, representative, outstanding: 1 });
  assert.deepEqual(events[12], { type: "text", text: "24", reasoning: "" });
  const { stream: isStream, stream_options, mirl, seed } = stub.body;
  assert.deepEqual([isStream, stream_options, mirl, seed], [true, { include_usage: true }, { preset: "gate" }, 1]);
  const last = events.at(-1);
  assert.ok(last?.type === "finished");
  const whole = await new Mirl(stub.url).ask(PNG, "How many?");
  whole.cost.seconds = last.answer.cost.seconds;
  assert.deepEqual(last.answer, whole);
});

test("a plain answer is text alone", async (context) => {
  const events = await collect(stream(await Stub.start(context), { model: "toy:direct" }));
  assert.deepEqual(
    events.map(({ type }) => type),
    ["text", "text", "finished"],
  );
  const last = events.at(-1);
  assert.ok(last?.type === "finished");
  assert.deepEqual([last.answer.text, last.answer.evidence, last.answer.cost.sampled_tokens], ["25", null, 212]);
});

test("leaving the loop cancels the request", async (context) => {
  const stub = await Stub.start(context);
  stub.streamEnd = "wait";
  for await (const event of stream(stub)) {
    assert.equal(event.type, "started");
    break;
  }
  await stub.left();
});

test("a signal cancels a stream, before it and while it waits", async (context) => {
  const stub = await Stub.start(context);
  stub.streamEnd = "wait";
  const controller = new AbortController();
  const events = stream(stub, { signal: controller.signal });
  assert.equal((await events.next()).value?.type, "started");
  const next = events.next();
  controller.abort();
  await assert.rejects(next, APIUserAbortError);
  await stub.left();
  const [types, error] = await failing(stream(stub, { signal: AbortSignal.abort(), model: "toy" }));
  assert.deepEqual(types, []);
  assert.ok(error instanceof APIUserAbortError);
});

test("a signal cancels an answer", async (context) => {
  const stub = await Stub.start(context);
  const client = new Mirl(stub.url, { model: "toy" });
  await assert.rejects(client.ask(PNG, "?", { signal: AbortSignal.abort() }), APIUserAbortError);
  assert.deepEqual(stub.requests, []);
});

test("an error in a stream, a broken connection and an early end", async (context) => {
  const stub = await Stub.start(context);
  stub.streamEnd = "error";
  let [types, error] = await failing(stream(stub));
  assert.deepEqual(types, ["started"]);
  assert.ok(error instanceof APIError);
  assert.equal(error.code, "engine_dead");
  stub.streamEnd = "break";
  [types, error] = await failing(stream(stub));
  assert.ok(error instanceof APIConnectionError);
  assert.equal(error.message, "the connection broke");
  stub.streamEnd = "early";
  [types, error] = await failing(stream(stub));
  assert.deepEqual(types, ["started"]);
  assert.ok(error instanceof NotMIRLError);
});

test("a refusal is an error before the first event", async (context) => {
  const stub = await Stub.start(context);
  stub.failure = [404, { error: { message: "no such model", code: "model_not_found" } }];
  const [types, error] = await failing(stream(stub));
  assert.deepEqual(types, []);
  assert.ok(error instanceof APIError);
  assert.equal(error.status, 404);
});
