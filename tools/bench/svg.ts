import { type Measured, PATHS } from './case.ts';
import { GATES } from './gates.ts';
import { scaled, words } from './judge.ts';

const WIDTH = 1100;
const LEFT = 520;
const RIGHT = 110;
const LINE = 18;

const text = (value: string) => value.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

/** Places of figures on a logarithmic scale over all rows of one unit. */
function scaleOf(figures: readonly number[]): (figure: number) => number {
  const positive = figures.filter((f) => f > 0);
  const low = Math.log10(Math.min(...positive)) - 0.2;
  const high = Math.log10(Math.max(...positive)) + 0.05;
  return (figure) =>
    figure <= 0 ? 0 : ((Math.log10(figure) - low) / Math.max(0.1, high - low)) * (WIDTH - LEFT - RIGHT);
}

/**
 * A page with a bar for each row, by path: the median as it would be on the machine of the gates, the quartiles as a line over
 * it, the gate as a mark. Scales are logarithmic, one for each unit.
 */
export function drawing(rows: readonly Measured[]): string {
  const gates = new Map(GATES.filter((g) => g.of === undefined).map((g) => [g.title, g.atMost]));
  const scales = new Map(
    [...new Set(rows.map((m) => m.unit))].map((unit) => {
      const own = rows.filter((m) => m.unit === unit);
      return [unit, scaleOf(own.flatMap((m) => [scaled(m), gates.get(m.title) ?? scaled(m)]))] as const;
    }),
  );
  const parts: string[] = [];
  let y = 24;
  for (const path of PATHS) {
    const own = rows.filter((m) => m.path === path);
    if (own.length === 0) continue;
    parts.push(`<text x="8" y="${y + 12}" class="path">${text(path)}</text>`);
    y += LINE + 6;
    for (const m of own) {
      parts.push(...bar(m, y, scales.get(m.unit)!, gates.get(m.title)));
      y += LINE;
    }
    y += 10;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y + 10}" viewBox="0 0 ${WIDTH} ${y + 10}">
<style>text { font: 12px sans-serif; fill: #222 } .path { font-weight: bold; font-size: 14px } .within { fill: #4a90c2 } .above { fill: #c2564a } .plain { fill: #9aa7b0 }
.gate { stroke: #222; stroke-width: 2 } .spread { stroke: #222; stroke-width: 1; opacity: .6 }</style>
<rect width="100%" height="100%" fill="#fff"/>
${parts.join('\n')}
</svg>
`;
}

function bar(m: Measured, y: number, at: (figure: number) => number, gate: number | undefined): string[] {
  const figure = scaled(m);
  const part = figure / m.value;
  const kind = gate === undefined ? 'plain' : figure <= gate ? 'within' : 'above';
  const x = (f: number) => (LEFT + at(f)).toFixed(1);
  const middle = y + LINE / 2 - 1;
  return [
    `<text x="${LEFT - 8}" y="${y + 12}" text-anchor="end">${text(m.title.slice(m.path.length + 2))}</text>`,
    `<rect class="${kind}" x="${LEFT}" y="${y + 2}" width="${Math.max(1, at(figure)).toFixed(1)}" height="${LINE - 6}"/>`,
    `<line class="spread" x1="${x(m.low * part)}" x2="${x(m.high * part)}" y1="${middle}" y2="${middle}"/>`,
    ...(gate === undefined
      ? []
      : [`<line class="gate" x1="${x(gate)}" x2="${x(gate)}" y1="${y}" y2="${y + LINE - 2}"/>`]),
    `<text x="${WIDTH - 6}" y="${y + 12}" text-anchor="end">${words(figure, m.unit)}</text>`,
  ];
}
