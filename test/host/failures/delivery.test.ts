import { expect, test } from 'vitest';
import { FailNth } from '../../../src/lib/inject/failure-plans.ts';
import { Host, must, words } from '../host.ts';

const read = (fd: { read(b: Uint8Array): number }, n: number) => {
  const b = new Uint8Array(n);
  const r = fd.read(b);
  return r < 0 ? r : [...new Uint32Array(b.buffer, 0, r >> 2)];
};

function nested() {
  const h = new Host();
  const d = h.device(h.ioas(), 4);
  const parent = h.hwpt(d.idev, 1, 1);
  return { h, d, parent };
}

test('an event for which there is no memory is lost: the reader is told, and the next one shows the gap', () => {
  const { h, d, parent } = nested();
  const v = h.viommu(d.idev, parent);
  h.vdevice(v, d.idev, 0x99n);
  must(h.mock.replace(d.stdev, h.nested(d.idev, v)));
  const q = h.veventq(v, 4);
  must(h.mock.triggerVevent(d.idev));
  h.memory.failures = new FailNth(1);
  must(h.mock.triggerVevent(d.idev));
  h.memory.failures = null;
  expect(read(q.fd, 64)).toEqual([0, 0, 0x99, 1, 1]);
  must(h.mock.triggerVevent(d.idev));
  expect(read(q.fd, 64)).toEqual([0, 2, 0x99]);
});

test('a group of page requests for which there is no memory is answered INVALID, and the next one is delivered', () => {
  const { h, d, parent } = nested();
  const q = h.fault();
  must(h.mock.replace(d.stdev, h.nested(d.idev, parent, 4 | 8, q.id)));
  const answers: number[][] = [];
  h.driver.pageResponse = ((_dev: unknown, f: { grpid: number }, code: number) =>
    answers.push([f.grpid, code])) as never;
  const dev = h.fd.context.objects.get(d.idev, 'device')!.dev;
  const report = (grpid: number, last: boolean) =>
    h.kernel.reportFault(dev, { pasid: 4, grpid, perm: 1, last, addrLo: 0x1000, addrHi: 0 });
  report(1, false);
  h.memory.failures = new FailNth(1);
  report(1, true);
  h.memory.failures = null;
  expect(answers).toEqual([[1, 1]]);
  expect(q.fd.poll()).toBe(4);
  // A request that is not the last is lost without an answer: the group is delivered without it.
  h.memory.failures = new FailNth(1);
  report(1, false);
  h.memory.failures = null;
  report(1, true);
  expect((read(q.fd, 80) as number[]).length).toBe(10);
  expect(q.fd.write(words(1, 0))).toBe(8);
  expect(answers.at(-1)).toEqual([1, 0]);
});
