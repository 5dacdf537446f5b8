export { QemuEmulator, type QemuLayout } from './emulator.ts';
export { FileRam } from './file-ram.ts';
export { LiveMachine, type LiveOptions } from './live-machine.ts';
export { QtestClient } from './qtest-client.ts';
export { type StoreHandler, TrapServer } from './trap-server.ts';
