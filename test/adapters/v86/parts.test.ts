import { describe, expect, test } from 'vitest';
import { V86Interrupts } from '../../../src/adapters/v86/apic.ts';
import { neutraliseClflush } from '../../../src/adapters/v86/clflush.ts';
import { V86_VERSION, v86Cpu } from '../../../src/adapters/v86/internals.ts';
import { V86Mmio } from '../../../src/adapters/v86/mmio.ts';
import { V86Ram } from '../../../src/adapters/v86/ram.ts';
import type { MmioDevice } from '../../../src/ports/mmio.ts';
import { FakeV86, plugged, settled } from './fake-v86.ts';

describe('the version', () => {
  test('exactly the one the adapter is made for is taken, with or without build data', () => {
    const cpu = new FakeV86();
    for (const v of [V86_VERSION, `${V86_VERSION}+g5f9a90f`]) expect(v86Cpu({ v86: { cpu } }, v)).toBe(cpu);
    for (const v of ['0.5.461', '0.5.463', '', '0.5']) {
      expect(() => v86Cpu({ v86: { cpu } }, v)).toThrow(`npm install v86@${V86_VERSION}`);
    }
  });

  test('an emulator that is not loaded yet is told when to come back', () => {
    for (const e of [{}, { v86: {} }]) expect(() => v86Cpu(e, V86_VERSION)).toThrow(/after its emulator-loaded event/);
  });

  const parts = [
    'write_blob',
    'handle_irqs',
    'run_hardware_timers',
    'device_raise_irq',
    'device_lower_irq',
    'get_apic_addr',
    'get_ioapic_addr',
    'io',
    'option_roms',
    'memory_size',
    'in_hlt',
    'flags',
    'wasm_memory',
    'memory_map_read8',
    'memory_map_write32',
  ];
  test.each(parts)('a CPU without %s is refused, and the message names it', (part) => {
    const cpu = new FakeV86(0x1_0000);
    Object.defineProperty(cpu, part, { value: undefined });
    expect(() => v86Cpu({ v86: { cpu } }, V86_VERSION)).toThrow(
      part === 'io' ? /cpu\.io\.mmap_register/ : `cpu.${part}`,
    );
  });

  test.each(['pci_query', 'pci_write8', 'pci_write16', 'pci_write32'])('a PCI without %s too', (part) => {
    const cpu = new FakeV86(0x1_0000);
    Object.defineProperty(cpu.pci, part, { value: undefined });
    expect(() => v86Cpu({ v86: { cpu } }, V86_VERSION)).toThrow(`cpu.devices.pci.${part}`);
  });
});

/** A window that remembers what it was asked, and reads as its offset. */
function window(bytes: number, name = 'w') {
  const log: string[] = [];
  const device: MmioDevice = {
    name,
    bytes,
    read: (offset, size) => {
      log.push(`r${size} ${offset}`);
      return offset + 0x8000_0000;
    },
    read64: () => {},
    write: (offset, size, lo) => void log.push(`w${size} ${offset} ${lo}`),
  };
  return { device, log };
}

describe('windows', () => {
  const made = () => {
    const cpu = new FakeV86(0x10_0000);
    const errors: unknown[] = [];
    const calls: string[] = [];
    const mmio = new V86Mmio(
      cpu,
      () => calls.push('enter'),
      () => calls.push('leave'),
      (e) => errors.push(e),
    );
    return { cpu, errors, calls, mmio };
  };

  test('a window of 4 KiB in a block of 128 KiB has its own bytes and no others', () => {
    const { cpu, mmio } = made();
    const { device, log } = window(0x1000);
    mmio.claim(0xfed9_0000, device);
    expect(cpu.load(0xfed9_0010, 4)).toBe(0x8000_0010n);
    expect([cpu.load(0xfed8_fffc, 4), cpu.load(0xfed9_1000, 1)]).toEqual([0xffff_ffffn, 0xffn]);
    cpu.store(0xfed9_1000, 4, 1n);
    cpu.store(0xfed9_0020, 4, 0xffff_fffen);
    cpu.store(0xfed9_0021, 1, 0x1ffn);
    expect(log).toEqual(['r4 16', 'w4 32 -2', 'w1 33 255']);
  });

  test('8 bytes come as two words, low first, and 2 as two bytes', () => {
    const { cpu, mmio } = made();
    const { device, log } = window(0x1000);
    mmio.claim(0xfed9_0000, device);
    cpu.store(0xfed9_0008, 8, 0x1_0000_0002n);
    cpu.store(0xfed9_0010, 2, 0x304n);
    cpu.load(0xfed9_0018, 8);
    expect(log).toEqual(['w4 8 2', 'w4 12 1', 'w1 16 4', 'w1 17 3', 'r4 24', 'r4 28']);
  });

  test('a window over several blocks is one window', () => {
    const { cpu, mmio } = made();
    const { device } = window(0x100_0000);
    mmio.claim(0xb000_0000, device);
    for (const at of [0, 0x1_fffc, 0x2_0000, 0xff_fffc]) {
      expect(cpu.load(0xb000_0000 + at, 4)).toBe(BigInt(0x8000_0000 + at));
    }
    expect(cpu.load(0xb100_0000, 4)).toBe(0xffff_ffffn);
  });

  test("what v86 had in the block stays v86's where nobody claims", () => {
    const { cpu, mmio } = made();
    const seen: string[] = [];
    cpu.mmap_register(
      0xfeb0_0000,
      0x2_0000,
      (a) => a & 0xff,
      (a, v) => void seen.push(`${a & 0xff} ${v}`),
      (a) => (a & 0xff) * 2,
      (a, v) => void seen.push(`${a & 0xff} ${v}`),
    );
    mmio.claim(0xfeb0_1000, window(0x1000).device);
    expect([cpu.load(0xfeb0_0012, 1), cpu.load(0xfeb0_0012, 4), cpu.load(0xfeb0_1000, 4)]).toEqual([
      0x12n,
      0x24n,
      0x8000_0000n,
    ]);
    cpu.store(0xfeb0_0004, 1, 7n);
    cpu.store(0xfeb0_0008, 4, 8n);
    expect(seen).toEqual(['4 7', '8 8']);
  });

  test('claims that overlap are refused by name; one that was given up is free again', () => {
    const { mmio, cpu } = made();
    const release = mmio.claim(0xfed9_0000, window(0x2000, 'first').device);
    expect(() => mmio.claim(0xfed9_1000, window(0x1000, 'second').device)).toThrow(/second overlaps first/);
    release();
    expect(cpu.load(0xfed9_0000, 4)).toBe(0xffff_ffffn);
    mmio.claim(0xfed9_1000, window(0x1000, 'second').device);
    expect(cpu.load(0xfed9_1000, 4)).toBe(0x8000_0000n);
  });

  test('a place a guest chose loses to what is there, whichever came first', () => {
    const { mmio, cpu } = made();
    const bar = window(0x2000, 'bar');
    mmio.claim(0xfed8_f000, bar.device, true);
    mmio.claim(0xfed9_0000, window(0x1000, 'unit').device);
    mmio.claim(0xfed9_0000, window(0x1000, 'late bar').device, true);
    cpu.load(0xfed9_0000, 4);
    cpu.load(0xfed8_f000, 4);
    expect(bar.log).toEqual(['r4 0']);
  });

  test('a handler that throws is reported, and the guest reads ones', () => {
    const { mmio, cpu, errors } = made();
    const { device } = window(0x1000);
    const broken = () => {
      throw new Error('broken');
    };
    mmio.claim(0xfed9_0000, { ...device, read: broken, write: broken });
    expect([cpu.load(0xfed9_0000, 4), cpu.load(0xfed9_0000, 1)]).toEqual([0xffff_ffffn, 0xffn]);
    cpu.store(0xfed9_0000, 4, 0n);
    expect(errors.length).toBe(3);
  });

  test('every access is bracketed', () => {
    const { mmio, cpu, calls } = made();
    mmio.claim(0xfed9_0000, window(0x1000).device);
    cpu.load(0xfed9_0000, 4);
    cpu.store(0xfed9_0000, 1, 0n);
    cpu.load(0xfed9_1000, 4);
    expect(calls).toEqual(['enter', 'leave', 'enter', 'leave']);
  });
});

describe('memory', () => {
  test('it is found again after it moved, and the spaces hear of it', () => {
    const cpu = new FakeV86(0x1_0000);
    const ram = new V86Ram(cpu);
    let moved = 0;
    ram.onMoved = () => moved++;
    ram.words()[4] = 7;
    ram.check();
    cpu.grow();
    ram.check();
    ram.check();
    expect([moved, ram.words()[4], cpu.load(16, 4)]).toEqual([1, 7, 7n]);
    ram.words()[5] = 8;
    expect(cpu.load(20, 4)).toBe(8n);
  });

  test('whoever looks at it after it moved, and before the next access, does not keep the spaces from hearing', () => {
    const cpu = new FakeV86(0x1_0000);
    const ram = new V86Ram(cpu);
    let moved = 0;
    ram.onMoved = () => moved++;
    cpu.grow();
    // A recorder that compares pages, from outside of any access.
    expect(ram.words().length).toBe(0x4000);
    ram.check();
    expect(moved).toBe(1);
    // Telling the JIT of one page makes the memory grow; the next page is looked at in the new one.
    const blob = cpu.write_blob.bind(cpu);
    cpu.write_blob = (bytes, at) => {
      if (at === 0x1000) cpu.grow();
      blob(bytes, at);
    };
    ram.wrote(0x1000, 4);
    ram.wrote(0x2000, 4);
    ram.flush();
    expect(moved).toBe(2);
  });

  test('compiled code of every page written is thrown away once, on the way out', () => {
    const cpu = new FakeV86(0x1_0000);
    const ram = new V86Ram(cpu);
    ram.words()[0x400] = 0x1234_5678;
    ram.wrote(0x1000, 4);
    ram.wrote(0x1ffe, 4);
    ram.wrote(0x1004, 4);
    expect(cpu.flushed).toEqual([]);
    ram.flush();
    expect(cpu.flushed.sort((a, b) => a - b)).toEqual([0x1000, 0x2000]);
    expect(cpu.load(0x1000, 4)).toBe(0x1234_5678n);
    ram.flush();
    expect(cpu.flushed.length).toBe(2);
  });
});

describe('interrupts', () => {
  test('a message sets its bit at once, as an edge, and wakes the CPU once and later', async () => {
    const cpu = new FakeV86(0x1_0000);
    const irq = new V86Interrupts(cpu, (f) => void setImmediate(f));
    cpu.lapic[32 + 1] = 0xffff_ffff;
    expect([irq.message(0xfee0_0000, 0x31), irq.message(0xfeef_f000, 0x4132)]).toEqual([true, true]);
    expect(cpu.lapic[16 + 1]).toBe(0x6_0000);
    expect(cpu.lapic[32 + 1]).toBe(0xfff9_ffff);
    expect(cpu.raised).toEqual([]);
    await settled();
    expect(cpu.raised).toEqual(['handle_irqs']);
  });

  test('what is no interrupt with a vector is dropped', async () => {
    const cpu = new FakeV86(0x1_0000);
    const irq = new V86Interrupts(cpu, (f) => void setImmediate(f));
    for (const [address, data] of [
      [0xfed0_0000, 0x31],
      [0xfee0_0000, 0x231],
      [0xfee0_0000, 0x431],
      [0xfee0_0000, 0x731],
    ] as const) {
      expect(irq.message(address, data)).toBe(false);
    }
    await settled();
    expect([cpu.raised, [...cpu.lapic].some((w) => w !== 0)]).toEqual([[], false]);
  });

  test('a line drops in the controller at once, or its handler storms', async () => {
    const cpu = new FakeV86(0x1_0000);
    const irq = new V86Interrupts(cpu, (f) => void setImmediate(f));
    cpu.ioapic[50] = cpu.ioapic[51] = 0xc00;
    irq.level(11, true);
    irq.level(11, false);
    expect([cpu.ioapic[50], cpu.ioapic[51]]).toEqual([0x400, 0x400]);
    expect(cpu.raised).toEqual([]);
    await settled();
    expect(cpu.raised).toEqual(['raise 11', 'lower 11']);
  });
});

describe('an interrupt v86 took and lost', () => {
  const [IRR, ISR] = [16, 24];

  /** A CPU with interrupts on below `served`. */
  function stuck(served: readonly number[], asked: readonly number[]) {
    const { cpu, errors, v86 } = plugged();
    const set = (at: number, vectors: readonly number[]) => {
      cpu.lapic.fill(0, at, at + 8);
      for (const v of vectors) cpu.lapic[at + (v >>> 5)]! |= 1 << (v & 31);
    };
    const get = (at: number) => {
      const vectors: number[] = [];
      for (let v = 0; v < 256; v++) if ((cpu.lapic[at + (v >>> 5)]! >>> (v & 31)) & 1) vectors.push(v);
      return vectors;
    };
    cpu.flags[0] = 0x202;
    set(ISR, served);
    set(IRR, asked);
    /** One turn: when it wants the next one, and what is in service, asked for, and said to the CPU after it. */
    const turn = async (now: number) => {
      const next = cpu.run_hardware_timers(true, now);
      await settled();
      return [next, get(ISR), get(IRR), cpu.raised.splice(0).join()];
    };
    return { cpu, errors, v86, set, turn };
  }

  test.each<readonly [string, number[], number[], number[], number[]]>([
    ['with a lower one asked for', [0xf6], [0xec], [], [0xec, 0xf6]],
    ['with the same asked for', [0xf6], [0xf6], [], [0xf6]],
    ['with none asked for', [0x31], [], [], [0x31]],
    ['above another in service', [0x31, 0xf6], [0x20], [0x31], [0x20, 0xf6]],
  ])('is asked for again after 50 ms, %s', async (_what, served, asked, servedAfter, askedAfter) => {
    const { v86, turn } = stuck(served, asked);
    expect(await turn(1000)).toEqual([50, served, asked, '']);
    expect(await turn(1049)).toEqual([1, served, asked, '']);
    expect(v86.lostInterrupts()).toBe(0);
    expect(await turn(1050)).toEqual([100, servedAfter, askedAfter, 'handle_irqs']);
    expect(v86.lostInterrupts()).toBe(1);
  });

  test('a halted CPU does not wait for long', async () => {
    const { cpu, turn } = stuck([0xf6], [0xec]);
    cpu.in_hlt[0] = 1;
    expect(await turn(1000)).toEqual([1, [0xf6], [0xec], '']);
    expect(await turn(1001)).toEqual([100, [], [0xec, 0xf6], 'handle_irqs']);
  });

  test.each<readonly [string, (s: ReturnType<typeof stuck>) => void]>([
    ['takes no interrupts', (s) => (s.cpu.flags[0] = 2)],
    ['has nothing in service', (s) => s.set(ISR, [])],
    ['is about to take a higher one', (s) => s.set(IRR, [0xf8])],
  ])('but not while the CPU %s, and the 50 ms begin anew', async (_what, change) => {
    const s = stuck([0xf6], [0xec]);
    await s.turn(1000);
    change(s);
    expect((await s.turn(1060))[0]).toBe(100);
    s.cpu.flags[0] = 0x202;
    s.set(ISR, [0xf6]);
    s.set(IRR, [0xec]);
    expect((await s.turn(1070))[0]).toBe(50);
    expect((await s.turn(1119))[0]).toBe(1);
    expect(s.v86.lostInterrupts()).toBe(0);
    await s.turn(1120);
    expect(s.v86.lostInterrupts()).toBe(1);
  });

  test('and not when another has come into service meanwhile', async () => {
    const s = stuck([0x31], []);
    await s.turn(1000);
    s.set(ISR, [0x41]);
    expect(await s.turn(1050)).toEqual([50, [0x41], [], '']);
  });

  test('the structure is looked for anew when the memory has grown', async () => {
    const s = stuck([0x31], []);
    await s.turn(1000);
    s.cpu.grow();
    expect(await s.turn(1050)).toEqual([100, [], [0x31], 'handle_irqs']);
  });

  test('a defect in it is reported and leaves the timers running', async () => {
    const { cpu, errors } = stuck([0x31], []);
    Object.defineProperty(cpu, 'flags', {
      get() {
        throw new Error('broken');
      },
    });
    expect(cpu.run_hardware_timers(true, 1)).toBe(100);
    expect(errors.map((e) => (e as Error).message)).toEqual(['broken']);
  });
});

describe('CLFLUSH', () => {
  const TEXT = 0x100_0000;
  const made = (...sites: [at: number, ...bytes: number[]][]) => {
    const cpu = new FakeV86(0x150_0000);
    for (const [at, ...bytes] of sites) cpu.bytes.set(bytes, at);
    return { cpu, found: neutraliseClflush(cpu) };
  };

  test('becomes a NOP with the same operand, and compiled code hears of it', () => {
    const { cpu, found } = made([TEXT + 5, 0x3e, 0x0f, 0xae, 0x3b], [TEXT + 0x100, 0x3e, 0x0f, 0xae, 0x7d]);
    expect(found).toBe(2);
    expect([...cpu.bytes.slice(TEXT + 5, TEXT + 9)]).toEqual([0x3e, 0x0f, 0x1f, 0x03]);
    expect([...cpu.bytes.slice(TEXT + 0x100, TEXT + 0x104)]).toEqual([0x3e, 0x0f, 0x1f, 0x45]);
    expect(cpu.flushed).toEqual([TEXT + 5, TEXT + 0x100]);
  });

  test('everything else stays: other prefixes, fences, other opcodes of the group, other places', () => {
    const { found } = made(
      [TEXT, 0x0f, 0xae, 0x3b],
      [TEXT + 0x10, 0x3e, 0x0f, 0xae, 0xf8],
      [TEXT + 0x20, 0x3e, 0x0f, 0xae, 0x33],
      [0xff_0000, 0x3e, 0x0f, 0xae, 0x3b],
      [0x140_0000, 0x3e, 0x0f, 0xae, 0x3b],
    );
    expect(found).toBe(0);
  });
});
