import { describe, expect, test } from 'vitest';
import { IommufdFile } from '../../../src/host/iommufd/file.ts';
import { VfioFile } from '../../../src/host/iommufd/vfio-device.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { ALL, APERTURE, Host, must } from '../host.ts';

const PASID_OK = 8;

describe('binding', () => {
  test('every refusal', () => {
    const h = new Host();
    const bind = (more: object) => new VfioFile(h.function(`f${Math.random()}`, more)).bind(h.fd);
    expect(bind({ cacheCoherent: false })).toBe(-E.INVAL);
    expect(bind({ grouped: false, msiIsolated: false })).toBe(-E.NODEV);
    expect(bind({ msiIsolated: false })).toBe(-E.PERM);
    h.kernel.allowUnsafeInterrupts = true;
    expect(bind({ msiIsolated: false })).toBe(0);
    const dev = h.function('a');
    const file = new VfioFile(dev);
    expect(file.bind({} as never)).toBe(-E.BADFD);
    expect(file.attach(1, NO_PASID)).toBe(-E.INVAL);
    expect(file.detach(NO_PASID)).toBe(-E.INVAL);
    dev.group.kernelUse = true;
    expect(file.bind(h.fd)).toBe(-E.BUSY);
    dev.group.kernelUse = false;
    expect(file.bind(h.fd)).toBe(0);
    expect(file.bind(h.fd)).toBe(-E.INVAL);
    const other = new IommufdFile(h.kernel, h.process);
    expect(new VfioFile(dev).bind(other)).toBe(-E.PERM);
    file.close();
    expect(new VfioFile(dev).bind(other)).toBe(0);
  });

  test('a VFIO driver without PASIDs, PASIDs out of its table, and a device that is on its way out', () => {
    const h = new Host();
    const f = new VfioFile(h.function('a', { vfioPasids: false }));
    must(f.bind(h.fd));
    const io = h.ioas();
    expect(f.attach(io, 5)).toBe(-E.OPNOTSUPP);
    expect(f.detach(5)).toBe(-E.OPNOTSUPP);
    const g = new VfioFile(h.function('b'));
    must(g.bind(h.fd));
    expect(g.attach(io, 0x8000_0000)).toBe(-E.NOSPC);
    // PASID 0 is the RID's place: busy while the RID has something.
    must(g.attach(io, NO_PASID));
    expect(g.attach(io, 0)).toBe(-E.BUSY);
    const viommu = h.viommu(g.devId, h.hwpt(g.devId, io, 1));
    g.device!.destroying = true;
    expect(h.vdevice(viommu, g.devId, 1n)).toBe(-E.NOENT);
  });

  test('closing the iommufd with a device bound waits for the device', () => {
    const h = new Host();
    const file = new VfioFile(h.function('a'));
    must(file.bind(h.fd));
    const io = h.ioas();
    must(file.attach(io, NO_PASID));
    h.fd.close();
    expect(h.fd.context.alive).toBe(true);
    file.close();
    expect(h.fd.context.alive).toBe(false);
    expect(h.fd.context.objects.empty).toBe(true);
  });
});

describe('attach and replace', () => {
  test('an automatic HWPT is reused and goes with its last attachment', () => {
    const h = new Host();
    const io = h.ioas();
    const a = h.device(io);
    const b = h.device(io);
    expect(b.hwpt).toBe(a.hwpt);
    expect(h.fd.destroy(a.hwpt)).toBe(-E.BUSY);
    must(h.fd.destroy(a.stdev));
    expect(h.fd.destroy(a.hwpt)).toBe(-E.BUSY);
    must(h.fd.destroy(b.stdev));
    expect(h.fd.destroy(a.hwpt)).toBe(-E.NOENT);
    must(h.fd.destroy(io));
  });

  test('ids: 0, unknown ones and kinds that cannot be attached', () => {
    const h = new Host();
    const io = h.ioas();
    const d = h.device(io, 4);
    expect(h.mock.replace(d.stdev, 0)).toBe(-E.NOENT);
    expect(h.mock.replace(d.stdev, 99)).toBe(-E.NOENT);
    expect(h.mock.replace(d.stdev, d.idev)).toBe(-E.INVAL);
    expect(h.mock.replace(99, io)).toBe(-E.NOENT);
    expect(h.mock.replace(d.stdev, d.hwpt)).toBe(0);
  });

  test('PASIDs: compatibility both ways, busy and empty slots, the failing one', () => {
    const h = new Host();
    const io = h.ioas();
    const d = h.device(io, 4);
    const plain = h.device(io, 0);
    const p = h.hwpt(d.idev, io, PASID_OK);
    const q = h.hwpt(d.idev, io, PASID_OK);
    const none = h.hwpt(d.idev, io, 0);
    const at = (pasid: number, pt: number) => h.mock.pasidAttach(d.stdev, pasid, pt);
    expect(at(5, p)).toBe(-E.INVAL);
    must(h.mock.replace(d.stdev, p));
    expect(at(5, none)).toBe(-E.INVAL);
    expect(at(5, io)).toBe(-E.INVAL);
    expect(at(1 << 20, p)).toBe(-E.INVAL);
    expect(at(5, p)).toBe(0);
    expect(at(5, p)).toBe(-E.BUSY);
    expect(at(5, q)).toBe(-E.BUSY);
    expect(at(0, p)).toBe(-E.BUSY);
    expect(h.mock.pasidCheck(d.stdev, 5, p)).toBe(0);
    expect(h.mock.pasidReplace(d.stdev, 6, p)).toBe(-E.INVAL);
    expect(h.mock.pasidReplace(d.stdev, 5, none)).toBe(-E.INVAL);
    expect(h.mock.pasidReplace(d.stdev, 5, q)).toBe(0);
    expect(h.mock.replace(d.stdev, none)).toBe(-E.INVAL);
    expect(at(1024, p)).toBe(0);
    expect(h.mock.pasidReplace(d.stdev, 1024, q)).toBe(-E.NOMEM);
    expect(h.mock.pasidCheck(d.stdev, 1024, p)).toBe(0);
    expect(h.mock.pasidReplace(d.stdev, 1024, q)).toBe(0);
    must(h.mock.replace(plain.stdev, p));
    expect(h.mock.pasidAttach(plain.stdev, 5, p)).toBe(-E.INVAL);
    expect(h.fd.destroy(q)).toBe(-E.BUSY);
    for (const pasid of [5, 1024, 7]) must(h.mock.pasidDetach(d.stdev, pasid));
    must(h.fd.destroy(q));
    expect(h.mock.replace(d.stdev, none)).toBe(0);
  });

  test('a device without dirty tracking cannot use a domain that tracks; attach and replace name the reasons in their own order', () => {
    const h = new Host();
    const io = h.ioas();
    const d = h.device(io);
    const dirty = h.hwpt(d.idev, io, 2);
    const weak = h.device(io, 1);
    expect(h.mock.replace(weak.stdev, dirty)).toBe(-E.INVAL);
    expect(h.hwpt(weak.idev, io, 2)).toBe(-E.OPNOTSUPP);
    // An IOAS whose mapping lies outside the aperture: a replace joins first.
    const low = h.ioas();
    must(h.map(low, 0n, 0x1000n));
    expect(h.mock.replace(d.stdev, low)).toBe(-E.ADDRINUSE);
    expect(h.mock.mockDevice(low, 0, { stdevId: 0, hwptId: 0, idevId: 0 })).toBe(-E.ADDRINUSE);
    // Nothing was left behind by either.
    must(h.fd.destroy(low));
  });
});

describe('groups', () => {
  function pair() {
    const h = new Host();
    const files = ['a', 'b'].map((n) => {
      const f = new VfioFile(h.function(n, { group: 'g' }));
      must(f.bind(h.fd));
      return f;
    });
    return { h, a: files[0]!, b: files[1]!, io: h.ioas() };
  }

  test('the hardware is attached once for all; each device attaches for itself; one HWPT for the group', () => {
    const { h, a, b, io } = pair();
    must(a.attach(io, NO_PASID));
    const other = h.hwpt(a.devId, io, 1);
    expect(b.attach(other, NO_PASID)).toBe(-E.INVAL);
    expect(h.kernel.attached(b.device!.dev, NO_PASID)).toBe(h.fd.context.objects.get(a.ptId, 'hwpt_paging')!.domain);
    must(b.attach(io, NO_PASID));
    expect(b.ptId).toBe(a.ptId);
    // Replacing one moves both.
    const automatic = a.ptId;
    must(a.attach(other, NO_PASID));
    expect(h.kernel.attached(b.device!.dev, NO_PASID)).toBe(h.fd.context.objects.get(other, 'hwpt_paging')!.domain);
    expect(h.fd.destroy(automatic)).toBe(-E.NOENT);
    a.detach(NO_PASID);
    expect(h.fd.destroy(other)).toBe(-E.BUSY);
    b.detach(NO_PASID);
    expect(h.fd.destroy(other)).toBe(0);
    expect(h.kernel.attached(b.device!.dev, NO_PASID)?.kind).toBe('blocked');
  });

  test('a group whose second device refuses is put back as it was', () => {
    const h = new Host();
    const strong = new VfioFile(h.function('strong', { group: 'g' }));
    must(strong.bind(h.fd));
    // Describes a device without dirty tracking into the same group.
    h.driver.describe(1);
    h.kernel.addDevice({ name: 'weak', streams: [999], iommu: h.driver, group: 'g', maxPasids: 1 });
    const io = h.ioas();
    must(strong.attach(io, NO_PASID));
    const before = h.kernel.attached(strong.device!.dev, NO_PASID);
    const dirty = h.hwpt(strong.devId, io, 2);
    expect(strong.attach(dirty, NO_PASID)).toBe(-E.INVAL);
    expect(h.kernel.attached(strong.device!.dev, NO_PASID)).toBe(before);
    must(h.fd.destroy(dirty));
  });

  test('during a reset everything answers EBUSY', () => {
    const { h, a, io } = pair();
    a.device!.dev.group.resetting = true;
    expect(a.attach(io, NO_PASID)).toBe(-E.BUSY);
    a.device!.dev.group.resetting = false;
    must(a.attach(h.hwpt(a.devId, io, PASID_OK), NO_PASID));
    a.device!.dev.group.resetting = true;
    expect(a.attach(h.hwpt(a.devId, io, PASID_OK), 5)).toBe(-E.BUSY);
    expect(a.attach(io, NO_PASID)).toBe(-E.BUSY);
  });

  test('a VF that speaks PRI takes no HWPT with a fault queue', () => {
    const h = new Host();
    const f = new VfioFile(h.function('vf', { virtualFunction: true, pri: true }));
    must(f.bind(h.fd));
    const q = h.fault();
    const hwpt = h.hwpt(f.devId, h.ioas(), 4, null, 0, q.id);
    expect(f.attach(hwpt, NO_PASID)).toBe(-E.INVAL);
  });
});

describe('closing', () => {
  test('closing the VFIO file detaches PASIDs first and leaves a tombstone of a vDEVICE', () => {
    const h = new Host();
    const f = new VfioFile(h.function('a'));
    must(f.bind(h.fd));
    const io = h.ioas();
    const parent = h.hwpt(f.devId, io, 1 | PASID_OK);
    must(f.attach(parent, NO_PASID));
    const viommu = h.viommu(f.devId, parent);
    const vdevice = h.vdevice(viommu, f.devId, 1n);
    must(f.attach(parent, 3));
    expect(h.fd.destroy(f.devId)).toBe(-E.BUSY);
    const devId = f.devId;
    f.close();
    expect(h.fd.destroy(vdevice)).toBe(-E.NOENT);
    expect(h.fd.destroy(devId)).toBe(-E.NOENT);
    // The device's id is free at once, the vDEVICE's never again.
    const ids = [h.ioas(), h.ioas(), h.ioas()];
    expect(ids).toContain(devId);
    expect(ids).not.toContain(vdevice);
    must(h.fd.destroy(viommu));
    must(h.fd.destroy(parent));
  });

  test('whatever is open, closing the fd frees everything', () => {
    const h = new Host();
    const io = h.ioas();
    const d = h.device(io, 4);
    must(h.map(io, APERTURE, 0x4000n));
    const parent = h.hwpt(d.idev, io, 1);
    const v = h.viommu(d.idev, parent);
    h.vdevice(v, d.idev, 9n);
    must(h.mock.replace(d.stdev, h.nested(d.idev, v)));
    const q = h.veventq(v);
    h.hwQueue(v, 0, APERTURE);
    h.hwQueue(v, 1, APERTURE + 0x1000n);
    h.fd.close();
    expect(h.fd.context.objects.size).toBeGreaterThan(0);
    // The event file still holds the context.
    q.fd.close();
    expect(h.fd.context.objects.empty).toBe(true);
    expect(h.process.pins.size).toBe(0);
    expect(h.memory.pagesUsed).toBe(0);
  });

  test('unmap everything and destroy answer for ids that never were', () => {
    const h = new Host();
    expect(h.fd.destroy(0)).toBe(-E.NOENT);
    expect(h.fd.destroy(7)).toBe(-E.NOENT);
    expect(h.unmap(0, 0n, ALL)).toBe(-E.NOENT);
  });
});
