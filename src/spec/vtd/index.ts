/** Intel VT-d: registers, tables, descriptors and records as tables of constants and decoders without state. */

export * from './faults.ts';
export * from './interrupt.ts';
export * from './invalidation.ts';
export * from './page-request.ts';
export * from './paging.ts';
export * from './registers.ts';
export * from './tables.ts';
