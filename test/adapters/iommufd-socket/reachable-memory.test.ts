import { beforeEach, describe, expect, test } from 'vitest';
import { FIRST_CLIENT_ADDRESS, ReachableMemory } from '../../../src/adapters/iommufd-socket/reachable-memory.ts';
import { AddressSpace } from '../../../src/lib/memory/address-space.ts';
import { Random } from '../../../tools/oracle/random.ts';

const AT = FIRST_CLIENT_ADDRESS;
const PAGE = 4096;

/** Pages of a client whose processor does something between two accesses of the server. */
class Client {
  readonly bytes = new Uint8Array(4 * PAGE);
  readonly view = new DataView(this.bytes.buffer);
  readonly writes: [at: number, bytes: number[]][] = [];
  readNow(hpa: number, into: Uint8Array, start: number, count: number): boolean {
    const at = hpa - AT;
    if (at < 0 || at + count > this.bytes.length) return false;
    into.set(this.bytes.subarray(at, at + count), start);
    return true;
  }
  writeNow(hpa: number, from: Uint8Array, start: number, count: number): boolean {
    const at = hpa - AT;
    if (at < 0 || at + count > this.bytes.length) return false;
    this.bytes.set(from.subarray(start, start + count), at);
    this.writes.push([at, [...from.subarray(start, start + count)]]);
    return true;
  }
  entry(at: number): bigint {
    return this.view.getBigUint64(at, true);
  }
  put(at: number, value: bigint): void {
    this.view.setBigUint64(at, value, true);
  }
}

let client: Client;
let memory: ReachableMemory;
beforeEach(() => {
  client = new Client();
  memory = new ReachableMemory(new AddressSpace());
  memory.clients = client;
});

const low = (v: bigint) => Number(BigInt.asIntN(32, v));
const high = (v: bigint) => Number(BigInt.asIntN(32, v >> 32n));
const store = (at: number, v: bigint) => memory.store64(AT + at, low(v), high(v));

describe('the copy of a page', () => {
  test('stays what it is while words are loaded and stored elsewhere', () => {
    client.put(0, 0x1111_2222_3333_4444n);
    client.put(PAGE, 0x5555_6666_7777_8888n);
    expect(memory.locate(AT)).toBe(true);
    const { words, index } = memory;
    expect(memory.load32(AT + PAGE + 4)).toBe(true);
    expect(memory.load64(AT + PAGE)).toBe(true);
    expect([memory.lo, memory.hi]).toEqual([0x7777_8888, 0x5555_6666]);
    expect(memory.store32(AT + PAGE, 9)).toBe(true);
    expect(store(2 * PAGE, 0x1234n)).toBe(true);
    expect([words[index], words[index + 1]]).toEqual([0x3333_4444, 0x1111_2222]);
  });

  test('is not to be written', () => {
    expect(memory.locate(AT)).toBe(true);
    expect(memory.writable).toBe(false);
  });
});

describe('flags of an entry', () => {
  test('keep what the processor of the client changed since the entry was read', () => {
    // VT-d: a first-stage entry gets A; the processor has put a key into its upper bits, and D beside it.
    client.put(8, 0x0000_0001_2345_6007n);
    expect(memory.locate(AT)).toBe(true);
    client.put(8, 0x0520_0001_2345_6047n);
    expect(store(8, 0x0000_0001_2345_6027n)).toBe(true);
    expect(client.entry(8)).toBe(0x0520_0001_2345_6067n);
    expect(client.writes).toEqual([[8, [0x67]]]);
  });

  test('that are cleared are cleared', () => {
    // SMMUv3: a descriptor becomes writable (AP[2] goes) and gets AF.
    client.put(16, 0x0068_0000_4000_0083n);
    expect(memory.locate(AT)).toBe(true);
    client.put(16, 0x0468_0000_4000_0083n);
    expect(store(16, 0x0068_0000_4000_0403n)).toBe(true);
    expect(client.entry(16)).toBe(0x0468_0000_4000_0403n);
    expect(client.writes).toEqual([[16, [0x03, 0x04]]]);
  });

  test.each([
    ['has gone', 0n],
    ['leads elsewhere', 0x0000_0001_2345_7007n],
    ['leads elsewhere, far away', 0x0000_0101_2345_6007n],
  ])('are not put into an entry that %s', (_, now) => {
    client.put(24, 0x0000_0001_2345_6007n);
    expect(memory.locate(AT)).toBe(true);
    client.put(24, now);
    expect(store(24, 0x0000_0001_2345_6027n)).toBe(false);
    expect(client.entry(24)).toBe(now);
  });

  test('any flags, whatever else the processor changes: each bit is that of whoever changed it', () => {
    const rng = new Random(9);
    const bits = () => (BigInt(rng.next() >>> 0) << 32n) | BigInt(rng.next() >>> 0);
    const flags = 0xfff0_0000_0000_0ffen;
    for (let i = 0; i < 3000; i++) {
      const at = 8 * rng.below(512);
      const before = bits();
      const theirs = bits() & bits() & flags;
      const ours = bits() & bits() & bits() & flags;
      client.put(at, before);
      expect(memory.locate(AT + 8 * rng.below(512))).toBe(true);
      client.put(at, before ^ theirs);
      const after = before ^ ours;
      expect(store(at, after)).toBe(true);
      expect(client.entry(at)).toBe(((before ^ theirs) & ~ours) | (after & ours));
      // A second one in the same walk starts from what is there.
      const more = client.entry(at) | 0x40n;
      expect(store(at, more)).toBe(true);
      expect(client.entry(at)).toBe(more);
    }
  });
});
