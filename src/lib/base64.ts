const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
/** Six bits by character code; what is no character of the alphabet counts as 0. */
const BITS = new Uint8Array(128);
for (let i = 0; i < 64; i++) BITS[ALPHABET.charCodeAt(i)] = i;
const PAD = '='.charCodeAt(0);
/** Characters made into text at once: arguments of one call. */
const PIECE = 8192;

/** Bytes as base64 with padding (RFC 4648 §4), on every platform: Node's Buffer is not in a browser. */
export function toBase64(bytes: Uint8Array): string {
  const codes = new Uint8Array(Math.ceil(bytes.length / 3) * 4).fill(PAD);
  for (let i = 0, at = 0; i < bytes.length; i += 3, at += 4) {
    const word = (bytes[i]! << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0);
    const last = Math.min(3, bytes.length - i);
    for (let n = 0; n <= last; n++) codes[at + n] = ALPHABET.charCodeAt((word >>> (18 - 6 * n)) & 63);
  }
  let text = '';
  for (let i = 0; i < codes.length; i += PIECE) text += String.fromCharCode(...codes.subarray(i, i + PIECE));
  return text;
}

/** The bytes of a base64 text. Padding may be missing; the caller has checked the alphabet. */
export function fromBase64(text: string): Uint8Array {
  let length = text.length;
  while (length > 0 && text.charCodeAt(length - 1) === PAD) length--;
  const bytes = new Uint8Array((length * 3) >>> 2);
  let at = 0;
  let word = 0;
  for (let i = 0; i < length; i++) {
    word = (word << 6) | BITS[text.charCodeAt(i)]!;
    if ((i & 3) === 3) {
      bytes[at++] = word >>> 16;
      bytes[at++] = word >>> 8;
      bytes[at++] = word;
      word = 0;
    }
  }
  const left = length & 3;
  if (left === 3) {
    bytes[at++] = word >>> 10;
    bytes[at++] = word >>> 2;
  } else if (left === 2) bytes[at++] = word >>> 4;
  return bytes;
}
