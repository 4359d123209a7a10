/** The Vercel AI SDK against a real server, as the README shows it. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { type MetadataExtractor, createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { Mirl, evidence } from "mirl-client";

const { MIRL_TEST_URL: url = "", MIRL_TEST_PICTURE: picture = "" } = process.env;
const skip = url ? false : "no server: MIRL_TEST_URL is not set";

type Metadata = Awaited<ReturnType<MetadataExtractor["extractMetadata"]>>;

function metadata(body: unknown): Metadata {
  const found = evidence(body as object);
  return found ? { mirl: JSON.parse(JSON.stringify(found)) } : undefined;
}

const metadataExtractor: MetadataExtractor = {
  extractMetadata: async ({ parsedBody }) => metadata(parsedBody),
  createStreamExtractor: () => {
    let last: Metadata;
    return { processChunk: (chunk) => void (last = metadata(chunk) ?? last), buildMetadata: () => last };
  },
};

async function request() {
  const provider = createOpenAICompatible({ name: "mirl", baseURL: `${url}/v1`, includeUsage: true, metadataExtractor });
  const name = (await new Mirl(url).models()).find((each) => !each.includes(":")) ?? "";
  const content = [
    { type: "image" as const, image: await readFile(picture) },
    { type: "text" as const, text: "What is the sum of all digits?" },
  ];
  const options = { descriptions: 3, keep: 2, forks: 1 };
  return {
    model: provider(name),
    messages: [{ role: "user" as const, content }],
    seed: 1,
    maxOutputTokens: 200,
    maxRetries: 0,
    providerOptions: { mirl: { mirl: options } },
  };
}

test("generateText and streamText with a picture are gated, and one answer", { skip }, async () => {
  const whole = await generateText(await request());
  assert.equal((whole.providerMetadata?.["mirl"]?.["descriptions"] as unknown[]).length, 3);
  const stream = streamText(await request());
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal(await stream.reasoningText, whole.reasoningText);
  assert.ok(whole.reasoningText);
  assert.deepEqual((await stream.usage).outputTokens, whole.usage.outputTokens);
  const streamed = (await stream.providerMetadata)?.["mirl"];
  assert.deepEqual(streamed?.["vote"], whole.providerMetadata?.["mirl"]?.["vote"]);
  assert.equal((streamed?.["descriptions"] as unknown[]).length, 3);
});

test("text alone is plain", { skip }, async () => {
  const { model } = await request();
  const { text, providerMetadata } = await generateText({ model, prompt: "hello", maxOutputTokens: 8, maxRetries: 0 });
  assert.equal(typeof text, "string");
  assert.equal(providerMetadata?.["mirl"]?.["descriptions"], undefined);
});
