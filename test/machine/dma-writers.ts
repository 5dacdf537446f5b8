/** What messages and waits write. */
export const DATA = 0x55;

/** Who drives an IOMMU whose writes and reads go to places of the test's choice: its guest, and a function behind it. */
export interface DmaGuest {
  /** First byte of RAM. */
  readonly ram: number;
  /** A write of a register of the IOMMU, 4 and 8 bytes, and a read of one. */
  w(at: number, value: number): void;
  w64(at: number, value: number): void;
  r(at: number): number;
  /** Stores words into guest memory. */
  put(at: number, ...words: number[]): void;
  /** A request of the function that no table has. */
  dma(): void;
  /** A page request of the function. */
  ask(): void;
  /** An interrupt message of the function, to be remapped. */
  interrupt(): void;
}

/** What an IOMMU writes or reads by itself, and how it is aimed at `to`. `message`: one word; `read`: it only reads. */
export interface Writer {
  readonly name: string;
  readonly how: 'message' | 'record' | 'read';
  /** GERROR bit of an SMMUv3 when nothing takes it. */
  readonly error?: number;
  run(m: DmaGuest, to: number): void;
}

const COMMANDS = 0x10_0000;
const EVENTS = 0x20_0000;
const TABLES = 0x30_0000;

function smmu(m: DmaGuest, more: Partial<Record<'cmdq' | 'eventq' | 'priq' | 'strtab', number>> = {}): void {
  m.w64(0x80, more.strtab ?? m.ram + TABLES);
  m.w(0x88, 5);
  m.w64(0x90, (more.cmdq ?? m.ram + COMMANDS) + 4);
  m.w64(0xa0, (more.eventq ?? m.ram + EVENTS) + 4);
  m.w64(0xc0, (more.priq ?? m.ram + EVENTS + 0x1_0000) + 4);
  m.w(0x50, 7);
  m.w(0x20, 0xf);
}

/** What an SMMUv3 writes and reads. */
export const SMMUV3_WRITERS: readonly Writer[] = [
  {
    name: 'the message of a CMD_SYNC',
    how: 'message',
    error: 1 << 4,
    run: (m, to) => {
      smmu(m);
      m.put(m.ram + COMMANDS, 0x46 | (1 << 12), DATA, to, 0);
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
      m.put(m.ram + COMMANDS, 0xff, 0, 0, 0);
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
      m.put(m.ram + TABLES + 64 * 0x10, (to & ~0x3f) | 0xb, 0, 0, 0);
      smmu(m);
      m.put(m.ram + COMMANDS, 0x03, 0x10, 1, 0);
      m.w(0x98, 1);
      m.dma();
    },
  },
];

function vtd(m: DmaGuest, more: Partial<Record<'queue' | 'root', number>> = {}): void {
  m.w64(0x90, more.queue ?? m.ram + COMMANDS);
  m.w(0x18, 0x0400_0000);
  m.w64(0x20, more.root ?? m.ram + TABLES);
  m.w(0x18, 0x4400_0000);
  m.w(0x18, 0x8400_0000);
}

/** Scalable mode: an empty first stage for PASIDs 0 and 1 of function 0x10. @param requests where page requests go. */
function scalable(m: DmaGuest, requests: number): void {
  const t = m.ram + TABLES;
  const [contexts, directory, entries, root] = [t + 0x1000, t + 0x2_0000, t + 0x5_0000, t + 0x6_0000];
  m.put(t, contexts | 1, 0, 0, 0);
  m.put(contexts + 32 * 0x10, directory | (7 << 9) | 0x1d, 0, 0, 0, 0, 0, 0, 0);
  m.put(directory, entries | 1, 0);
  for (const pasid of [0, 1]) m.put(entries + 64 * pasid, 0x41, 0, 1 + pasid, 0, root | 0x11, 0, 0, 0);
  m.w64(0x90, (m.ram + COMMANDS) | 0x800);
  m.w(0x18, 0x0400_0000);
  m.w64(0x20, t | 0x400);
  m.w(0x18, 0x4400_0000);
  m.w64(0xd0, requests);
  m.w(0x18, 0x8400_0000);
}

/** FECTL, IECTL and PECTL, each with its message. */
function event(m: DmaGuest, control: number, to: number): void {
  m.w(control + 4, DATA);
  m.w(control + 8, to);
  m.w(control + 12, 0);
  m.w(control, 0);
}

/** What a VT-d unit writes and reads. */
export const VTD_WRITERS: readonly Writer[] = [
  {
    name: 'the status of a wait',
    how: 'message',
    run: (m, to) => {
      vtd(m);
      m.put(m.ram + COMMANDS, 0x25, DATA, to, 0, 0x25, DATA, to, 0);
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
      m.put(m.ram + COMMANDS, 0x15, 0, 0, 0);
      m.w(0x88, 0x10);
    },
  },
  {
    name: 'the message of a page request',
    how: 'message',
    run: (m, to) => {
      event(m, 0xe0, to);
      scalable(m, m.ram + EVENTS);
      m.ask();
    },
  },
  {
    name: 'the page request queue',
    how: 'record',
    run: (m, to) => {
      scalable(m, to & ~0xfff);
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
      m.put(m.ram + TABLES, (to & ~0xfff) | 1, 0, 0, 0);
      vtd(m);
      for (let i = 0; i < 4; i++) m.dma();
    },
  },
  {
    name: 'a second stage',
    how: 'read',
    run: (m, to) => {
      m.put(m.ram + TABLES, (m.ram + TABLES + 0x1000) | 1, 0, 0, 0);
      m.put(m.ram + TABLES + 0x1000 + 16 * 0x10, (to & ~0xfff) | 1, 0, 0x502, 0);
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
      m.interrupt();
    },
  },
];
