// The openai package of npm against a server: `node ask.mjs BASE_URL MODEL IMAGE_DATA_URL`. Prints what it saw, as JSON.
import OpenAI, { BadRequestError, NotFoundError } from "openai";

const [baseURL, model, image] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const mirl = { descriptions: 3, keep: 2, forks: 2, description_tokens: 48 };
const question = "What is the sum of all digits?";
const messages = [
  { role: "user", content: [{ type: "image_url", image_url: { url: image } }, { type: "text", text: question }] },
];
const asked = { model, messages, seed: 1, max_tokens: 150, mirl };
const parameters = { type: "object", properties: { digit: { enum: [1, 7, 8] } }, required: ["digit"] };
const tool = { type: "function", function: { name: "report", parameters } };

const told = {};
told.models = (await client.models.list()).data.map((one) => one.id);
told.model = (await client.models.retrieve(model)).id;

const whole = await client.chat.completions.create(asked);
told.whole = {
  content: whole.choices[0].message.content,
  reasoning: whole.choices[0].message.reasoning,
  usage: whole.usage,
  descriptions: whole.mirl.descriptions.length,
};

told.stream = { content: "", reasoning: "", events: [], usage: null };
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
  const delta = chunk.choices[0]?.delta ?? {};
  told.stream.content += delta.content ?? "";
  told.stream.reasoning += delta.reasoning ?? "";
  if (chunk.mirl) told.stream.events.push(chunk.mirl.event);
  if (chunk.usage) told.stream.usage = chunk.usage;
}

const runner = client.chat.completions.stream(asked);
told.helper = (await runner.finalChatCompletion().catch((error) => error)).constructor.name;

const direct = await client.chat.completions.create({
  model: `${model}:direct`,
  messages: [{ role: "user", content: "hello" }],
  max_tokens: 4,
});
told.direct = { model: direct.model, evidence: "mirl" in direct };

const choice = { type: "function", function: { name: "report" } };
const called = await client.chat.completions.create({ ...asked, max_tokens: 400, tools: [tool], tool_choice: choice });
told.call = called.choices[0].message.tool_calls[0].function;

const format = { type: "json_schema", json_schema: { name: "seen", schema: parameters } };
const formed = await client.chat.completions.create({ ...asked, max_tokens: 400, response_format: format });
told.formed = JSON.parse(formed.choices[0].message.content);

const input = [
  { role: "user", content: [{ type: "input_image", image_url: image }, { type: "input_text", text: question }] },
];
const response = await client.responses.create({ model, input, seed: 1, max_output_tokens: 150, mirl });
told.response = {
  text: response.output_text,
  items: response.output.map((item) => item.type),
  usage: response.usage,
};
told.events = [];
const streamed = { model, input, seed: 1, max_output_tokens: 150, mirl, stream: true };
for await (const event of await client.responses.create(streamed)) told.events.push(event.type);

const refused = async (call) => {
  try {
    await call();
  } catch (error) {
    return { bad: error instanceof BadRequestError, missing: error instanceof NotFoundError, param: error.param };
  }
  return null;
};
const wrong = { ...asked, mirl: { kep: 2 } };
told.errors = {
  whole: await refused(() => client.chat.completions.create(wrong)),
  streamed: await refused(() => client.chat.completions.create({ ...wrong, stream: true })),
  model: await refused(() => client.chat.completions.create({ ...asked, model: "gpt-5" })),
};
console.log(JSON.stringify(told));
