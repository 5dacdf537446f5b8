/** A stretch of a console's line in one colour. */
export interface Coloured {
  readonly text: string;
  /** Names of classes: `c1` … `c7` red to white, `bright`, `bold`; '': as the rest. */
  readonly look: string;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters a terminal is driven with
const SEQUENCE = /\x1b\[([0-9;]*)([A-Za-z])|[\x00-\x08\x0b-\x1f\x7f]/g;

/** A line of a terminal as stretches of one colour (ECMA-48 SGR); what moves the cursor is left out. */
export function coloured(line: string): Coloured[] {
  const parts: Coloured[] = [];
  let colour = 0;
  let bright = false;
  let bold = false;
  let from = 0;
  const push = (to: number) => {
    if (to === from) return;
    const look = [colour > 0 ? `c${colour}` : '', bright ? 'bright' : '', bold ? 'bold' : ''];
    parts.push({ text: line.slice(from, to), look: look.filter((l) => l !== '').join(' ') });
  };
  for (const found of line.matchAll(SEQUENCE)) {
    push(found.index);
    from = found.index + found[0].length;
    if (found[2] !== 'm') continue;
    for (const code of (found[1] === '' ? '0' : found[1]!).split(';').map(Number)) {
      if (code === 0) [colour, bright, bold] = [0, false, false];
      else if (code === 1) bold = true;
      else if (code === 22) bold = false;
      else if (code >= 30 && code <= 37) [colour, bright] = [code - 30, false];
      else if (code >= 90 && code <= 97) [colour, bright] = [code - 90, true];
      else if (code === 39) [colour, bright] = [0, false];
    }
  }
  push(line.length);
  return parts;
}
