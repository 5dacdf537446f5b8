import { describe, expect, test } from 'vitest';
import { PAGE0 } from '../../../src/spec/smmuv3/registers.ts';
import { cfgiSte, Guest, S1_STE, STRTAB, sync } from './guest.ts';

const S2_STE = [0xdn, 0n, 0x040c_0059_0000_0007n, 0x4060_0000n] as const;

/** A guest whose STE of stream 8 can be tried in many forms. */
function trial(profile: 'arch' | 'qemu-11.1', properties = {}) {
  const g = new Guest({ profile, properties });
  g.plug(8);
  g.setUp();
  return (words: readonly bigint[]) => {
    g.ste(8, ...words, ...Array(8 - words.length).fill(0n));
    g.w(PAGE0.CR0.at, 0xc);
    g.w(PAGE0.CR0.at, 0xd);
    g.run(cfgiSte(8), sync);
    expect(g.r(PAGE0.GERROR.at)).toBe(0);
    const s = g.smmu.streams[0]!;
    return { state: s.state, vste: s.context?.vste.map((w) => w >>> 0), domain: s.domain };
  };
}

function flipped(words: readonly bigint[], bit: number): bigint[] {
  const all = [...words, ...Array(8 - words.length).fill(0n)] as bigint[];
  all[bit >>> 6]! ^= 1n << BigInt(bit & 63);
  return all;
}

describe('every bit of a stage-1 stream table entry', () => {
  const base = [S1_STE, 0n, 0n, 0n];
  const handed = [0x4040_000b, 0, 0, 0];
  /** Bits that reach the host: context pointer below the output size, S1CIR, S1COR, S1CSH. */
  const taken = (bit: number) => (bit >= 6 && bit < 44) || (bit >= 64 + 2 && bit < 64 + 8);

  test('is judged, handed over or ignored as the architecture says', () => {
    const configure = trial('arch');
    const decided = new Map<number, string>([
      [0, 'unset'], // V
      [1, 'bypass'],
      [2, 'unset'], // nested, and S2AA64=0
      [3, 'abort'],
      [64 + 27, 'unset'], // S1STALLD without stalls
      [64 + 30, 'unset'], // STRW
      [64 + 31, 'unset'],
    ]);
    for (let bit = 44; bit < 52; bit++) decided.set(bit, 'unset'); // S1ContextPtr beyond OAS
    for (let bit = 0; bit < 512; bit++) {
      const r = configure(flipped(base, bit));
      expect(r.state, `bit ${bit}`).toBe(decided.get(bit) ?? 's1');
      if (r.state !== 's1') continue;
      const want = [...handed];
      if (taken(bit)) want[bit >>> 5]! = (want[bit >>> 5]! ^ (1 << (bit & 31))) >>> 0;
      expect(r.vste, `bit ${bit}`).toEqual(want);
    }
  });

  test('is judged as QEMU judges it: STRW and large pointers pass, S1CDMax does not', () => {
    const configure = trial('qemu-11.1');
    const decided = new Map<number, string>([
      [0, 'unset'],
      [1, 'bypass'],
      [2, 'unset'],
      [3, 'abort'],
      [64 + 27, 'unset'],
    ]);
    for (let bit = 59; bit < 64; bit++) decided.set(bit, 'unset');
    for (let bit = 0; bit < 512; bit++) {
      expect(configure(flipped(base, bit)).state, `bit ${bit}`).toBe(decided.get(bit) ?? 's1');
    }
  });
});

test('bits that a stage-2 entry does not use make neither another shadow nor a bad entry, each of them', () => {
  const configure = trial('arch');
  const first = configure(S2_STE).domain!.key;
  // Words 2 and 3 hold VMID, T0SZ…R and S2TTB; S2R and S2S tell of records and stalls, not of the translation.
  const used = (bit: number) =>
    bit < 4 ||
    (bit >= 128 && bit < 144) ||
    (bit >= 160 && bit < 168) ||
    (bit >= 174 && bit < 187) ||
    (bit >= 196 && bit < 244);
  for (let bit = 0; bit < 512; bit++) {
    if (used(bit)) continue;
    const r = configure(flipped(S2_STE, bit));
    expect([r.state, r.domain?.key], `bit ${bit}`).toEqual(['s2', first]);
  }
  expect(configure(flipped(S2_STE, 186)).domain!.key, 'S2R').toBe(first);
});

describe('what makes a stage-2 entry illegal (IHI 0070 §5.2)', () => {
  const w2 = S2_STE[2];
  const set = (lo: number, bits: number, value: number) => {
    const mask = ((1n << BigInt(bits)) - 1n) << BigInt(lo);
    return (w2 & ~mask) | (BigInt(value) << BigInt(lo));
  };
  const cases: [string, bigint, bigint, 's2' | 'unset'][] = [
    ['as it stands', w2, S2_STE[3], 's2'],
    ['S2AA64=0', set(51, 1, 0), S2_STE[3], 'unset'],
    ['S2TG=3', set(46, 2, 3), S2_STE[3], 'unset'],
    ['S2SL0=3', set(38, 2, 3), S2_STE[3], 'unset'],
    ['S2T0SZ wider than OAS', set(32, 6, 19), S2_STE[3], 'unset'],
    ['S2T0SZ=40', set(32, 6, 40), S2_STE[3], 'unset'],
    ['more than 16 tables joined', set(32, 6, 20), S2_STE[3], 'unset'],
    ['no bits for the start level', set(32, 6, 34), S2_STE[3], 'unset'],
    ['S2ENDI=1', set(52, 1, 1), S2_STE[3], 'unset'],
    ['S2S=1 without stalls', set(57, 1, 1), S2_STE[3], 'unset'],
    ['S2HA=1 without HTTU', set(56, 1, 1), S2_STE[3], 'unset'],
    ['S2HD=1 without HTTU', set(55, 1, 1), S2_STE[3], 'unset'],
    ['S2TTB beyond S2PS', w2, 1n << 44n, 'unset'],
  ];
  test.each(cases)('%s', (_what, word2, ttb, want) => {
    expect(trial('arch')([0xdn, 0n, word2, ttb]).state).toBe(want);
  });

  test('S2AA64=0 does not stop the machine under QEMU’s profile either: the stream is bad', () => {
    expect(trial('qemu-11.1')([0xdn, 0n, 0n, 0n]).state).toBe('unset');
  });

  test('a stage the SMMU does not have is illegal', () => {
    expect(trial('arch', { stage: '1' })(S2_STE).state).toBe('unset');
    expect(trial('arch', { stage: '2' })([S1_STE]).state).toBe('unset');
  });

  test('Config 0b0xx aborts whatever the rest holds', () => {
    const configure = trial('arch');
    for (let config = 0; config < 4; config++) {
      expect(configure([1n | (BigInt(config) << 1n) | (0x1fn << 59n), ~0n, ~0n, ~0n]).state).toBe('abort');
    }
  });
});

describe('SubstreamIDs', () => {
  test('S1CDMax above SSIDSIZE is illegal; with SSIDSIZE 0 it is not looked at', () => {
    const with4 = trial('arch', { ssidsize: 4 });
    for (let max = 0; max < 32; max++) {
      expect(with4([S1_STE | (BigInt(max) << 59n)]).state, `S1CDMax ${max}`).toBe(max > 4 ? 'unset' : 's1');
    }
    expect(with4([S1_STE | (4n << 59n) | (1n << 4n), 2n]).vste).toEqual([0x4040_001b, 0x2000_0000, 2, 0]);
  });

  test('EATS reaches the host as 0 or 1: what the host cannot do acts as 0', () => {
    const configure = trial('arch', { ats: true });
    for (const [eats, want] of [
      [0n, 0],
      [1n, 0x1000_0000],
      [2n, 0],
      [3n, 0],
    ] as const) {
      expect(configure([S1_STE, eats << 28n]).vste?.[2], `EATS ${eats}`).toBe(want);
    }
  });
});

describe('two-level stream tables', () => {
  const L2 = 0x4011_0000;
  function tables(profile: 'arch' | 'qemu-11.1', cfg: number, span: number) {
    const g = new Guest({ profile });
    const dev = g.plug(8);
    g.w(PAGE0.STRTAB_BASE_CFG.at, cfg);
    g.w64(PAGE0.STRTAB_BASE.at, BigInt(STRTAB));
    g.put(STRTAB, BigInt(L2) | BigInt(span));
    g.put(L2 + 64 * 8, 9n);
    g.w64(PAGE0.EVENTQ_BASE.at, 0x4020_0003n);
    if (profile === 'arch') g.w(PAGE0.CR2.at, 2);
    g.w(PAGE0.CR0.at, 0xd);
    const configured = g.host.handlers.get(dev)!.onStreamMiss!(dev, 0, -1);
    if (!configured) g.fault(dev, [4, 8, 0, 0, 0, 0, 0, 0]);
    return configured ? 'configured' : Number(g.event(0)[0]! & 0xffn);
  }

  test('a span of N has 2^(N-1) entries, beyond is C_BAD_STREAMID; QEMU takes 2^N, beyond is C_BAD_STE', () => {
    for (let span = 0; span < 32; span++) {
      const arch = span >= 5 && span <= 7 ? 'configured' : 2;
      const qemu = span >= 4 && span <= 7 ? 'configured' : span === 0 || span > 7 ? 2 : 4;
      expect(tables('arch', 0x1_0188, span), `span ${span}`).toBe(arch);
      expect(tables('qemu-11.1', 0x1_0188, span), `span ${span}`).toBe(qemu);
    }
  });

  test('SPLIT other than 6, 8, 10 behaves as 6; FMT 2 and 3 as linear', () => {
    for (const profile of ['arch', 'qemu-11.1'] as const) {
      for (let split = 0; split < 32; split++) {
        const largest = split === 8 || split === 10 ? split + 1 : 7;
        expect(tables(profile, 0x1_0010 | (split << 6), largest), `SPLIT ${split}`).toBe('configured');
        expect(tables(profile, 0x1_0010 | (split << 6), largest + 1), `SPLIT ${split}`).toBe(2);
      }
      for (const fmt of [0, 2, 3]) {
        const g = new Guest({ profile });
        g.plug(8);
        g.ste(8, 9n);
        g.setUp(5 | (fmt << 16));
        g.run(cfgiSte(8), sync);
        expect(g.smmu.streams[0]!.state, `FMT ${fmt}`).toBe('bypass');
      }
    }
  });

  test('FMT goes back to linear under arch and never under QEMU', () => {
    for (const profile of ['arch', 'qemu-11.1'] as const) {
      const g = new Guest({ profile });
      g.plug(8);
      g.ste(8, 9n);
      g.w(PAGE0.STRTAB_BASE_CFG.at, 0x1_0184);
      g.setUp(4);
      g.run(cfgiSte(8), sync);
      expect(g.smmu.streams[0]!.state).toBe(profile === 'arch' ? 'bypass' : 'unset');
    }
  });
});
