/** What the client sends, and what it reads. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Answer, Mirl, NotMIRLError, evidence } from "mirl-client";
import { APIError, BadRequestError, InternalServerError } from "openai";
import { EVIDENCE, PNG, PNG_URL, Stub, USAGE } from "./stub.js";

const QUESTION = "How many apples and limes?";

function clientOf(stub: Stub, settings = {}): Mirl {
  return new Mirl(stub.url, { maxRetries: 0, ...settings });
}

test("an answer has its evidence and cost", async (context) => {
  const stub = await Stub.start(context);
  const answer = await clientOf(stub).ask([PNG, PNG_URL], QUESTION);
  assert.deepEqual([answer.text, answer.model, answer.finish_reason], ["24", "toy", "stop"]);
  assert.equal(answer.reasoning, "limes 6, apples 18\n\n6 + 18 = 24");
  const { confidence, calibrated, uncalibrated, warnings, descriptions, chains, vote } = answer;
  const own = { confidence, calibrated, uncalibrated, warnings, descriptions, chains, vote };
  assert.deepEqual({ ...EVIDENCE, ...own }, EVIDENCE);
  assert.deepEqual(answer.evidence, EVIDENCE);
  const { seconds, ...cost } = answer.cost;
  const tokens = { prompt_tokens: 70, sampled_tokens: 212, scored_tokens: 18 };
  assert.deepEqual(cost, { ...tokens, stages: EVIDENCE.stages });
  assert.ok(seconds > 0 && seconds < 60);
  const image = { type: "image_url", image_url: { url: PNG_URL } };
  const content = [image, image, { type: "text", text: QUESTION }];
  assert.deepEqual(stub.body, { model: "toy", messages: [{ role: "user", content }] });
  assert.deepEqual(answer.messages, [...stub.body.messages, { role: "assistant", content: "24" }]);
});

test("a follow-up has the conversation, and its plain answer has no evidence", async (context) => {
  const stub = await Stub.start(context);
  const client = clientOf(stub);
  const history = (await client.ask(PNG, QUESTION)).messages;
  const answer = await client.ask([], "And how many of them were apples?", { history });
  assert.deepEqual(stub.body.messages, [...history, { role: "user", content: "And how many of them were apples?" }]);
  assert.deepEqual([answer.text, answer.evidence, answer.vote, answer.confidence], ["25", null, null, null]);
  assert.deepEqual([answer.descriptions, answer.chains, answer.warnings, answer.cost.stages], [[], [], [], []]);
  assert.deepEqual([answer.calibrated, answer.reasoning, answer.cost.sampled_tokens], [false, "", 212]);
});

test("preset, options, seed and further fields reach the server", async (context) => {
  const stub = await Stub.start(context);
  const client = clientOf(stub, { model: "mine" });
  const extra = { max_completion_tokens: 400, temperature: 0.5 };
  await client.ask(PNG, QUESTION, { preset: "steered", options: { token_mi: true }, seed: 0, extra });
  const { messages, ...fields } = stub.body;
  assert.equal(messages.length, 1);
  assert.deepEqual(fields, { ...extra, model: "mine", mirl: { preset: "steered", token_mi: true }, seed: 0 });
  await client.ask(PNG, QUESTION, { model: "toy:direct" });
  assert.equal(stub.body.model, "toy:direct");
  assert.ok(!stub.requests.some(({ path }) => path === "/v1/models"));
  await assert.rejects(client.ask(PNG, QUESTION, { extra: { n: 2, messages: [] } }), {
    name: "TypeError",
    message: "not a field of extra: messages, n",
  });
});

test("the name is looked up once", async (context) => {
  const stub = await Stub.start(context);
  const client = clientOf(stub);
  await client.ask(PNG, QUESTION);
  await client.describe(PNG, QUESTION);
  assert.equal(stub.requests.filter(({ path }) => path === "/v1/models").length, 1);
  assert.deepEqual(await client.models(), ["lora", "toy", "toy:direct"]);
  stub.names = ["toy"];
  await assert.rejects(clientOf(stub).ask(PNG, QUESTION), NotMIRLError);
});

test("descriptions alone", async (context) => {
  const stub = await Stub.start(context);
  const result = await clientOf(stub).describe(PNG, QUESTION, { options: { descriptions: 4 } });
  assert.deepEqual(result.descriptions, EVIDENCE.descriptions);
  assert.deepEqual(
    result.kept.map(({ index }) => index),
    [3, 1],
  );
  assert.deepEqual([result.mi_weight, result.model, result.cost.scored_tokens], [0.5, "toy", 18]);
  assert.deepEqual(stub.body["mirl"], { descriptions: 4 });
});

test("scores have the MI of every token", async (context) => {
  const stub = await Stub.start(context);
  const client = clientOf(stub);
  const result = await client.score(PNG, QUESTION, ["6 limes", "a dog here"], { options: { mi_weight: 1 } });
  assert.deepEqual(
    result.scores.map(({ mi, token_mi, token_texts }) => [mi, token_mi, token_texts]),
    [
      [0.5, [-0.5, 1], ["6", " limes"]],
      [1.5, [-0.5, 1, 1], ["a", " dog", " here"]],
    ],
  );
  assert.deepEqual([result.mi_weight, result.cost.prompt_tokens, result.cost.sampled_tokens], [1, 70, 0]);
  assert.deepEqual(stub.body["mirl"], { token_mi: true, mi_weight: 1 });
  await client.score(PNG, QUESTION, "a dog", { options: { token_mi: false } });
  assert.deepEqual([stub.body.descriptions, stub.body["mirl"]], [["a dog"], { token_mi: false }]);
});

test("errors are those of the openai package", async (context) => {
  const stub = await Stub.start(context);
  stub.failure = [400, { error: { message: "no option kep", type: "invalid", param: "mirl.kep", code: "unknown" } }];
  await assert.rejects(clientOf(stub).ask(PNG, QUESTION), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.deepEqual([error.status, error.code, error.param], [400, "unknown", "mirl.kep"]);
    return true;
  });
  stub.failure = [503, { error: { message: "draining", code: "draining" } }];
  await assert.rejects(clientOf(stub).score(PNG, QUESTION, "a dog"), InternalServerError);
  await assert.rejects(clientOf(stub).models({ signal: AbortSignal.abort() }), APIError);
});

test("answers of another form are no MIRL server's", async (context) => {
  const stub = await Stub.start(context);
  const client = clientOf(stub);
  for (const body of [{}, { choices: [] }, { data: [] }, { usage: USAGE }]) {
    stub.failure = [200, body];
    await assert.rejects(client.ask(PNG, QUESTION), NotMIRLError);
    await assert.rejects(client.describe(PNG, QUESTION), NotMIRLError);
    await assert.rejects(client.score(PNG, QUESTION, "a dog"), NotMIRLError);
  }
});

test("address and key: of the caller, of the environment, the defaults", async (context) => {
  const stub = await Stub.start(context);
  const variables = ["MIRL_BASE_URL", "MIRL_API_KEY"];
  const before = variables.map((name) => process.env[name]);
  context.after(() => variables.forEach((name, index) => (process.env[name] = before[index] ?? "")));
  process.env["MIRL_BASE_URL"] = `${stub.url}/`;
  process.env["MIRL_API_KEY"] = "secret";
  await new Mirl().ask(PNG, QUESTION);
  assert.equal(stub.requests.at(-1)?.headers.authorization, "Bearer secret");
  await new Mirl(`${stub.url}/v1`, { apiKey: "mine" }).ask(PNG, QUESTION);
  assert.equal(stub.requests.at(-1)?.headers.authorization, "Bearer mine");
  assert.equal(stub.requests.at(-1)?.path, "/v1/chat/completions");
  process.env["MIRL_BASE_URL"] = process.env["MIRL_API_KEY"] = "";
  assert.equal(new Mirl().openai.baseURL, "http://127.0.0.1:8000/v1");
  assert.equal(new Mirl().openai.apiKey, "none");
  assert.throws(() => new Mirl("127.0.0.1:8000"), TypeError);
});

test("evidence of other responses", () => {
  const { budget, ...first } = EVIDENCE;
  const second = { ...first, confidence: 0.25 };
  const several = { mirl: { budget, choices: [first, second] } };
  assert.deepEqual(evidence(several), EVIDENCE);
  assert.deepEqual(evidence(several, 1), { ...second, budget });
  assert.throws(() => evidence(several, 2), RangeError);
  for (const none of [{}, { mirl: null }, { mirl: { event: "started" } }, { mirl: "?" }]) {
    assert.equal(evidence(none), null);
  }
});

test("an answer is plain JSON", async (context) => {
  const answer = await clientOf(await Stub.start(context)).ask(PNG, QUESTION);
  assert.deepEqual(JSON.parse(JSON.stringify(answer)) as Answer, answer);
});
