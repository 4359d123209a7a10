/** The README: its examples compile and run, in their order, and it names all that the package exports. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { promisify } from "node:util";
import { PNG, Stub } from "./stub.js";

const ROOT = new URL("../../", import.meta.url);

/** Run a program of Node, and return what it writes. */
async function run(cwd: URL, ...words: string[]): Promise<string> {
  try {
    return (await promisify(execFile)(process.execPath, words, { cwd })).stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    return assert.fail(stdout + stderr);
  }
}

test("its examples compile and run", async (context) => {
  const stub = await Stub.start(context);
  const folder = new URL("build/readme/", ROOT);
  await mkdir(folder, { recursive: true });
  for (const name of ["chart.png", "tuesday.png"]) await writeFile(new URL(name, folder), PNG);
  const readme = await readFile(new URL("README.md", ROOT), "utf8");
  const blocks = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code);
  assert.equal(blocks.length, 8);
  const code = blocks.join("\n").replaceAll("http://127.0.0.1:8000", stub.url).replaceAll("https://host", stub.url);
  await writeFile(new URL("examples.ts", folder), code);
  const settings = {
    extends: "../../tsconfig.json",
    compilerOptions: { rootDir: ".", outDir: ".", types: ["node"], declaration: false },
    files: ["examples.ts"],
    include: [],
  };
  await writeFile(new URL("tsconfig.json", folder), JSON.stringify(settings));
  await run(ROOT, "node_modules/typescript/bin/tsc", "-p", "build/readme");
  const lines = (await run(folder, "examples.js")).split("\n");
  assert.equal(lines[0], "24 0.75");
  assert.ok(lines.includes("kept: 2"));
  assert.ok(lines.includes("decided, with 1 chains still running"));
  assert.ok(lines.includes("answer: 24"));
  assert.ok(lines.includes("stopped: true"));
  assert.ok(lines.includes("a dog 0.5 [ -0.5, 1 ] [ 'a', ' dog' ]"));
  assert.ok(lines.includes("400 out_of_range temperature"));
  assert.deepEqual(lines.slice(-2), ["24 0.75", ""]);
});

test("it names all that the package exports", async () => {
  const readme = await readFile(new URL("README.md", ROOT), "utf8");
  const exported = (await readFile(new URL("dist/index.d.ts", ROOT), "utf8")).matchAll(/export (?:type )?\{([^}]*)\}/g);
  const names = [...exported].flatMap(([, list = ""]) => list.split(",").map((name) => name.replace("type", "").trim()));
  assert.ok(names.length > 30);
  assert.deepEqual(
    names.filter((name) => !new RegExp(`[\`{ (]${name}\\b`).test(readme)),
    [],
  );
});
