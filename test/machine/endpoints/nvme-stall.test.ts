import { expect, test } from 'vitest';
import { RamDisk } from '../../../devices/endpoints/nvme/disk.ts';
import { NvmeFunction } from '../../../devices/endpoints/nvme/function.ts';
import type { Smmuv3Program } from '../../../guest-fixtures/programs/smmuv3.ts';
import { DATA, rig } from './rig.ts';

const SID = 0x10;
const PAGE = 4096;
/** Where the function sees guest memory from DATA on; nothing of it is mapped until an access has stalled there. */
const VA = 0x2000_0000;
const at = (page: number) => VA + page * PAGE;
const [ASQ, ACQ, SQ, CQ, LIST, FIRST] = [0, 1, 2, 3, 4, 8] as const;
const [CREATE_CQ, CREATE_SQ, WRITE, READ] = [5, 1, 1, 2] as const;
const ENTRIES = 16;
const BLOCKS = 40;
const TRANSFER_ERROR = 4;
const CSTS_CFS = 2;

/** A guest with an NVMe disk whose accesses stall where nothing is mapped. */
function machine() {
  const m = rig('smmuv3', { stall: true, stallers: true });
  const guest = m.guest as Smmuv3Program;
  const ram = m.vm.memory.guest;
  const disk = new RamDisk(1 << 20);
  const nvme = new NvmeFunction({ disk, ats: null, pri: null, pasid: null, integrated: true });
  const slot = m.complex.plug(m.root.bus, SID, nvme.fn);
  m.complex.configWrite(slot.bus.number, slot.devfn, 4, 2, 6);
  guest.function(SID, [-1]);
  const reg = (offset: number, value: number) => nvme.fn.barWrite(0, offset, 4, value);
  reg(0x24, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
  reg(0x28, at(ASQ));
  reg(0x30, at(ACQ));
  reg(0x14, 0x0046_0001);
  const tails = [0, 0];
  let cid = 0;
  const word = (page: number, i: number) => {
    ram.load32(DATA + page * PAGE + 4 * i);
    return ram.lo;
  };
  return {
    guest,
    nvme,
    disk,
    word,
    put: (page: number, i: number, value: number) => void ram.store32(DATA + page * PAGE + 4 * i, value),
    csts: () => nvme.fn.barRead(0, 0x1c, 4),
    /** @param q 0: the admin queue. */
    submit(q: number, opcode: number, words: Record<number, number>) {
      const base = DATA + (q === 0 ? ASQ : SQ) * PAGE + tails[q]! * 64;
      for (let i = 0; i < 16; i++) ram.store32(base + 4 * i, words[i] ?? 0);
      ram.store32(base, opcode | (++cid << 16));
      tails[q] = (tails[q]! + 1) % ENTRIES;
      reg(0x1000 + 8 * q, tails[q]!);
    },
    /** Decides stalls until none comes. @returns the pages they were at. */
    decide(grant: (page: number) => boolean) {
      const pages: number[] = [];
      for (let events = guest.events(); events.length > 0; events = guest.events()) {
        for (const { stag, address } of events) {
          const page = Math.floor((address - VA) / PAGE);
          pages.push(page);
          const granted = grant(page);
          if (granted) guest.map(SID, -1, at(page), DATA + page * PAGE);
          guest.resume(SID, stag, granted);
        }
      }
      return pages;
    },
    /** Command ids and status codes posted to a completion queue. */
    completions(q: number) {
      const page = q === 0 ? ACQ : CQ;
      const posted = Array.from({ length: ENTRIES }, (_, i) => word(page, 4 * i + 3));
      return posted.filter((w) => (w & 0x1_0000) !== 0).map((w) => [w & 0xffff, (w >>> 17) & 0xff]);
    },
  };
}

type Machine = ReturnType<typeof machine>;

/** Queues are made while every page of theirs stalls. */
function queues(m: Machine): void {
  m.submit(0, CREATE_CQ, { 6: at(CQ), 10: 1 | ((ENTRIES - 1) << 16), 11: 1 });
  m.submit(0, CREATE_SQ, { 6: at(SQ), 10: 1 | ((ENTRIES - 1) << 16), 11: 1 | (1 << 16) });
}

function transfer(m: Machine, opcode: number): void {
  const pages = (BLOCKS * 512) / PAGE;
  for (let i = 1; i < pages; i++) {
    m.put(LIST, 2 * (i - 1), at(FIRST + i));
    m.put(LIST, 2 * (i - 1) + 1, 0);
  }
  m.submit(1, opcode, { 1: 1, 6: at(FIRST), 8: at(LIST), 10: 8, 12: BLOCKS - 1 });
}

test('an NVMe disk waits wherever its access stalls: queues, lists, data and completions', () => {
  const m = machine();
  queues(m);
  expect(m.completions(0)).toEqual([]);
  const first = m.decide(() => true);
  transfer(m, WRITE);
  for (let i = 0; i < 5 * 1024; i++) m.put(FIRST + (i >>> 10), i & 1023, i * 0x01_0101);
  expect(m.completions(1)).toEqual([]);

  const stalled = [...first, ...m.decide(() => true)];
  expect([...new Set(stalled)].sort((a, b) => a - b)).toEqual([ASQ, ACQ, SQ, CQ, LIST, 8, 9, 10, 11, 12]);
  expect(stalled).toHaveLength(10);
  expect([m.completions(0), m.completions(1), m.csts()]).toEqual([
    [
      [1, 0],
      [2, 0],
    ],
    [[3, 0]],
    1,
  ]);

  for (let i = 0; i < 5 * 1024; i++) m.put(FIRST + (i >>> 10), i & 1023, 0);
  transfer(m, READ);
  expect(m.completions(1)).toEqual([
    [3, 0],
    [4, 0],
  ]);
  for (let i = 0; i < 5 * 1024; i += 97) expect(m.word(FIRST + (i >>> 10), i & 1023) | 0).toBe((i * 0x01_0101) | 0);
});

test('a stalled transfer that the guest aborts fails its command, and the next one runs', () => {
  const m = machine();
  queues(m);
  m.decide(() => true);
  transfer(m, WRITE);
  m.decide((page) => page !== 10);
  expect(m.completions(1)).toEqual([[3, TRANSFER_ERROR]]);
  transfer(m, WRITE);
  m.decide(() => true);
  expect(m.completions(1)).toEqual([
    [3, TRANSFER_ERROR],
    [4, 0],
  ]);
});

test.each([
  ['fetch of a command', ASQ],
  ['completion', ACQ],
])('an aborted %s is fatal for the controller', (_, page) => {
  const m = machine();
  queues(m);
  m.decide((p) => p !== page);
  expect(m.csts() & CSTS_CFS).toBe(CSTS_CFS);
});

test('a reset forgets what is stalled', () => {
  const m = machine();
  queues(m);
  m.nvme.fn.barWrite(0, 0x14, 4, 0);
  m.decide(() => true);
  expect([m.completions(0), m.csts()]).toEqual([[], 0]);
});

test.each([0, 3, 6, 8])(
  'saved in the middle of stall %i and loaded in front of another IOMMU, it asks again and goes on',
  (n) => {
    const m = machine();
    let left = n;
    const moving = () => {
      if (left-- === 0) m.nvme.fn.load(JSON.parse(JSON.stringify(m.nvme.fn.save())), true);
      return true;
    };
    queues(m);
    m.decide(moving);
    transfer(m, WRITE);
    m.decide(moving);
    expect([m.completions(0), m.completions(1), m.csts()]).toEqual([
      [
        [1, 0],
        [2, 0],
      ],
      [[3, 0]],
      1,
    ]);
  },
);
