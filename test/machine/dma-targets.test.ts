import { describe, expect, test } from 'vitest';
import type { VtdUnit } from '../../src/machine/vtd-unit.ts';
import { BAR, BELL, DATA, NOWHERE, OTHER, OWN, RAM, SCRATCH, World } from './dma-world.ts';

/** What an IOMMU writes or reads by itself, and how it is aimed at `to`. `message`: one word; `read`: it only reads. */
interface Writer {
  readonly name: string;
  readonly how: 'message' | 'record' | 'read';
  /** GERROR bit of an SMMUv3 when nothing takes it. */
  readonly error?: number;
  run(m: World, to: number): void;
}

const COMMANDS = RAM + 0x10_0000;
const EVENTS = RAM + 0x20_0000;
const TABLES = RAM + 0x30_0000;

function smmu(m: World, more: Partial<Record<'cmdq' | 'eventq' | 'priq' | 'strtab', number>> = {}): void {
  m.w64(0x80, more.strtab ?? TABLES);
  m.w(0x88, 5);
  m.w64(0x90, (more.cmdq ?? COMMANDS) + 4);
  m.w64(0xa0, (more.eventq ?? EVENTS) + 4);
  m.w64(0xc0, (more.priq ?? EVENTS + 0x1_0000) + 4);
  m.w(0x50, 7);
  m.w(0x20, 0xf);
}

const SMMUV3: readonly Writer[] = [
  {
    name: 'the message of a CMD_SYNC',
    how: 'message',
    error: 1 << 4,
    run: (m, to) => {
      smmu(m);
      m.put(COMMANDS, 0x46 | (1 << 12), DATA, to, 0);
      m.w(0x98, 1);
    },
  },
  {
    name: 'the message of the event queue',
    how: 'message',
    error: 1 << 5,
    run: (m, to) => {
      m.w64(0xb0, to);
      m.w(0xb8, DATA);
      smmu(m);
      m.dma();
    },
  },
  {
    name: 'the message of a page request',
    how: 'message',
    error: 1 << 6,
    run: (m, to) => {
      m.w64(0xd0, to);
      m.w(0xd8, DATA);
      smmu(m);
      m.ask();
    },
  },
  {
    name: 'the message of a global error',
    how: 'message',
    error: 1 << 7,
    run: (m, to) => {
      m.w64(0x68, to);
      m.w(0x70, DATA);
      smmu(m);
      m.put(COMMANDS, 0xff, 0, 0, 0);
      m.w(0x98, 1);
    },
  },
  {
    name: 'event records',
    how: 'record',
    error: 1 << 2,
    run: (m, to) => {
      smmu(m, { eventq: to & ~0x3ff });
      for (let i = 0; i < 20; i++) m.dma();
    },
  },
  {
    name: 'page requests',
    how: 'record',
    error: 1 << 3,
    run: (m, to) => {
      smmu(m, { priq: to & ~0x3ff });
      for (let i = 0; i < 20; i++) m.ask();
    },
  },
  {
    name: 'commands',
    how: 'read',
    run: (m, to) => {
      smmu(m, { cmdq: to & ~0x3ff });
      m.w(0x98, 15);
    },
  },
  {
    name: 'the stream table',
    how: 'read',
    run: (m, to) => {
      smmu(m, { strtab: to & ~0xfff });
      for (let i = 0; i < 4; i++) m.dma();
    },
  },
  {
    name: 'the tables of a stream',
    how: 'read',
    run: (m, to) => {
      m.put(TABLES + 64 * 0x10, (to & ~0x3f) | 0xb, 0, 0, 0);
      smmu(m);
      m.put(COMMANDS, 0x03, 0x10, 1, 0);
      m.w(0x98, 1);
      m.dma();
    },
  },
];

function vtd(m: World, more: Partial<Record<'queue' | 'root', number>> = {}): void {
  m.w64(0x90, more.queue ?? COMMANDS);
  m.w(0x18, 0x0400_0000);
  m.w64(0x20, more.root ?? TABLES);
  m.w(0x18, 0x4400_0000);
  m.w(0x18, 0x8400_0000);
}

/** FECTL, IECTL and PECTL, each with its message. */
function event(m: World, control: number, to: number): void {
  m.w(control + 4, DATA);
  m.w(control + 8, to);
  m.w(control + 12, 0);
  m.w(control, 0);
}

const VTD: readonly Writer[] = [
  {
    name: 'the status of a wait',
    how: 'message',
    run: (m, to) => {
      vtd(m);
      m.put(COMMANDS, 0x25, DATA, to, 0, 0x25, DATA, to, 0);
      m.w(0x88, 0x20);
    },
  },
  {
    name: 'the message of a fault',
    how: 'message',
    run: (m, to) => {
      event(m, 0x38, to);
      vtd(m);
      m.dma();
    },
  },
  {
    name: 'the message of a completion',
    how: 'message',
    run: (m, to) => {
      event(m, 0xa0, to);
      vtd(m);
      m.put(COMMANDS, 0x15, 0, 0, 0);
      m.w(0x88, 0x10);
    },
  },
  {
    name: 'the message of a page request',
    how: 'message',
    run: (m, to) => {
      event(m, 0xe0, to);
      vtd(m);
      // PRS.PRO: software wrote nothing, the queue is full at once.
      m.w64(0xd0, EVENTS);
    },
  },
  {
    name: 'the page request queue',
    how: 'record',
    run: (m, to) => {
      m.w64(0xd0, to & ~0xfff);
      vtd(m);
      for (let i = 0; i < 20; i++) m.ask();
    },
  },
  {
    name: 'descriptors',
    how: 'read',
    run: (m, to) => {
      vtd(m, { queue: to & ~0xfff });
      m.w(0x88, 0xf0);
    },
  },
  {
    name: 'the root table',
    how: 'read',
    run: (m, to) => {
      vtd(m, { root: to & ~0xfff });
      for (let i = 0; i < 4; i++) m.dma();
    },
  },
  {
    name: 'the context table',
    how: 'read',
    run: (m, to) => {
      m.put(TABLES, (to & ~0xfff) | 1, 0, 0, 0);
      vtd(m);
      for (let i = 0; i < 4; i++) m.dma();
    },
  },
  {
    name: 'a second stage',
    how: 'read',
    run: (m, to) => {
      m.put(TABLES, (TABLES + 0x1000) | 1, 0, 0, 0);
      m.put(TABLES + 0x1000 + 16 * 0x10, (to & ~0xfff) | 1, 0, 0x502, 0);
      vtd(m);
      for (let i = 0; i < 4; i++) m.dma();
    },
  },
  {
    name: 'the interrupt remapping table',
    how: 'read',
    run: (m, to) => {
      m.w64(0xb8, (to & ~0xfff) | 7);
      m.w(0x18, 0x0100_0000);
      m.w(0x18, 0x0300_0000);
      (m.own as VtdUnit).remap.remap(0x10, 0xfee0_0018, 0);
    },
  },
];

const PAIRS = (['smmuv3', 'vtd'] as const).flatMap((kind) =>
  (['smmuv3', 'vtd'] as const).flatMap((other) =>
    (['qemu-11.1', 'arch'] as const).map((profile) => [kind, other, profile] as const),
  ),
);

describe.each(PAIRS)('what a %s writes and reads by itself, beside a %s (%s)', (kind, other, profile) => {
  const writers = kind === 'smmuv3' ? SMMUV3 : VTD;
  const targets: readonly [string, number][] = [
    ['its own registers', OWN + SCRATCH[kind]],
    ['its own doorbell', OWN + BELL[kind]],
    ['registers of the other one', OTHER + SCRATCH[other]],
    ['the doorbell of the other one', OTHER + BELL[other]],
    ['registers of a function', BAR + 0x100],
    ['RAM', RAM + 0x80_0000],
    ['nothing', NOWHERE],
  ];

  test.each(writers.flatMap((w) => targets.map(([where, to]) => [w.name, where, w, to] as const)))(
    '%s, aimed at %s',
    (_, where, writer, to) => {
      const m = new World(kind, other, profile);
      const scratch = m.r(SCRATCH[kind]);
      writer.run(m, to);
      m.vm.clock.settle();
      // Nobody is left at work, both answer, and nothing went deep or round in circles.
      expect([m.vm.accesses.depth, m.vm.accesses.sealed]).toEqual([0, 0]);
      expect(m.vm.memory.guest.load32(OWN) && m.vm.memory.guest.load32(OTHER)).toBe(true);
      expect(m.reached).toBeLessThan(2000);
      expect(m.deepest).toBeLessThanOrEqual(4);
      const own = where.startsWith('its own');
      if (own && writer.how !== 'message') expect(m.r(SCRATCH[kind])).toBe(scratch);
      // QEMU's SMMUv3 has no messages (IDR0.MSI), and no page requests.
      if (writer.how !== 'message' || (kind === 'smmuv3' && profile !== 'arch')) return;
      const apicOnly = kind === 'vtd' && profile === 'qemu-11.1' && !writer.name.includes('wait');
      if (where === 'RAM' && !apicOnly && writer.name !== 'the message of a page request')
        expect(m.load(to)).toBe(DATA);
      if (where === 'registers of a function' && !apicOnly && kind === 'smmuv3') expect(m.last).toBe(DATA);
      if (where === 'registers of the other one' && !apicOnly && kind === 'smmuv3') {
        expect(m.other.window.read(SCRATCH[other], 4)).toBe(DATA);
      }
      if (kind === 'smmuv3' && (own || where === 'nothing')) {
        // GERROR.MSI_*_ABT_ERR.
        expect(m.r(0x60) & writer.error!).toBe(writer.error!);
        if (where === 'its own doorbell') expect(m.r(0x98)).toBeLessThanOrEqual(1);
      }
      if (writer.name === 'the status of a wait') {
        const taken = where === 'RAM' || where.includes('other') || where.includes('function');
        // IQE at the wait that could not be written.
        expect([m.r(0x80), m.r(0x34) & 0x10]).toEqual(taken ? [0x20, 0] : [0, 0x10]);
      }
    },
  );
});
