// Checks custom resources by the types of their projects. Reads a JSON array of objects from standard input and
// prints a JSON array of faults. Values are checked by the packages' schemas; unknown keys, which those let pass,
// by TypeScript, which refuses them in literals.

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

// The packages' entry for import of their older builds is not one that Node takes.
const require = createRequire(import.meta.url);
const MODULES = {
  "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};

async function load(name) {
  try {
    return require(name);
  } catch {
    return await import(name);
  }
}

const objects = JSON.parse(readFileSync(0, "utf8"));
const faults = [];
const lines = [];
for (const [number, object] of objects.entries()) {
  const name = MODULES[object.apiVersion];
  const Model = name && (await load(name))[object.kind];
  if (Model === undefined) {
    faults.push(`${object.apiVersion} ${object.kind}: unknown kind`);
    continue;
  }
  try {
    new Model(object).validate();
  } catch (error) {
    faults.push(`${object.kind} ${object.metadata?.name}: ${error.message}`);
  }
  lines.push(`import type { I${object.kind} as I${number} } from ${JSON.stringify(name)};`);
  lines.push(`export const object${number}: I${number} = ${JSON.stringify(object)};`);
}
writeFileSync("objects.ts", lines.join("\n"));
const flags = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"];
const done = spawnSync("node_modules/.bin/tsc", [...flags, "objects.ts"], { encoding: "utf8" });
if (done.status !== 0) faults.push(done.stdout + done.stderr);
console.log(JSON.stringify(faults));
