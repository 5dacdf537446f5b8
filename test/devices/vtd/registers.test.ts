import { describe, expect, test } from 'vitest';
import { HW_ERROR } from '../../../src/ports/hw.ts';
import { Guest, WRITE } from './guest.ts';

/** A unit with an empty root table: every DMA of these two is a fault. */
function faulting(options = '', profile: 'qemu-11.1' | 'arch' = 'qemu-11.1'): Guest {
  const g = new Guest(options, profile);
  for (const rid of [0x10, 0x18, 0x20]) g.vtd.addDevice({ rid, vfio: g.host.vfio(rid) });
  g.translateOn(0x30_0000n);
  return g;
}
const FAULT = (g: Guest, rid: number, iova: number): number => g.host.dma(rid, -1, iova, WRITE);

describe('GCMD and GSTS', () => {
  test('rows 24, 25: SRTP and WBF are one-shots, TE is a level; a WBF write drops TES, RTPS stays', () => {
    const g = new Guest();
    g.w64(0x20, 0x30_0000n);
    const seen = [0x4000_0000, 0x8000_0000, 0x0800_0000, 0x0080_0000].map((v) => {
      g.w32(0x18, v);
      return [g.r32(0x18), g.r32(0x1c)];
    });
    expect(seen).toEqual([
      [0, 0x4000_0000],
      [0, 0xc000_0000],
      [0, 0x4000_0000],
      [0, 0x4000_0000],
    ]);
  });

  test('interrupt remapping: SIRTP then IRE show in GSTS; without intremap IRE is not accepted', () => {
    const g = new Guest();
    g.w32(0x18, 0x0100_0000);
    expect(g.r32(0x1c)).toBe(0x0100_0000);
    g.w32(0x18, 0x0200_0000);
    expect(g.r32(0x1c)).toBe(0x0300_0000);
    const without = new Guest('intremap=off');
    without.w32(0x18, 0x0200_0000);
    expect(without.r32(0x1c)).toBe(0);
  });

  test('row 24: CFI is a level that shows in GSTS under arch, and is ignored by qemu-11.1', () => {
    for (const [profile, shown] of [
      ['arch', 0x0080_0000],
      ['qemu-11.1', 0],
    ] as const) {
      const g = new Guest('', profile);
      g.w32(0x18, 0x0080_0000);
      expect(g.r32(0x1c)).toBe(shown);
      g.w32(0x18, 0);
      expect(g.r32(0x1c)).toBe(0);
    }
  });

  test('dma-translation=off: TE is not accepted', () => {
    const g = new Guest('dma-translation=off');
    g.translateOn(0x30_0000n);
    expect(g.r32(0x1c)).toBe(0x4000_0000);
  });

  test('row 25: the root is what SRTP latched, whatever RTADDR says later', () => {
    const g = faulting();
    g.store(0x30_0000, 0x30_1001n);
    g.store(0x30_1100, 0x9n, 0x2n);
    g.w64(0x20, 0x3f_0000n);
    expect(FAULT(g, 0x10, 0x5000)).toBe(0x5000);
    g.w32(0x18, 0xc000_0000);
    expect(FAULT(g, 0x10, 0x5000)).toBe(-1);
  });
});

describe('access widths (row 40)', () => {
  test('an 8-byte store over two 32-bit registers reaches both, and bytes and words read as zero', () => {
    const g = new Guest();
    g.w64(0x38, 0x8000_0000_1234_5678n);
    expect([g.r32(0x38), g.r32(0x3c)]).toEqual([0, 0]);
    g.w64(0x40, 0x1111_1111_2222_2220n);
    expect([g.r32(0x40), g.r32(0x44)]).toEqual([0x2222_2220, 0]);
    expect([1, 2].map((n) => g.vtd.read(8, n))).toEqual([0, 0]);
  });

  test('at PECTL qemu-11.1 takes the low half only', () => {
    const options = 'scalable-mode=on,fsts=on,pasid-bits=8,svm=on,device-iotlb=on';
    for (const [profile, data] of [
      ['qemu-11.1', 0],
      ['arch', 0xffff],
    ] as const) {
      const g = new Guest(options, profile);
      g.w64(0xe0, 0xffff_ffff_ffff_ffffn);
      expect([g.r32(0xe0), g.r32(0xe4)]).toEqual([0x8000_0000, data]);
    }
  });

  test('a store over FSTS and the word below it services the event under arch; qemu-11.1 only clears the bits', () => {
    for (const [profile, control] of [
      ['qemu-11.1', 0xc000_0000],
      ['arch', 0x8000_0000],
    ] as const) {
      const g = new Guest('', profile);
      g.queueOn();
      g.submit(0xen, 0n);
      g.store(0x10_0000, 0x12n);
      g.w64(0x30, 0x10_0000_0000n);
      expect([g.r32(0x34), g.r32(0x38)]).toEqual([0, control]);
    }
  });

  test('every register takes any size at any offset without throwing, also outside the window', () => {
    for (const profile of ['qemu-11.1', 'arch'] as const) {
      const g = new Guest('scalable-mode=on,fsts=on,pasid-bits=8,svm=on,device-iotlb=on', profile);
      for (let at = -8; at < 0x1010; at++) {
        for (const n of [1, 2, 4, 8]) {
          g.vtd.write(at, n, at % 3 === 0 ? 0 : 0x2a, 0);
          if (n < 8) g.vtd.read(at, n);
          else g.vtd.read64(at, g.out);
        }
      }
    }
  });

  test('CCMD and IOTLB take a qword or two dwords; the request starts with the high one', () => {
    for (const halves of [false, true]) {
      const g = new Guest();
      const write = (at: number, v: bigint): void => {
        if (!halves) g.w64(at, v);
        else {
          g.w32(at, Number(v & 0xffff_ffffn));
          g.w32(at + 4, Number(v >> 32n));
        }
      };
      write(0x28, 0xa000_0000_0000_0000n);
      write(0xf8, 0x9000_0000_0000_0000n);
      expect([g.r64(0x28), g.r64(0xf8)]).toEqual([0x2800_0000_0000_0000n, 0x1200_0000_0000_0000n]);
    }
  });
});

describe('register-based invalidation', () => {
  test('row 38: CAIG and IAIG report what was done; qemu-11.1 says global for a domain request', () => {
    for (const [profile, context] of [
      ['qemu-11.1', 0x4800_0000_0000_0005n],
      ['arch', 0x5000_0000_0000_0005n],
    ] as const) {
      const g = new Guest('', profile);
      g.w64(0x28, 0xc000_0000_0000_0005n);
      g.w64(0xf8, 0xa000_0005_0000_0000n);
      expect([g.r64(0x28), g.r64(0xf8)]).toEqual([context, 0x2400_0005_0000_0000n]);
      g.w64(0xf0, 19n);
      g.w64(0xf8, 0xb000_0005_0000_0000n);
      expect(g.r64(0xf8)).toBe(0x3000_0005_0000_0000n);
    }
  });

  test('row 37: with the queue on a request is refused: qemu-11.1 leaves ICC and IVT set, arch clears them with granularity 0', () => {
    for (const [profile, context, iotlb] of [
      ['qemu-11.1', 0xa000_0000_0000_0000n, 0x9000_0000_0000_0000n],
      ['arch', 0x2000_0000_0000_0000n, 0x1000_0000_0000_0000n],
    ] as const) {
      const g = new Guest('', profile);
      g.queueOn();
      g.w64(0x28, 0xa000_0000_0000_0000n);
      g.w64(0xf8, 0x9000_0000_0000_0000n);
      expect([g.r64(0x28), g.r64(0xf8)]).toEqual([context, iotlb]);
    }
  });

  test('row 37: in scalable mode arch refuses them with the queue off, too', () => {
    const g = new Guest('scalable-mode=on', 'arch');
    g.w64(0x20, 0x400n);
    g.w32(0x18, 0x4000_0000);
    g.w64(0x28, 0xa000_0000_0000_0000n);
    expect(g.r64(0x28)).toBe(0x2000_0000_0000_0000n);
  });
});

describe('fault recording and its event', () => {
  test('qemu-11.1: the golden sequence of two requesters over one record', () => {
    const g = faulting();
    const see = (): string =>
      [g.r32(0x34), g.r32(0x38), ...[g.r64(0x220), g.r64(0x228)]].map((v) => v.toString(16)).join(' ');
    const steps: string[] = [];
    const step = (act: () => void): void => {
      act();
      steps.push(see());
    };
    step(() => FAULT(g, 0x10, 0x5000));
    step(() => FAULT(g, 0x18, 0x7000));
    step(() => g.w32(0x22c, 0x8000_0000));
    step(() => FAULT(g, 0x18, 0x8000));
    step(() => g.w32(0x34, 1));
    step(() => FAULT(g, 0x18, 0x9000));
    step(() => g.w32(0x22c, 0x8000_0000));
    step(() => g.w32(0x34, 0xff));
    expect(steps).toEqual([
      '2 c0000000 5000 8000000100000010',
      '3 c0000000 5000 8000000100000010',
      '1 c0000000 5000 100000010',
      '1 c0000000 5000 100000010',
      '0 80000000 5000 100000010',
      '2 c0000000 9000 8000000100000018',
      '0 c0000000 9000 100000018',
      '0 80000000 9000 100000018',
    ]);
  });

  test('row 34: qemu-11.1 merges a second fault of the same source silently, arch records it', () => {
    const q = faulting();
    FAULT(q, 0x10, 0x5000);
    FAULT(q, 0x10, 0x6000);
    expect(q.fault()).toEqual([2, 0x5000n, 0x8000_0001_0000_0010n]);
    const a = faulting('', 'arch');
    FAULT(a, 0x10, 0x5000);
    FAULT(a, 0x10, 0x6000);
    expect([a.r64(0x220), a.r64(0x230), a.r64(0x238)]).toEqual([0x5000n, 0x6000n, 0x8000_0001_0000_0010n]);
  });

  test('arch, row 33: eight records in a ring, then PFO; FRI names the first; the index wraps', () => {
    const g = faulting('', 'arch');
    FAULT(g, 0x10, 0x1000);
    g.w32(0x22c, 0x8000_0000);
    for (let i = 0; i < 8; i++) FAULT(g, 0x10, 0x2000 + i * 0x1000);
    expect(g.r32(0x34)).toBe(0x102);
    expect([1, 2, 7, 0].map((i) => g.r64(0x220 + 16 * i))).toEqual([0x2000n, 0x3000n, 0x8000n, 0x9000n]);
    FAULT(g, 0x18, 0xa000);
    expect(g.r32(0x34)).toBe(0x103);
    g.w32(0x34, 1);
    for (let i = 0; i < 8; i++) g.w32(0x22c + 16 * i, 0x8000_0000);
    expect(g.r32(0x34) & 3).toBe(0);
  });

  test('arch, row 33: logging restarts at record 0 when translation and remapping are both off', () => {
    const g = faulting('', 'arch');
    FAULT(g, 0x10, 0x1000);
    g.w32(0x22c, 0x8000_0000);
    g.w32(0x18, 0);
    g.translateOn(0x30_0000n);
    FAULT(g, 0x10, 0x7000);
    expect([g.r64(0x220), g.r64(0x230)]).toEqual([0x7000n, 0n]);
  });

  test('an event message outside of the interrupt range is a memory write under arch; QEMU hands it to the APICs', () => {
    for (const profile of ['arch', 'qemu-11.1'] as const) {
      const g = faulting('', profile);
      const at = 0x30_0040;
      g.store(at, 0xdddd_dddd_dddd_ddddn);
      g.w32(0x3c, 0x55);
      g.w32(0x40, at);
      g.w32(0x38, 0);
      FAULT(g, 0x10, 0x5000);
      expect([g.load(at), g.host.messages]).toEqual(
        profile === 'arch' ? [0xdddd_dddd_0000_0055n, []] : [0xdddd_dddd_dddd_ddddn, [{ address: at, data: 0x55 }]],
      );
    }
  });

  test('row 31: IP clears when the last status is serviced, FRCD.F included; in qemu-11.1 it stays', () => {
    for (const [profile, control] of [
      ['arch', 0x8000_0000],
      ['qemu-11.1', 0xc000_0000],
    ] as const) {
      const g = faulting('', profile);
      FAULT(g, 0x10, 0x5000);
      expect(g.r32(0x38)).toBe(0xc000_0000);
      g.w32(0x22c, 0x8000_0000);
      expect([g.r32(0x34) & 0xff, g.r32(0x38)]).toEqual([0, control]);
    }
  });

  test('row 31: a pending message leaves when IM is cleared; with IM=0 a fault sends at once', () => {
    const g = faulting();
    g.w32(0x3c, 0x55);
    g.w32(0x40, 0xfee0_1000);
    FAULT(g, 0x10, 0x5000);
    expect(g.host.messages).toEqual([]);
    g.w32(0x38, 0);
    expect([g.r32(0x38), g.host.messages]).toEqual([0, [{ address: 0xfee0_1000, data: 0x55 }]]);
    g.w64(0x228, 1n << 63n);
    FAULT(g, 0x10, 0x6000);
    expect([g.r32(0x38), g.host.messages.length]).toEqual([0, 2]);
  });

  test('row 31: a new fault makes no event while another condition is unserviced', () => {
    const g = faulting('', 'arch');
    g.w32(0x40, 0xfee0_0000);
    g.w32(0x38, 0);
    g.queueOn();
    g.submit(0xen, 0n);
    expect(g.host.messages).toHaveLength(1);
    FAULT(g, 0x10, 0x5000);
    expect(g.host.messages).toHaveLength(1);
  });

  test('row 32: all three control registers reset masked; qemu-11.1 leaves PECTL open', () => {
    const options = 'scalable-mode=on,fsts=on,pasid-bits=8,svm=on,device-iotlb=on';
    const controls = (profile: 'qemu-11.1' | 'arch'): number[] => {
      const g = new Guest(options, profile);
      return [g.r32(0x38), g.r32(0xa0), g.r32(0xe0)];
    };
    expect(controls('arch')).toEqual([0x8000_0000, 0x8000_0000, 0x8000_0000]);
    expect(controls('qemu-11.1')).toEqual([0x8000_0000, 0x8000_0000, 0]);
  });

  test('row 39: upper message addresses are writable with EIM under arch, and used; qemu-11.1 keeps them 0', () => {
    const upper = (profile: 'qemu-11.1' | 'arch', eim: string): number[] => {
      const g = new Guest(`intremap=on,eim=${eim}`, profile);
      g.w32(0x44, 0x100);
      g.w32(0xac, 0x100);
      return [g.r32(0x44), g.r32(0xac)];
    };
    expect(upper('arch', 'on')).toEqual([0x100, 0x100]);
    expect(upper('arch', 'off')).toEqual([0, 0]);
    expect(upper('qemu-11.1', 'on')).toEqual([0, 0]);
    const g = new Guest('intremap=on,eim=on', 'arch');
    g.w32(0xac, 0x100);
    g.w32(0xa8, 0xfee0_0000);
    g.w32(0xa0, 0);
    g.queueOn();
    g.submit(0x15n, 0n);
    expect(g.host.messages).toEqual([{ address: 0x100_fee0_0000, data: 0 }]);
  });

  test('row 30: ICE and ITE are reserved without a device TLB', () => {
    const g = faulting('', 'arch');
    g.host.handlers!.onInvalidateError!(1000, HW_ERROR.ATC_TIMEOUT, 0);
    g.w32(0x34, 0x71);
    expect(g.r32(0x34)).toBe(0x40);
  });
});

test('power-on state comes back with a reset, and with it every stream on guest RAM', () => {
  const g = faulting('device-iotlb=on');
  FAULT(g, 0x10, 0x5000);
  g.queueOn();
  const before = new Guest('device-iotlb=on');
  g.vtd.reset();
  for (let at = 0; at < 0x230; at += 4) expect([at, g.r32(at)]).toEqual([at, before.r32(at)]);
  expect(FAULT(g, 0x10, 0x5000)).toBe(0x5000);
});

describe('x-queued-invalidation=off', () => {
  test('ECAP shows no queue, and QIE is not accepted', () => {
    const g = new Guest('x-queued-invalidation=off,intremap=off');
    expect(g.r32(0x10) & 2).toBe(0);
    g.w32(0x18, 0x0400_0000);
    expect(g.r32(0x1c) & 0x0400_0000).toBe(0);
  });

  test.each(['intremap=on', 'intremap=off,device-iotlb=on', 'intremap=off,scalable-mode=on'])(
    'what needs the queue is refused beside it: %s',
    (words) => {
      expect(() => new Guest(`x-queued-invalidation=off,${words}`)).toThrow(/x-queued-invalidation=off/);
    },
  );
});
