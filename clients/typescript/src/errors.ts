/** Errors of the client; those of requests are the openai package's. */

import { OpenAIError } from "openai";

/** A picture can't be read. */
export class PictureError extends Error {
  override readonly name = "PictureError";
}

/** The server answers, but not as a MIRL server does. */
export class NotMIRLError extends OpenAIError {
  override readonly name = "NotMIRLError";
}
