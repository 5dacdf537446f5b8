import { vtdProperties } from '../../../devices/vtd/properties.ts';
import { parseQemuArgs } from '../../../src/lib/qemu-args/qemu-args.ts';
import { ACCESS, AT, NO_PASID } from '../../../src/ports/dma.ts';
import { TraceRecorder } from '../../../src/trace/recorder.ts';
import { machineWith, recordingOf } from '../../live-v86/recorded.ts';
import { startV86, type V86Files, type V86Run } from '../../live-v86/start.ts';
import type { LiveMachine } from './machine.ts';

/** An address no driver maps. */
const STRAY = 0xdead_0000;
/** Milliseconds of the guest that a step asks for at a time. */
const LITTLE = 30;

async function bytes(path: string): Promise<Uint8Array> {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return new Uint8Array(await answer.arrayBuffer());
}

async function files(): Promise<V86Files> {
  // A module of the emulator's package, at its own address.
  const address = '/v86/libv86.mjs';
  const { V86 } = (await import(/* @vite-ignore */ address)) as Pick<V86Files, 'V86'>;
  const version = new TextDecoder().decode(await bytes('/v86/version'));
  const [bios, vgaBios, bzImage, initrd] = await Promise.all(
    ['seabios.bin', 'vgabios.bin', 'bzImage', 'initrd'].map((f) => bytes(`/guest/${f}`)),
  );
  return { V86, version, wasm: '/v86/v86.wasm', bios: bios!, vgaBios: vgaBios!, bzImage: bzImage!, initrd: initrd! };
}

/** PCI's way of writing a function's address, of bus 0 to 255. */
function address(rid: number): string {
  const two = (n: number) => n.toString(16).padStart(2, '0');
  return `${two(rid >>> 8)}:${two((rid >>> 3) & 31)}.${rid & 7}`;
}

/** A machine in v86, and the run behind it for whoever drives the page. */
export interface V86Machine extends LiveMachine {
  readonly run: V86Run;
}

/**
 * Linux in v86 with a vVT-d and an NVMe disk of ours.
 * @param unit properties of the vVT-d in QEMU's words. @throws Error something of it is missing.
 */
export async function v86Machine(unit: string): Promise<V86Machine> {
  const cmdline = machineWith(unit);
  const props = vtdProperties(parseQemuArgs(cmdline))!;
  const record = new TraceRecorder('vtd', false);
  let fresh: string[] = [];
  record.listen((e) => fresh.push(JSON.stringify(e)));
  const append = props.scalableMode ? 'intel_iommu=sm_on' : '';
  const run = await startV86(await files(), { props, append, tell: null, record });
  const of = recordingOf(cmdline, `running in this page, ${unit}`, run);
  const named = { ...of, devices: of.devices.map((d) => ({ ...d, name: `${d.name} ${address(d.sid)}` })) };
  const { emulator } = run;
  let running = true;
  return {
    run,
    name: `v86, ${unit}`,
    header: record.text(named).split('\n')[0]!,
    take() {
      record.catchUp();
      const taken = fresh.length === 0 ? '' : `${fresh.join('\n')}\n`;
      fresh = [];
      return taken;
    },
    async go() {
      if (!running) await emulator.run();
      running = true;
    },
    async halt() {
      if (running) await emulator.stop();
      running = false;
    },
    async little() {
      await emulator.run();
      await new Promise((r) => setTimeout(r, LITTLE));
      await emulator.stop();
    },
    get ended() {
      return run.guest.console.ended;
    },
    console: run.guest.console.lines,
    send: (line) => run.guest.send(line),
    stray() {
      const { complex } = run.machine;
      const link = complex.link(complex.byRid(run.rid)!)!;
      return run.outside(() =>
        link.write(NO_PASID, STRAY | 0, 0, ACCESS.WRITE, AT.UNTRANSLATED, new Uint8Array(4), 0, 4),
      );
    },
    get error() {
      return run.errors.map(String).join('; ');
    },
  };
}
