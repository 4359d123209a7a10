/**
 * A client of MIRL servers: questions about pictures, answers with their evidence.
 *
 *     client.ts     `Mirl`: ask, stream, describe, score
 *     answers.ts    results: `Answer`, `Descriptions`, `Scores`, and the evidence
 *     events.ts     events of a streamed answer
 *     pictures.ts   pictures from files, bytes, blobs and URLs
 *     scaling.ts    pictures within bounds
 *     requests.ts   bodies of requests; reading.ts: bodies of responses
 *     openapi.ts    types of the server's API, generated
 *     runtime.ts    what Node has and browsers lack
 */

export {
  type Answer,
  type Budget,
  type Chain,
  type Cost,
  type Decoding,
  type Description,
  type Descriptions,
  type Evidence,
  type Message,
  type Options,
  type Preset,
  type Representative,
  type Score,
  type Scores,
  type Stage,
  type Switch,
  type Vote,
  evidence,
} from "./answers.js";
export { Mirl, type MirlSettings } from "./client.js";
export { NotMIRLError, PictureError } from "./errors.js";
export type {
  Branched,
  ChainDone,
  Decided,
  Described,
  FellBack,
  Finished,
  Gated,
  MirlEvent,
  Started,
  TextDelta,
} from "./events.js";
export { type Picture, pictureURL } from "./pictures.js";
export type { AskSettings, Extra, ScoreSettings } from "./requests.js";
export type { Bounds } from "./scaling.js";
