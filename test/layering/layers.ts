/**
 * The rooms of the tree, lowest first. A room imports itself and the rooms of the rows above its own; rooms of one row do not
 * know each other. This is the only place that says so.
 */
export const LAYERS: readonly (readonly string[])[] = [
  ['src/core'],
  ['src/spec'],
  ['src/ports'],
  ['src/lib'],
  ['devices/smmuv3', 'devices/vtd', 'devices/endpoints', 'bus', 'src/host', 'src/piommu', 'src/trace', 'src/sanitize'],
  ['src/machine', 'src/history'],
  ['src/adapters/iommufd-socket', 'src/adapters/qemu', 'src/adapters/qtest', 'src/adapters/v86', 'src/index.ts'],
  ['guest-fixtures'],
  ['tools'],
];

/** The oracles repeat the architecture from its text: what they test must not be what they are made of. */
export const ORACLE = { room: 'tools/oracle', imports: ['tools/oracle', 'src/core'] } as const;

/** The room a file lies in, or undefined: a file outside of every room is a mistake of the table or of the file. */
export function roomOf(file: string): string | undefined {
  return LAYERS.flat().find((room) => file === room || file.startsWith(`${room}/`));
}

/** Why `importer` may not import `imported`, or null when it may. Both are paths from the root of the tree. */
export function forbidden(importer: string, imported: string): string | null {
  const from = roomOf(importer);
  const to = roomOf(imported);
  if (from === undefined) return `${importer} lies in no room of test/layering/layers.ts`;
  if (to === undefined) return `${from} imports only rooms of test/layering/layers.ts, and nothing of test`;
  const height = (room: string): number => LAYERS.findIndex((row) => row.includes(room));
  if (from === to || height(to) < height(from)) return null;
  return height(to) === height(from)
    ? `${from} and ${to} do not know each other: they meet in a room above, through src/ports`
    : `${to} lies above ${from}: imports point down`;
}
