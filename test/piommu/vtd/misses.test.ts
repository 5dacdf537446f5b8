import { expect, test } from 'vitest';
import { PhysicalVtd } from '../../../src/piommu/vtd/device.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { CAP_ALL, ECAP_ALL, Rig } from './rig.ts';

/** Page n of a domain, and where it goes before and after the tables were changed. */
const PAGES = [0x1000n, 0x2000n, 0x8000n, 0x4000_0000n];
const OLD = 0x1000_0000n;
const NEW = 0x2000_0000n;

/**
 * One requester with a first-stage PASID 1, a second-stage PASID 2, a nested PASID 3 (all DID 7), a first-stage PASID 4
 * (DID 8), everything cached; then every leaf is changed. What a descriptor reached gives the new address.
 */
function staleRig(): Rig {
  const rig = new Rig();
  rig.scalable();
  const leaves: [at: number, flags: bigint, page: bigint][] = [];
  const identity = rig.page();
  for (let a = 0n; a < 0x8_0000n; a += 0x1000n) rig.map(identity, 0x11_0000n + a, 0x11_0000n + a, 3n);
  for (const kind of ['first', 'second', 'nested', 'other'] as const) {
    const table = rig.page();
    for (const page of PAGES) {
      const flags = kind === 'second' ? 3n : 0x67n;
      leaves.push([rig.map(table, page, OLD + page, flags), flags, page]);
      if (kind === 'nested') for (const to of [OLD, NEW]) rig.map(identity, to + page, to + page, 3n);
    }
    if (kind === 'first') rig.first(1, 7, table);
    if (kind === 'second') rig.second(2, 7, table);
    if (kind === 'nested') rig.nested(3, 7, table, identity);
    if (kind === 'other') rig.first(4, 8, table);
  }
  rig.enable(1);
  for (const pasid of [1, 2, 3, 4]) {
    for (const page of PAGES) expect([pasid, rig.dma(page, 1, 0x10, pasid)]).toEqual([pasid, Number(OLD + page)]);
  }
  for (const [at, flags, page] of leaves) rig.set(at, (NEW + page) | flags);
  return rig;
}

test('first use: the host is asked once before an absent entry counts', () => {
  const rig = new Rig();
  const table = rig.page();
  rig.map(table, 0x1000n, OLD, 3n);
  rig.scalable().enable(1);
  rig.heard.onStreamMiss = () => false;
  expect(rig.dma(0x1000n)).toBe(-0x59);
  expect(rig.heard.streamMisses).toBe(1);
  rig.heard.onStreamMiss = (rid, pasid) => {
    expect([rid, pasid]).toEqual([0x10, NO_PASID]);
    rig.second(0, 7, table);
    return true;
  };
  expect(rig.dma(0x1000n)).toBe(Number(OLD));
  expect([rig.heard.streamMisses, rig.heard.faults.length]).toEqual([2, 1]);
});

test('second-stage misses are offered page by page and retried; a refusal is the fault', () => {
  const rig = new Rig();
  const second = rig.page();
  const first = rig.page();
  rig.map(first, 0x1000n, OLD, 7n);
  rig.scalable().nested(1, 7, first, second).enable(1);
  const offered: [number, number][] = [];
  rig.heard.onStageTwoMiss = (ipa, access) => {
    offered.push([ipa, access]);
    rig.map(second, BigInt(ipa), BigInt(ipa), 3n);
    return true;
  };
  expect(rig.dma(0x1000n, 2, 0x10, 1)).toBe(Number(OLD));
  expect(offered.length).toBe(5);
  expect(offered.at(-1)).toEqual([Number(OLD), 2]);
  rig.map(first, 0x2000n, OLD + 0x1000n, 7n);
  rig.heard.onStageTwoMiss = () => false;
  expect(rig.dma(0x2000n, 2, 0x10, 1)).toBe(-0x79);
  // A host that says yes and maps nothing cannot hang the request.
  rig.heard.onStageTwoMiss = () => true;
  expect(rig.dma(0x2000n, 2, 0x10, 1)).toBe(-0x79);
});

test('a saved unit goes on with the same stale entries', () => {
  const rig = staleRig();
  const data = JSON.parse(JSON.stringify(rig.hw.save()));
  const caches = { iotlb: 1024, walks: 64 };
  const other = new PhysicalVtd({ memory: rig.memory, cap: CAP_ALL, ecap: ECAP_ALL, events: rig.heard, caches });
  other.load(data);
  for (const page of PAGES) {
    expect(other.translate(0x10, 1, Number(page), 0, 1, 0)).toBe(0);
    expect(other.out).toBe(Number(OLD + page));
  }
  const buffer = new Int32Array(8);
  buffer[0] = 0x36 | (7 << 16);
  buffer[1] = 1;
  buffer[2] = 0x1000;
  other.submit(buffer, 0, 1);
  other.translate(0x10, 1, 0x1000, 0, 1, 0);
  expect(other.out).toBe(Number(NEW + 0x1000n));
  other.translate(0x10, 1, 0x2000, 0, 1, 0);
  expect(other.out).toBe(Number(OLD + 0x2000n));
});
