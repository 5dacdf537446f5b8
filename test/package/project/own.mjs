// An endpoint without `Shell`, in plain JavaScript: a PCI function of its own with one BAR, on an SMMUv3 that is off.
import { ramBacking, ViommuError } from 'viommu';
import { ACCESS, AT, Bars, ConfigSpace, DMA, endpointHeader, NO_PASID } from 'viommu/endpoints';
import { PluggedMachine, Smmuv3Unit } from 'viommu/machine';
import { smmuv3Defaults } from 'viommu/smmuv3';
import { CR0, PAGE0 } from 'viommu/spec/smmuv3';

/** Each write of BAR0 at 0 stores the value at the address in BAR0 at 4. */
class Writer {
  name = 'writer';
  #config = new ConfigSpace(256);
  #bars;
  #upstream = null;
  #target = 0;
  outcome = -1;

  constructor() {
    endpointHeader(this.#config, { vendor: 0x1234, device: 2, classCode: 0xff0000 });
    this.#bars = new Bars(this.#config, [{ index: 0, bytes: 4096, kind: 'mem32' }]);
    this.windows = [{ bytes: 4096, io: false, address: () => this.#bars.address(0) }];
  }

  configRead(offset, size) {
    return this.#config.read(offset, size);
  }

  configWrite(offset, size, value) {
    this.#config.write(offset, size, value);
  }

  barRead(_bar, offset) {
    return offset === 4 ? this.#target : 0;
  }

  barWrite(_bar, offset, _size, value) {
    if (offset === 4) this.#target = value;
    if (offset !== 0 || this.#upstream === null) return;
    const bytes = new Uint8Array(Int32Array.of(value).buffer);
    this.outcome = this.#upstream.write(NO_PASID, this.#target | 0, 0, ACCESS.WRITE, AT.UNTRANSLATED, bytes, 0, 4);
  }

  connect(upstream) {
    this.#upstream = upstream;
  }

  reset() {
    this.#config.reset();
    this.#target = 0;
  }
}

const backing = ramBacking(1 << 20);
const windows = [];
const emulator = {
  ram: [{ base: 0x4000_0000, bytes: 1 << 20, backing }],
  claim: (base, device) => void windows.push({ base, device }),
  interrupts: { line() {}, message() {} },
};
const plan = {
  iommu: 0x0905_0000,
  ecam: { base: 0x1000_0000, buses: 1 },
  pci: { base: 0x2000_0000, bytes: 1 << 20 },
  doorbell: { base: 0x0809_0000, bytes: 4096 },
};
const machine = new PluggedMachine(
  emulator,
  plan,
  (vm, irq, tell) =>
    new Smmuv3Unit(vm, { name: 'smmuv3', properties: smmuv3Defaults(), irq, tell, doorbell: 0x0809_0000 }),
);
const writer = new Writer();
const unplug = machine.plug(writer, 8);

function access(address) {
  const { base, device } = windows.find((w) => address >= w.base && address < w.base + w.device.bytes);
  return { device, offset: address - base };
}
function store(address, value) {
  const { device, offset } = access(address);
  device.write(offset, 4, value, 0);
}
function load(address) {
  const { device, offset } = access(address);
  return device.read(offset, 4);
}

store(0x1000_8000 + 0x10, 0x2000_0000);
store(0x1000_8000 + 0x04, 0x6);
store(0x2000_0004, 0x4000_2000);
store(0x2000_0000, 77);
console.log('identity', load(0x1000_8000).toString(16), 'word', backing.words()[0x2000 / 4], writer.outcome === DMA.OK);

store(0x0905_0000 + PAGE0.CR0.at, CR0.SMMUEN); // on, with a stream table that is empty: every stream is refused
store(0x2000_0000, 78);
console.log('word', backing.words()[0x2000 / 4], writer.outcome === DMA.OK);

unplug();
console.log('gone', load(0x1000_8000).toString(16));

try {
  ramBacking(100);
} catch (error) {
  console.log(error instanceof ViommuError, error.code);
}
