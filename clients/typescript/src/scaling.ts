/** Pictures within bounds; the runtime decodes and encodes them, as browsers do and Node does not. */

import { PictureError } from "./errors.js";

/** Bounds of a picture. A larger one is scaled down, its shape kept, which takes a browser's canvas. */
export interface Bounds {
  /** Most pixels of a picture. */
  maxPixels?: number;
  /** Most pixels of a picture's longer side. */
  maxSide?: number;
}

type Size = readonly [width: number, height: number];

/** Return whether a bound is set. */
export function isBounded({ maxPixels, maxSide }: Bounds): boolean {
  return maxPixels !== undefined || maxSide !== undefined;
}

/**
 * Return a file's bytes and media type: those that it has where it is within the bounds, else a smaller picture's.
 *
 * The picture is upright then, as its EXIF data say. A JPEG stays a JPEG, all else becomes a PNG.
 *
 * @throws {PictureError} a bound is below 1, the runtime has no canvas, or the picture can't be decoded.
 */
export async function scaledDown(
  data: Uint8Array,
  type: string,
  bounds: Bounds,
  name: string,
): Promise<readonly [Uint8Array, string]> {
  for (const bound of [bounds.maxPixels, bounds.maxSide]) {
    if (bound !== undefined && !(bound >= 1)) {
      throw new PictureError(`a picture has at least one pixel; the bound is ${bound}`);
    }
  }
  if (typeof createImageBitmap !== "function" || typeof OffscreenCanvas !== "function") {
    throw new PictureError(`${name}: only browsers scale pictures; leave maxPixels and maxSide out, or scale it before`);
  }
  const bitmap = await createImageBitmap(new Blob([data as BlobPart], { type })).catch((error: unknown) => {
    throw new PictureError(`${name}: can't be decoded`, { cause: error });
  });
  try {
    const whole: Size = [bitmap.width, bitmap.height];
    if (factor(whole, bounds) === 1) return [data, type];
    const [width, height] = boundedSize(whole, bounds);
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    if (context === null) throw new PictureError(`${name}: the browser gives no canvas`);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    const kind = type === "image/jpeg" ? type : "image/png";
    const blob = await canvas.convertToBlob({ type: kind, quality: 0.95 });
    return [new Uint8Array(await blob.arrayBuffer()), kind];
  } finally {
    bitmap.close();
  }
}

/** Return the factor of both sides that brings a size within the bounds, at most 1. */
function factor([width, height]: Size, { maxPixels, maxSide }: Bounds): number {
  const side = maxSide === undefined ? 1 : maxSide / Math.max(width, height);
  const pixels = maxPixels === undefined ? 1 : Math.sqrt(maxPixels / (width * height));
  return Math.min(1, side, pixels);
}

/** Return the largest size of about the same shape within the bounds, each side at least 1. */
function boundedSize(whole: Size, bounds: Bounds): Size {
  const scale = factor(whole, bounds);
  const [width, height] = whole.map((side) => Math.max(1, Math.floor(side * scale))) as [number, number];
  const most = bounds.maxPixels === undefined ? Infinity : Math.floor(bounds.maxPixels);
  if (width * height <= most) return [width, height];
  // A side that was raised to 1 leaves the other one too long.
  return height === 1 ? [most, 1] : [1, most];
}
