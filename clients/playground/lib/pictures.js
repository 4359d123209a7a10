import { Problem } from "../wire/errors.js";

/** @typedef {import("./types.js").Picture} Picture */

export const MOST = 8;
const LARGEST_SIDE = 1536;
/** Formats that the server reads as they are; others are converted here, where the browser reads them. */
const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];

/**
 * Return a picture file as a data URL: the file itself, or smaller where a side is longer than 1536 pixels.
 *
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Picture>}
 */
export async function readPicture(file, name) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Problem(`${name} can't be read as a picture.`);
  });
  const { width, height } = bitmap;
  const scale = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  try {
    if (scale === 1 && SENT_AS_THEY_ARE.includes(file.type)) {
      return { name, url: await dataURL(file), width, height };
    }
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const type = file.type === "image/jpeg" ? "image/jpeg" : "image/png";
    return { name, url: canvas.toDataURL(type, 0.92), width: canvas.width, height: canvas.height };
  } finally {
    bitmap.close();
  }
}

/**
 * Return the picture of an address of this server.
 *
 * @param {string} path
 */
export async function fetchPicture(path) {
  const response = await fetch(new URL(path, document.baseURI), { credentials: "omit" });
  if (!response.ok) throw new Problem("The sample picture can't be loaded.");
  return readPicture(await response.blob(), path.split("/").at(-1) ?? path);
}

/**
 * Return the picture files that were dropped or pasted.
 *
 * @param {DataTransfer | null} data
 */
export function picturesIn(data) {
  return [...(data?.files ?? [])].filter((file) => file.type.startsWith("image/") || !file.type);
}

/**
 * @param {Blob} file
 * @returns {Promise<string>}
 */
function dataURL(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(/** @type {string} */ (reader.result));
    reader.onerror = () => reject(new Problem("The file can't be read."));
    reader.readAsDataURL(file);
  });
}
