import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VirtualClock } from '../../../src/lib/clock/virtual-clock.ts';
import { DMA, type EndpointPort } from '../../../src/ports/dma.ts';
import { Rig, ROOT } from './rig.ts';

const int32 = fc.oneof(fc.integer(), fc.constantFrom(0, 1, -1, 0x1000, 0x10_0000 | 1, 0xfee0_0000 | 0));
const rid = fc.constantFrom(0, 0x10, 0x80, 0xffff);
const pasid = fc.constantFrom(-1, 0, 1, 0x7f, 0xf_ffff);

type Op =
  | readonly ['table', number, number, number]
  | readonly ['inv', readonly number[]]
  | readonly ['dma' | 'ats' | 'pri', number, number, number, number, number]
  | readonly ['done', number, number, number]
  | readonly ['root', number];

const op: fc.Arbitrary<Op> = fc.oneof(
  // Words anywhere in memory, mostly pointing into it, so that tables of all kinds come about.
  fc.tuple(
    fc.constant('table' as const),
    fc.nat({ max: 0x1_0000 }),
    fc.oneof(
      int32,
      fc.nat({ max: 0x7f_ffff }).map((n) => (ROOT + (n & 0x7_ffff)) | 1),
    ),
    fc.constantFrom(0, 1, 2, -1),
  ),
  fc.tuple(fc.constant('inv' as const), fc.array(int32, { minLength: 8, maxLength: 32 })),
  fc.tuple(
    fc.constantFrom('dma' as const, 'ats' as const, 'pri' as const),
    rid,
    pasid,
    int32,
    int32,
    fc.nat({ max: 15 }),
  ),
  fc.tuple(fc.constant('done' as const), rid, int32, fc.nat({ max: 7 })),
  fc.tuple(fc.constant('root' as const), fc.nat({ max: 3 })),
);

test('no table, descriptor, request or completion makes the unit throw, hang or answer outside its words', () => {
  const endpoints: EndpointPort = { invalidate: (r) => r !== 0, pageResponse() {}, resumed() {} };
  fc.assert(
    fc.property(fc.array(op, { maxLength: 80 }), (ops) => {
      const clock = new VirtualClock();
      const rig = new Rig({ endpoints, clock, invalidateTimeout: 100 });
      rig.heard.onStageTwoMiss = (ipa) => ipa % 3 === 0;
      rig.heard.onStreamMiss = () => true;
      rig.scalable().second(0, 7, rig.page()).first(1, 7, rig.page()).enable(1);
      for (const o of ops) {
        switch (o[0]) {
          case 'table':
            rig.memory.store64(ROOT + (o[1] & ~7), o[2], o[3]);
            break;
          case 'inv': {
            const words = Int32Array.from(o[1]);
            rig.hw.submit(words, 0, words.length >> 3);
            expect(rig.hw.done).toBeLessThanOrEqual(words.length >> 3);
            break;
          }
          case 'dma': {
            const r = rig.hw.translate(o[1], o[2], o[3], o[4], o[5], o[5] & 2);
            expect([DMA.OK, DMA.ABORT, DMA.INTERRUPT]).toContain(r);
            if (r === DMA.OK) expect(rig.hw.out).toBeLessThan(2 ** 52);
            break;
          }
          case 'ats':
            expect([0, 1, 4]).toContain(rig.hw.translationRequest(o[1], o[2], o[3], o[4], o[5]));
            break;
          case 'pri':
            rig.hw.pageRequest(o[1], o[2], o[3], o[4], o[5], o[3] & 0x1ff, (o[4] & 1) !== 0);
            break;
          case 'done':
            rig.hw.invalidateCompletion(o[1], o[2], o[3]);
            break;
          default:
            rig.enable(o[1]);
        }
        clock.advance(7);
      }
      JSON.stringify(rig.hw.save());
      expect(clock.settle()).toBe(true);
    }),
    { numRuns: 150 },
  );
});
