import { describe, expect, test } from 'vitest';
import { encodeDescriptor, WORK_OP } from '../../../devices/endpoints/descriptor.ts';
import { DmaEngine, ENGINE, ENGINE_CONTROL, ENGINE_STATE } from '../../../devices/endpoints/dma-engine.ts';
import { smmuv3Defaults } from '../../../devices/smmuv3/properties.ts';
import { GuestMemory, type GuestPageRequest, type GuestProgram } from '../../../guest-fixtures/programs/program.ts';
import { Smmuv3Program } from '../../../guest-fixtures/programs/smmuv3.ts';
import { VtdProgram } from '../../../guest-fixtures/programs/vtd.ts';
import { ramBacking } from '../../../src/lib/memory/address-space.ts';
import { PasidSpace } from '../../../src/lib/pasid/pasid-space.ts';
import { PasidLayer } from '../../../src/machine/pasid/pasid-layer.ts';
import { PluggedMachine } from '../../../src/machine/plugged-machine.ts';
import { Smmuv3Unit } from '../../../src/machine/smmuv3-unit.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { DATA, DOORBELL, KINDS, type Kind, RAM, RAM_BYTES, Rig, VA } from './rig.ts';

const RING = VA + 0x10_0000;
const RING_PA = DATA + 0x1_0000;
const PATTERN = 0x4321_4321;

/** A machine with a DMA engine that waits for VA, which the guest has not mapped. */
function machine(kind: Kind, how: 'own' | 'global' | 'slice') {
  const rig = new Rig(kind, kind === 'vtd' ? { pasids: new PasidLayer(new PasidSpace(0x1000, 0x1100)) } : {});
  const engine = new DmaEngine();
  if (how === 'slice') {
    const parent = new DmaEngine();
    rig.machine.plug(parent.fn, 0x08);
    rig.machine.plug(engine.fn, 0x10, undefined, { slice: { of: parent.fn, pasid: 0x40 } });
  } else rig.machine.plug(engine.fn, 0x10, undefined, how === 'global' ? { pasids: 'global' } : {});
  const reg = (at: number, value: number) => engine.fn.barWrite(0, at, 4, value);
  return {
    rig,
    engine,
    begin(guest: GuestProgram, pasid: number) {
      rig.enable(0, 0x10, engine.fn);
      guest.function(0x10, [pasid]);
      guest.map(0x10, pasid, RING, RING_PA);
      const words = encodeDescriptor({ op: WORK_OP.FILL, dstLo: VA, bytes: 64, pattern: PATTERN, ask: true });
      words.forEach((w, i) => void rig.machine.vm.memory.guest.store32(RING_PA + 4 * i, w));
      reg(ENGINE.RING_LOW, RING);
      reg(ENGINE.RING_LOG2, 2);
      if (pasid !== NO_PASID) reg(ENGINE.PASID, 0x8000_0000 | pasid);
      reg(ENGINE.CONTROL, ENGINE_CONTROL.ENABLE);
      reg(ENGINE.TAIL, 1);
    },
    busy: () => (engine.fn.barRead(0, ENGINE.STATE, 4) & ENGINE_STATE.BUSY) !== 0,
    errors: () => engine.fn.barRead(0, ENGINE.ERRORS, 4),
  };
}

type Machine = ReturnType<typeof machine>;

/** What the guest's accesses reach: the same object on whatever machine it runs on now. */
function reaching<T extends object>(of: () => T): T {
  return new Proxy({} as T, {
    get: (_, name) => {
      const target = of();
      const member = target[name as keyof T];
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
}

/** A guest that moves with its machine. */
function guestOf(kind: Kind, on: () => Machine): GuestProgram {
  const window = reaching(() => on().rig.machine.unit.window);
  const memory = new GuestMemory(
    reaching(() => on().rig.machine.vm.memory.guest),
    RAM,
  );
  return kind === 'vtd' ? new VtdProgram(window, memory) : new Smmuv3Program(window, memory, { ssidBits: 8 });
}

/** Everything as it was, on another host. */
function move(from: Machine, to: Machine): void {
  const state = JSON.parse(JSON.stringify(from.rig.machine.save()));
  const ram = new Uint8Array(RAM_BYTES);
  from.rig.machine.vm.memory.guest.readBytes(RAM, ram);
  to.rig.machine.vm.memory.guest.writeBytes(RAM, ram);
  to.rig.machine.load(state);
}

const CASES = [
  ...KINDS.map((kind) => [kind, 'own', NO_PASID] as const),
  ...KINDS.map((kind) => [kind, 'own', 3] as const),
  ['vtd', 'global', 3] as const,
  ['vtd', 'slice', 3] as const,
  ['vtd', 'slice', NO_PASID] as const,
];

describe.each(CASES)(
  'an engine behind a %s (%s, PASID %i) that waits for a page when the machine moves',
  (kind, how, pasid) => {
    const waiting = () => {
      const a = machine(kind, how);
      const b = machine(kind, how);
      let on = a;
      const guest = guestOf(kind, () => on);
      a.begin(guest, pasid);
      expect(a.busy()).toBe(true);
      /** The guest, which runs on where it was: same memory, other machine. */
      const answer = (request: GuestPageRequest) => {
        guest.map(0x10, pasid, VA, DATA);
        guest.respond(request, true);
      };
      const moves = () => {
        move(a, b);
        on = b;
      };
      return { b, guest, answer, moves };
    };
    const done = (m: Machine) => {
      expect([m.busy(), m.errors(), m.rig.load(DATA)]).toEqual([false, 0, PATTERN]);
      expect(m.rig.errors).toEqual([]);
    };

    test('goes on with the answer to the request the guest had taken before', () => {
      const { b, guest, answer, moves } = waiting();
      const [request] = guest.requests();
      expect(request).toMatchObject({ sid: 0x10, pasid, address: VA });
      moves();
      expect(b.busy()).toBe(true);
      answer(request!);
      done(b);
    });

    test('goes on with the answer to any request the guest finds afterwards', () => {
      const { b, guest, answer, moves } = waiting();
      moves();
      const found = guest.requests();
      expect(found.length).toBeGreaterThan(0);
      expect(new Set(found.map((q) => `${q.sid} ${q.pasid} ${q.address} ${q.group}`)).size).toBe(1);
      for (const q of found) answer(q);
      done(b);
    });
  },
);

test('an access that stalls behind an smmuv3 when the machine moves is made again there, and decided by the guest', () => {
  const PLACE = { iommu: 0x1000_0000, doorbell: { base: DOORBELL, bytes: 4096 } };
  const make = () => {
    const emulator = {
      ram: [{ base: RAM, bytes: RAM_BYTES, backing: ramBacking(RAM_BYTES) }],
      claim: () => {},
      interrupts: { line() {}, message() {} },
      defer: () => {},
    };
    const machine = new PluggedMachine(
      emulator,
      PLACE,
      (vm, irq) =>
        new Smmuv3Unit(vm, {
          name: 'smmuv3',
          properties: { ...smmuv3Defaults('arch'), stall: true },
          irq,
          doorbell: DOORBELL,
          canStall: () => true,
        }),
    );
    const engine = new DmaEngine({ ats: null });
    machine.plug(engine.fn, 0x10);
    return { machine, engine };
  };
  const [a, b] = [make(), make()];
  let on = a;
  const guest = new Smmuv3Program(
    reaching(() => on.machine.unit.window),
    new GuestMemory(
      reaching(() => on.machine.vm.memory.guest),
      RAM,
    ),
    { stall: true },
  );
  guest.function(0x10, [NO_PASID]);
  guest.map(0x10, NO_PASID, RING, RING_PA);
  const words = encodeDescriptor({ op: WORK_OP.FILL, dstLo: VA, bytes: 64, pattern: PATTERN });
  words.forEach((w, i) => void a.machine.vm.memory.guest.store32(RING_PA + 4 * i, w));
  const reg = (at: number, value: number) => a.engine.fn.barWrite(0, at, 4, value);
  a.engine.fn.configWrite(4, 2, 6);
  reg(ENGINE.RING_LOW, RING);
  reg(ENGINE.RING_LOG2, 2);
  reg(ENGINE.CONTROL, ENGINE_CONTROL.ENABLE);
  reg(ENGINE.TAIL, 1);
  const [first] = guest.events();
  expect(first).toMatchObject({ type: 0x10, sid: 0x10, address: VA });

  const state = JSON.parse(JSON.stringify(a.machine.save()));
  const ram = new Uint8Array(RAM_BYTES);
  a.machine.vm.memory.guest.readBytes(RAM, ram);
  b.machine.vm.memory.guest.writeBytes(RAM, ram);
  b.machine.load(state);
  on = b;
  const [again] = guest.events();
  expect(again).toMatchObject({ type: 0x10, sid: 0x10, address: VA });
  guest.map(0x10, NO_PASID, VA, DATA);
  guest.resume(0x10, again!.stag, true);
  expect(b.engine.fn.barRead(0, ENGINE.STATE, 4) & ENGINE_STATE.BUSY).toBe(0);
  b.machine.vm.memory.guest.load32(DATA);
  expect(b.machine.vm.memory.guest.lo).toBe(PATTERN);
});
