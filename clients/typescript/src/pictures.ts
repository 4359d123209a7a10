/** Pictures as URLs that a request carries. */

import { PictureError } from "./errors.js";
import { fileReader } from "./runtime.js";
import { type Bounds, isBounded, scaledDown } from "./scaling.js";

/**
 * A picture: a file's bytes, a `Blob` or `File`, a data or http(s) URL, or in Node a path or `file:` URL.
 *
 * The bytes are those of a PNG, JPEG, WebP, GIF or BMP file.
 */
export type Picture = string | URL | Uint8Array | ArrayBuffer | Blob;

const SIGNATURES: readonly (readonly [string, readonly number[]])[] = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/gif", [0x47, 0x49, 0x46, 0x38]],
  ["image/bmp", [0x42, 0x4d]],
];
const RIFF = [0x52, 0x49, 0x46, 0x46];
const WEBP = [0x57, 0x45, 0x42, 0x50];

/**
 * Return the URL of a picture for an `image_url` part: a data URL, or the picture's own http(s) URL.
 *
 * A picture within the bounds goes out as the bytes that it is.
 *
 * @throws {PictureError} the picture can't be read, is in a format that the server does not take, or can't be scaled
 *   down: only browsers do that, and the server fetches a picture by http(s) URL.
 */
export async function pictureURL(picture: Picture, bounds: Bounds = {}): Promise<string> {
  if (typeof picture === "string" || picture instanceof URL) {
    const address = String(picture);
    if (/^https?:/i.test(address)) {
      if (isBounded(bounds)) throw new PictureError("the server fetches a picture by URL: the client can't scale it down");
      return address;
    }
    if (/^data:/i.test(address)) {
      // The server decides about these.
      return isBounded(bounds) ? dataURL(await dataBytes(address), "the picture", bounds) : address;
    }
    return dataURL(await fileBytes(picture), address, bounds);
  }
  if (picture instanceof Uint8Array) return dataURL(picture, "the picture", bounds);
  if (picture instanceof ArrayBuffer) return dataURL(new Uint8Array(picture), "the picture", bounds);
  if (picture instanceof Blob) return dataURL(new Uint8Array(await picture.arrayBuffer()), "the picture", bounds);
  throw new PictureError("a picture is a path, a URL, bytes or a Blob");
}

/** Return the media type of a file in a format that the server takes; undefined for another one. */
export function mediaType(data: Uint8Array): string | undefined {
  if (hasAt(data, 0, RIFF) && hasAt(data, 8, WEBP)) return "image/webp";
  return SIGNATURES.find(([, start]) => hasAt(data, 0, start))?.[0];
}

function hasAt(data: Uint8Array, offset: number, bytes: readonly number[]): boolean {
  return bytes.every((byte, index) => data[offset + index] === byte);
}

async function fileBytes(path: string | URL): Promise<Uint8Array> {
  const read = fileReader();
  if (read === undefined) throw new PictureError(`${path}: only Node reads files; give a Blob or a File`);
  try {
    return await read(path);
  } catch (error) {
    throw new PictureError(`${path}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

/** Return what a data URL holds. */
async function dataBytes(address: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await (await fetch(address)).arrayBuffer());
  } catch (error) {
    throw new PictureError("the data URL can't be read", { cause: error });
  }
}

async function dataURL(data: Uint8Array, name: string, bounds: Bounds): Promise<string> {
  const kind = mediaType(data);
  if (kind === undefined) throw new PictureError(`${name}: no PNG, JPEG, WebP, GIF or BMP file`);
  const [bytes, type] = isBounded(bounds) ? await scaledDown(data, kind, bounds, name) : [data, kind];
  return `data:${type};base64,${base64(bytes)}`;
}

function base64(data: Uint8Array): string {
  // In pieces: a call has a limited number of arguments.
  const size = 0x8000;
  let binary = "";
  for (let start = 0; start < data.length; start += size) {
    binary += String.fromCharCode(...data.subarray(start, start + size));
  }
  return btoa(binary);
}
