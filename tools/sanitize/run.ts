import { performance } from 'node:perf_hooks';
import { ViommuError } from '../../src/core/errors.ts';
import { type RuleId, Sanitizer } from '../../src/sanitize/index.ts';
import { hasMemory } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { type Filter, type Sanitized, wanted } from './report.ts';

/**
 * Judges one recording. Nothing is replayed: what the guest did, and what its IOMMU answered, is all in the recording.
 * @throws ViommuError for a file that is no recording.
 */
export async function sanitizeFile(
  path: string,
  filter: Filter,
  progress: (events: number) => void = () => {},
): Promise<Sanitized> {
  const start = performance.now();
  const trace = await openTrace(path);
  if (!hasMemory(trace.header)) {
    const what = 'guest memory was not recorded ("lacks"): there is nothing to judge';
    throw new ViommuError('E_TRACE_FORMAT', 'trace', `${trace.file}: ${what}`);
  }
  const sanitizer = new Sanitizer(trace.header);
  let events = 0;
  for await (const batch of trace.batches) {
    for (const e of batch) sanitizer.event(e);
    events += batch.length;
    progress(events);
  }
  const findings = sanitizer.finish().filter((f) => wanted(f.rule, filter));
  const unjudged = new Map<string, readonly RuleId[]>();
  for (const [why, rules] of sanitizer.findings.unjudged()) {
    const left = [...rules].filter((r) => wanted(r, filter));
    if (left.length > 0) unjudged.set(why, left);
  }
  const seconds = (performance.now() - start) / 1000;
  return { file: trace.file, header: trace.header, events, seconds, findings, unjudged };
}
