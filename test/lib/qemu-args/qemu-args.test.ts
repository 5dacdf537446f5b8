import { expect, test } from 'vitest';
import { parseOnOff, parseQemuArgs, parseSize, splitWords } from '../../../src/lib/qemu-args/qemu-args.ts';

test('a recorded command line gives its machine, memory and devices, and nothing in between is taken for an option', () => {
  const args = parseQemuArgs(
    'qemu-system-aarch64 -M virt,gic-version=3 -device arm-smmuv3,primary-bus=pcie.0,stage=2 -cpu cortex-a76 ' +
      '-device  iommu-testdev,bus=pcie.0,addr=5.0 -drive if=none,id=nv0,format=raw -smp 1 -m 2560M -nographic -no-reboot ' +
      '-machine memory-backend=ram0 -global arm-smmuv3.stage=1 -kernel vmlinuz',
  );
  expect(args.machine.kind).toBe('virt');
  expect(Object.fromEntries(args.machine.props)).toEqual({ 'gic-version': '3', 'memory-backend': 'ram0' });
  expect(args.devices.map((d) => d.kind)).toEqual(['arm-smmuv3', 'iommu-testdev']);
  expect(args.devices[0]?.props.get('stage')).toBe('2');
  expect(args.globals).toEqual([{ driver: 'arm-smmuv3', prop: 'stage', value: '1' }]);
  expect(args.memory).toBe(2560 * 2 ** 20);
  expect(args.cpu).toBe('cortex-a76');
});

test('QEMU defaults, sizes, escapes and quotes are understood, and nonsense is refused by name', () => {
  expect(parseQemuArgs('-M q35').memory).toBe(128 * 2 ** 20);
  expect(parseQemuArgs('-m 1G -machine type=q35,x=a,,b,flag').machine).toEqual({
    kind: 'q35',
    props: new Map([
      ['x', 'a,b'],
      ['flag', 'on'],
    ]),
  });
  expect(splitWords(`a 'b c' "d\\"e" f\\ g ''`)).toEqual(['a', 'b c', 'd"e', 'f g', '']);
  expect(() => parseSize('many', 1)).toThrow(/not a size/);
  expect(() => parseOnOff('ril', 'maybe')).toThrow(/'ril'.*maybe/);
});
