import type { Random } from '../oracle/random.ts';
import { type AccelKind, type AccelStep, marks, w32, w64, zero } from './accel-script.ts';

const B = 0x0c00_0000;
const SID = 8n;
const RAM = 0x4000_0000;
const STREAMS = RAM + 0x20_0000;
const CMDQ = RAM + 0x22_0000;
const EVENTQ = RAM + 0x23_0000;
const MARKS = RAM + 0x30_0000;
/** Two address spaces: context descriptor, and three levels of tables below one entry each. */
const SPACES = [0, 1].map((n) => ({
  cd: RAM + 0x24_0000 + 0x40 * n,
  tables: RAM + 0x25_0000 + 0x1_0000 * n,
  asid: 7 + n,
}));
/** The addresses of both spaces: pages of one last-level table. Without translation nothing is there. */
const IOVA = 0x9000_0000;
const PAGES = 4;
const ENTRIES = 256;

const CONS = `readl 0x${(B + 0x9c).toString(16)}`;
const GERROR = `readl 0x${(B + 0x60).toString(16)}`;

function cd(n: number, flags = 0n): string[] {
  const { cd: at, tables, asid } = SPACES[n]!;
  // T0SZ 16, 4 KiB, EPD1, valid, 48 bits, AArch64, record faults, one ASID set.
  const w0 = 16n | (1n << 8n) | (1n << 10n) | (1n << 12n) | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n);
  return [
    w64(at, w0 | (1n << 45n) | (1n << 46n) | (1n << 47n) | (BigInt(asid) << 48n) | flags),
    w64(at + 8, tables),
    w64(at + 16, 0),
    w64(at + 24, 0xff44_0c04_00n),
  ];
}

function leafAt(n: number, page: number): number {
  return SPACES[n]!.tables + 0x3000 + 8 * page;
}

function leaf(n: number, page: number, mark: number): string {
  return w64(leafAt(n, page), mark < 0 ? 0 : BigInt(MARKS + 0x1000 * mark) | 0x763n);
}

function tables(n: number): string[] {
  const { tables: at } = SPACES[n]!;
  const table = (to: number) => BigInt(to) | 3n;
  return [
    zero(at, 0x4000),
    w64(at, table(at + 0x1000)),
    w64(at + 0x1000 + 8 * (IOVA >>> 30), table(at + 0x2000)),
    w64(at + 0x2000 + 8 * ((IOVA >>> 21) & 511), table(at + 0x3000)),
    ...Array.from({ length: PAGES - 1 }, (_, page) => leaf(n, page, 1 + 4 * n + page)),
  ];
}

function ste(w0: bigint, w1: bigint): string[] {
  const at = STREAMS + 64 * Number(SID);
  return [w64(at, w0), w64(at + 8, w1), w64(at + 16, 0), w64(at + 24, 0)];
}

const STES: Readonly<Record<string, () => string[]>> = {
  bypass: () => ste(1n | (4n << 1n), 1n << 44n),
  abort: () => ste(1n, 0n),
  'space 0': () =>
    ste(1n | (5n << 1n) | BigInt(SPACES[0]!.cd), (1n << 2n) | (1n << 4n) | (3n << 6n) | (1n << 28n) | (1n << 44n)),
  'space 1': () =>
    ste(1n | (5n << 1n) | BigInt(SPACES[1]!.cd), (1n << 2n) | (1n << 4n) | (3n << 6n) | (1n << 28n) | (1n << 44n)),
};

/** Keeps the queue's producer, and what the guest has set up. */
class Smmuv3Guest {
  #prod = 0;
  #enabled = false;
  #abort = false;

  command(w0: bigint, w1 = 0n): string[] {
    const at = CMDQ + 16 * (this.#prod % ENTRIES);
    this.#prod = (this.#prod + 1) % (2 * ENTRIES);
    return [w64(at, w0), w64(at + 8, w1), w32(B + 0x98, this.#prod)];
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  enable(): string[] {
    this.#enabled = !this.#enabled;
    return [w32(B + 0x20, this.#enabled ? 0x9 : 0x8)];
  }

  globalBypass(): string[] {
    this.#abort = !this.#abort;
    return [w32(B + 0x44, 0x8000_0000 + (this.#abort ? 0x10_0000 : 0))];
  }
}

export const smmuv3Accel: AccelKind = {
  name: 'smmuv3',
  machine: ['-M', 'virt,gic-version=3,iommu=none', '-m', '64'],
  qemu: ['-device', 'arm-smmuv3,primary-bus=pcie.0,id=smmu0,accel=on,ats=on'],
  ours: ['-device', 'arm-smmuv3,primary-bus=pcie.0,id=smmu0,accel=on,ats=on', '-device', 'iommu-testdev,addr=1'],
  prelude: [
    // The function may send: COMMAND through the high configuration window.
    w32(0x40_1000_8004, 6),
    w32(B + 0x20, 0),
    w32(B + 0x44, 0x8000_0000),
    zero(STREAMS, 0x8000),
    ...marks(MARKS, 12),
    ...tables(0),
    ...tables(1),
    ...cd(0),
    ...cd(1),
    ...STES.abort!(),
    w64(B + 0x80, BigInt(STREAMS) | (1n << 62n)),
    w32(B + 0x88, 9),
    w64(B + 0x90, BigInt(CMDQ) | 8n),
    w32(B + 0x98, 0),
    w32(B + 0x9c, 0),
    w64(B + 0xa0, BigInt(EVENTQ) | 7n),
    w32(B + 0x1_00a8, 0),
    w32(B + 0x1_00ac, 0),
    w32(B + 0x20, 0x8),
  ],
  reads: [CONS, GERROR].map((request) => ({ request, mask: ~0n })),
  probes: [MARKS, IOVA, IOVA + 0x1000, IOVA + 0x2000, IOVA + 0x3000],
  script(random: Random, steps: number): AccelStep[] {
    const g = new Smmuv3Guest();
    const out: AccelStep[] = [
      {
        name: 'start',
        requests: [...g.command(0x4n, 31n), ...g.command(0x6n | (SID << 32n)), ...g.command(0x10n)],
      },
      { name: 'SMMUEN', requests: [...g.enable(), ...g.command(0x3n | (SID << 32n), 1n)] },
    ];
    const pick = <T>(list: readonly T[]): T => random.pick(list);
    const cfgi = () => (random.below(4) === 0 ? g.command(0x4n, 31n) : g.command(0x3n | (SID << 32n), 1n));
    while (out.length < steps) {
      const space = random.below(2);
      const page = random.below(PAGES);
      const asid = BigInt(SPACES[space]!.asid) << 48n;
      const address = BigInt(IOVA + 0x1000 * page);
      switch (random.below(12)) {
        case 0:
          // Each side takes up what the entry says at the command behind it.
          out.push({ name: 'SMMUEN', requests: [...g.enable(), ...g.command(0x3n | (SID << 32n), 1n)] });
          break;
        case 1:
          if (!g.enabled) out.push({ name: 'GBPA', requests: g.globalBypass() });
          break;
        case 2:
        case 3:
        case 4: {
          const what = pick(Object.keys(STES));
          out.push({ name: `STE ${what}`, requests: [...STES[what]!(), ...cfgi()] });
          break;
        }
        case 5:
          out.push({ name: 'same STE', requests: cfgi() });
          break;
        case 6:
        case 7: {
          const change = leaf(space, page, random.below(9) - 1);
          const told = pick([
            () => g.command(0x12n | asid, address | BigInt(random.below(2))),
            () => g.command(0x11n | asid),
            () => g.command(0x10n),
            () => g.command(0x13n, address | 1n),
          ]);
          out.push({ name: 'TLBI', requests: [change, ...told()] });
          break;
        }
        case 8:
          out.push({ name: 'CD', requests: [...cd(space), ...g.command(random.pick([5n, 6n]) | (SID << 32n), 1n)] });
          break;
        case 9:
          if (g.enabled) out.push({ name: 'ATC_INV', requests: g.command(0x40n | (SID << 32n), address) });
          break;
        case 10:
          out.push({ name: 'TLBI of others', requests: g.command(pick([0x20n, 0x30n])) });
          break;
        default:
          out.push({
            name: 'no effect',
            requests: g.command(pick([0x46n, 0x1n | (SID << 32n), 0x3n | (9n << 32n)]), 1n),
          });
      }
    }
    return out;
  },
};
