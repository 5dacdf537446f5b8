import { describe, expect, test } from 'vitest';
import { Bridge } from '../../bus/bridge.ts';
import { DmaEngine } from '../../devices/endpoints/dma-engine.ts';
import { NO_PASID } from '../../src/ports/dma.ts';
import { bridge, config, engine, harness } from './harness.ts';

describe('hot-plug', () => {
  test('a card that is pulled disappears from configuration space and memory, and its port says so', () => {
    const h = harness();
    const slot = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root', hotplug: true }));
    const c = config(h.complex, slot);
    c.write(0x18, 4, 0x0001_0100);
    const card = h.complex.plug(slot.behind!, 0, new DmaEngine().fn, { hot: true });
    const status = c.read(0x34, 1) + 26;
    expect(c.read(status, 2) & 0x48).toBe(0x48);
    c.write(status, 2, 0x108);
    h.complex.unplug(card);
    expect(c.read(status, 2) & 0x148).toBe(0x108);
    expect(h.complex.configRead(1, 0, 0, 4)).toBe(0xffff_ffff);
    expect(h.root.endpoints.invalidate(card.stream, NO_PASID, 0, 0, 0, false)).toBe(false);
  });

  test('a slot raises its interrupt for the changes the guest enabled, until it clears them', () => {
    const h = harness();
    const slot = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root', hotplug: true }));
    const c = config(h.complex, slot);
    const control = c.read(0x34, 1) + 24;
    const levels = () => h.irq.levels.splice(0);
    levels();
    h.complex.unplug(h.complex.plug(slot.behind!, 0, new DmaEngine().fn, { hot: true }));
    expect(levels()).toEqual([]); // nothing enabled
    c.write(control + 2, 2, 0x108);
    c.write(control, 2, 0x28); // interrupt, presence detect changed
    expect(levels()).toEqual([]);
    const card = h.complex.plug(slot.behind!, 0, new DmaEngine().fn, { hot: true });
    expect(levels()).toEqual([[1, true]]);
    expect(c.read(6, 2) & 8).toBe(8);
    c.write(control + 2, 2, 0x100); // the other change: the cause is still there
    expect(levels()).toEqual([]);
    c.write(control + 2, 2, 0x008);
    expect(levels()).toEqual([[1, false]]);
    h.complex.unplug(card);
    c.write(control, 2, 0x08);
    expect(levels()).toEqual([
      [1, true],
      [1, false],
    ]);
  });

  test('a secondary bus reset puts everything behind the bridge back to power-on', () => {
    const h = harness();
    const port = bridge(h, h.root.bus, 0x08, 'root', 1);
    const { c, e } = engine(h, port.behind!, 0);
    e.fn.barWrite(0, 8, 4, 0x4000);
    h.complex.configWrite(0, 0x08, 0x3e, 2, 0x40);
    expect(c.read(4, 2)).toBe(0);
    expect(e.fn.barRead(0, 8, 4)).toBe(0);
  });
});

describe('advanced error reporting', () => {
  const AER = 0x100;
  const DEVCTL = 8;

  /** A root port, a switch below it, and what the guest sees of a card pulled out of the switch. */
  function surprise(prepare: (root: ReturnType<typeof config>, port: ReturnType<typeof config>) => void) {
    const h = harness();
    const root = bridge(h, h.root.bus, 0x08, 'root', 1, 3);
    const up = bridge(h, root.behind!, 0, 'upstream', 2, 3);
    const down = bridge(h, up.behind!, 0x10, 'downstream', 3);
    const card = h.complex.plug(down.behind!, 0, new DmaEngine().fn);
    const [r, u, d] = [root, up, down].map((s) => config(h.complex, s)) as [
      ReturnType<typeof config>,
      ReturnType<typeof config>,
      ReturnType<typeof config>,
    ];
    for (const c of [r, u]) c.write(0x3e, 2, 2); // SERR#: error messages from below go on
    d.write(d.read(0x34, 1) + DEVCTL, 2, 0x7);
    r.write(AER + 44, 4, 7);
    prepare(r, d);
    h.irq.levels.splice(0);
    h.complex.unplug(card);
    return { h, r, u, d, rid: down.rid };
  }

  test('a card pulled out of a slot not made for it: the port says so, the root port raises its interrupt', () => {
    const { h, r, d, rid } = surprise(() => {});
    expect(d.read(AER + 4, 4)).toBe(0x20);
    expect(d.read(AER + 24, 4) & 0x1f).toBe(5);
    expect(d.read(d.read(0x34, 1) + DEVCTL + 2, 2) & 0xf).toBe(4); // fatal error detected
    expect(r.read(AER + 48, 4)).toBe(0x54); // uncorrectable, the first one fatal, fatal received
    expect(r.read(AER + 54, 2)).toBe(rid);
    expect(h.irq.levels.splice(0)).toEqual([[1, true]]);
    r.write(AER + 48, 4, 0x7f);
    expect(h.irq.levels).toEqual([[1, false]]);
  });

  test.each<[string, (r: ReturnType<typeof config>, d: ReturnType<typeof config>) => void, number, number]>([
    ['severity: not fatal', (_, d) => d.write(AER + 12, 4, 0), 0x24, 1],
    ['masked: recorded only', (_, d) => d.write(AER + 8, 4, 0x20), 0, 0],
    ['reporting off', (_, d) => d.write(d.read(0x34, 1) + DEVCTL, 2, 0), 0, 0],
    [
      'reporting off but SERR# on',
      (_, d) => {
        d.write(d.read(0x34, 1) + DEVCTL, 2, 0);
        d.write(4, 2, 0x107);
      },
      0x54,
      1,
    ],
    ['a bridge that does not forward', (r) => r.write(0x3e, 2, 0), 0, 0],
    ['the root port told, its interrupt off', (r) => r.write(AER + 44, 4, 0), 0x54, 0],
  ])('%s', (_, prepare, status, interrupts) => {
    const { h, r, d } = surprise(prepare);
    expect(d.read(AER + 4, 4)).toBe(0x20);
    expect(r.read(AER + 48, 4)).toBe(status);
    expect(h.irq.levels.length).toBe(interrupts);
  });

  test('a second message is counted, the source stays the first', () => {
    const { h, r, rid } = surprise(() => {});
    const other = h.complex.plug(h.root.bus, 0x20, new Bridge({ kind: 'root' }));
    (h.root.bus.slots.get(0x08)!.fn as Bridge).errorMessage(0x0208, false);
    expect(r.read(AER + 48, 4)).toBe(0x7c);
    expect(r.read(AER + 54, 2)).toBe(rid);
    expect(config(h.complex, other).read(AER + 48, 4)).toBe(0);
  });
});

describe('saving', () => {
  test('a bus with bridges, pins and work in flight goes on after it was packed and unpacked', () => {
    const make = () => {
      const h = harness();
      const port = h.complex.plug(h.root.bus, 0x08, new Bridge({ kind: 'root' }));
      const e = new DmaEngine();
      const slot = h.complex.plug(port.behind!, 0, e.fn);
      return { h, port, e, slot };
    };
    const a = make();
    a.h.complex.configWrite(0, 0x08, 0x18, 4, 0x0001_0100);
    a.h.complex.configWrite(0, 0x08, 4, 2, 7);
    const c = config(a.h.complex, a.slot);
    c.master();
    c.ats(true);
    a.e.fn.interrupts.raise(0);
    const state = JSON.parse(JSON.stringify(a.h.complex.save()));

    const b = make();
    b.h.complex.load(state);
    expect(b.slot.rid).toBe(0x100);
    expect(config(b.h.complex, b.slot).read(4, 2)).toBe(7);
    expect(b.e.fn.memory.ats!.enabled).toBe(true);
    b.e.fn.interrupts.clear(0);
    expect(b.h.irq.levels.at(-1)).toEqual([1, false]);
    expect(b.h.complex.save().lines).toEqual([0, 0, 0, 0]);

    b.h.complex.unplug(b.slot);
    expect(() => b.h.complex.load(state)).toThrow(/no function at a saved place/);
  });
});
