import { createRequire } from 'node:module';
import { ViommuError } from '../../src/core/errors.ts';

/** What is used of koffi (https://koffi.dev), which is not a dependency: see `koffi` below. */
interface Koffi {
  load(path: string): { func(signature: string): (...args: unknown[]) => unknown };
  proto(signature: string): object;
  pointer(type: object): object;
  register(callback: (...args: never[]) => unknown, type: object): unknown;
  unregister(callback: unknown): void;
}

const ARCH_ARM64 = 2;
const REG_X0 = 199;
const READ_WRITE_EXECUTE = 7;
const HOOK_READ = 1 << 10;
const HOOK_WRITE = 1 << 11;
const MEM_WRITE = 17;

const LIBRARIES = ['libunicorn.so.2', '/opt/homebrew/lib/libunicorn.2.dylib', 'libunicorn.so'];

function koffi(): Koffi {
  try {
    return createRequire(import.meta.url)('koffi') as Koffi;
  } catch {
    throw new ViommuError('E_MISSING', 'caller', 'koffi is missing; run: npm install --no-save koffi@2');
  }
}

let prototypes: { readonly read: object; readonly write: object; readonly access: object } | null = null;

/** The callbacks' types: koffi knows each name once. */
function callbackTypes(k: Koffi) {
  prototypes ??= {
    read: k.proto('uint64_t uc_read(void *uc, uint64_t offset, uint32_t size, void *data)'),
    write: k.proto('void uc_write(void *uc, uint64_t offset, uint32_t size, uint64_t value, void *data)'),
    access: k.proto('void uc_access(void *uc, int type, uint64_t address, int size, int64_t value, void *data)'),
  };
  return prototypes;
}

/** A window the processor's loads and stores go to. Values are unsigned; 8-byte ones are bigint. */
export interface CpuWindow {
  read(offset: number, size: number): number | bigint;
  write(offset: number, size: number, value: bigint): void;
}

/** One AArch64 processor by libunicorn. */
export class Unicorn {
  readonly #koffi: Koffi;
  readonly #uc: unknown;
  readonly #call: Record<string, (...args: unknown[]) => unknown>;
  readonly #callbacks: unknown[] = [];
  readonly #readType: object;
  readonly #writeType: object;
  readonly #accessType: object;
  /** RAM the processor works on: kept alive as long as it is mapped. */
  readonly #ram: Int32Array[] = [];
  #problem: unknown = null;

  /** @throws ViommuError `E_MISSING` names what is not installed and the command that installs it. */
  constructor() {
    this.#koffi = koffi();
    const library = this.#load();
    const { read, write, access } = callbackTypes(this.#koffi);
    this.#accessType = access;
    this.#readType = read;
    this.#writeType = write;
    this.#call = {
      open: library.func('int uc_open(int arch, int mode, _Out_ void **uc)'),
      close: library.func('int uc_close(void *uc)'),
      mapRam: library.func('int uc_mem_map_ptr(void *uc, uint64_t address, size_t size, uint32_t perms, void *host)'),
      mapWindow: library.func(
        'int uc_mmio_map(void *uc, uint64_t address, size_t size, uc_read *read, void *a, uc_write *write, void *b)',
      ),
      start: library.func('int uc_emu_start(void *uc, uint64_t begin, uint64_t until, uint64_t timeout, size_t count)'),
      stop: library.func('int uc_emu_stop(void *uc)'),
      hook: library.func(
        'int uc_hook_add(void *uc, _Out_ uint64_t *hook, int type, uc_access *callback, void *a, uint64_t begin, uint64_t end)',
      ),
      register: library.func('int uc_reg_read(void *uc, int id, _Out_ uint64_t *value)'),
    };
    const out: unknown[] = [null];
    this.#check('open', ARCH_ARM64, 0, out);
    this.#uc = out[0];
  }

  #load() {
    const named = process.env.UNICORN_LIB;
    for (const path of named === undefined ? LIBRARIES : [named]) {
      try {
        return this.#koffi.load(path);
      } catch {
        // the next one
      }
    }
    throw new ViommuError('E_MISSING', 'caller', 'libunicorn is missing; run: apt-get install libunicorn2');
  }

  #check(what: string, ...args: unknown[]): void {
    const error = this.#call[what]!(...args) as number;
    if (error !== 0) throw new ViommuError('EIO', 'caller', `unicorn: ${what} failed`, { error });
  }

  /** Puts `words` at `address`: the processor and everybody else see the same storage. */
  mapRam(address: number, words: Int32Array): void {
    this.#check('mapRam', this.#uc, address, words.byteLength, READ_WRITE_EXECUTE, words);
    this.#ram.push(words);
  }

  /** @param bytes a multiple of 4096. An exception inside the window stops the processor; `run` throws it. */
  mapWindow(address: number, bytes: number, window: CpuWindow): void {
    const guarded = <T>(action: () => T, otherwise: T): T => {
      try {
        return action();
      } catch (e) {
        this.#problem ??= e;
        this.stop();
        return otherwise;
      }
    };
    const read = (_uc: never, offset: number | bigint, size: number) =>
      guarded(() => window.read(Number(offset), size), 0);
    const write = (_uc: never, offset: number | bigint, size: number, value: number | bigint) =>
      guarded(() => window.write(Number(offset), size, BigInt(value)), undefined);
    const a = this.#koffi.register(read, this.#koffi.pointer(this.#readType));
    const b = this.#koffi.register(write, this.#koffi.pointer(this.#writeType));
    this.#callbacks.push(a, b);
    this.#check('mapWindow', this.#uc, address, bytes, a, null, b, null);
  }

  /** Hears loads (before they happen) and stores of the processor in RAM at [begin, end]. */
  watch(
    begin: number,
    end: number,
    heard: (store: boolean, address: number, size: number, value: bigint) => void,
  ): void {
    const callback = (_uc: never, type: number, address: number | bigint, size: number, value: number | bigint) =>
      heard(type === MEM_WRITE, Number(address), size, BigInt.asUintN(8 * size, BigInt(value)));
    const registered = this.#koffi.register(callback, this.#koffi.pointer(this.#accessType));
    this.#callbacks.push(registered);
    this.#check('hook', this.#uc, [0n], HOOK_READ | HOOK_WRITE, registered, null, begin, end);
  }

  /** Runs from `pc` until `stop`, for `instructions` at most. @throws whatever a window threw. */
  run(pc: number, instructions: number): void {
    const error = this.#call.start!(this.#uc, pc, 0, 0, instructions) as number;
    if (this.#problem !== null) throw this.#problem;
    if (error !== 0) throw new ViommuError('EIO', 'caller', 'the processor stopped with an error', { error });
  }

  stop(): void {
    this.#call.stop!(this.#uc);
  }

  /** @param n 0..28 */
  x(n: number): bigint {
    const out = [0n];
    this.#check('register', this.#uc, REG_X0 + n, out);
    return BigInt(out[0]!);
  }

  close(): void {
    this.#check('close', this.#uc);
    for (const c of this.#callbacks) this.#koffi.unregister(c);
  }
}
