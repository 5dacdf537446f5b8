import { expect, test } from 'vitest';
import type { Said } from '../../../src/ports/tell.ts';
import { Beside } from '../../../tools/live-v86/beside.ts';
import { HostGraph } from '../../../tools/live-v86/graph.ts';
import { Story, wordsOf } from '../../../tools/live-v86/story.ts';

const command = (name: string, error = 0): Said => ({ what: 'command', device: 'vtd', name, words: [], error });
const host = (verb: string, args: Record<string, number | bigint | string> = {}, result = 0): Said => ({
  what: 'host',
  verb,
  args,
  result,
});
const store = (offset: number, value = 0n): Said => ({ what: 'reg.write', device: 'vtd', offset, size: 4, value });

function told(...said: Said[]): [string, readonly string[]][] {
  const story = new Story();
  for (const s of said) story.tell(s);
  story.settle();
  return story.steps.map((s) => [wordsOf(s), s.host]);
}

test('a command has the host operations it caused, commands without any share a line', () => {
  expect(
    told(
      store(0x88),
      host('HWPT_INVALIDATE', { id: 5, flags: 1, entries: 1n }),
      command('iotlb'),
      command('wait'),
      command('device'),
      command('wait'),
      command('iotlb', 3),
    ),
  ).toEqual([
    ['iotlb', ['HWPT_INVALIDATE(id=0x5 entries=0x1)']],
    ['wait × 2, device, iotlb (error 3)', []],
  ]);
});

test('what no command asked for is a first use', () => {
  expect(told(host('HWPT_ALLOC'), host('ATTACH', { pt: 3 }, -22), store(0x88), command('wait'))).toEqual([
    ['first use', ['HWPT_ALLOC()', 'ATTACH(pt=0x3) = -22']],
    ['wait', []],
  ]);
});

test('switches of the unit and recorded faults are part of it', () => {
  const fault: Said = { what: 'frcd', device: 'vtd', recorded: true, words: [0, 0, 0, 0] };
  expect(told(store(0x18, 0x8000_0000n), fault)).toEqual([['GCMD 0x80000000, fault recorded', []]]);
});

test('only so many steps are kept, all are counted', () => {
  const story = new Story(3);
  for (let i = 0; i < 10; i++) {
    story.tell(host('IOAS_UNMAP', { iova: i + 1 }));
    story.tell(command('iotlb'));
  }
  expect([story.steps.length, story.count]).toEqual([3, 10]);
});

test('side by side, every finished step is printed once', () => {
  const lines: string[] = [];
  const tell = new Beside((line) => lines.push(line.trim())).tell(() => {});
  for (const s of [host('ATTACH', { pt: 3 }), command('context-cache'), command('wait'), command('wait'), store(0x88)])
    tell(s);
  tell(host('IOAS_MAP'));
  tell(command('iotlb'));
  expect(lines).toEqual(['┃ context-cache → ATTACH(pt=0x3)', '┃ wait × 2']);
});

test('what a driver does over and over is printed once and counted', () => {
  const lines: string[] = [];
  const tell = new Beside((line) => lines.push(line.trim())).tell(() => {});
  for (let i = 0; i < 5; i++) {
    tell(host('HWPT_INVALIDATE', { id: 4 }));
    tell(command('p-iotlb'));
    tell(command('wait'));
  }
  tell(host('ATTACH'));
  tell(command('pasid-cache'));
  tell(command('wait'));
  expect(lines).toEqual([
    '┃ p-iotlb → HWPT_INVALIDATE(id=0x4)',
    '┃ wait',
    '┃ … 8 more like these',
    '┃ pasid-cache → ATTACH()',
  ]);
});

test('the graph holds what host operations made, and lets go of what they took away', () => {
  const g = new HostGraph();
  for (const s of [
    host('IOAS_ALLOC', { id: 1 }),
    host('BIND', { dev: 2, device: 'nvme' }),
    host('HWPT_ALLOC', { hwpt: 3, pt: 1, type: 0 }),
    host('HWPT_ALLOC', { hwpt: 4, pt: 3, type: 1 }),
    host('HWPT_ALLOC', { hwpt: 9, pt: 3, type: 1 }, -12),
    host('ATTACH', { dev: 2, pt: 3, pasid: -1 }),
    host('REPLACE', { dev: 2, pt: 4, pasid: -1 }),
  ])
    g.tell(s);
  expect([...g.devices.get(2)!.attached]).toEqual([[-1, 4]]);
  expect(g.chain(4)).toEqual([4, 3, 1]);
  expect([...g.hwpts.keys()]).toEqual([3, 4]);
  for (const s of [host('DETACH', { dev: 2, pasid: -1 }), host('DESTROY', { id: 4 }), host('UNBIND', { dev: 2 })])
    g.tell(s);
  expect([g.devices.size, [...g.hwpts.keys()], g.chain(3)]).toEqual([0, [3], [3, 1]]);
});
