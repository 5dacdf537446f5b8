import { afterAll, expect, test } from 'vitest';
import { smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { ramBacking } from '../../src/lib/memory/address-space.ts';
import { guestRid, hostRid } from '../../src/lib/pci/rids.ts';
import { parseQemuArgs } from '../../src/lib/qemu-args/qemu-args.ts';
import { makeReplayMachine } from '../../src/machine/replay.ts';
import { ReplayMemory } from '../../src/machine/replay-memory.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../src/machine/vm.ts';
import { AT, DMA, NO_PASID } from '../../src/ports/dma.ts';
import type { Said } from '../../src/ports/tell.ts';
import { Heard, Replay, type ReplayTarget, type TraceHeader, TraceRecorder } from '../../src/trace/index.ts';
import { openTrace } from '../../src/trace/node.ts';
import { replayFile } from '../../tools/replay/run.ts';
import { TraceFolder } from './files.ts';

const folder = new TraceFolder();
afterAll(() => folder.remove());

/** A machine like the replay's own, whose memory, registers and DMA a recorder watches. */
class WatchedMachine extends ReplayMemory implements ReplayTarget {
  lo = 0;
  hi = 0;
  out = 0;
  perm = 0;
  guestShift = 0;
  tag = 0;
  readonly outAddress = 0;
  readonly outData = 0;
  readonly #unit: Smmuv3Unit;
  readonly #device;
  readonly #port;
  readonly #recorder: TraceRecorder;

  constructor(header: TraceHeader, recorder: TraceRecorder, tell: (said: Said) => void) {
    const ram = header.ram.map((r) => ({
      base: r.gpa,
      bytes: r.size,
      backing: recorder.watch(r.gpa, ramBacking(r.size)),
    }));
    super(new Vm({ ram, tell }));
    const doorbell = this.vm.memory.addHostWindow(0x809_0000, 4096, { name: 'its', read: () => 0, write: () => {} });
    const [properties] = smmuv3Properties(parseQemuArgs(header.cmdline));
    this.#recorder = recorder;
    this.#unit = new Smmuv3Unit(this.vm, {
      name: 'smmuv3',
      properties: properties!,
      irq: { pulse() {}, level() {}, message: () => true },
      tell,
      doorbell: 0x809_0000,
    });
    for (const d of header.devices)
      this.#unit.addFunction([d.sid], [hostRid(d.sid)], { name: d.name, msiDoorbell: doorbell });
    this.#device = recorder.device(this.#unit.device);
    this.#port = recorder.translate(this.#unit.hardware, guestRid, (hpa) => this.vm.memory.gpaOf(hpa));
  }

  read(offset: number, size: number): void {
    this.lo = this.#device.read(offset, size);
  }

  write(offset: number, size: number, lo: number, hi: number): void {
    this.#device.write(offset, size, lo, hi);
  }

  dma(sid: number, lo: number, hi: number, access: number): number {
    const p = this.#port;
    const status = p.translate(hostRid(sid), NO_PASID, lo, hi, access, AT.UNTRANSLATED);
    this.out = status === DMA.OK ? this.vm.memory.gpaOf(p.out) : 0;
    this.perm = p.outPerm & 3;
    this.guestShift = p.guestShift;
    this.tag = p.tag;
    return status;
  }

  remap(): boolean {
    return false;
  }

  irte(): boolean {
    return false;
  }

  reset(): void {
    this.#unit.device.reset();
    this.#recorder.reset();
  }
}

test.each(['smmuv3-boot', 'smmuv3-faults', 'smmuv3-passthrough'])(
  'what is recorded of a machine while it replays %s is a recording of the same guest, and matches',
  async (name) => {
    const path = `guest-fixtures/recordings/${name}.ndjson.gz`;
    const trace = await openTrace(path);
    const heard = new Heard();
    const recorder = new TraceRecorder('smmuv3');
    heard.also = recorder.tell;
    const replay = new Replay(trace.header, new WatchedMachine(trace.header, recorder, heard.tell), heard);
    for await (const batch of trace.batches) for (const e of batch) replay.apply(e);
    const first = replay.finish();
    expect(first.differences).toEqual([]);

    const text = recorder.text({ ...trace.header, guestKernel: 'again', scenario: name });
    const again = await replayFile(folder.text(text), makeReplayMachine, {});
    expect(again.differences).toEqual([]);
    expect(again.ok).toBe(true);
    expect(again.columns).toEqual(first.columns);
    expect(again.commands).toEqual(first.commands);
    // The machine of a recording has address space beside its RAM, in three pieces; the one watched here has none.
    const maps = first.hostOps.get('IOAS_MAP')! + 3;
    expect(again.hostOps).toEqual(new Map(first.hostOps).set('IOAS_MAP', maps));
  },
);
