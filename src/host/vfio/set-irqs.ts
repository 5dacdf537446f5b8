import { E } from '../../spec/iommufd/errno.ts';
import { VFIO_IRQ_SET, VFIO_IRQ_SET_HEAD, VFIO_PCI_IRQ } from '../../spec/iommufd/vfio.ts';
import type { Caller, EventSignal } from '../ioctl/caller.ts';
import type { VfioInterrupts } from './interrupts.ts';

const DATA = VFIO_IRQ_SET.NONE | VFIO_IRQ_SET.BOOL | VFIO_IRQ_SET.EVENTFD;
const ACTION = VFIO_IRQ_SET.MASK | VFIO_IRQ_SET.UNMASK | VFIO_IRQ_SET.TRIGGER;

/** A call of VFIO_DEVICE_SET_IRQS whose words fit each other. */
interface IrqSet {
  readonly flags: number;
  readonly index: number;
  readonly start: number;
  readonly count: number;
  /** The truth values, or the descriptors. */
  readonly data: readonly number[];
  readonly signals: readonly (EventSignal | null)[];
}

/**
 * VFIO_DEVICE_SET_IRQS. @returns 0; -EFAULT; -EINVAL sizes, ranges or an order that cannot be; -ENOTTY an action that this
 * interrupt does not have; -EBADF a descriptor that is not open.
 */
export function setIrqs(irqs: VfioInterrupts, arg: bigint, caller: Caller): number {
  const set = readSet(irqs, arg, caller);
  if (typeof set === 'number') return set;
  const r = apply(irqs, set);
  // What nobody was given is let go.
  if (r !== 0) for (const s of set.signals) s?.release();
  return r;
}

function readSet(irqs: VfioInterrupts, arg: bigint, caller: Caller): IrqSet | number {
  const head = new Uint8Array(VFIO_IRQ_SET_HEAD.bytes);
  if (!caller.read(arg, head)) return -E.FAULT;
  const { argsz, flags, index, start, count } = VFIO_IRQ_SET_HEAD.decode(head);
  if (argsz < head.length || index >= VFIO_PCI_IRQ.COUNT || count >= 0xffff_ffff - start) return -E.INVAL;
  if ((flags & ~(DATA | ACTION)) !== 0) return -E.INVAL;
  const most = irqs.count(index);
  if (start >= most || start + count > most) return -E.INVAL;
  const kind = flags & DATA;
  if (kind !== VFIO_IRQ_SET.NONE && kind !== VFIO_IRQ_SET.BOOL && kind !== VFIO_IRQ_SET.EVENTFD) return -E.INVAL;
  const size = kind === VFIO_IRQ_SET.NONE ? 0 : kind === VFIO_IRQ_SET.BOOL ? 1 : 4;
  if (argsz - head.length < count * size) return -E.INVAL;
  const bytes = new Uint8Array(count * size);
  if (bytes.length > 0 && !caller.read(arg + BigInt(head.length), bytes)) return -E.FAULT;
  const view = new DataView(bytes.buffer);
  const data = Array.from({ length: size === 0 ? 0 : count }, (_, i) =>
    size === 1 ? bytes[i]! : view.getInt32(4 * i, true),
  );
  const set = { flags, index, start, count, data, signals: [] };
  // Who may have a signal is decided before any is looked for, as far as the words alone say it.
  const refused = size === 4 ? refusedEarly(irqs, set) : 0;
  if (refused !== 0) return refused;
  return size === 4 ? withSignals(irqs, set, caller) : set;
}

/** What is refused whatever the descriptors are. */
function refusedEarly(irqs: VfioInterrupts, { flags, index, start, count }: IrqSet): number {
  const action = flags & ACTION;
  const { INTX, MSI, MSIX } = VFIO_PCI_IRQ;
  if (action !== VFIO_IRQ_SET.TRIGGER) {
    if (index !== INTX || (action !== VFIO_IRQ_SET.MASK && action !== VFIO_IRQ_SET.UNMASK)) return -E.NOTTY;
    return irqs.type !== INTX || start !== 0 || count !== 1 ? -E.INVAL : -E.NOTTY;
  }
  if (index === INTX) return (irqs.type !== INTX && irqs.type !== -1) || start !== 0 || count !== 1 ? -E.INVAL : 0;
  if (index === MSI || index === MSIX) {
    if (irqs.type !== index) return irqs.type !== -1 ? -E.INVAL : 0;
    return start + count > irqs.vectors ? -E.INVAL : 0;
  }
  return start !== 0 || count !== 1 ? -E.INVAL : 0;
}

function withSignals(irqs: VfioInterrupts, set: IrqSet, caller: Caller): IrqSet | number {
  const signals: (EventSignal | null)[] = [];
  for (const [i, fd] of set.data.entries()) {
    const signal = fd < 0 ? null : (caller.eventFd?.(fd) ?? -E.INVAL);
    if (typeof signal === 'number') {
      for (const s of signals) s?.release();
      if (caller.incomplete !== true) silence(irqs, set, i);
      return signal;
    }
    signals.push(signal);
  }
  return { ...set, signals };
}

/** Of a block of vectors those up to the one that failed have nobody afterwards (`vfio_msi_set_block`). */
function silence(irqs: VfioInterrupts, { index, start }: IrqSet, failed: number): void {
  const { MSI, MSIX } = VFIO_PCI_IRQ;
  if ((index !== MSI && index !== MSIX) || irqs.type !== index) return;
  for (let v = start; v <= start + failed; v++) irqs.connect(v, null);
}

function apply(irqs: VfioInterrupts, set: IrqSet): number {
  const { INTX, MSI, MSIX } = VFIO_PCI_IRQ;
  switch (set.flags & ACTION) {
    case VFIO_IRQ_SET.MASK:
    case VFIO_IRQ_SET.UNMASK:
      return set.index === INTX ? maskPin(irqs, set) : -E.NOTTY;
    case VFIO_IRQ_SET.TRIGGER:
      if (set.index === INTX) return triggerPin(irqs, set);
      return set.index === MSI || set.index === MSIX ? triggerMessages(irqs, set) : triggerSingle(irqs, set);
    default:
      return -E.NOTTY;
  }
}

function maskPin(irqs: VfioInterrupts, { flags, start, count, data }: IrqSet): number {
  if (irqs.type !== VFIO_PCI_IRQ.INTX || start !== 0 || count !== 1) return -E.INVAL;
  if ((flags & VFIO_IRQ_SET.BOOL) !== 0 && data[0] === 0) return 0;
  if ((flags & VFIO_IRQ_SET.MASK) !== 0) irqs.mask();
  else irqs.unmask();
  return 0;
}

function triggerPin(irqs: VfioInterrupts, { flags, start, count, data, signals }: IrqSet): number {
  const mine = irqs.type === VFIO_PCI_IRQ.INTX;
  if (mine && count === 0 && (flags & VFIO_IRQ_SET.NONE) !== 0) {
    irqs.disable();
    return 0;
  }
  if ((!mine && irqs.type !== -1) || start !== 0 || count !== 1) return -E.INVAL;
  if ((flags & VFIO_IRQ_SET.EVENTFD) !== 0) {
    if (!mine) return irqs.enablePin(signals[0]!);
    irqs.connect(0, signals[0]!);
    return 0;
  }
  if (!mine) return -E.INVAL;
  if ((flags & VFIO_IRQ_SET.NONE) !== 0 || data[0] !== 0) irqs.trigger(0);
  return 0;
}

function triggerMessages(irqs: VfioInterrupts, { flags, index, start, count, data, signals }: IrqSet): number {
  const mine = irqs.type === index;
  if (mine && count === 0 && (flags & VFIO_IRQ_SET.NONE) !== 0) {
    irqs.disable();
    return 0;
  }
  if (!mine && irqs.type !== -1) return -E.INVAL;
  if ((flags & VFIO_IRQ_SET.EVENTFD) !== 0) {
    const r = mine ? 0 : irqs.enableMessages(index, start + count);
    if (r !== 0) return r;
    if (start + count > irqs.vectors) return -E.INVAL;
    for (const [i, signal] of signals.entries()) irqs.connect(start + i, signal);
    return 0;
  }
  if (!mine) return -E.INVAL;
  for (let i = 0; i < count; i++) if ((flags & VFIO_IRQ_SET.NONE) !== 0 || data[i] !== 0) irqs.trigger(start + i);
  return 0;
}

function triggerSingle(irqs: VfioInterrupts, { flags, index, start, count, data, signals }: IrqSet): number {
  if (start !== 0 || count > 1) return -E.INVAL;
  if ((flags & VFIO_IRQ_SET.NONE) !== 0) {
    if (!irqs.listens(index)) return -E.INVAL;
    if (count === 0) irqs.connectSingle(index, null);
    else irqs.triggerSingle(index);
    return 0;
  }
  if (count === 0) return -E.INVAL;
  if ((flags & VFIO_IRQ_SET.BOOL) !== 0) {
    if (data[0] !== 0) irqs.triggerSingle(index);
    return 0;
  }
  // Only -1 lets go; the kernel looks at no other negative number.
  if (data[0]! >= -1) irqs.connectSingle(index, signals[0]!);
  return 0;
}
