import fc from 'fast-check';

/** Where something lies in plain data. */
type Path = readonly (string | number)[];

/** An object or a list. */
type Members = Record<string | number, unknown>;

/** A change of one field of a saved state. */
export interface Corruption {
  /** The field, in words of its path. */
  readonly path: string;
  /** The whole state with the change. */
  readonly state: unknown;
}

const STRANGE: readonly unknown[] = [
  null,
  undefined,
  '',
  'unset',
  'nested',
  'bypass',
  true,
  false,
  [],
  {},
  [0],
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -0,
  0.5,
  -1,
  0,
  1,
  2,
  7,
  255,
  4096,
  2 ** 31,
  2 ** 32,
  2 ** 40,
  2 ** 53,
  2 ** 64,
  1e300,
  10n,
];

/** Every path below `value`, containers before what is in them. */
function paths(value: unknown, at: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [at];
  const own = at.length === 0 ? [] : [at];
  return [
    ...own,
    ...Object.entries(value).flatMap(([k, v]) => paths(v, [...at, Array.isArray(value) ? Number(k) : k])),
  ];
}

function get(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((v, k) => (v as Record<string | number, unknown>)[k], value);
}

function copy<T>(value: T): T {
  return structuredClone(value);
}

/** One field is another value, missing, longer or shorter, or there is one too many. */
export function corruption(state: unknown): fc.Arbitrary<Corruption> {
  const all = paths(state);
  const change = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...STRANGE).map((v) => ({ how: 'set' as const, v })) },
    { weight: 2, arbitrary: fc.integer().map((v) => ({ how: 'set' as const, v: v as unknown })) },
    { weight: 2, arbitrary: fc.nat(63).map((v) => ({ how: 'flip' as const, v: v as unknown })) },
    {
      weight: 3,
      arbitrary: fc
        .constantFrom('drop' as const, 'extra' as const, 'double' as const)
        .map((how) => ({ how, v: 0 as unknown })),
    },
  );
  // Long lists of words must not hide the few other fields.
  const groups = [
    all.filter((p) => p.length <= 2 && typeof p.at(-1) === 'string'),
    all.filter((p) => p[0] !== 'registers' && p[0] !== 'regs'),
    all,
  ];
  const where = fc.oneof(...groups.filter((g) => g.length > 0).map((g) => fc.constantFrom(...g)));
  return fc.tuple(where, change).map(([path, { how, v }]) => {
    const out = copy(state);
    const parent = get(out, path.slice(0, -1)) as Members;
    const key = path.at(-1)!;
    apply(how, parent, key, v);
    return { path: path.join('.'), state: out };
  });
}

function apply(
  how: 'set' | 'flip' | 'drop' | 'double' | 'extra',
  parent: Members,
  key: string | number,
  v: unknown,
): void {
  const old = parent[key];
  switch (how) {
    case 'set':
      parent[key] = v;
      return;
    case 'flip':
      parent[key] = typeof old === 'number' ? old + 2 ** (v as number) : !old;
      return;
    case 'drop':
      if (Array.isArray(parent)) parent.splice(key as number, 1);
      else delete parent[key];
      return;
    case 'double':
      parent[key] = Array.isArray(old) ? [...old, old.length > 0 ? copy(old[0]) : 0] : [old];
      return;
    case 'extra':
      if (typeof old === 'object' && old !== null && !Array.isArray(old)) (old as Members).more = 1;
      else if (Array.isArray(parent)) parent.splice(key as number, 0, copy(old));
      else parent.more = 1;
  }
}
