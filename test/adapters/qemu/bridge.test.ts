import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { FileRam } from '../../../src/adapters/qemu/file-ram.ts';
import { QtestClient } from '../../../src/adapters/qemu/qtest-client.ts';
import { TrapServer } from '../../../src/adapters/qemu/trap-server.ts';
import { AddressSpace } from '../../../src/lib/memory/address-space.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'viommu-qemu-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

test('a page of shared RAM is read again only after the guest ran, and stores reach the file at once', () => {
  const path = join(dir, 'ram');
  writeFileSync(path, Buffer.alloc(8192));
  const fd = openSync(path, 'r+');
  const ram = new FileRam(fd);
  const space = new AddressSpace();
  space.addRam(0x4000_0000, 8192, ram);
  const guestWrites = (at: number, value: number) => writeSync(fd, Buffer.of(value, 0, 0, 0), 0, 4, at);
  const load = (at: number) => (space.load32(at) ? space.lo : -1);

  guestWrites(16, 1);
  expect(load(0x4000_0010)).toBe(1);
  guestWrites(16, 2);
  expect(load(0x4000_0010)).toBe(1);
  ram.stopped();
  expect(load(0x4000_0010)).toBe(2);
  space.store32(0x4000_1004, 0x0403_0201);
  expect([...readFileSync(path).subarray(0x1004, 0x1008)]).toEqual([1, 2, 3, 4]);
  ram.put(0x20, Uint8Array.of(9, 9));
  expect(readFileSync(path).readUInt16LE(0x20)).toBe(0x0909);
  closeSync(fd);
});

test('a vCPU that stores into the window waits for the device, also when its message arrives in pieces', async () => {
  const seen: [number, number, number, number][] = [];
  const server = new TrapServer((...s) => void seen.push(s));
  await server.listen(join(dir, 't.sock'));
  const vcpu = connect(join(dir, 't.sock'));
  const store = (offset: number, value: bigint, size: number) => {
    const m = Buffer.alloc(24);
    m.writeBigUInt64LE(BigInt(offset), 0);
    m.writeBigUInt64LE(value, 8);
    m.writeUInt32LE(size, 16);
    return m;
  };
  const ack = () => new Promise<void>((resolve) => vcpu.once('data', () => resolve()));
  const first = store(0x20, 0xffff_ffff_0000_000dn, 8);
  const acked = ack();
  vcpu.write(first.subarray(0, 10));
  await new Promise((r) => setTimeout(r, 5));
  expect(seen).toEqual([]);
  vcpu.write(first.subarray(10));
  await acked;
  const again = ack();
  vcpu.write(store(0x100_0010, 7n, 4));
  await again;
  expect(seen).toEqual([
    [0x20, 8, 0xd, -1],
    [0x100_0010, 4, 7, 0],
  ]);
  expect(server.count).toBe(2);
  vcpu.destroy();
  server.close();
});

test('bus writes go out in order, also those made before QEMU connected; a refusal names the request', async () => {
  const client = new QtestClient();
  await client.listen(join(dir, 'q.sock'));
  const one = client.writel(0x802_0040, 128);
  const two = client.writel(0x802_0040, 0xffff_ffff | 0);
  const qemu = connect(join(dir, 'q.sock'));
  let heard = '';
  qemu.on('data', (d) => {
    heard += d.toString();
    for (const _ of d.toString().matchAll(/\n/g))
      qemu.write(heard.includes('0xbad') ? 'FAIL no\n' : 'IRQ raise 1\nOK\n');
  });
  await Promise.all([one, two]);
  expect(heard).toBe('writel 0x8020040 0x80\nwritel 0x8020040 0xffffffff\n');
  await expect(client.writel(0xbad, 1)).rejects.toThrow(/FAIL no to writel 0xbad/);
  qemu.destroy();
  client.close();
});
