/** Responses read into the client's results. */

import type OpenAI from "openai";
import {
  type Answer,
  type Cost,
  type Descriptions,
  type Evidence,
  type Message,
  type Scores,
  type Stage,
  evidence,
  kept,
} from "./answers.js";
import { NotMIRLError } from "./errors.js";
import type { MirlEvent } from "./events.js";
import type { paths } from "./openapi.js";

type Paths = keyof paths;
type Body<Path extends Paths> = paths[Path]["post"]["responses"][200]["content"]["application/json"];
type StreamData = paths["/v1/chat/completions"]["post"]["responses"][200]["content"]["text/event-stream"];
type Chunk = Extract<StreamData, { object: "chat.completion.chunk" }>;
type StageData = NonNullable<Chunk["mirl"]>;

/** Measures the seconds since it was made. */
export class Clock {
  readonly #start = performance.now();

  /** Return the seconds since it was made. */
  seconds(): number {
    return (performance.now() - this.#start) / 1000;
  }
}

/**
 * Return the answer of a completion.
 *
 * @throws {NotMIRLError} the completion has no choice.
 */
export function answerOf(response: OpenAI.ChatCompletion, messages: readonly Message[], clock: Clock): Answer {
  const choice = response?.choices?.[0];
  if (choice === undefined) throw new NotMIRLError("the server's answer has no choice");
  return answer({
    text: choice.message.content ?? "",
    reasoning: reasoningOf(choice.message),
    model: response.model,
    finish_reason: choice.finish_reason,
    details: evidence(response),
    usage: response.usage,
    messages,
    clock,
  });
}

/** Reads the chunks of one streamed answer into events. */
export class StreamReader {
  readonly #messages: readonly Message[];
  readonly #clock: Clock;
  #text = "";
  #reasoning = "";
  #model = "";
  #finishReason: string | null = null;
  #evidence: Evidence | null = null;
  #usage: OpenAI.CompletionUsage | undefined;

  constructor(messages: readonly Message[], clock: Clock) {
    this.#messages = messages;
    this.#clock = clock;
  }

  /** Yield the events of a chunk; those of a newer server that are unknown here are left out. */
  *read(chunk: OpenAI.ChatCompletionChunk): Generator<MirlEvent, void, undefined> {
    this.#model = chunk.model || this.#model;
    this.#usage = chunk.usage ?? this.#usage;
    const stage = (chunk as { mirl?: StageData | null }).mirl;
    if (stage) {
      if (stage.event === "finished") this.#evidence = evidence(chunk);
      const event = stageEvent(stage);
      if (event) yield event;
    }
    if (!Array.isArray(chunk.choices)) throw new NotMIRLError("the server's chunk has no choices");
    for (const choice of chunk.choices) {
      this.#finishReason = choice.finish_reason ?? this.#finishReason;
      const text = choice.delta.content ?? "";
      const reasoning = reasoningOf(choice.delta);
      if (!text && !reasoning) continue;
      this.#text += text;
      this.#reasoning += reasoning;
      yield { type: "text", text, reasoning };
    }
  }

  /**
   * Return the last event.
   *
   * @throws {NotMIRLError} the stream ended before its answer did.
   */
  finished(): MirlEvent {
    if (this.#finishReason === null) throw new NotMIRLError("the stream ended before the answer was complete");
    const whole = answer({
      text: this.#text,
      reasoning: this.#reasoning,
      model: this.#model,
      finish_reason: this.#finishReason,
      details: this.#evidence,
      usage: this.#usage,
      messages: this.#messages,
      clock: this.#clock,
    });
    return { type: "finished", answer: whole };
  }
}

function stageEvent(stage: StageData): MirlEvent | undefined {
  switch (stage.event) {
    case "started":
      return { type: stage.event, prompt_tokens: stage.prompt_tokens, budget: stage.budget };
    case "described":
      return { type: stage.event, description: stage.description };
    case "gated":
      return { type: stage.event, descriptions: stage.descriptions, mi_weight: stage.mi_weight };
    case "fell_back":
      return { type: stage.event, reason: stage.reason };
    case "branched":
      return { type: stage.event, descriptions: stage.descriptions, chains: stage.chains };
    case "chain":
      return { type: stage.event, chain: stage.chain };
    case "decided":
      return {
        type: stage.event,
        vote: stage.vote,
        representative: stage.representative,
        outstanding: stage.outstanding,
      };
    case "finished":
      return undefined;
    default:
      // The types know no other; a newer server may.
      stage satisfies never;
      return undefined;
  }
}

/**
 * Return the result of `/v1/mirl/describe`.
 *
 * @throws {NotMIRLError} the body has another form.
 */
export function descriptionsOf(response: unknown, clock: Clock): Descriptions {
  const body = bodyOf<"/v1/mirl/describe">(response, "descriptions");
  const { data: descriptions, mi_weight, model, stages, usage } = body;
  return { descriptions, kept: kept(descriptions), mi_weight, model, cost: costOf(usage, stages, clock) };
}

/**
 * Return the result of `/v1/mirl/score`.
 *
 * @throws {NotMIRLError} the body has another form.
 */
export function scoresOf(response: unknown, clock: Clock): Scores {
  const body = bodyOf<"/v1/mirl/score">(response, "scores");
  const { data: scores, mi_weight, model, usage } = body;
  return { scores, mi_weight, model, cost: costOf(usage, [], clock) };
}

function bodyOf<Path extends Paths>(response: unknown, name: string): Body<Path> {
  const body = response as { data?: unknown; usage?: unknown } | null;
  if (!Array.isArray(body?.data) || typeof body.usage !== "object" || body.usage === null) {
    throw new NotMIRLError(`the server's ${name} have another form`);
  }
  return response as Body<Path>;
}

interface Parts extends Pick<Answer, "text" | "reasoning" | "model" | "finish_reason"> {
  details: Evidence | null;
  usage: OpenAI.CompletionUsage | undefined;
  messages: readonly Message[];
  clock: Clock;
}

function answer({ details, usage, messages, clock, ...parts }: Parts): Answer {
  const stages = details?.stages ?? [];
  const cost: Cost = {
    prompt_tokens: usage?.prompt_tokens ?? 0,
    sampled_tokens: usage?.completion_tokens ?? sum(stages.map((stage) => stage.generated_tokens)),
    scored_tokens: sum(stages.map((stage) => stage.scored_tokens)),
    seconds: clock.seconds(),
    stages,
  };
  return {
    ...parts,
    confidence: details?.confidence ?? null,
    calibrated: details?.calibrated ?? false,
    uncalibrated: details?.uncalibrated ?? null,
    warnings: details?.warnings ?? [],
    descriptions: details?.descriptions ?? [],
    chains: details?.chains ?? [],
    vote: details?.vote ?? null,
    cost,
    evidence: details,
    messages: [...messages, { role: "assistant", content: parts.text }],
  };
}

function costOf(usage: Body<"/v1/mirl/score">["usage"], stages: Stage[], clock: Clock): Cost {
  return {
    prompt_tokens: usage.prompt_tokens,
    sampled_tokens: usage.completion_tokens,
    scored_tokens: usage.scored_tokens,
    seconds: clock.seconds(),
    stages,
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

/** Return the reasoning of a message, which the openai package does not declare; empty where there is none. */
function reasoningOf(message: object): string {
  const { reasoning, reasoning_content: older } = message as { reasoning?: unknown; reasoning_content?: unknown };
  return [reasoning, older].find((text): text is string => typeof text === "string" && text !== "") ?? "";
}
