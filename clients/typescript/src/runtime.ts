/** What the client takes from Node, where it runs there: the environment and files. Nothing is imported from Node. */

interface NodeProcess {
  env?: Record<string, string | undefined>;
  getBuiltinModule?(name: "node:fs/promises"): { readFile(path: string | URL): Promise<Uint8Array> } | undefined;
}

const node = (globalThis as { process?: NodeProcess }).process;

/** Return a variable of the environment; undefined in browsers, and where it is empty. */
export function environment(name: string): string | undefined {
  return node?.env?.[name] || undefined;
}

/** Return the function that reads a file; undefined in browsers. */
export function fileReader(): ((path: string | URL) => Promise<Uint8Array>) | undefined {
  return node?.getBuiltinModule?.("node:fs/promises")?.readFile;
}
