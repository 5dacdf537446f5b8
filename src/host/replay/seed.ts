import { ViommuError } from '../../core/errors.ts';
import { VirtualClock } from '../../lib/clock/virtual-clock.ts';
import { HostMemory } from '../../lib/memory/host-memory.ts';
import type { EventFd, UserData, UserMemory } from '../../ports/iommufd.ts';
import { MockDriver } from '../drivers/mock/driver.ts';
import { MockCommands } from '../drivers/mock/test-commands.ts';
import { IommufdFile } from '../iommufd/file.ts';
import { HostKernel } from '../kernel/kernel.ts';
import type { GoldenOp } from './golden-text.ts';

/** The recorder's only buffer. */
const BUFFER_VA = 0x2000_0000n;
const BUFFER_BYTES = 0x10_0000n;
const BUFFER_HPA = 0x200_0000_0000;

/** A process with one contiguous buffer. */
class OneBuffer implements UserMemory {
  hpa = 0;
  run = 0;

  pin(va: bigint, bytes: bigint): boolean {
    const offset = va - BUFFER_VA;
    if (offset < 0n || offset >= BUFFER_BYTES) return false;
    this.hpa = BUFFER_HPA + Number(offset);
    this.run = Number(bytes < BUFFER_BYTES - offset ? bytes : BUFFER_BYTES - offset);
    return true;
  }
}

function userBytes(bytes: Uint8Array): UserData {
  return {
    length: bytes.length,
    copyIn(offset, into) {
      if (offset + into.length > bytes.length) return false;
      into.set(bytes.subarray(offset, offset + into.length));
      return true;
    },
    copyOut(offset, from) {
      if (offset + from.length > bytes.length) return false;
      bytes.set(from, offset);
      return true;
    },
  };
}

function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
}

/** The recorder's buffer; an entry may reach a few bytes beyond it, into memory that is there. */
function behindZeroes(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length / 2 + 64);
  for (let i = 0; i < hex.length / 2; i++) bytes[i] = Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  return bytes;
}

const HWPT_BLOB = new Uint8Array([0xcd, 0xab, 0, 0, 0, 0, 0, 0]);

/** One seed of a recording, run on a fresh kernel: each `run` answers as the recorder prints it. */
export class GoldenSeed {
  readonly #fd: IommufdFile;
  readonly #mock: MockCommands;
  readonly #files: EventFd[] = [];
  #op!: GoldenOp;
  #file = '';

  constructor() {
    const memory = new HostMemory();
    const kernel = new HostKernel({ memory, clock: new VirtualClock() });
    const driver = new MockDriver(memory);
    kernel.addIommu(driver);
    this.#fd = new IommufdFile(kernel, new OneBuffer());
    this.#mock = new MockCommands(this.#fd, driver);
  }

  /** Event files first, then /dev/iommu, as the recorder closes them. */
  close(): void {
    for (const f of this.#files) f.close();
    this.#fd.close();
  }

  #fail(what: string): never {
    throw new ViommuError('E_TRACE_FORMAT', 'trace', what, { file: this.#file, line: String(this.#op.line) });
  }

  #text(key: string): string {
    return this.#op.inputs.get(key) ?? this.#fail(`${this.#op.op} without ${key}=`);
  }
  #num(key: string): number {
    const t = this.#text(key);
    if (!/^-?\d+$/.test(t)) this.#fail(`${key}=${t} is not a decimal number`);
    return Number(t);
  }
  #dec(key: string): bigint {
    const t = this.#text(key);
    if (!/^\d+$/.test(t)) this.#fail(`${key}=${t} is not a decimal number`);
    return BigInt(t);
  }
  #hex(key: string): bigint {
    const t = this.#text(key);
    if (!/^[0-9a-f]+$/.test(t)) this.#fail(`${key}=${t} is not a hexadecimal number`);
    return BigInt(`0x${t}`);
  }

  /** Runs one operation. @throws ViommuError `E_TRACE_FORMAT` unknown operation or malformed value. */
  run(op: GoldenOp, file: string): string {
    this.#op = op;
    this.#file = file;
    const f = RUNNERS[op.op];
    if (f === undefined) this.#fail(`unknown operation ${op.op}`);
    return f(this);
  }

  static readonly runners: Readonly<Record<string, (s: GoldenSeed) => string>> = {
    IOAS_ALLOC: (s) => s.#ioasAlloc(),
    MAP: (s) => s.#map(),
    UNMAP: (s) => s.#unmap(),
    COPY: (s) => s.#copy(),
    IOVA_RANGES: (s) => s.#iovaRanges(),
    ALLOW_IOVAS: (s) => s.#allowIovas(),
    OPTION: (s) => s.#option(),
    HWPT_ALLOC: (s) => s.#hwptAlloc(),
    GET_HW_INFO: (s) => s.#getHwInfo(),
    INVALIDATE: (s) => s.#invalidate(),
    VIOMMU_ALLOC: (s) => s.#viommuAlloc(),
    VDEVICE_ALLOC: (s) => s.#vdeviceAlloc(),
    VEVENTQ_ALLOC: (s) => s.#veventqAlloc(),
    FAULT_QUEUE_ALLOC: (s) => s.#faultQueueAlloc(),
    HW_QUEUE_ALLOC: (s) => s.#hwQueueAlloc(),
    DESTROY: (s) => `r=${s.#fd.destroy(s.#num('id'))}`,
    READ: (s) => s.#read(),
    WRITE: (s) => s.#write(),
    MOCKDEV: (s) => s.#mockDevice(),
    REPLACE: (s) => s.#attached(s.#mock.replace(s.#num('stdev'), s.#num('pt'))),
    PASID_ATTACH: (s) => s.#attached(s.#mock.pasidAttach(s.#num('stdev'), s.#num('pasid'), s.#num('pt'))),
    PASID_REPLACE: (s) => s.#attached(s.#mock.pasidReplace(s.#num('stdev'), s.#num('pasid'), s.#num('pt'))),
    PASID_DETACH: (s) => `r=${s.#mock.pasidDetach(s.#num('stdev'), s.#num('pasid'))} pt=0`,
    PASID_CHECK: (s) => `r=${s.#mock.pasidCheck(s.#num('stdev'), s.#num('pasid'), s.#num('pt'))} pt=0`,
    TRIGGER_VEVENT: (s) => `r=${s.#mock.triggerVevent(s.#num('dev'))}`,
    TRIGGER_IOPF: (s) => `r=${s.#mock.triggerIopf(s.#num('dev'), s.#num('pasid'), s.#num('grpid'), 3, 0x1000n)}`,
  };

  #attached(r: number): string {
    return `r=${r} pt=${r === 0 ? this.#mock.ptId : 0}`;
  }

  #ioasAlloc(): string {
    const c = { flags: this.#num('flags'), outIoasId: 0 };
    const r = this.#fd.ioasAlloc(c);
    return `r=${r} id=${r === 0 ? c.outIoasId : 0}`;
  }

  #map(): string {
    const c = {
      flags: this.#num('flags'),
      ioasId: this.#num('ioas'),
      reserved: this.#num('rsvd'),
      userVa: this.#hex('va'),
      length: this.#hex('len'),
      iova: this.#hex('iova'),
    };
    const r = this.#fd.ioasMap(c);
    return `r=${r} iova=${(r === 0 ? c.iova : 0n).toString(16)}`;
  }

  #unmap(): string {
    const c = { ioasId: this.#num('ioas'), iova: this.#hex('iova'), length: this.#hex('len') };
    const r = this.#fd.ioasUnmap(c);
    return `r=${r} len=${(r === 0 ? c.length : 0n).toString(16)}`;
  }

  #copy(): string {
    const c = {
      flags: this.#num('flags'),
      dstIoasId: this.#num('dst'),
      srcIoasId: this.#num('src'),
      length: this.#hex('len'),
      dstIova: this.#hex('dst_iova'),
      srcIova: this.#hex('src_iova'),
    };
    const r = this.#fd.ioasCopy(c);
    return `r=${r} dst_iova=${(r === 0 ? c.dstIova : 0n).toString(16)}`;
  }

  #iovaRanges(): string {
    const given = this.#num('num');
    const c = {
      ioasId: this.#num('ioas'),
      numIovas: given,
      reserved: this.#num('rsvd'),
      allowed: [] as { start: bigint; last: bigint }[],
      outIovaAlignment: 0n,
    };
    const r = this.#fd.ioasIovaRanges(c);
    const show = (i: number) => {
      const x = c.allowed[i];
      return x === undefined ? '0-0' : `${x.start.toString(16)}-${x.last.toString(16)}`;
    };
    return `r=${r} num=${c.numIovas} align=${c.outIovaAlignment.toString(16)} ${show(0)} ${show(1)} ${show(2)}`;
  }

  #allowIovas(): string {
    const ranges = this.#op.rest.map((text) => {
      const m = /^([0-9a-f]+)-([0-9a-f]+)$/.exec(text);
      if (m === null) this.#fail(`${text} is not a range`);
      return { start: BigInt(`0x${m[1]}`), last: BigInt(`0x${m[2]}`) };
    });
    const count = this.#num('num');
    if (count > ranges.length) this.#fail(`ALLOW_IOVAS names ${count} ranges and shows ${ranges.length}`);
    const c = { ioasId: this.#num('ioas'), reserved: 0, allowed: ranges.slice(0, count) };
    return `r=${this.#fd.ioasAllowIovas(c)}`;
  }

  #option(): string {
    const c = {
      optionId: this.#num('option'),
      op: this.#num('op'),
      reserved: 0,
      objectId: this.#num('object'),
      val64: this.#dec('val'),
    };
    const r = this.#fd.option(c);
    return `r=${r} val=${r === 0 ? c.val64 : 0n}`;
  }

  #hwptAlloc(): string {
    const type = this.#num('type');
    const length = this.#num('len');
    // The recorder's blob is 8 bytes; a longer length is refused before it is read.
    const blob = new Uint8Array(length);
    blob.set(HWPT_BLOB.subarray(0, length));
    const c = {
      flags: this.#num('flags'),
      devId: this.#num('dev'),
      ptId: this.#num('pt'),
      outHwptId: 0,
      reserved: this.#num('rsvd'),
      dataType: type,
      data: type === 0 && length === 0 ? null : userBytes(blob),
      faultId: this.#num('fault'),
    };
    const r = this.#fd.hwptAlloc(c);
    return `r=${r} hwpt=${r === 0 ? c.outHwptId : 0}`;
  }

  #getHwInfo(): string {
    const buffer = new Uint8Array(16).fill(0x55);
    const c = {
      flags: this.#num('flags'),
      devId: this.#num('dev'),
      dataLen: this.#num('len'),
      data: userBytes(buffer),
      dataType: 0,
      outMaxPasidLog2: 0,
      outCapabilities: 0n,
    };
    const r = this.#fd.getHwInfo(c);
    const ok = r === 0;
    const out = `len=${ok ? c.dataLen : 0} type=${ok ? c.dataType : 0} pasid=${ok ? c.outMaxPasidLog2 : 0}`;
    return `r=${r} ${out} cap=${(ok ? c.outCapabilities : 0n).toString(16)} ${hexOf(buffer)}`;
  }

  #invalidate(): string {
    const text = this.#text('bytes');
    if (!/^([0-9a-f]{2})+$/.test(text)) this.#fail('bytes= is not made of hexadecimal bytes');
    const c = {
      hwptId: this.#num('id'),
      dataType: this.#num('type'),
      entryLen: this.#num('entry_len'),
      entryNum: this.#num('num'),
      reserved: this.#num('rsvd'),
      data: this.#num('ptr') === 0 ? null : userBytes(behindZeroes(text)),
    };
    const r = this.#fd.hwptInvalidate(c);
    return `r=${r} num=${c.entryNum}`;
  }

  #viommuAlloc(): string {
    const c = {
      flags: this.#num('flags'),
      type: this.#num('type'),
      devId: this.#num('dev'),
      hwptId: this.#num('hwpt'),
      outViommuId: 0,
      data: null,
    };
    const r = this.#fd.viommuAlloc(c);
    return `r=${r} viommu=${r === 0 ? c.outViommuId : 0}`;
  }

  #vdeviceAlloc(): string {
    const c = { viommuId: this.#num('viommu'), devId: this.#num('dev'), outVdeviceId: 0, virtId: this.#dec('virt') };
    const r = this.#fd.vdeviceAlloc(c);
    return `r=${r} vdev=${r === 0 ? c.outVdeviceId : 0}`;
  }

  #veventqAlloc(): string {
    const c = {
      flags: this.#num('flags'),
      viommuId: this.#num('viommu'),
      type: this.#num('type'),
      depth: this.#num('depth'),
      reserved: 0,
      outVeventqId: 0,
      outFd: null as EventFd | null,
    };
    const r = this.#fd.veventqAlloc(c);
    return this.#opened(r, c.outVeventqId, c.outFd);
  }

  #faultQueueAlloc(): string {
    const c = { flags: this.#num('flags'), outFaultId: 0, outFd: null as EventFd | null };
    const r = this.#fd.faultQueueAlloc(c);
    return this.#opened(r, c.outFaultId, c.outFd);
  }

  #opened(r: number, id: number, fd: EventFd | null): string {
    if (r !== 0 || fd === null) return `r=${r} id=0 fd=-1`;
    return `r=${r} id=${id} fd=${this.#files.push(fd) - 1}`;
  }

  #hwQueueAlloc(): string {
    const c = {
      flags: 0,
      viommuId: this.#num('viommu'),
      type: this.#num('type'),
      index: this.#num('index'),
      outHwQueueId: 0,
      nestingParentIova: this.#hex('iova'),
      length: this.#hex('len'),
    };
    const r = this.#fd.hwQueueAlloc(c);
    return `r=${r} id=${r === 0 ? c.outHwQueueId : 0}`;
  }

  #eventFile(): EventFd {
    return this.#files[this.#num('fd')] ?? this.#fail(`fd=${this.#text('fd')} was never made`);
  }

  #read(): string {
    const into = new Uint8Array(this.#num('count'));
    const r = this.#eventFile().read(into);
    const bytes = hexOf(into.subarray(0, Math.max(r, 0)));
    return bytes === '' ? `r=${r}` : `r=${r} ${bytes}`;
  }

  #write(): string {
    const from = new Uint8Array(8);
    const view = new DataView(from.buffer);
    view.setUint32(0, this.#num('cookie'), true);
    view.setUint32(4, this.#num('code'), true);
    return `r=${this.#eventFile().write(from)}`;
  }

  #mockDevice(): string {
    const out = { stdevId: 0, hwptId: 0, idevId: 0 };
    const r = this.#mock.mockDevice(this.#num('pt'), this.#num('dev_flags'), out);
    const ok = r === 0;
    return `r=${r} stdev=${ok ? out.stdevId : 0} hwpt=${ok ? out.hwptId : 0} idev=${ok ? out.idevId : 0}`;
  }
}

const RUNNERS = GoldenSeed.runners;
