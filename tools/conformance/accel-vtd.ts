import type { Random } from '../oracle/random.ts';
import { type AccelKind, type AccelStep, marks, w32, w64, zero } from './accel-script.ts';

const B = 0xfed9_0000;
const DEVFN = 8;
const ROOT = 0x20_0000;
const CONTEXTS = 0x20_1000;
const DIRECTORY = 0x20_2000;
const PASIDS = 0x20_3000;
const QUEUE = 0x21_0000;
const MARKS = 0x30_0000;
/** Two address spaces: four levels of tables below one entry each, and their domain ids. */
const SPACES = [0, 1].map((n) => ({ tables: 0x22_0000 + 0x1_0000 * n, did: 5n + BigInt(n) }));
const PASS_THROUGH_DID = 1n;
/** The addresses of both spaces: pages of one last-level table. Without translation nothing is there. */
const IOVA = 0x70_0000_0000;
const PAGES = 4;
/** 256-bit descriptors in one page. */
const ENTRIES = 128;

function leaf(n: number, page: number, mark: number): string {
  return w64(SPACES[n]!.tables + 0x3000 + 8 * page, mark < 0 ? 0 : BigInt(MARKS + 0x1000 * mark) | 0x67n);
}

function tables(n: number): string[] {
  const { tables: at } = SPACES[n]!;
  const table = (to: number) => BigInt(to) | 0x27n;
  return [
    zero(at, 0x4000),
    w64(at, table(at + 0x1000)),
    w64(at + 0x1000 + 8 * Math.floor(IOVA / 2 ** 30), table(at + 0x2000)),
    w64(at + 0x2000, table(at + 0x3000)),
    ...Array.from({ length: PAGES - 1 }, (_, page) => leaf(n, page, 1 + 4 * n + page)),
  ];
}

function pasidEntry(w0: bigint, w1: bigint, w2: bigint): string[] {
  return [
    w64(PASIDS, w0),
    w64(PASIDS + 8, w1),
    w64(PASIDS + 16, w2),
    ...[3, 4, 5, 6, 7].map((i) => w64(PASIDS + 8 * i, 0)),
  ];
}

const firstStage = (n: number) => () =>
  pasidEntry(1n | (1n << 6n) | (2n << 2n), SPACES[n]!.did, BigInt(SPACES[n]!.tables) | 1n | (1n << 4n));

const PASID_ENTRIES: Readonly<Record<string, { readonly did: bigint; write(): string[] }>> = {
  'pass-through': {
    did: PASS_THROUGH_DID,
    write: () => pasidEntry(1n | (4n << 6n) | (2n << 2n), PASS_THROUGH_DID, 0n),
  },
  'space 0': { did: SPACES[0]!.did, write: firstStage(0) },
  'space 1': { did: SPACES[1]!.did, write: firstStage(1) },
  absent: { did: 0n, write: () => pasidEntry(0n, 0n, 0n) },
};

/** Keeps the queue's tail, and which entry is in force. */
class VtdGuest {
  #tail = 0;
  did = 0n;

  command(w0: bigint, w1 = 0n): string[] {
    const at = QUEUE + 32 * this.#tail;
    this.#tail = (this.#tail + 1) % ENTRIES;
    return [w64(at, w0), w64(at + 8, w1), w64(at + 16, 0), w64(at + 24, 0), w64(B + 0x88, this.#tail << 5)];
  }
}

export const vtdAccel: AccelKind = {
  name: 'vtd',
  machine: ['-M', 'q35', '-m', '64'],
  qemu: ['-device', 'intel-iommu,scalable-mode=on,fsts=on,caching-mode=on'],
  ours: ['-device', 'intel-iommu,scalable-mode=on,fsts=on,caching-mode=on', '-device', 'iommu-testdev,addr=1'],
  prelude: [
    'outl 0xcf8 0x80000804',
    'outw 0xcfc 0x6',
    ...[ROOT, CONTEXTS, DIRECTORY, PASIDS].map((at) => zero(at, 0x1000)),
    ...marks(MARKS, 12),
    ...tables(0),
    ...tables(1),
    ...pasidEntry(1n | (4n << 6n) | (2n << 2n), PASS_THROUGH_DID, 0n),
    w64(ROOT, BigInt(CONTEXTS) | 1n),
    w64(CONTEXTS + 32 * DEVFN, BigInt(DIRECTORY) | 1n),
    w64(DIRECTORY, BigInt(PASIDS) | 1n),
    w64(B + 0x88, 0),
    w64(B + 0x90, BigInt(QUEUE) | (1n << 11n)),
    w32(B + 0x18, 1 << 26),
    w64(B + 0x20, BigInt(ROOT) | (1n << 10n)),
    w32(B + 0x18, (1 << 26) + (1 << 30)),
  ],
  // Queue head and translation status. Of the fault status not what faults leave: QEMU records none of a nested function.
  reads: [
    { request: `readq 0x${(B + 0x80).toString(16)}`, mask: ~0n },
    { request: `readl 0x${(B + 0x34).toString(16)}`, mask: 0xf0n },
    { request: `readl 0x${(B + 0x1c).toString(16)}`, mask: ~0n },
  ],
  probes: [MARKS, IOVA, IOVA + 0x1000, IOVA + 0x2000, IOVA + 0x3000],
  script(random: Random, steps: number): AccelStep[] {
    const g = new VtdGuest();
    const everything = () => [
      ...g.command(1n | (1n << 4n)),
      ...g.command(7n | (3n << 4n)),
      ...g.command(2n | (1n << 4n)),
    ];
    g.did = PASS_THROUGH_DID;
    const out: AccelStep[] = [{ name: 'start', requests: [...everything(), w32(B + 0x18, (1 << 26) + 2 ** 31)] }];
    // What a driver sends when an entry changed: the PASID cache by the old and by the new domain, or all of it.
    const told = (did: bigint) =>
      random.below(2) === 0
        ? g.command(7n | (3n << 4n))
        : [g.did, did].filter((d) => d !== 0n).flatMap((d) => g.command(7n | (1n << 4n) | (d << 16n)));
    function change(name: string): string[] {
      const entry = PASID_ENTRIES[name]!;
      const requests = [...entry.write(), ...told(entry.did)];
      // Old translations of a domain that comes back.
      for (const s of SPACES) requests.push(...g.command(6n | (2n << 4n) | (s.did << 16n)));
      g.did = entry.did;
      return requests;
    }
    while (out.length < steps) {
      const space = random.below(2);
      const page = random.below(PAGES);
      const { did } = SPACES[space]!;
      const address = BigInt(IOVA + 0x1000 * page);
      switch (random.below(8)) {
        case 0:
        case 1:
        case 2: {
          const name = random.pick(Object.keys(PASID_ENTRIES));
          out.push({ name: `PASID entry ${name}`, requests: change(name) });
          break;
        }
        case 3:
          out.push({ name: 'same PASID entry', requests: told(g.did) });
          break;
        case 4:
        case 5: {
          const changed = leaf(space, page, random.below(9) - 1);
          const how = random.pick([
            () => g.command(6n | (2n << 4n) | (did << 16n)),
            () => g.command(6n | (3n << 4n) | (did << 16n), address),
            () => g.command(6n | (3n << 4n) | (did << 16n), (address & ~0x3fffn) | 2n),
          ]);
          out.push({ name: 'PASID-based IOTLB', requests: [changed, ...how()] });
          break;
        }
        case 6:
          out.push({ name: 'device TLB', requests: g.command(3n | (BigInt(DEVFN) << 32n), address) });
          break;
        default:
          out.push({
            name: 'IOTLB',
            requests: g.command(random.pick([2n | (1n << 4n), 2n | (2n << 4n) | (did << 16n)])),
          });
      }
    }
    // What both are attached to when translation goes off, which tells QEMU nothing.
    out.push({ name: 'PASID entry pass-through', requests: change('pass-through') });
    // QEMU turns the queue off only behind a wait descriptor.
    const wait = g.command(5n | (1n << 5n) | (0x77n << 32n), 0x24_0000n);
    out.push({ name: 'end', requests: [...wait, w32(B + 0x18, 1 << 26), w32(B + 0x18, 0)] });
    return out;
  },
};
