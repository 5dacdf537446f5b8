/**
 * A slow, obvious VT-d walker on bigints (VT-d §3.6 to §3.8, §7.1.3), written apart from the product: first the path of
 * entries is read, then it is judged by rules. It never writes: what the hardware would store is returned.
 */
export interface OracleMemory {
  /** The qword at a physical address, or null: the read aborts. */
  read(address: bigint): bigint | null;
  /** Whether a store there succeeds. */
  canWrite(address: bigint): boolean;
}

export interface OracleUnit {
  readonly haw: number;
  readonly pages2m: boolean;
  readonly pages1g: boolean;
  readonly firstPages1g: boolean;
  readonly snoop: boolean;
  readonly transient: boolean;
}

export interface OracleRegime {
  readonly kind: 'first' | 'second' | 'nested' | 'pass-through';
  readonly scalable: boolean;
  readonly firstRoot: bigint;
  readonly firstLevels: number;
  readonly wpe: boolean;
  readonly eafe: boolean;
  readonly secondRoot: bigint;
  readonly secondLevels: number;
  readonly ssade: boolean;
}

export interface OracleRequest {
  readonly address: bigint;
  readonly read: boolean;
  readonly write: boolean;
  readonly privileged: boolean;
}

export type OracleAnswer = {
  readonly stores: ReadonlyMap<bigint, bigint>;
  /** The second stage had nothing (enough) at the page of this address. */
  readonly missing: bigint | null;
} & (
  | { readonly fault: number }
  | { readonly fault: 0; readonly out: bigint; readonly size: bigint; readonly read: boolean; readonly write: boolean }
);

const bit = (v: bigint, n: number): boolean => ((v >> BigInt(n)) & 1n) === 1n;
const bits = (v: bigint, high: number, low: number): bigint =>
  high < low ? 0n : (v >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);
const smaller = (a: bigint, b: bigint): bigint => (a < b ? a : b);
const sizeAt = (level: number): bigint => 4096n * 512n ** BigInt(level - 1);

class Fault extends Error {
  readonly code: number;
  readonly missing: bigint | null;
  constructor(code: number, missing: bigint | null = null) {
    super();
    this.code = code;
    this.missing = missing;
  }
}

interface Mapping {
  readonly out: bigint;
  readonly size: bigint;
  readonly read: boolean;
  readonly write: boolean;
}

export function oracleWalk(m: OracleMemory, u: OracleUnit, g: OracleRegime, q: OracleRequest): OracleAnswer {
  const stores = new Map<bigint, bigint>();
  const load = (a: bigint): bigint | null => stores.get(a) ?? m.read(a);
  const store = (a: bigint, v: bigint): boolean => {
    if (load(a) === v) return true;
    if (!m.canWrite(a)) return false;
    stores.set(a, v);
    return true;
  };
  const wide = (e: bigint): boolean => bits(e, 51, u.haw) !== 0n;

  const second = (address: bigint, read: boolean, write: boolean): Mapping => {
    const width = 12 + 9 * g.secondLevels;
    if (address >> BigInt(width) !== 0n) throw new Fault(g.scalable ? 0x84 : 4);
    const deny = (r: boolean, w: boolean): Fault => {
      const lacksWrite = write && !w;
      if (!g.scalable) return new Fault(lacksWrite ? 5 : 6, address);
      if (!r && !w) return new Fault(0x79, address);
      return new Fault(lacksWrite ? 0x85 : 0x86, address);
    };
    let table = g.secondRoot;
    let mayRead = true;
    let mayWrite = true;
    for (let level = g.secondLevels; level >= 1; level--) {
      const at = table + 8n * ((address / sizeAt(level)) % 512n);
      const e = load(at);
      if (e === null) {
        if (level === g.secondLevels) throw new Fault(g.scalable ? 0x7b : 3);
        throw new Fault(g.scalable ? 0x78 : 7);
      }
      if (!bit(e, 0) && !bit(e, 1)) throw deny(false, false);
      const leaf = level === 1 || bit(e, 7);
      const size = sizeAt(level);
      const bad = [
        wide(e),
        bit(e, 62) && !(leaf && u.transient),
        bit(e, 11) && !(leaf && u.snoop),
        leaf && level > 3,
        leaf && level === 2 && !u.pages2m,
        leaf && level === 3 && !u.pages1g,
        leaf && (bits(e, 51, 12) * 4096n) % size !== 0n,
      ];
      if (bad.some((b) => b)) throw new Fault(g.scalable ? 0x7a : 0xc);
      mayRead &&= bit(e, 0);
      mayWrite &&= bit(e, 1);
      if (leaf && ((read && !mayRead) || (write && !mayWrite))) throw deny(mayRead, mayWrite);
      if (g.ssade) {
        const dirty = leaf && write;
        if (!store(at, e | 0x100n | (dirty ? 0x200n : 0n))) throw new Fault(dirty ? 0x7d : 0x7c);
      }
      if (leaf) {
        return { out: bits(e, 51, 12) * 4096n + (address % size), size, read: mayRead, write: mayWrite };
      }
      table = bits(e, 51, 12) * 4096n;
    }
    throw new Error('unreachable');
  };

  const first = (nested: boolean): Mapping => {
    const top = 11 + 9 * g.firstLevels;
    const sign = q.address >> BigInt(top);
    if (sign !== 0n && sign !== (1n << BigInt(64 - top)) - 1n) throw new Fault(0x80);
    const beyond = (a: bigint): boolean => nested && a >> BigInt(12 + 9 * g.secondLevels) !== 0n;
    /** Physical address of a first-stage table, and whether it can be written. */
    const find = (table: bigint, root: boolean): Mapping => {
      if (!nested) return { out: table, size: 4096n, read: true, write: true };
      if (beyond(table)) throw new Fault(root ? 0x5b : 0x74);
      try {
        return second(table, true, g.ssade);
      } catch (f) {
        if (f instanceof Fault && (f.code === 0x85 || f.code === 0x86)) throw new Fault(root ? 0x75 : 0x76, table);
        throw f;
      }
    };
    const flag = (where: Mapping, table: bigint, at: bigint, e: bigint, flags: bigint): void => {
      const now = e | flags | (g.eafe ? 0x400n : 0n);
      if (now === e) return;
      if (!where.write) throw new Fault(0x77, table);
      if (!store(at, now)) throw new Fault(0x91);
    };
    let table = g.firstRoot;
    let user = true;
    let writable = true;
    for (let level = g.firstLevels; level >= 1; level--) {
      const root = level === g.firstLevels;
      const where = find(table, root);
      const at = where.out + 8n * ((q.address / sizeAt(level)) % 512n);
      const e = load(at);
      if (e === null) throw new Fault(root ? 0x73 : 0x70);
      if (!bit(e, 0)) throw new Fault(0x71);
      const leaf = level === 1 || bit(e, 7);
      const size = sizeAt(level);
      // Bit 12 of a large leaf is an attribute, not address.
      const address = bits(e, 51, 13) * 8192n + (leaf && level > 1 ? 0n : bits(e, 12, 12) * 4096n);
      const bad = [wide(e), leaf && level > 3, leaf && level === 3 && !u.firstPages1g, leaf && address % size !== 0n];
      if (bad.some((b) => b)) throw new Fault(0x72);
      user &&= bit(e, 2);
      writable &&= bit(e, 1);
      if (!leaf) {
        flag(where, table, at, e, 0x20n);
        table = address;
        continue;
      }
      if (!q.privileged && !user) throw new Fault(0x81);
      const mayWrite = writable || (q.privileged && !g.wpe);
      if (q.write && !mayWrite) throw new Fault(0x85);
      let out: Mapping = { out: address + (q.address % size), size, read: true, write: mayWrite };
      if (nested) {
        if (beyond(out.out)) throw new Fault(0x74);
        const s = second(out.out, q.read, q.write);
        out = { out: s.out, size: smaller(s.size, size), read: s.read, write: s.write && mayWrite };
      }
      flag(where, table, at, e, q.write ? 0x60n : 0x20n);
      return out;
    }
    throw new Error('unreachable');
  };

  const passThrough = (): Mapping => {
    if (q.address >> BigInt(u.haw) !== 0n) throw new Fault(g.scalable ? 0x83 : 4);
    return { out: q.address, size: 4096n, read: true, write: true };
  };

  try {
    let map =
      g.kind === 'pass-through'
        ? passThrough()
        : g.kind === 'second'
          ? second(q.address, q.read, q.write)
          : first(g.kind === 'nested');
    if (map.out >> 20n === 0xfeen) throw new Fault(g.scalable || g.kind === 'first' ? 0x87 : 0xe);
    const start = map.out - (map.out % map.size);
    if (start < 0xfef00000n && start + map.size > 0xfee00000n) map = { ...map, size: 4096n };
    return { fault: 0, out: map.out, size: map.size, read: map.read, write: map.write, stores, missing: null };
  } catch (f) {
    if (!(f instanceof Fault)) throw f;
    return { fault: f.code, stores, missing: f.missing === null ? null : f.missing - (f.missing % 4096n) };
  }
}
