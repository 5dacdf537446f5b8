import { IOCTL } from '../../src/spec/iommufd/ioctls.ts';
import { MOCK } from '../../src/spec/iommufd/selftest.ts';
import type { Random } from '../oracle/random.ts';
import type { Step } from './target.ts';

/** Where a program has its arguments, and what they point to. */
export const ARGUMENTS = 0x4000_0000;
export const ARGUMENT_BYTES = 0x4000;
/** Memory of a program that can be mapped. */
export const BUFFER = 0x7000_0000;
export const BUFFER_BYTES = 0x100_0000;
/** `_IO(';', nr)`. */
const TYPE = 0x3b00;
const TEST = 0xa0;
const TEST_BYTES = 72;
/** IOMMU_TEST_OP_ADD_RESERVED, MOCK_DOMAIN. */
const TEST_OPS = [1, 2, 2, 2] as const;

type Name = keyof typeof IOCTL;
/** Commands that make or change something, more often than those that ask. */
const NAMES: readonly Name[] = [
  ...(Object.keys(IOCTL) as Name[]),
  ...(['IOAS_ALLOC', 'IOAS_MAP', 'IOAS_MAP', 'IOAS_MAP', 'IOAS_UNMAP', 'IOAS_COPY', 'HWPT_ALLOC', 'DESTROY'] as const),
];

/** Flags of maps: FIXED_IOVA, WRITEABLE, READABLE; of the others most are none. */
function flagsOf(rnd: Random, ioctl: string): number {
  if (/MAP|COPY/.test(ioctl)) return rnd.chance(85) ? 7 : rnd.below(8);
  if (ioctl === 'HWPT_ALLOC') return rnd.chance(40) ? 0 : rnd.pick([1, 1, 2, 3, 4, 8, 9]);
  return rnd.chance(92) ? 0 : rnd.below(16);
}

function member(rnd: Random, name: string, ioctl: string): number {
  if (rnd.chance(2)) return rnd.next();
  if (name.startsWith('out')) return 0;
  if (name === 'faultId') return rnd.chance(90) ? 0 : rnd.below(14);
  if (/Id$|^id$/.test(name)) return rnd.chance(85) ? 1 + rnd.below(9) : rnd.below(20);
  if (name.startsWith('reserved')) return rnd.chance(98) ? 0 : rnd.next() & 0xff;
  if (name === 'flags') return flagsOf(rnd, ioctl);
  if (/Uptr|allowed|^data$/.test(name)) return rnd.chance(50) ? ARGUMENTS + 0x1000 + 16 * rnd.below(64) : 0;
  if (name === 'userVa') return BUFFER + 4096 * rnd.below(32) + (rnd.chance(10) ? rnd.below(4096) : 0);
  if (/[iI]ova|start/.test(name)) return Number(MOCK.APERTURE_START) + 4096 * rnd.below(24);
  if (name === 'length') return rnd.chance(90) ? 4096 * (1 + rnd.below(8)) : rnd.below(1 << 20);
  if (/Len$/.test(name)) return rnd.chance(70) ? 0 : rnd.pick([4, 8, 16, 24, 40, 64, 4096]);
  if (/num|entry|depth/i.test(name)) return rnd.chance(80) ? rnd.pick([1, 1, 2, 4, 8, 16, 64]) : rnd.next();
  if (/pageSize/.test(name)) return 4096;
  if (/type|op$|optionId|index/i.test(name)) return rnd.chance(50) ? 0 : rnd.below(4);
  return rnd.below(4096);
}

/** ['NAME', offset of a member, width in bytes, value, …]: a structure that is nearly what the kernel expects. */
export function ioctlStep(rnd: Random): Step {
  if (rnd.chance(12))
    return ['TEST', 4, 4, rnd.pick(TEST_OPS), 8, 4, 1 + rnd.below(4), 16, 8, 4096 * rnd.below(64), 24, 8, 4096];
  const name = rnd.pick(NAMES);
  const { at } = IOCTL[name];
  const step: (string | number)[] = [name];
  const offsets = Object.values(at) as number[];
  for (const [i, [m, offset]] of Object.entries(at).entries()) {
    const width = (offsets[i + 1] ?? IOCTL[name].bytes) - offset;
    if (m === 'size') {
      if (rnd.chance(5)) step.push(offset, 4, rnd.below(128));
      continue;
    }
    const value = member(rnd, m, name);
    if (value !== 0) step.push(offset, width, width >= 4 ? value : value & 0xff);
  }
  return step;
}

/** A structure with these members, and zero in all others. */
function made(name: Name, members: Readonly<Record<string, number>>): Step {
  const at = IOCTL[name].at as Readonly<Record<string, number>>;
  const offsets = Object.values(at);
  return [
    name,
    ...Object.entries(members).flatMap(([m, value]) => {
      const offset = at[m]!;
      const end = offsets[offsets.indexOf(offset) + 1] ?? IOCTL[name].bytes;
      return [offset, end - offset, value];
    }),
  ];
}

const VIOMMU_TYPES: Readonly<Record<string, number>> = { mock: 0xdead_beef, smmuv3: 1, vtd: 0 };

/** What most programs begin with, so that ids mean something: address space, mappings, domains, a vIOMMU and its parts. */
export function beginning(backend: string, devices: number): Step[] {
  const [ioas, device] = devices > 0 ? [devices + 1, 1] : [1, 4];
  const iova = Number(MOCK.APERTURE_START);
  const map = (n: number) => ({
    flags: 7,
    ioasId: ioas,
    userVa: BUFFER + n * 0x4000,
    length: 0x4000,
    iova: iova + n * 0x4000,
  });
  const next = devices > 0 ? devices + 2 : 5;
  return [
    made('IOAS_ALLOC', {}),
    made('IOAS_MAP', map(0)),
    ...(devices > 0 ? [] : [['TEST', 4, 4, 2, 8, 4, ioas] as Step]),
    made('HWPT_ALLOC', { flags: 1, devId: device, ptId: ioas }),
    made('VIOMMU_ALLOC', { type: VIOMMU_TYPES[backend] ?? 0, devId: device, hwptId: next }),
    made('VDEVICE_ALLOC', { viommuId: next + 1, devId: device, virtId: 3 }),
    made('VEVENTQ_ALLOC', { viommuId: next + 1, type: 1, depth: 4 }),
    made('HWPT_ALLOC', { flags: 2, devId: device, ptId: ioas }),
    made('IOAS_MAP', map(1)),
  ];
}

/** The structure of a step, and the request that takes it. */
export function encodeIoctl(step: Step): { readonly request: number; readonly bytes: Uint8Array } {
  const name = String(step[0]);
  const known = IOCTL[name as Name];
  const size = name === 'TEST' ? TEST_BYTES : known.bytes;
  const bytes = new Uint8Array(128);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, size, true);
  for (let i = 1; i + 2 < step.length; i += 3) {
    const [at, width, value] = [Number(step[i]), Number(step[i + 1]), Number(step[i + 2])];
    if (!(at >= 0 && at + 8 <= bytes.length)) continue;
    if (width === 8) view.setBigUint64(at, BigInt.asUintN(64, BigInt(Math.trunc(value))), true);
    else if (width >= 4) view.setUint32(at, value >>> 0, true);
    else if (width === 2) view.setUint16(at, value & 0xffff, true);
    else view.setUint8(at, value & 0xff);
  }
  return { request: TYPE | (name === 'TEST' ? TEST : known.nr), bytes };
}

/** Bytes of an answer that name descriptors: each program has its own. */
export function withoutDescriptors(step: Step, bytes: Uint8Array): Uint8Array {
  const out = bytes.slice();
  const at: Readonly<Record<string, number>> = IOCTL[String(step[0]) as Name]?.at ?? {};
  for (const [m, offset] of Object.entries(at)) if (/Fd$/.test(m)) out.fill(0, offset, offset + 4);
  return out;
}
