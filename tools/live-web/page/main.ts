import { vtdProperties } from '../../../devices/vtd/properties.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';
import { ACCESS, AT, NO_PASID } from '../../../src/ports/dma.ts';
import { HostGraph } from '../../live-v86/graph.ts';
import { startV86, type V86Files, type V86Run } from '../../live-v86/start.ts';
import { Story } from '../../live-v86/story.ts';
import { onActions, showConsole, showGraph, showStatus, showStory } from './view.ts';

/** An address no driver maps. */
const STRAY = 0xdead_0000;
/** Milliseconds between two looks at what is new. */
const REFRESH = 200;

/** What the page's driver (a test, the developer's console) can reach. */
export interface LivePage {
  readonly run: V86Run | null;
  readonly error: string;
  /** Waits for a line of the guest's console. */
  expect(pattern: string, milliseconds?: number): Promise<string>;
  /** Sends a command and waits for its answer. */
  ask(command: string, pattern: string, milliseconds?: number): Promise<string>;
  /** A DMA write nobody asked for; its DMA outcome. */
  stray(): number;
}

async function bytes(path: string): Promise<Uint8Array> {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return new Uint8Array(await answer.arrayBuffer());
}

async function files(): Promise<V86Files> {
  // A module of the emulator's package, at its own address.
  const address = '/v86/libv86.mjs';
  const { V86 } = (await import(address)) as Pick<V86Files, 'V86'>;
  const version = new TextDecoder().decode(await bytes('/v86/version'));
  const [bios, vgaBios, bzImage, initrd] = await Promise.all(
    ['seabios.bin', 'vgabios.bin', 'bzImage', 'initrd'].map((f) => bytes(`/guest/${f}`)),
  );
  return { V86, version, wasm: '/v86/v86.wasm', bios: bios!, vgaBios: vgaBios!, bzImage: bzImage!, initrd: initrd! };
}

async function start(page: { run: V86Run | null; error: string }): Promise<void> {
  const story = new Story();
  const graph = new HostGraph();
  const words = new URLSearchParams(location.search).get('unit') ?? 'device-iotlb=on';
  const props = vtdProperties(parseQemuArgs(`qemu-system-i386 -M q35 -device intel-iommu,intremap=off,${words}`))!;
  const append = props.scalableMode ? 'intel_iommu=sm_on' : '';
  let told = 0;
  const tell: Parameters<typeof startV86>[1]['tell'] = (said) => {
    told++;
    story.tell(said);
    graph.tell(said);
  };
  showStatus('fetching the guest');
  const run = await startV86(await files(), { props, append, tell });
  page.run = run;
  showStatus('running');
  let seen = { lines: -1, told: -1, changes: -1 };
  setInterval(() => {
    const now = { lines: run.guest.console.lines.length, told, changes: graph.changes };
    if (now.lines !== seen.lines) showConsole(run.guest.console.lines);
    if (now.told !== seen.told) {
      story.settle();
      showStory(story);
    }
    if (now.changes !== seen.changes) showGraph(graph);
    seen = now;
  }, REFRESH);
}

const state: { run: V86Run | null; error: string } = { run: null, error: '' };

const page: LivePage = {
  get run() {
    return state.run;
  },
  get error() {
    return state.error || (state.run?.errors.map(String).join('; ') ?? '');
  },
  async expect(pattern, milliseconds = 120_000) {
    const end = Date.now() + milliseconds;
    while (state.run === null && state.error === '' && Date.now() < end) await new Promise((r) => setTimeout(r, 50));
    if (state.run === null) throw new Error(state.error || 'the guest did not start in time');
    return state.run.guest.console.expect(new RegExp(pattern), end - Date.now());
  },
  ask(command, pattern, milliseconds) {
    state.run!.guest.send(command);
    return page.expect(pattern, milliseconds);
  },
  stray() {
    const run = state.run!;
    const { complex } = run.machine;
    const link = complex.link(complex.byRid(run.rid)!)!;
    return run.outside(() =>
      link.write(NO_PASID, STRAY | 0, 0, ACCESS.WRITE, AT.UNTRANSLATED, new Uint8Array(4), 0, 4),
    );
  },
};

(globalThis as { live?: LivePage }).live = page;
onActions(
  (command) => state.run?.guest.send(command),
  () => void (state.run !== null && page.stray()),
);
start(state).catch((e: unknown) => {
  state.error = String(e);
  showStatus(state.error);
});
