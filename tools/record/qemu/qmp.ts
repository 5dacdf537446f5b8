import { connect } from 'node:net';
import type { TraceDevice } from '../../../src/trace/index.ts';

/** A function as `query-pci` tells of it. */
interface PciFunction {
  readonly bus: number;
  readonly slot: number;
  readonly function: number;
  readonly id: { readonly vendor: number; readonly device: number };
  readonly qdev_id: string;
  readonly class_info: { readonly desc?: string; readonly class: number };
  readonly pci_bridge?: { readonly devices?: readonly PciFunction[] };
}

/** The device, with its numbers for who looks it up. */
export interface KeptDevice extends TraceDevice {
  readonly pciId: string;
}

const hex = (n: number, digits: number): string => n.toString(16).padStart(digits, '0');

function kept(functions: readonly PciFunction[]): KeptDevice[] {
  return functions.flatMap((f) => {
    const sid = (f.bus << 8) | (f.slot << 3) | f.function;
    const pciId = `${hex(f.id.vendor, 4)}:${hex(f.id.device, 4)}`;
    const device = {
      name: f.qdev_id === '' ? (f.class_info.desc ?? pciId).replaceAll(' ', '-').toLowerCase() : f.qdev_id,
      bdf: `0000:${hex(f.bus, 2)}:${hex(f.slot, 2)}.${f.function}`,
      sid,
      pciId,
      driver: null,
      domainType: null,
      ats: false,
    };
    return [device, ...kept(f.pci_bridge?.devices ?? [])];
  });
}

/** The PCI functions of a running QEMU, as the guest has numbered their buses so far; null: it does not answer. */
export function pciFunctions(socket: string): Promise<readonly KeptDevice[] | null> {
  return new Promise((done) => {
    const line = connect(socket);
    let text = '';
    const end = (found: readonly KeptDevice[] | null): void => {
      line.destroy();
      done(found);
    };
    line.setTimeout(2000, () => end(null));
    line.on('error', () => end(null)).on('close', () => end(null));
    line.on('data', (data) => {
      text += data.toString('utf8');
      for (let n = text.indexOf('\n'); n >= 0; n = text.indexOf('\n')) {
        const answer = JSON.parse(text.slice(0, n)) as {
          QMP?: object;
          return?: readonly { devices: readonly PciFunction[] }[];
        };
        text = text.slice(n + 1);
        if (answer.QMP !== undefined) line.write('{"execute":"qmp_capabilities"}\n{"execute":"query-pci"}\n');
        else if (Array.isArray(answer.return)) end(answer.return.flatMap((bus) => kept(bus.devices)));
      }
    });
  });
}
