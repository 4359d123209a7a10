/** The client against a real server: MIRL_TEST_URL, and a picture that MIRL_TEST_PICTURE names. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { type Answer, Mirl, type MirlEvent } from "mirl-client";
import { APIUserAbortError, BadRequestError } from "openai";

const { MIRL_TEST_URL: url, MIRL_TEST_PICTURE: picture = "" } = process.env;
const skip = url ? false : "no server: MIRL_TEST_URL is not set";
const QUESTION = "What is the sum of all digits?";
const options = { descriptions: 3, keep: 2, forks: 1 };

function client(): Mirl {
  return new Mirl(url, { maxRetries: 0, timeout: 120_000 });
}

/** Return an answer without what differs between two requests of the same seed. */
function settled({ text, reasoning, evidence, descriptions, cost, vote }: Answer): object {
  const { prompt_tokens } = cost;
  return { text, reasoning, confidence: evidence?.confidence, descriptions, prompt_tokens, vote };
}

test("a stream has the stages in order, and ends with the answer of its seed", { skip }, async () => {
  const mirl = client();
  const events: MirlEvent[] = [];
  for await (const event of mirl.stream(picture, QUESTION, { options, seed: 1 })) events.push(event);
  const types = events.map(({ type }) => type);
  assert.deepEqual(types.slice(0, 5), ["started", "described", "described", "described", "gated"]);
  const last = events.at(-1);
  assert.ok(last?.type === "finished");
  const { answer } = last;
  assert.deepEqual([answer.descriptions.length, answer.evidence?.budget?.keep], [3, 2]);
  assert.equal(
    answer.cost.sampled_tokens,
    answer.cost.stages.reduce((total, stage) => total + stage.generated_tokens, 0),
  );
  const bytes = await readFile(picture);
  assert.deepEqual(settled(await mirl.ask(new Blob([bytes]), QUESTION, { options, seed: 1 })), settled(answer));
  const described = await mirl.describe(bytes, QUESTION, { options, seed: 1 });
  assert.deepEqual(
    described.descriptions.map(({ text, kept }) => [text, kept]),
    answer.descriptions.map(({ text, kept }) => [text, kept]),
  );
});

test("a steered answer, and a follow-up", { skip }, async () => {
  const mirl = client();
  const answer = await mirl.ask(picture, QUESTION, { preset: "triple", options: { token_mi: true }, seed: 1 });
  assert.equal(answer.descriptions.length, 3);
  assert.ok(answer.descriptions.every(({ decoding }) => decoding));
  const extra = { max_completion_tokens: 8 };
  const followUp = await mirl.ask([], "Why?", { history: answer.messages, extra });
  assert.equal(followUp.evidence, null);
  assert.ok(followUp.cost.sampled_tokens > 0);
});

test("tokens of scores spell their text", { skip }, async () => {
  const mirl = client();
  const { descriptions } = await mirl.describe(picture, QUESTION, { options, seed: 1 });
  const text = descriptions[0]?.text ?? "";
  const { scores, mi_weight } = await mirl.score(picture, QUESTION, [text, text], { options: { mi_weight: 1 } });
  assert.equal(mi_weight, 1);
  const [score] = scores;
  assert.equal(score?.token_texts?.join(""), text);
  assert.equal(score?.token_texts?.length, score?.token_mi?.length);
  assert.equal(score?.tokens, score?.token_mi?.length);
});

test("leaving a stream and aborting it cancel the request", { skip }, async () => {
  const mirl = client();
  const before = await metric('mirl_requests_total{outcome="cancelled"}');
  for await (const event of mirl.stream(picture, QUESTION)) {
    assert.equal(event.type, "started");
    break;
  }
  const controller = new AbortController();
  await assert.rejects(async () => {
    for await (const _ of mirl.stream(picture, QUESTION, { signal: controller.signal })) controller.abort();
  }, APIUserAbortError);
  while (await metric("mirl_requests_in_flight")) await setTimeout(50);
  assert.equal(await metric('mirl_requests_total{outcome="cancelled"}'), before + 2);
});

/** Return the sum of a metric's samples. */
async function metric(name: string): Promise<number> {
  const lines = (await (await fetch(`${url}/metrics`)).text()).split("\n");
  return lines
    .filter((line) => line.startsWith(name))
    .reduce((total, line) => total + Number(line.split(" ").at(-1)), 0);
}

test("a refusal names its field", { skip }, async () => {
  const extra = { mirl_option: 1 };
  await assert.rejects(client().ask(picture, QUESTION, { extra }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.param, "mirl_option");
    return true;
  });
});
