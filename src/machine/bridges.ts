import { Bridge, type BridgeKind } from '../../bus/bridge.ts';
import type { PciBus, Root, Slot } from '../../bus/topology.ts';
import type { Board } from './board.ts';
import { FixedFunction } from './fixed-function.ts';

/** QEMU's device names of what has a bus behind it. */
const KINDS: Readonly<Record<string, BridgeKind>> = {
  'pcie-root-port': 'root',
  ioh3420: 'root',
  'x3130-upstream': 'upstream',
  'xio3130-downstream': 'downstream',
  'pcie-pci-bridge': 'pcie-pci',
  'pci-bridge': 'pci-pci',
};

/** @returns null when `kind` names no bridge. */
export function plugBridge(board: Board, bus: PciBus, kind: string, devfn?: number): Slot | null {
  const bridge = KINDS[kind];
  if (bridge === undefined) return null;
  return board.plug(new Bridge({ kind: bridge, name: kind, hotplug: bridge === 'root' }), devfn, bus);
}

/**
 * A PCI expander: another root bus with number `number`, seen on bus 0 as a host bridge.
 * @throws ViommuError `EEXIST` when the number is taken.
 */
export function plugExpander(board: Board, number: number, devfn?: number): Root {
  const root = board.complex.addRoot(number, board.root.iommu);
  board.plug(new FixedFunction('pxb', { vendor: 0x1b36, device: 0x000b, classCode: 0x060000 }), devfn);
  return root;
}
