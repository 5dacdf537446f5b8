import type { PhysicalMap } from '../../machine/physical-map.ts';

/** Guest-physical space as a client reads and writes it. */
export type GuestSpace = Pick<PhysicalMap, 'read' | 'write' | 'readBytes' | 'writeBytes' | 'lo' | 'hi'>;

/** What a qtest client drives. */
export interface QtestTarget {
  /** Guest-physical space; null: no machine. */
  readonly map: GuestSpace | null;
  /** An I/O port read of 1, 2 or 4 bytes. */
  portRead(port: number, size: number): number;
  /** An I/O port write of 1, 2 or 4 bytes. */
  portWrite(port: number, size: number, value: number): void;
  /** Virtual nanoseconds now. */
  now(): number;
  /** Lets time pass. */
  advance(nanoseconds: number): void;
  /** Nanoseconds to the next timer, Infinity without one. */
  next(): number;
}

/** Longest range one request may name (bytes): its digits still make one line. */
export const LONGEST_RANGE = 2 ** 27;

/** The last nanosecond a client can count. */
const LAST = 2n ** 63n - 1n;

/** A request that is no request: answered with FAIL. */
class Refusal {
  readonly why: string;

  constructor(why: string) {
    this.why = why;
  }
}

/** base-0 strtoull of 64 bits: 0x hexadecimal, leading 0 octal, else decimal. */
function number64(text: string | undefined): bigint {
  const t = text ?? '';
  if (/^0[xX][0-9a-fA-F]+$/.test(t)) return BigInt.asUintN(64, BigInt(t));
  if (/^0[0-7]+$/.test(t)) return BigInt.asUintN(64, BigInt(`0o${t.slice(1)}`));
  if (/^\d+$/.test(t)) return BigInt.asUintN(64, BigInt(t));
  throw new Refusal(`Bad number '${t}'`);
}

/** A physical address; above 2^52 nothing is decoded, and Number stays exact. */
function address(text: string | undefined): number {
  const n = number64(text);
  return n < 2n ** 52n ? Number(n) : Number.NaN;
}

function length(text: string | undefined): number {
  const n = number64(text);
  if (n === 0n) throw new Refusal('Length 0');
  if (n > BigInt(LONGEST_RANGE)) throw new Refusal(`Length ${n} is more than ${LONGEST_RANGE}`);
  return Number(n);
}

const SIZE: Readonly<Record<string, number>> = { b: 1, w: 2, l: 4, q: 8 };

function hexOf(value: bigint | number, digits: number): string {
  return `OK 0x${value.toString(16).padStart(digits, '0')}`;
}

/** The qtest protocol over one machine: one request line in, one reply line out. Nothing a client sends throws. */
export class QtestSession {
  readonly #target: QtestTarget;
  /** Virtual nanoseconds as the client counts them: 64 bits, where the machine's clock is exact to 2^53. */
  #time: bigint;

  constructor(target: QtestTarget) {
    this.#target = target;
    this.#time = BigInt(Math.trunc(target.now()));
  }

  /** @returns the reply without line feed; '' for a blank line, which gets none. */
  execute(line: string): string {
    const words = line.trim().split(/\s+/);
    if (words[0] === '' || words[0] === undefined) return '';
    try {
      return this.#run(words[0], words);
    } catch (e) {
      if (e instanceof Refusal) return `FAIL ${e.why}`;
      throw e;
    }
  }

  #run(command: string, words: readonly string[]): string {
    switch (command) {
      case 'endianness':
        return 'OK little';
      case 'inb':
      case 'inw':
      case 'inl':
        return hexOf(this.#target.portRead(Number(number64(words[1])) & 0xffff, SIZE[command[2]!]!), 4);
      case 'outb':
      case 'outw':
      case 'outl': {
        const size = SIZE[command[3]!]!;
        const value = Number(BigInt.asUintN(size * 8, number64(words[2])));
        this.#target.portWrite(Number(number64(words[1])) & 0xffff, size, value);
        return 'OK';
      }
      case 'readb':
      case 'readw':
      case 'readl':
      case 'readq':
        return this.#load(address(words[1]), SIZE[command[4]!]!);
      case 'writeb':
      case 'writew':
      case 'writel':
      case 'writeq': {
        const value = number64(words[2]);
        this.#store(address(words[1]), SIZE[command[5]!]!, value);
        return 'OK';
      }
      case 'read':
        return `OK 0x${this.#bytes(words).toString('hex')}`;
      case 'b64read':
        return `OK ${this.#bytes(words).toString('base64')}`;
      case 'write':
        return this.#write(address(words[1]), length(words[2]), words[3] ?? '');
      case 'b64write':
        return this.#fill(address(words[1]), length(words[2]), Buffer.from(words[3] ?? '', 'base64'));
      case 'memset':
        return this.#memset(address(words[1]), words[2], Number(number64(words[3]) & 0xffn));
      case 'clock_step':
        return this.#step(words[1]);
      case 'clock_set':
        return this.#advance(number64(words[1]) - this.#time);
      case 'irq_intercept_in':
      case 'irq_intercept_out':
      case 'set_irq_in':
        return 'FAIL Unknown device';
      default:
        return `FAIL Unknown command '${command}'`;
    }
  }

  #load(addr: number, size: number): string {
    const map = this.#target.map;
    if (map === null || !(addr + size <= 2 ** 52)) return hexOf(0, 16);
    map.read(addr, size);
    const low = map.lo >>> 0;
    if (size === 8) return hexOf((BigInt(map.hi >>> 0) << 32n) | BigInt(low), 16);
    return hexOf(size === 4 ? low : low & (size === 2 ? 0xffff : 0xff), 16);
  }

  #store(addr: number, size: number, value: bigint): void {
    const map = this.#target.map;
    if (map === null || !(addr + size <= 2 ** 52)) return;
    const lo = Number(value & 0xffff_ffffn) & (size >= 4 ? -1 : size === 2 ? 0xffff : 0xff);
    map.write(addr, size, lo, Number(value >> 32n) | 0);
  }

  #bytes(words: readonly string[]): Buffer {
    const addr = address(words[1]);
    const into = Buffer.alloc(length(words[2]));
    if (this.#target.map !== null && addr + into.length <= 2 ** 52) this.#target.map.readBytes(addr, into);
    return into;
  }

  /** QEMU takes what digits there are; bytes without digits are 0. */
  #write(addr: number, count: number, data: string): string {
    if (data.length < 3) return 'ERR invalid argument size';
    const digits = data.slice(2, 2 + 2 * count);
    if (!data.startsWith('0x') || !/^[0-9a-fA-F]*$/.test(digits)) throw new Refusal('Bad data');
    return this.#fill(addr, count, Buffer.from(digits, 'hex'));
  }

  #fill(addr: number, count: number, data: Buffer): string {
    const bytes = Buffer.alloc(count);
    data.copy(bytes);
    if (addr + count <= 2 ** 52) this.#target.map?.writeBytes(addr, bytes);
    return 'OK';
  }

  #memset(addr: number, count: string | undefined, byte: number): string {
    if (number64(count) === 0n) return 'OK';
    const bytes = Buffer.alloc(length(count), byte);
    if (addr + bytes.length <= 2 ** 52) this.#target.map?.writeBytes(addr, bytes);
    return 'OK';
  }

  #step(text: string | undefined): string {
    const next = this.#target.next();
    if (text !== undefined) return this.#advance(number64(text));
    return this.#advance(Number.isFinite(next) ? BigInt(Math.ceil(next)) : 0n);
  }

  /** Time never goes back, and ends with 64 bits. */
  #advance(by: bigint): string {
    const left = LAST - this.#time;
    const passed = by < 0n ? 0n : by < left ? by : left;
    this.#target.advance(Number(passed));
    this.#time += passed;
    return `OK ${this.#time}`;
  }
}
