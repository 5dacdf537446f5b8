import { smmuv3Defaults } from '../../devices/smmuv3/properties.ts';
import { ViommuError } from '../../src/core/errors.ts';
import { hostRid } from '../../src/lib/pci/rids.ts';
import { Smmuv3Unit } from '../../src/machine/smmuv3-unit.ts';
import { Vm } from '../../src/machine/vm.ts';
import { OP } from '../../src/spec/smmuv3/commands.ts';
import { PAGE0 } from '../../src/spec/smmuv3/registers.ts';
import type { BenchCase, Prepared } from './case.ts';

const RAM = 0x4000_0000;
const RAM_BYTES = 64 << 20;
const STRTAB = RAM + 0x10_0000;
const CD = RAM + 0x20_0000;
const CMDQ = RAM + 0x30_0000;
const CMDQ_LOG2 = 10;
/** Commands rung in with one doorbell; the last of each 64 is a SYNC. */
const RING = 2 ** (CMDQ_LOG2 - 1);
const GROUP = 64;
const SID = 8;
const ASID = 0x11;
/** What forwarding one command costs QEMU at best (a trap and an ioctl, 125 ns) over the reference walk (7.9 ns). */
const AT_MOST = 16;

/** A guest whose stream translates, and whose queue holds the same commands over and over. */
function guest(command: (page: number) => readonly [number, number, number, number]): Prepared {
  const vm = new Vm({ ram: [{ base: RAM, bytes: RAM_BYTES }] });
  const unit = new Smmuv3Unit(vm, {
    name: 'smmuv3',
    properties: { ...smmuv3Defaults('arch'), ats: true },
    irq: { pulse: () => {}, level: () => {}, message: () => true },
    doorbell: 0x0809_0000,
  });
  let answered = 0;
  unit.endpoints.to = {
    invalidate(rid, _pasid, itag) {
      answered++;
      unit.hardware.invalidateCompletion(rid, 1 << itag, 1);
      return true;
    },
    pageResponse: () => {},
    resumed: () => {},
  };
  unit.addFunction([SID], [hostRid(SID)], { name: 'function', ats: true });
  const { guest: memory } = vm.memory;
  const { device } = unit;
  // V, stage 1, EATS; a CD with T0SZ 25, 4 KiB pages, AArch64, ASID.
  memory.store64(STRTAB + 64 * SID, CD | 0xb, 0);
  memory.store64(STRTAB + 64 * SID + 8, 1 << 28, 0);
  memory.store64(CD, 0xc000_0019 | 0, 0x6204 | (ASID << 16));
  memory.store64(CD + 8, CD + 0x1000, 0);
  for (let i = 0; i < 2 ** CMDQ_LOG2; i++) {
    const [w0, w1, w2, w3] = i % GROUP === GROUP - 1 ? [OP.SYNC, 0, 0, 0] : command(i);
    memory.store64(CMDQ + 16 * i, w0, w1);
    memory.store64(CMDQ + 16 * i + 8, w2, w3);
  }
  device.write(PAGE0.STRTAB_BASE.at, 8, STRTAB, 0);
  device.write(PAGE0.STRTAB_BASE_CFG.at, 4, 5, 0);
  device.write(PAGE0.CMDQ_BASE.at, 8, CMDQ | CMDQ_LOG2, 0);
  device.write(PAGE0.CR0.at, 4, 0x9, 0);
  // The first use configures the stream.
  unit.hardware.translate(hostRid(SID), -1, 0x5000, 0, 1, 0);
  let prod = 0;
  const round = () => {
    prod = (prod + RING) % 2 ** (CMDQ_LOG2 + 1);
    device.write(PAGE0.CMDQ_PROD.at, 4, prod, 0);
  };
  // The attach has had its own invalidations.
  const attached = answered;
  round();
  const each = answered - attached;
  return {
    ops: RING,
    run() {
      const before = answered;
      round();
      if (device.read(PAGE0.CMDQ_CONS.at, 4) !== prod || answered - before !== each) {
        throw new ViommuError('EIO', 'guest', 'the bench guest is stuck', { prod, answered: answered - before });
      }
    },
  };
}

const tlbi = (page: number) => [OP.TLBI_NH_VA, ASID << 16, page << 12, 0] as const;
/** As Linux sends it with range invalidation: TG 4 KiB, TTL 3, leaf. */
const ranged = (page: number) => [OP.TLBI_NH_VA, ASID << 16, (page << 12) | 0x701, 0] as const;
const atc = (page: number) => [OP.ATC_INV, SID, page << 12, 0] as const;

/**
 * A guest's commands all the way: register, queue, batch, iommufd, the kernel's driver, the physical SMMU with its caches,
 * and for ATC_INV the function and its answer.
 */
export const SMMUV3_CHAIN_CASES: readonly BenchCase[] = [
  { name: 'SMMUv3 guest to hardware, TLBI_NH_VA', atMost: AT_MOST, setup: () => guest(tlbi) },
  { name: 'SMMUv3 guest to hardware, TLBI_NH_VA with TG and TTL', atMost: AT_MOST, setup: () => guest(ranged) },
  { name: 'SMMUv3 guest to hardware, ATC_INV answered', atMost: AT_MOST, setup: () => guest(atc) },
  {
    name: 'SMMUv3 guest to hardware, TLBI_NH_VA and ATC_INV in turn',
    atMost: AT_MOST,
    setup: () => guest((n) => (n % 2 === 0 ? tlbi(n) : atc(n))),
  },
];
