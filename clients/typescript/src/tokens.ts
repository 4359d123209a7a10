/** Tokens of a text as texts, from the strings that vLLM's `/tokenize` returns. */

const PRINTABLE = /^[!-~¡-¬®-ÿ]$/;
const BYTES = byteTable();

/**
 * Return the piece of a text that each of its tokens spells; null where the strings don't spell it.
 *
 * A character that several tokens spell belongs to the last of them.
 *
 * @param strings the vocabulary's entries: of a byte-level one, or of SentencePiece.
 */
export function tokenTexts(strings: readonly string[], text: string): string[] | null {
  for (const read of [byteLevel, sentencePiece]) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const [first = "", ...rest] = strings.map((string) => decoder.decode(read(string), { stream: true }));
    const joined = [first, ...rest].join("");
    if (joined === text) return [first, ...rest];
    // SentencePiece puts a space before a text.
    if (joined === ` ${text}`) return [first.slice(1), ...rest];
  }
  return null;
}

function byteLevel(string: string): Uint8Array {
  const bytes = [...string].map((character) => BYTES.get(character));
  return bytes.every((byte) => byte !== undefined) ? Uint8Array.from(bytes) : new TextEncoder().encode(string);
}

function sentencePiece(string: string): Uint8Array {
  const [, byte] = /^<0x([0-9A-F]{2})>$/.exec(string) ?? [];
  if (byte !== undefined) return Uint8Array.of(parseInt(byte, 16));
  return new TextEncoder().encode(string.replaceAll("▁", " "));
}

/** Return the byte of each character of a byte-level vocabulary, as GPT-2 defined them. */
function byteTable(): Map<string, number> {
  const table = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const character = String.fromCharCode(byte);
    table.set(PRINTABLE.test(character) ? character : String.fromCharCode(next++), byte);
  }
  return table;
}
