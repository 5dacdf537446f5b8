import { E } from '../../../spec/iommufd/errno.ts';
import { IOMMUFD_CMD, IOMMUFD_TYPE } from '../../../spec/iommufd/ioctls.ts';
import { MOCK_ACCESS_FLAG, TEST_OP } from '../../../spec/iommufd/selftest.ts';
import type { Caller } from '../../ioctl/caller.ts';
import type { TestIoctl } from '../../ioctl/iommufd-ioctl.ts';
import type { IommufdFile } from '../../iommufd/file.ts';
import type { MockDriver } from './driver.ts';
import { AccessFile, MockDmabuf } from './files.ts';
import { MockCommands } from './test-commands.ts';

const PAGE = 4096n;
/** Accesses of a test are limited to this many bytes. */
const MAX_ACCESS = 16n << 20n;
/** Bits a test may hand over at once. */
const MAX_DIRTY = 16n << 23n;
const MIN_LIMIT = 12;
const MAX_DMABUF = 512 * 4096;
const FLAG_PINS = 1;

/** struct iommu_test_cmd: {size, op, id, reserved}, a union at 16, `last` at 64. */
class Command {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  u32(at: number): number {
    return this.#view.getUint32(at, true);
  }
  u64(at: number): bigint {
    return this.#view.getBigUint64(at, true);
  }
  set32(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }
  set64(at: number, value: bigint): void {
    this.#view.setBigUint64(at, value, true);
  }
  get id(): number {
    return this.u32(8);
  }
}

type Answer = () => boolean;

/** IOMMU_TEST_CMD of an iommufd with the mock driver behind it. */
export class MockTestIoctl implements TestIoctl {
  readonly number = (IOMMUFD_TYPE << 8) | IOMMUFD_CMD.TEST;
  readonly minimum = 68;
  readonly bytes = 72;
  readonly #file: IommufdFile;
  readonly #commands: MockCommands;

  constructor(file: IommufdFile, driver: MockDriver) {
    this.#file = file;
    this.#commands = new MockCommands(file, driver);
  }

  run(bytes: Uint8Array, caller: Caller, reply: (bytes: Uint8Array) => boolean): number {
    const c = new Command(bytes);
    const answer = () => reply(bytes);
    const m = this.#commands;
    switch (c.u32(4)) {
      case TEST_OP.ADD_RESERVED:
        return m.addReserved(c.id, c.u64(16), c.u64(24));
      case TEST_OP.MOCK_DOMAIN:
        return this.#mockDevice(c, 0, answer);
      case TEST_OP.MOCK_DOMAIN_FLAGS:
        return this.#mockDevice(c, c.u32(28), answer);
      case TEST_OP.MOCK_DOMAIN_REPLACE:
        return this.#changed(c, 16, m.replace(c.id, c.u32(16)), answer);
      case TEST_OP.PASID_ATTACH:
        return m.pasidAttach(c.id, c.u32(16), c.u32(20), () => {
          c.set32(20, m.ptId);
          return answer();
        });
      case TEST_OP.PASID_REPLACE:
        return this.#changed(c, 20, m.pasidReplace(c.id, c.u32(16), c.u32(20)), answer);
      case TEST_OP.PASID_DETACH:
        return m.pasidDetach(c.id, c.u32(16));
      case TEST_OP.PASID_CHECK_HWPT:
        return m.pasidCheck(c.id, c.u32(16), c.u32(20));
      case TEST_OP.TRIGGER_IOPF:
        return m.triggerIopf(c.u32(16), c.u32(20), c.u32(24), c.u32(28), c.u64(32));
      case TEST_OP.TRIGGER_VEVENT:
        return m.triggerVevent(c.u32(16));
      case TEST_OP.MD_CHECK_IOTLB:
        return m.checkIotlb(c.id, c.u32(16), c.u32(20));
      case TEST_OP.DEV_CHECK_CACHE:
        return m.checkCache(c.id, c.u32(16), c.u32(20));
      case TEST_OP.MD_CHECK_MAP:
        return this.#checkMap(c, caller);
      case TEST_OP.MD_CHECK_REFS:
        return checkRefs(c.u64(24), c.u64(16), c.u32(32), caller);
      case TEST_OP.CREATE_ACCESS:
        return this.#createAccess(c, caller, answer);
      case TEST_OP.ACCESS_REPLACE_IOAS:
        return this.#replaceIoas(c, caller);
      case TEST_OP.ACCESS_PAGES:
        return this.#accessPages(c, caller, answer);
      case TEST_OP.ACCESS_RW:
        return this.#accessRw(c, caller);
      case TEST_OP.DESTROY_ACCESS_PAGES: {
        const access = accessOf(c, caller);
        return access === null ? -E.BADFD : access.drop(c.u32(16)) ? 0 : -E.NOENT;
      }
      case TEST_OP.SET_TEMP_MEMORY_LIMIT:
        return c.u32(16) < MIN_LIMIT ? -E.INVAL : 0;
      case TEST_OP.DIRTY:
        return this.#dirty(c, caller, answer);
      case TEST_OP.DMABUF_GET:
        return this.#dmabufGet(c.u32(16), caller);
      case TEST_OP.DMABUF_REVOKE: {
        const file = caller.installed(c.u32(16) | 0);
        if (!(file instanceof MockDmabuf)) return -E.INVAL;
        file.revoke(c.u32(20) !== 0);
        return 0;
      }
      default:
        return -E.OPNOTSUPP;
    }
  }

  #mockDevice(c: Command, flags: number, answer: Answer): number {
    const out = { stdevId: 0, hwptId: 0, idevId: 0 };
    return this.#commands.mockDevice(c.id, flags, out, () => {
      c.set32(16, out.stdevId);
      c.set32(20, out.hwptId);
      c.set32(24, out.idevId);
      return answer();
    });
  }

  #changed(c: Command, at: number, r: number, answer: Answer): number {
    if (r !== 0) return r;
    c.set32(at, this.#commands.ptId);
    return answer() ? 0 : -E.FAULT;
  }

  /** Every page under the IOVA is the page under the address. */
  #checkMap(c: Command, caller: Caller): number {
    const domain = this.#commands.pagingDomain(c.id);
    if (typeof domain === 'number') return domain;
    const iova = c.u64(16);
    const length = c.u64(24);
    const va = c.u64(32);
    const step = BigInt(domain.pageBytes);
    if (iova % step !== 0n || length % step !== 0n || va % step !== 0n) return -E.INVAL;
    for (let at = 0n; at < length; at += step) {
      const page = pageAt(caller, va + at);
      if (page < 0) return page;
      if (domain.iovaToPhys(iova + at) !== page + Number((va + at) % PAGE)) return -E.INVAL;
    }
    return 0;
  }

  #createAccess(c: Command, caller: Caller, answer: Answer): number {
    const flags = c.u32(20);
    if ((flags & ~FLAG_PINS) !== 0) return -E.OPNOTSUPP;
    const { context } = this.#file;
    const file = AccessFile.make(context, (flags & FLAG_PINS) !== 0);
    if (file === null) return -E.NOMEM;
    const ioas = context.objects.get(c.id, 'ioas');
    let r = ioas === null ? -E.NOENT : file.access.change(ioas);
    if (r === 0) {
      r = caller.install(file);
      if (r >= 0) {
        c.set32(16, r);
        r = answer() ? 0 : -E.FAULT;
      }
    }
    if (r !== 0) file.close();
    return r;
  }

  #replaceIoas(c: Command, caller: Caller): number {
    const file = accessOf(c, caller);
    if (file === null) return -E.BADFD;
    if (file.access.ioas === null) return -E.NOENT;
    const ioas = this.#file.context.objects.get(c.u32(16), 'ioas');
    return ioas === null ? -E.NOENT : file.access.change(ioas);
  }

  #accessPages(c: Command, caller: Caller, answer: Answer): number {
    const flags = c.u32(16);
    const length = c.u64(32);
    if (length > MAX_ACCESS) return -E.NOMEM;
    if ((flags & ~(MOCK_ACCESS_FLAG.WRITE | MOCK_ACCESS_FLAG.SYZ)) !== 0) return -E.OPNOTSUPP;
    const file = accessOf(c, caller);
    if (file === null) return -E.BADFD;
    if (!file.pins) return -E.OPNOTSUPP;
    const iova = this.#iova(file, c.u64(24), flags);
    const pages: number[] = [];
    const r = file.access.pin(iova, length, (flags & MOCK_ACCESS_FLAG.WRITE) !== 0, pages);
    if (r !== 0) return r;
    const va = c.u64(40);
    const same = va === 0n ? 0 : checkPages(caller, va - (iova % PAGE), pages);
    if (same !== 0) {
      file.access.unpin(iova, length);
      return same;
    }
    const id = file.keep(iova, length);
    c.set32(20, id);
    if (answer()) return 0;
    file.drop(id);
    return -E.FAULT;
  }

  #accessRw(c: Command, caller: Caller): number {
    const iova = c.u64(16);
    const length = c.u64(24);
    const va = c.u64(32);
    const flags = c.u32(40);
    if (length > MAX_ACCESS) return -E.NOMEM;
    const { WRITE, SLOW_PATH, SYZ } = MOCK_ACCESS_FLAG;
    if ((flags & ~(WRITE | SLOW_PATH | SYZ)) !== 0) return -E.OPNOTSUPP;
    const file = accessOf(c, caller);
    if (file === null) return -E.BADFD;
    const data = new Uint8Array(Number(length));
    const write = (flags & WRITE) !== 0;
    if (write && !caller.read(va, data)) return -E.FAULT;
    const r = file.access.copy(this.#iova(file, iova, flags), data, write);
    if (r !== 0) return r;
    return write || caller.write(va, data) ? 0 : -E.FAULT;
  }

  /** With the SYZ flag an IOVA is {area number, offset}, which random testing can hit. */
  #iova(file: AccessFile, iova: bigint, flags: number): bigint {
    if ((flags & MOCK_ACCESS_FLAG.SYZ) === 0) return iova;
    let n = Number(iova & 0xffff_ffffn);
    for (const area of file.access.ioas?.areas ?? []) if (n-- === 0) return area.start + (iova >> 32n);
    return 0n;
  }

  #dirty(c: Command, caller: Caller, answer: Answer): number {
    const iova = c.u64(24);
    const length = c.u64(32);
    const pageSize = c.u64(40);
    const va = c.u64(48);
    if (pageSize === 0n || length === 0n || iova % pageSize !== 0n || length % pageSize !== 0n || va === 0n) {
      return -E.INVAL;
    }
    const bits = length / pageSize;
    if (bits > MAX_DIRTY) return -E.OVERFLOW;
    const domain = this.#commands.pagingDomain(c.id);
    if (typeof domain === 'number') return domain;
    if (!domain.tracking) return -E.INVAL;
    const bitmap = new Uint8Array(Number((bits + 7n) / 8n));
    if (!caller.read(va, bitmap)) return -E.FAULT;
    let count = 0n;
    const step = Number(pageSize);
    for (let i = 0; i < Number(bits); i++) {
      if (((bitmap[i >> 3]! >> (i & 7)) & 1) === 0) continue;
      domain.mapping.setDirty(Number(iova) + i * step);
      count++;
    }
    c.set64(56, count);
    return answer() ? 0 : -E.FAULT;
  }

  #dmabufGet(length: number, caller: Caller): number {
    const bytes = Math.ceil(length / 4096) * 4096;
    if (bytes === 0 || bytes > MAX_DMABUF) return -E.INVAL;
    const file = MockDmabuf.make(this.#file.context.kernel.memory, bytes);
    if (file === null) return -E.NOMEM;
    const fd = caller.install(file);
    if (fd < 0) file.close();
    return fd;
  }
}

function accessOf(c: Command, caller: Caller): AccessFile | null {
  const file = caller.installed(c.id | 0);
  return file instanceof AccessFile ? file : null;
}

/** Host-physical address of the page under an address, or -EFAULT. */
function pageAt(caller: Caller, va: bigint): number {
  const { memory } = caller;
  if (!memory.pin(va & -PAGE, PAGE, false)) return -E.FAULT;
  const { hpa } = memory;
  memory.unpin?.(hpa, 4096);
  return hpa;
}

function checkPages(caller: Caller, va: bigint, pages: readonly number[]): number {
  for (const [i, page] of pages.entries()) {
    const there = pageAt(caller, va + BigInt(i) * PAGE);
    if (there < 0) return there;
    if (there !== page) return -E.BADE;
  }
  return 0;
}

function checkRefs(va: bigint, length: bigint, refs: number, caller: Caller): number {
  if (length % PAGE !== 0n || va % PAGE !== 0n) return -E.INVAL;
  for (let at = 0n; at < length; at += PAGE) {
    const page = pageAt(caller, va + at);
    if (page < 0) return page;
    if (caller.memory.pins(page) !== refs) return -E.IO;
  }
  return 0;
}
