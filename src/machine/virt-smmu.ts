import { smmuv3Properties } from '../../devices/smmuv3/properties.ts';
import { ViommuError } from '../core/errors.ts';
import type { InterruptPort } from '../ports/irq.ts';
import { portsOf, putBehind, recordedPorts } from './behind-unit.ts';
import { BoardWindow } from './board-window.ts';
import type { QemuIommuParts } from './qemu-iommus.ts';
import { Smmuv3Unit } from './smmuv3-unit.ts';
import type { IommuUnit } from './unit.ts';
import { QUIET, VIRT } from './virt.ts';

const PAGE = 4096;
const DOORBELL_PAGE = VIRT.DOORBELL - (VIRT.DOORBELL % PAGE);
const SMMU_BYTES = 0x2_0000;
/** GITS_TRANSLATER, and MSI_SETSPI_NS of GICv2m's frame. */
const DOORBELLS = new Set<number>([VIRT.DOORBELL, VIRT.V2M + 0x40]);

/** What functions reach of the board beside QUIET. The page of the doorbell has a place of its own. */
const REACHED: readonly (readonly [base: number, bytes: number])[] = [
  [VIRT.ITS, DOORBELL_PAGE - VIRT.ITS],
  [DOORBELL_PAGE + PAGE, VIRT.ITS + VIRT.ITS_BYTES - (DOORBELL_PAGE + PAGE)],
  [VIRT.PCI, VIRT.PCI_BYTES],
  [VIRT.PIO, VIRT.PIO_BYTES],
  [VIRT.ECAM, VIRT.ECAM_BYTES],
  [VIRT.PCI64, VIRT.PCI64_BYTES],
];

/**
 * Puts the vSMMUv3s of the command line in their places: `-machine virt,iommu=smmuv3` or `-device arm-smmuv3`, each over
 * its root bus, with a physical SMMU of its own; functions go behind them as they are plugged in.
 * @throws ViommuError `E_PROFILE` for a property or a primary bus that is not there.
 */
export function attachSmmus(p: QemuIommuParts): readonly IommuUnit[] {
  const { vm, board, roots, irq, args, profile, tell, report, canStall, record } = p;
  const doorbell = vm.memory.addHostWindow(DOORBELL_PAGE, PAGE, {
    name: 'its',
    read: () => 0,
    write: (offset, size, value) => {
      if (size === 4 && DOORBELL_PAGE + offset === VIRT.DOORBELL) irq.message(VIRT.DOORBELL, value);
    },
  });
  const show = (base: number, bytes: number) => vm.addWindow(base, bytes, new BoardWindow(board.map, base));
  // Whatever the board has besides RAM is reached through both stages like memory is, peers and holes of the PCI windows too.
  for (const [base, bytes] of [...QUIET, ...REACHED]) show(base, bytes);
  // A message to any other address is a write to what lies there.
  const messages: InterruptPort = {
    pulse: (line) => irq.pulse(line),
    level: (line, asserted) => irq.level(line, asserted),
    message: (address, data) => DOORBELLS.has(address) && irq.message(address, data),
  };
  const machineWide = args.machine.props.get('iommu') === 'smmuv3';
  const all = smmuv3Properties(args, profile);
  board.likeQemu = all.every((properties) => properties.profile === 'qemu-11.1');
  return all.map((properties, n) => {
    const root = roots.get(properties.primaryBus);
    if (root === undefined) {
      throw new ViommuError('E_PROFILE', 'caller', `arm-smmuv3: no root bus '${properties.primaryBus}'`);
    }
    const unit = new Smmuv3Unit(vm, {
      name: properties.id === '' ? `smmuv3.${n}` : properties.id,
      properties,
      irq: messages,
      tell,
      ...(canStall === undefined ? {} : { canStall }),
      doorbell: DOORBELL_PAGE,
    });
    const at = machineWide ? VIRT.SMMU : VIRT.SMMU_DEVICES + n * SMMU_BYTES;
    board.map.attach(at, unit.window, 8);
    show(at, SMMU_BYTES);
    unit.endpoints.to = root.endpoints;
    const { complex } = board;
    const ports = portsOf(vm, unit);
    const met = record === undefined || n > 0 ? ports : recordedPorts(record, vm, complex, root, ports);
    putBehind(vm, { complex, root, unit, doorbell, report }, met);
    return unit;
  });
}
