import { expect, test } from 'vitest';
import { MachineObserver } from '../../src/machine/observer.ts';
import { Vm } from '../../src/machine/vm.ts';

test('a listener hears the host operations of a machine by name, and everything under "said"', () => {
  const observer = new MachineObserver();
  const verbs: string[] = [];
  const all: string[] = [];
  observer.events.on('host', (said) => void verbs.push(said.verb));
  observer.events.on('said', (said) => void all.push(said.what));

  new Vm({ ram: [{ base: 0x4000_0000, bytes: 1 << 20 }], tell: observer.tell });

  expect(verbs).toEqual(['IOAS_ALLOC', 'IOAS_MAP']);
  expect(all).toEqual(['host', 'host']);
});

test('a listener that went away hears nothing more', () => {
  const observer = new MachineObserver();
  let heard = 0;
  const listener = () => {
    heard++;
  };
  observer.events.on('host', listener);
  const vm = new Vm({ ram: [{ base: 0, bytes: 1 << 20 }], tell: observer.tell });
  observer.events.off('host', listener);
  vm.addRam(1 << 20, 4096);
  expect(heard).toBe(2);
});
