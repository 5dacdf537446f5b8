import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { QmpSession } from '../../../src/adapters/qtest/qmp.ts';
import { QtestSession } from '../../../src/adapters/qtest/session.ts';
import { parseTranscript, runTranscript, tellDifference } from '../../../src/adapters/qtest/transcript.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';
import { createQemuMachine } from '../../../src/machine/qemu-machine.ts';

function session(line: string): QtestSession {
  return new QtestSession(createQemuMachine(parseQemuArgs(line), { nic: false, vga: true }));
}

const Q35 = '-machine q35 -m 64 -device iommu-testdev';
const VIRT = '-machine virt -m 64 -device iommu-testdev';

describe('the qtest protocol', () => {
  const dialogue: readonly (readonly [string, string])[] = [
    ['endianness', 'OK little'],
    ['writeq 0x100000 0x1122334455667788', 'OK'],
    ['readq 0x100000', 'OK 0x1122334455667788'],
    ['readl 0x100004', 'OK 0x0000000011223344'],
    ['readw 0x100001', 'OK 0x0000000000006677'],
    ['readb 0x100007', 'OK 0x0000000000000011'],
    ['read 0x100000 0x3', 'OK 0x887766'],
    ['write 0x100001 0x3 0xaabbCC', 'OK'],
    ['write 0x100000 4 0x11', 'OK'],
    ['readl 0x100000', 'OK 0x0000000000000011'],
    ['memset 0x100000 0x1000 0x5a', 'OK'],
    ['memset 0x100000 0 0', 'OK'],
    ['readl 1048576', 'OK 0x000000005a5a5a5a'],
    ['b64read 0x100000 3', 'OK Wlpa'],
    ['b64write 0x100000 3 AQID', 'OK'],
    ['read 0x100000 4', 'OK 0x0102035a'],
    ['outl 0xcf8 0x80000800', 'OK'],
    ['inw 0xcfc', 'OK 0x1b36'],
    ['outl 0xcf8 0x80000802', 'OK'],
    ['inw 0xcfc', 'OK 0x0005'],
    ['outl 0xcf8 0x80000000', 'OK'],
    ['inl 0xcfc', 'OK 0x29c08086'],
    ['inb 0x60', 'OK 0x00ff'],
    ['readl 0xd0000000', 'OK 0x0000000000000000'],
    ['readl 0x700000000000', 'OK 0x0000000000000000'],
    ['writel 0xffffffffffffffff 1', 'OK'],
    ['nonsense 1 2', "FAIL Unknown command 'nonsense'"],
    ['readl', "FAIL Bad number ''"],
    ['readl 0x', "FAIL Bad number '0x'"],
    ['read 0x1000 0', 'FAIL Length 0'],
    ['write 0x1000 4 0', 'ERR invalid argument size'],
    ['write 0x1000 4 0xzz', 'FAIL Bad data'],
    ['   ', ''],
  ];

  test('every kind of request gets the answer QEMU gives', () => {
    const q = session(Q35);
    const bare = new QtestSession(createQemuMachine(parseQemuArgs(Q35), { nic: false, vga: false }));
    for (const [request, reply] of dialogue) {
      expect(bare.execute(request), request).toBe(reply);
    }
    expect(q.execute('outl 0xcf8 0x80000800')).toBe('OK');
    expect(q.execute('inl 0xcfc')).toBe('OK 0x11111234');
  });

  test('time moves only by clock_step and clock_set, never back', () => {
    const q = session(VIRT);
    const replies = ['clock_step 100', 'clock_step', 'clock_set 5000', 'clock_set 10'].map((r) => q.execute(r));
    expect(replies).toEqual(['OK 100', 'OK 100', 'OK 5000', 'OK 5000']);
  });

  test('time is counted in 64 bits and ends with them', () => {
    const q = session(VIRT);
    const replies = ['clock_set 9007199254740993', 'clock_step 2', 'clock_set 0xffffffffffffffff', 'clock_step 1'];
    const last = 'OK 9223372036854775807';
    expect(replies.map((r) => q.execute(r))).toEqual(['OK 9007199254740993', 'OK 9007199254740995', last, last]);
  });

  test('a range over what nothing decodes is passed at once, and what lies in it is reached', () => {
    const q = session(Q35);
    // The window of PCI from the end of RAM to the chipset, with one BAR in it.
    q.execute('outl 0xcf8 0x80001010');
    q.execute('outl 0xcfc 0xe0000000');
    q.execute('outl 0xcf8 0x80001004');
    q.execute('outw 0xcfc 0x7');
    for (let at = 0x3000_0000; at < 0xb000_0000; at += 0x0800_0000) {
      expect(q.execute(`memset 0x${at.toString(16)} 0x8000000 0`)).toBe('OK');
    }
    expect(q.execute('memset 0xdffff000 0x2000 0x44')).toBe('OK');
    expect(q.execute('readl 0xe0000004')).toBe('OK 0x0000000044444444');
    expect(q.execute('read 0xdffffffc 0xc')).toBe('OK 0x00000000' + '0000000044444444');
    expect(q.execute('memset 0 0x8000001 1')).toMatch(/^FAIL Length 134217729 is more than 134217728/);
  });

  test('no line a client can send throws', () => {
    const q = session(VIRT);
    const word = fc.oneof(
      fc.constantFrom(
        'read',
        'write',
        'memset',
        'readq',
        'writel',
        'outl',
        'inb',
        'b64write',
        'clock_step',
        '0x40000000',
      ),
      fc.string(),
      fc.nat().map(String),
      fc.bigInt(0n, 2n ** 70n).map((n) => `0x${n.toString(16)}`),
    );
    fc.assert(
      fc.property(fc.array(word, { maxLength: 5 }), (words) => {
        // Ranges of hundreds of megabytes are legal and slow; they are not what is looked for here.
        const line = words.join(' ');
        if (/^\s*(read|memset|write|b64)/.test(line) && words.some((w) => Number(w) > 2 ** 20 && Number(w) < 2 ** 28))
          return;
        expect(typeof q.execute(line)).toBe('string');
      }),
      { numRuns: 300 },
    );
  });

  test('-machine none answers, and has nothing', () => {
    const q = session('-machine none');
    expect(q.execute('readl 0x40000000')).toBe('OK 0x0000000000000000');
    expect(q.execute('inl 0xcfc')).toBe('OK 0xffffffff');
  });
});

describe('machine virt', () => {
  test('a client finds the host bridge and the test device through ECAM, and ones everywhere else', () => {
    const q = session(VIRT);
    const ecam = 0x40_1000_0000;
    const found: string[] = [];
    for (let devfn = 0; devfn < 256; devfn++) {
      const id = q.execute(`read 0x${(ecam + devfn * 4096).toString(16)} 4`);
      if (id !== 'OK 0xffffffff') found.push(`${devfn}:${id}`);
    }
    expect(found).toEqual(['0:OK 0x361b0800', '8:OK 0x361b0500']);
    expect(q.execute('readl 0x10000000')).toBe('OK 0x00000000ffffffff');
    expect(q.execute('readl 0x8000000000')).toBe('OK 0x00000000ffffffff');
    expect(q.execute('readl 0x401ff00000')).toBe('OK 0x00000000ffffffff');
    expect(q.execute('readl 0x3f000000')).toBe('OK 0x0000000000000000');
  });
});

describe('QMP', () => {
  test('a test program greets, asks for machines and resets', () => {
    const calls: string[] = [];
    const qmp = new QmpSession({ reset: () => calls.push('reset'), quit: () => calls.push('quit') });
    expect(JSON.parse(qmp.greeting())).toHaveProperty('QMP.version.qemu.major', 11);
    expect(qmp.execute('{"execute":"qmp_capabilities","id":7}')).toEqual(['{"return":{},"id":7}']);
    const machines = JSON.parse(qmp.execute('{"execute":"query-machines"}')[0]!);
    expect(machines.return.map((m: { name: string }) => m.name)).toEqual(expect.arrayContaining(['virt', 'q35']));
    const reset = qmp.execute('{"execute":"system_reset"}').map((l) => JSON.parse(l));
    expect(reset[0].event).toBe('RESET');
    expect(reset[1]).toEqual({ return: {} });
    expect(calls).toEqual(['reset']);
    expect(JSON.parse(qmp.execute('{"execute":"frob"}')[0]!).error.class).toBe('CommandNotFound');
    expect(JSON.parse(qmp.execute('{oops')[0]!).error.class).toBe('GenericError');
    expect(qmp.execute('')).toEqual([]);
  });

  const CAPABILITIES = '{"execute":"qmp_capabilities"}';
  const WITH_OOB = '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}';
  const NEGOTIATE = "Expecting capabilities negotiation with 'qmp_capabilities'";
  const CLASH = "QMP input member 'execute' clashes with 'exec-oob'";
  const enabling = (what: string) => `{"execute":"qmp_capabilities","arguments":{"enable":${what}}}`;
  const types = (what: string) => `{"execute":"qom-list-types","arguments":{${what}}}`;
  // Answers of QEMU 11.1.3.
  test.each<readonly [before: readonly string[], request: string, kind: string, desc: string]>([
    [[], '{"execute":"query-version"}', 'CommandNotFound', NEGOTIATE],
    [[], '{"execute":"frob"}', 'CommandNotFound', NEGOTIATE],
    [[], '[]', 'GenericError', 'QMP input must be a JSON object'],
    [[], '1', 'GenericError', 'QMP input must be a JSON object'],
    [[], '{"x":1}', 'GenericError', "QMP input member 'x' is unexpected"],
    [[], '{"execute":1}', 'GenericError', "QMP input member 'execute' must be a string"],
    [[], '{"exec-oob":"query-name"}', 'GenericError', "QMP input member 'exec-oob' is unexpected"],
    [
      [],
      '{"execute":"qmp_capabilities","arguments":[]}',
      'GenericError',
      "QMP input member 'arguments' must be an object",
    ],
    [[], '{"execute":"qmp_capabilities","extra":1}', 'GenericError', "QMP input member 'extra' is unexpected"],
    [[], '{"execute":"qmp_capabilities","arguments":{"x":1}}', 'GenericError', "Parameter 'x' is unexpected"],
    [
      [],
      '{"execute":"qmp_capabilities","arguments":{"enable":1}}',
      'GenericError',
      "Invalid parameter type for 'enable', expected: array",
    ],
    [
      [],
      '{"execute":"qmp_capabilities","arguments":{"enable":["oob",1]}}',
      'GenericError',
      "Invalid parameter type for 'enable[1]', expected: string",
    ],
    [
      [],
      '{"execute":"qmp_capabilities","arguments":{"enable":["bogus"]}}',
      'GenericError',
      "Parameter 'null' does not accept value 'bogus'",
    ],
    [[CAPABILITIES], CAPABILITIES, 'CommandNotFound', 'Capabilities negotiation is already complete, command ignored'],
    [[CAPABILITIES], enabling('["oob"],"x":1'), 'GenericError', "Parameter 'x' is unexpected"],
    [[CAPABILITIES], enabling('1'), 'GenericError', "Invalid parameter type for 'enable', expected: array"],
    [[], enabling('null'), 'GenericError', "Invalid parameter type for 'enable', expected: array"],
    [[], enabling('["bogus"],"x":1'), 'GenericError', "Parameter 'null' does not accept value 'bogus'"],
    [
      [CAPABILITIES],
      types('"implements":1'),
      'GenericError',
      "Invalid parameter type for 'implements', expected: string",
    ],
    [[CAPABILITIES], types('"abstract":1'), 'GenericError', "Invalid parameter type for 'abstract', expected: boolean"],
    [[CAPABILITIES], types('"abstract":true,"z":1'), 'GenericError', "Parameter 'z' is unexpected"],
    [[WITH_OOB], '{"execute":"query-name","exec-oob":"a"}', 'GenericError', CLASH],
    [[WITH_OOB], '{"exec-oob":"a","execute":"query-name"}', 'GenericError', CLASH],
    [[WITH_OOB], '{"execute":"a","exec-oob":1}', 'GenericError', "QMP input member 'exec-oob' must be a string"],
    [[CAPABILITIES], '{}', 'GenericError', "QMP input lacks member 'execute'"],
    [[CAPABILITIES], '{"execute":"frob"}', 'CommandNotFound', 'The command frob has not been found'],
    [[CAPABILITIES], '{"execute":"query-name","arguments":{"x":1}}', 'GenericError', "Parameter 'x' is unexpected"],
    [[WITH_OOB], '{"exec-oob":"query-name"}', 'GenericError', 'The command query-name does not support OOB'],
    [[WITH_OOB], '{"exec-oob":"frob"}', 'CommandNotFound', 'The command frob has not been found'],
  ])('after %j, %s is refused', (before, request, kind, desc) => {
    const qmp = new QmpSession({ reset: () => {}, quit: () => {} });
    for (const b of before) expect(qmp.execute(b)).toEqual(['{"return":{}}']);
    expect(qmp.execute(request).map((l) => JSON.parse(l))).toEqual([{ error: { class: kind, desc } }]);
    const withId = JSON.stringify({ ...JSON.parse(request), id: { a: [1] } });
    if (request.startsWith('{')) expect(JSON.parse(qmp.execute(withId)[0]!).id).toEqual({ a: [1] });
  });

  test.each([
    ['', ['iommu-testdev', 'arm-smmuv3', 'intel-iommu', 'pcie-root-port', 'pxb-pcie']],
    [
      '"implements":"device","abstract":false',
      ['iommu-testdev', 'arm-smmuv3', 'intel-iommu', 'pcie-root-port', 'pxb-pcie'],
    ],
    ['"implements":"pci-device"', ['iommu-testdev', 'pcie-root-port', 'pxb-pcie']],
    ['"implements":"x86-iommu"', ['intel-iommu']],
    ['"implements":"iommu-testdev"', ['iommu-testdev']],
    ['"implements":"nosuch"', []],
  ])('the device types with %s', (what, names) => {
    const qmp = new QmpSession({ reset: () => {}, quit: () => {} });
    qmp.execute(CAPABILITIES);
    const { return: found } = JSON.parse(qmp.execute(types(what))[0]!);
    expect(found.map((t: { name: string }) => t.name)).toEqual(names);
    if (names.includes('iommu-testdev')) expect(found[0]).toEqual({ name: 'iommu-testdev', parent: 'pci-device' });
  });

  test('a new client negotiates anew', () => {
    const qmp = new QmpSession({ reset: () => {}, quit: () => {} });
    qmp.execute(CAPABILITIES);
    qmp.greeting();
    expect(JSON.parse(qmp.execute('{"execute":"query-name"}')[0]!).error.desc).toBe(NEGOTIATE);
    expect(qmp.execute(CAPABILITIES)).toEqual(['{"return":{}}']);
  });
});

describe('transcripts', () => {
  const text = ['# title', 'ARGS -machine virt', '> readl 0x0', '< OK 0x0000000000000000', '> frob', '< OK'].join('\n');

  test('a differing reply is told with file, line, expected and got', () => {
    const t = parseTranscript('x.qt', text);
    const q = session('-machine none');
    const outcome = runTranscript(t, (r) => q.execute(r));
    expect(outcome.differences.map(tellDifference)).toEqual([
      "x.qt:5: frob: expected OK, got FAIL Unknown command 'frob'",
    ]);
  });

  test('a malformed transcript is refused with its line', () => {
    const bad = (s: string) => () => parseTranscript('x.qt', s);
    expect(bad('ARGS a\n< OK')).toThrow('x.qt:2: a reply without a request');
    expect(bad('ARGS a\n> a\n> b')).toThrow('x.qt:3: no reply to the request of line 2');
    expect(bad('ARGS a\n> a')).toThrow('x.qt:2: the last request has no reply');
    expect(bad('> a\n< b')).toThrow('x.qt:1: no ARGS line');
    expect(bad('ARGS a\n? what')).toThrow('x.qt:2: neither request, reply nor comment: ? what');
  });

  test('cache-dependent replies are counted apart until the next write', () => {
    const rows = ['ARGS a', '# STALE-DEPENDENT x', '> readl 0', '< no', '> writel 0 0', '< no'];
    const outcome = runTranscript(parseTranscript('x.qt', rows.join('\n')), () => 'yes');
    expect([outcome.tolerated.length, outcome.differences.length]).toEqual([1, 1]);
  });
});
