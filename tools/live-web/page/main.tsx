import { render } from 'preact';
import { LiveApp } from './app.tsx';
import type { LiveRun } from './live.ts';
import { recordedMachine } from './recorded-machine.ts';
import { type V86Machine, v86Machine } from './v86-machine.ts';

/** Events of a recording in a second, unless the address says otherwise. */
const PER_SECOND = 400;

const asked = new URLSearchParams(location.search);
const choice = { recording: asked.get('recording') ?? '', unit: asked.get('unit') ?? 'device-iotlb=on' };
const list = document.querySelector<HTMLMetaElement>('meta[name="viommu-recordings"]')?.content ?? '[]';

const state: { v86: V86Machine | null; live: LiveRun | null; error: string } = { v86: null, live: null, error: '' };

/** What the page's driver (a test, the developer's console) can reach. */
const page = {
  get live() {
    return state.live;
  },
  get error() {
    return state.error || (state.v86?.error ?? '');
  },
  /** Waits for a line of the guest's console. */
  async expect(pattern: string, milliseconds = 120_000): Promise<string> {
    const end = Date.now() + milliseconds;
    while (state.v86 === null && state.error === '' && Date.now() < end) await new Promise((r) => setTimeout(r, 50));
    if (state.v86 === null) throw new Error(state.error || 'the guest did not start in time');
    return state.v86.run.guest.console.expect(new RegExp(pattern), end - Date.now());
  },
  /** Sends a command and waits for its answer. */
  ask(command: string, pattern: string, milliseconds?: number): Promise<string> {
    state.v86!.send(command);
    return page.expect(pattern, milliseconds);
  },
};
(globalThis as { live?: typeof page }).live = page;

render(
  <LiveApp
    choice={choice}
    recordings={JSON.parse(list) as string[]}
    start={async ({ recording, unit }) => {
      if (recording !== '') return recordedMachine(recording, Number(asked.get('rate') ?? PER_SECOND));
      state.v86 = await v86Machine(unit);
      return state.v86;
    }}
    onRun={(run) => {
      state.live = run;
    }}
    onError={(why) => {
      state.error = why;
    }}
  />,
  document.getElementById('app')!,
);
