import { expect, test } from 'vitest';
import { WORK_STATUS } from '../../../devices/endpoints/descriptor.ts';
import { NO_PASID } from '../../../src/ports/dma.ts';
import { DATA, EngineDriver, rig } from './rig.ts';

const VA = 0x2000_0000;

test('an answer without PASID (CMD_PRI_RESP, SSV=0) ends a request with one, where the function does not ask for it', () => {
  const m = rig('smmuv3', { ssidBits: 20, twoLevel: true });
  const d = new EngineDriver(m, 0x10, [3]);
  expect(d.fill(VA, 3, 0x5a5a_5a5a, true)).toBe(WORK_STATUS.NONE);
  const [asked] = m.guest.requests();
  expect(asked).toMatchObject({ sid: 0x10, pasid: 3, address: VA });
  m.guest.map(0x10, 3, VA, DATA);
  m.guest.respond({ ...asked!, pasid: -1 }, true);
  expect(d.status).toBe(WORK_STATUS.SUCCESS);
});

test('it ends nothing of another group, and nothing twice', () => {
  const m = rig('smmuv3', { ssidBits: 20, twoLevel: true });
  const d = new EngineDriver(m, 0x10, [3]);
  d.fill(VA, 3, 0x5a5a_5a5a, true);
  const [asked] = m.guest.requests();
  m.guest.respond({ ...asked!, pasid: -1, group: asked!.group + 1 }, true);
  expect(d.status).toBe(WORK_STATUS.NONE);
  m.guest.respond({ ...asked!, pasid: -1 }, false);
  expect(d.status).toBe(WORK_STATUS.FAULT);
  m.guest.map(0x10, -1, VA, DATA);
  m.guest.respond({ ...asked!, pasid: -1 }, true);
  expect(d.fill(VA, NO_PASID)).toBe(WORK_STATUS.SUCCESS);
});
