import { describe, expect, test } from 'vitest';
import { ACCESS, AT, DMA, NO_PASID } from '../../../src/ports/dma.ts';
import type { Upstream } from '../../../src/ports/pci.ts';
import { FAULT } from '../../../src/spec/vtd/faults.ts';
import { probe, Rig } from './rig.ts';

const MESSAGE = 0xfee0_0010;

/** A function on a machine with a vVT-d, and what the guest reads of the faults of its requests. */
function machine() {
  const rig = new Rig('vtd');
  const fn = probe();
  let up: Upstream | null = null;
  fn.onUpstream = (upstream) => {
    up = upstream;
  };
  rig.plug(fn, 0x40);
  rig.space(0x40);
  const send = (write: boolean, at: number, count: number, pasid = NO_PASID) => {
    const bytes = new Uint8Array(count);
    const outcome = write
      ? up!.write(pasid, at | 0, 0, ACCESS.WRITE, AT.UNTRANSLATED, bytes, 0, count)
      : up!.read(pasid, at | 0, 0, ACCESS.READ, AT.UNTRANSLATED, bytes, 0, count);
    const records = rig.said.filter((s) => s.what === 'frcd').map((s) => ('words' in s ? s.words : []));
    rig.said.length = 0;
    return { outcome, reasons: records.map((w) => [w[3]! & 0xff, w[2]! & 0xffff, (w[3]! & 0x4000_0000) !== 0]) };
  };
  return { rig, send };
}

describe('a request without PASID to the interrupt range', () => {
  test.each([
    ['of 8 bytes', MESSAGE, 8],
    ['of 2 bytes', MESSAGE, 2],
    ['of 1 byte', MESSAGE, 1],
    ['of 3 bytes', MESSAGE, 3],
    ['of 12 bytes', MESSAGE, 12],
    ['of 4 bytes that is not aligned', MESSAGE + 2, 4],
    ['of 8 bytes that is not aligned', MESSAGE + 4, 8],
  ])('that is a write %s is no interrupt: it is refused, and one fault says so', (_, at, count) => {
    const { rig, send } = machine();
    expect(send(true, at, count)).toEqual({
      outcome: DMA.ABORT,
      reasons: [[FAULT.IR_REQUEST_TYPE, 0x40, false]],
    });
    expect(rig.messages).toEqual([]);
  });

  test('that is a read is refused as well', () => {
    const { send } = machine();
    expect(send(false, MESSAGE, 4)).toEqual({ outcome: DMA.ABORT, reasons: [[FAULT.IR_REQUEST_TYPE, 0x40, true]] });
  });

  test('that is an aligned DWORD write is an interrupt', () => {
    const { send } = machine();
    expect(send(true, MESSAGE, 4).reasons).toEqual([]);
  });
});
