import { type BarSpec, Bars } from '../lib/pci/bars.ts';
import { ConfigSpace } from '../lib/pci/config-space.ts';
import { endpointHeader, type PciIdentity } from '../lib/pci/header.ts';
import { checkFormOf } from '../lib/saved/state-form.ts';
import type { PciFunction, PciWindow } from '../ports/pci.ts';

/** A function of the board that is there to be found (host bridge, VGA, LPC …): identity and BARs, nothing behind them. */
export class FixedFunction implements PciFunction {
  readonly name: string;
  readonly config: ConfigSpace;
  readonly windows: readonly PciWindow[];

  constructor(name: string, identity: PciIdentity, bars: readonly BarSpec[] = [], size: 256 | 4096 = 256) {
    this.name = name;
    this.config = new ConfigSpace(size);
    endpointHeader(this.config, identity);
    const set = new Bars(this.config, bars);
    this.windows = bars.map((b, i) => ({ bytes: b.bytes, io: b.kind === 'io', address: () => set.address(i) }));
  }

  configRead(offset: number, size: number): number {
    return this.config.read(offset, size);
  }

  configWrite(offset: number, size: number, value: number): void {
    this.config.write(offset, size, value);
  }

  barRead(): number {
    return 0;
  }

  barWrite(): void {}

  connect(): void {}

  reset(): void {
    this.config.reset();
  }

  save(): number[] {
    return this.config.save();
  }

  checkState(state: unknown, path: string): void {
    checkFormOf<readonly number[]>(state, this.config.form(), path);
  }

  load(bytes: unknown): void {
    this.config.load(bytes as readonly number[]);
  }
}
