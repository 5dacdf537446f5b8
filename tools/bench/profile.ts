import type { HeapProfiler, Profiler } from 'node:inspector';
import { Session } from 'node:inspector/promises';
import { type TimedCase, titleOf } from './case.ts';

const WARM_MS = 1000;
const MEASURED_MS = 1500;
const SAMPLING_US = 200;
const HEAP_SAMPLING_BYTES = 512;
const LINES = 20;

/** Runs until so much CPU time is used. @returns operations. */
async function forMilliseconds(c: Awaited<ReturnType<TimedCase['setup']>>, ms: number): Promise<number> {
  const before = process.cpuUsage();
  for (let ops = 0; ; ) {
    for (let n = 0; n < 16; n++) c.run();
    ops += 16 * c.ops;
    if (process.cpuUsage(before).user > ms * 1000) return ops;
  }
}

function placeOf({ functionName, url, lineNumber }: { functionName: string; url: string; lineNumber: number }): string {
  return `${functionName || '(top)'} ${url.replace(/.*\/dist\//, '')}:${lineNumber + 1}`;
}

/** The largest parts first, with what is behind them. */
function largest(parts: ReadonlyMap<string, number>, unit: (value: number) => string): string[] {
  const sorted = [...parts].sort((a, b) => b[1] - a[1]).slice(0, LINES);
  return sorted.filter(([, value]) => value > 0).map(([place, value]) => `${unit(value).padStart(9)}  ${place}`);
}

function samplesOf({ nodes, samples = [] }: Profiler.Profile): Map<string, number> {
  const places = new Map(nodes.map((n) => [n.id, placeOf(n.callFrame)]));
  const parts = new Map<string, number>();
  for (const id of samples) parts.set(places.get(id)!, (parts.get(places.get(id)!) ?? 0) + 1 / samples.length);
  return parts;
}

function allocationsOf(profile: HeapProfiler.SamplingHeapProfile): Map<string, number> {
  const parts = new Map<string, number>();
  const visit = (node: HeapProfiler.SamplingHeapProfileNode) => {
    const place = placeOf(node.callFrame);
    parts.set(place, (parts.get(place) ?? 0) + node.selfSize);
    node.children.forEach(visit);
  };
  visit(profile.head);
  return parts;
}

/** Where the time of a row goes, and which of its functions put how many bytes on the heap per operation. */
export async function profiled(c: TimedCase): Promise<string[]> {
  const p = await c.setup();
  await forMilliseconds(p, WARM_MS);
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.setSamplingInterval', { interval: SAMPLING_US });
  await session.post('Profiler.start');
  await forMilliseconds(p, MEASURED_MS);
  const { profile: time } = await session.post('Profiler.stop');
  const all = { includeObjectsCollectedByMajorGC: true, includeObjectsCollectedByMinorGC: true };
  await session.post('HeapProfiler.startSampling', { samplingInterval: HEAP_SAMPLING_BYTES, ...all });
  const ops = await forMilliseconds(p, MEASURED_MS / 4);
  const { profile: heap } = await session.post('HeapProfiler.stopSampling');
  session.disconnect();
  const bytes = [...allocationsOf(heap)].map(([place, value]) => [place, value / ops] as const);
  return [
    titleOf(c),
    ...largest(samplesOf(time), (part) => `${(100 * part).toFixed(1)} %`),
    'bytes on the heap per operation:',
    ...largest(new Map(bytes.filter(([, value]) => value >= 0.05)), (value) => `${value.toFixed(1)} B`),
    '',
  ];
}
