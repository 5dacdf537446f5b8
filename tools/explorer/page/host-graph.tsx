import type { HostAttachment, HostObject } from '../../explain/objects.ts';

interface Props {
  readonly objects: readonly HostObject[];
  readonly attachments: readonly HostAttachment[];
}

interface Line {
  readonly object: HostObject;
  readonly depth: number;
  /** Line of what it stands on; -1: nothing. */
  readonly on: number;
}

const HEIGHT = 30;
const BOX = 24;
const INDENT = 26;
/** Widths of letters, roughly: boxes are as wide as what they say. */
const LETTER = 6.4;
const MOST = 60;

function kindOf(text: string): string {
  return /\((\w+)\)/.exec(text)?.[1] ?? 'queue';
}

/** Objects in the order of a tree: each below what it stands on. */
function linesOf(objects: readonly HostObject[], parent = 0, depth = 0, into: Line[] = []): Line[] {
  const on = into.length - 1;
  for (const object of objects) {
    if (object.parent !== parent) continue;
    into.push({ object, depth, on });
    linesOf(objects, object.id, depth + 1, into);
  }
  return into;
}

/** The objects of the host's iommufd, each on what it stands on, with the devices that are attached to it. */
export function HostGraph({ objects, attachments }: Props) {
  if (objects.length === 0) return <p class="faint">none</p>;
  const all = linesOf(objects);
  const lines = all.slice(0, MOST);
  const described = attachments.map((a) => `${a.device} is attached to object ${a.to}`).join('; ');
  const boxes = lines.map(({ object, depth }, n) => {
    const title = `${kindOf(object.text)} ${object.id}`;
    const text = object.text.replace(/ \(\w+\)/, '');
    const x = depth * INDENT + 1;
    const width = (title.length + 1) * 7.4 + text.length * LETTER + 22;
    const users = attachments
      .filter((a) => a.to === object.id)
      .map((a) => `${a.device}${a.pasid < 0 ? '' : `, PASID 0x${a.pasid.toString(16)}`}`);
    return { object, title, text, x, y: n * HEIGHT + 2, width, users };
  });
  const right = (b: (typeof boxes)[number]) => b.users.reduce((x, u) => x + u.length * 7 + 46, b.x + b.width);
  const width = Math.max(...boxes.map(right)) + 4;
  const height = lines.length * HEIGHT + 4;
  return (
    <div class="graph">
      <svg width={width} height={height} role="img" aria-label={`Host objects. ${described}`}>
        {lines.map(({ object, on }, n) => {
          const [from, to] = [boxes[on], boxes[n]!];
          if (from === undefined) return null;
          return <path key={object.id} d={`M${from.x + 12} ${from.y + BOX} V${to.y + BOX / 2} H${to.x}`} />;
        })}
        {boxes.map((b) => (
          <g key={b.object.id} class={`box ${kindOf(b.object.text)}`}>
            <rect x={b.x} y={b.y} width={b.width} height={BOX} rx="4" />
            <text x={b.x + 9} y={b.y + 16}>
              <tspan class="title">{b.title}</tspan>
              <tspan dx="8">{b.text}</tspan>
            </text>
          </g>
        ))}
        {boxes.flatMap((b) => {
          let x = b.x + b.width;
          return b.users.map((user) => {
            const [from, wide] = [x, user.length * 7 + 18];
            x += wide + 28;
            return (
              <g key={`${b.object.id} ${user}`} class="box device">
                <path class="attached" d={`M${from} ${b.y + BOX / 2} H${from + 28}`} />
                <rect x={from + 28} y={b.y} width={wide} height={BOX} rx="12" />
                <text x={from + 28 + wide / 2} y={b.y + 16} text-anchor="middle">
                  {user}
                </text>
              </g>
            );
          });
        })}
      </svg>
      {lines.length < all.length && <p class="faint">and {all.length - lines.length} more</p>}
    </div>
  );
}
