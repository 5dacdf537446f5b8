import type { V86Cpu } from './internals.ts';

/** DS-prefixed CLFLUSH as Linux encodes it (3E 0F AE /7), and where a bzImage's text is in an i386 guest. */
const TEXT = { first: 0x100_0000, last: 0x140_0000 } as const;

/**
 * v86's CPU has no CLFLUSH and raises #UD; the VT-d driver uses it on its first table page whatever the unit says of
 * coherency. Rewrites every such instruction in the kernel's text as a NOP of the same length.
 * @returns how many were found.
 */
export function neutraliseClflush(cpu: V86Cpu): number {
  const ram = new Uint8Array(cpu.wasm_memory.buffer, cpu.mem8.byteOffset, cpu.memory_size[0]);
  let found = 0;
  for (let i = TEXT.first; i + 3 < Math.min(TEXT.last, ram.length); i++) {
    if (ram[i] !== 0x3e || ram[i + 1] !== 0x0f || ram[i + 2] !== 0xae) continue;
    const modrm = ram[i + 3]!;
    if (((modrm >>> 3) & 7) !== 7 || modrm >= 0xc0) continue;
    cpu.write_blob(Uint8Array.of(0x3e, 0x0f, 0x1f, modrm & 0xc7), i);
    found++;
  }
  return found;
}
