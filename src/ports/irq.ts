/** Device → guest. Implementations queue: an interrupt is never injected from inside a register access. */
export interface InterruptPort {
  /** An edge on a wired line of the device (the device's own numbering). */
  pulse(line: number): void;
  /** A level on a wired line. */
  level(line: number, asserted: boolean): void;
  /**
   * A message-signalled interrupt: a 4-byte write of `data` at a guest-physical `address` (at most 52 bits).
   * @returns false when nothing answers at that address (the write aborts).
   */
  message(address: number, data: number): boolean;
}
