/** Arm SMMUv3: registers, tables, commands and records as tables of constants and decoders without state. */

export * from './cd.ts';
export * from './commands.ts';
export * from './descriptors.ts';
export * from './events.ts';
export * from './registers.ts';
export * from './ste.ts';
