/** Pictures of every kind. */

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { type Picture, PictureError, pictureURL } from "mirl-client";
import { PNG, PNG_URL } from "./stub.js";

test("bytes, blobs, files, paths and URLs", async (context) => {
  const folder = await mkdtemp(join(tmpdir(), "mirl-"));
  context.after(() => rm(folder, { recursive: true }));
  const path = join(folder, "ein Bild.png");
  await writeFile(path, PNG);
  const middle = new Uint8Array([9, ...PNG, 9]).subarray(1, -1);
  const blob = new Blob([PNG], { type: "text/plain" });
  const pictures = [PNG, Buffer.from(PNG), PNG.slice().buffer, middle, blob, path, pathToFileURL(path), PNG_URL];
  for (const picture of [...pictures, new URL(PNG_URL)]) assert.equal(await pictureURL(picture), PNG_URL);
  assert.equal(await pictureURL("https://host/a.png"), "https://host/a.png");
  assert.equal(await pictureURL(new URL("http://host/a.png")), "http://host/a.png");
  assert.equal(await pictureURL("data:anything"), "data:anything");
});

test("the bytes decide the media type", async () => {
  const starts: [string, number[] | string][] = [
    ["jpeg", [0xff, 0xd8, 0xff, 0xe0]],
    ["gif", "GIF89a"],
    ["bmp", "BM??"],
    ["webp", "RIFF\0\0\0\0WEBPVP8 "],
  ];
  for (const [kind, start] of starts) {
    const data = Buffer.from(start as string, "latin1");
    assert.equal(await pictureURL(data), `data:image/${kind};base64,${data.toString("base64")}`);
  }
});

test("large pictures keep their bytes", async () => {
  const data = Uint8Array.from({ length: 200_001 }, (_, index) => (index < 8 ? PNG[index]! : (index * 7) % 256));
  assert.equal(await pictureURL(data), `data:image/png;base64,${Buffer.from(data).toString("base64")}`);
});

test("what can't be read is a PictureError", async (context) => {
  await assert.rejects(pictureURL("missing.png"), (error) => {
    assert.ok(error instanceof PictureError);
    assert.match(error.message, /^missing\.png: ENOENT/);
    assert.equal((error.cause as NodeJS.ErrnoException).code, "ENOENT");
    return true;
  });
  await assert.rejects(pictureURL(new Uint8Array()), { message: "the picture: no PNG, JPEG, WebP, GIF or BMP file" });
  await assert.rejects(pictureURL(new Blob(["RIFF????WAVE"])), PictureError);
  await assert.rejects(pictureURL(7 as unknown as Picture), PictureError);
  // As in a browser.
  context.mock.method(process, "getBuiltinModule", () => undefined);
  await assert.rejects(pictureURL("chart.png"), { name: "PictureError", message: /^chart\.png: only Node reads files/ });
});

test("bounds take a browser, and bytes that the client has", async () => {
  assert.equal(await pictureURL(PNG, {}), PNG_URL);
  for (const picture of [PNG, PNG_URL]) {
    await assert.rejects(pictureURL(picture, { maxSide: 64 }), {
      name: "PictureError",
      message: "the picture: only browsers scale pictures; leave maxPixels and maxSide out, or scale it before",
    });
  }
  await assert.rejects(pictureURL(PNG, { maxPixels: 0 }), { message: /at least one pixel; the bound is 0$/ });
  await assert.rejects(pictureURL("https://host/a.png", { maxSide: 64 }), { message: /^the server fetches a picture/ });
  await assert.rejects(pictureURL("data:image/png,abc", { maxSide: 64 }), { message: /no PNG, JPEG/ });
  await assert.rejects(pictureURL("data:no comma", { maxSide: 64 }), { message: "the data URL can't be read" });
});
