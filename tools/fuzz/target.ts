import type { ServedKernel } from '../../src/adapters/iommufd-socket/backend.ts';
import type { HwPort } from '../../src/ports/hw.ts';
import type { MmioDevice } from '../../src/ports/mmio.ts';
import type { theirs } from '../conformance/qtest-pair.ts';
import type { Random } from '../oracle/random.ts';

/** One action of an input: what it is, and numbers or words. Plain, so that inputs can be written down and cut. */
export type Step = readonly (string | number)[];

/** What a target is run with. */
export interface FuzzInput {
  /** What the world is like before the first step. */
  readonly config: Readonly<Record<string, string | number>>;
  readonly steps: readonly Step[];
}

/** Seams of a target at which a test puts something wrong in the place of the real thing. */
export interface Seams {
  /** The IOMMU's registers as the guest reaches them. */
  readonly window: MmioDevice;
  /** The physical IOMMU as the kernel's driver reaches it. */
  readonly hw: HwPort;
  /** The kernel that serves a file or a socket. */
  readonly kernel: ServedKernel;
  /** A walker's answer, in words. */
  readonly answer: string;
  /** The replies of QEMU to a transcript. */
  readonly qemu: typeof theirs;
  /** Text of a recording. */
  readonly text: string;
}

/** Replaces the real thing at a seam, or hands it back. */
export type Plant = <K extends keyof Seams>(seam: K, real: Seams[K]) => Seams[K];

/** Nothing is wrong. */
export const UNPLANTED: Plant = (_seam, real) => real;

/** What one run came to. */
export interface FuzzRun {
  /** Work units or milliseconds of the dearest single access; what a search maximises. */
  readonly cost?: number;
}

/** Something that random inputs are tried on. */
export interface FuzzTarget {
  readonly name: string;
  /** One line: what is tried, and what must hold. */
  readonly summary: string;
  /** Steps of an input, unless asked otherwise. */
  readonly length: number;
  /** Why it cannot run here; null: it can. */
  missing?(): string | null;
  generate(rnd: Random, length: number): FuzzInput;
  /**
   * Runs an input from the start.
   * @throws when something is wrong: the first line of the message says what, the same for the same fault.
   */
  run(input: FuzzInput, plant: Plant): FuzzRun | Promise<FuzzRun>;
  /** For a search that maximises `cost`: another input near this one. Absent: inputs are independent of each other. */
  mutate?(input: FuzzInput, rnd: Random): FuzzInput;
}

/** Something that must hold does not. */
export class Finding extends Error {
  override readonly name = 'Finding';
}

/** What a fault is called, without the numbers that change while an input is cut. */
export function kindOf(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text
    .split('\n')[0]!
    .replaceAll(/0x[0-9a-f]+|\b\d[\d.,]*/gi, '#')
    .slice(0, 160);
}
