import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { HostVerbs } from '../../../src/lib/uapi/host-verbs.ts';
import { VerbData } from '../../../src/lib/uapi/verb-data.ts';
import type { Iommufd } from '../../../src/ports/iommufd.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';

test('driver data beyond its end is refused in both directions, and nothing of it is copied', () => {
  const bytes = Uint8Array.of(1, 2, 3, 4);
  const data = new VerbData(bytes);
  const into = new Uint8Array(3);

  expect(data.copyIn(2, into)).toBe(false);
  expect(data.copyOut(2, Uint8Array.of(9, 9, 9))).toBe(false);
  expect([...into, ...bytes]).toEqual([0, 0, 0, 1, 2, 3, 4]);

  expect(data.copyIn(1, into)).toBe(true);
  expect(data.copyOut(3, Uint8Array.of(9))).toBe(true);
  expect([...into, ...bytes]).toEqual([2, 3, 4, 1, 2, 3, 9]);
});

test('every verb that makes an object answers with the refusal of the host', () => {
  const refuse = () => -E.NOMEM;
  const verbs = new HostVerbs(
    new Proxy({} as Iommufd, { get: (_, name) => (name === 'invalidated' ? 0 : refuse) }) as Iommufd,
  );
  const s1 = { flags: 0, root: 0, width: 48 };
  const words = new Int32Array(6);

  const outcomes = [
    verbs.smmuv3Info(1),
    verbs.pasidBits(1),
    verbs.ioasAlloc(),
    verbs.pagingHwpt(1, 2, 0),
    verbs.nestedSmmuv3(1, 2, [1, 0, 0, 0]),
    verbs.nestedVtd(1, 2, 0, s1, 0),
    verbs.smmuv3Viommu(1, 2),
    verbs.vdevice(1, 2, 8),
    verbs.smmuv3EventQueue(1, 64),
    verbs.faultQueue(),
    verbs.map(1, 0n, 0, 4096, true, true),
    verbs.unmap(1, 0, 4096),
    verbs.unmapAll(1),
    verbs.invalidateSmmuv3(1, words, 0, 1),
    verbs.invalidateVtd(1, words),
    verbs.destroy(1),
  ];

  expect(outcomes).toEqual(outcomes.map(() => -E.NOMEM));
});

test('an object the host does not take back is given back again, before the ones under it', () => {
  const taken: number[] = [];
  let busy = true;
  const destroy = (id: number) => {
    if (busy) return -E.BUSY;
    taken.push(id);
    return 0;
  };
  const verbs = new HostVerbs({ destroy } as Iommufd);

  verbs.release(7);
  verbs.release(5);
  expect(verbs.kept).toEqual([7, 5]);
  busy = false;
  verbs.release(3);

  expect(taken).toEqual([7, 5, 3]);
  expect(verbs.kept).toEqual([]);
});

/** Source text without its comments. */
const code = (text: string) => text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/\/\/.*/g, '');

/** A call of a verb that begins a statement: what it returns is lost. */
function dropped(text: string): string[] {
  const verbs = Object.getOwnPropertyNames(HostVerbs.prototype).filter(
    (name) => !['constructor', 'release', 'kept', 'invalidated'].includes(name),
  );
  const call = `(?:[\\w#.!?]+\\.)?#?(?:host|verbs)[!?]?\\.(?:${verbs.join('|')})\\(`;
  const found = code(text).matchAll(new RegExp(`(?:^|[;{}]|\\)|\\belse|\\bdo|\\bvoid)\\s*(${call})`, 'g'));
  return Array.from(found, (m) => m[1]!);
}

/** The devices' source files. */
function sources(): string[] {
  return ['devices/smmuv3', 'devices/vtd'].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => `${folder}/${name}`),
  );
}

test('no device drops the outcome of a host verb', () => {
  expect(dropped('if (x) this.#host.destroy(id);\n  this.#host.detach(s.vfio);')).toHaveLength(2);
  expect(dropped('const r = this.#host.attach(v, id);\n return verbs.unmapAll(1);')).toEqual([]);

  const hits = sources().flatMap((file) => dropped(readFileSync(file, 'utf8')).map((call) => `${file}: ${call}`));

  expect(hits).toEqual([]);
});

test('no device goes to the host except through HostVerbs', () => {
  const direct = /\biommufd\.\w+\(|\bvfio\.(?:bind|attach|detach)\(/;

  expect(sources().filter((file) => direct.test(code(readFileSync(file, 'utf8'))))).toEqual([]);
});
