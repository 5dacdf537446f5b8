import type { Command as Parser } from 'commander';
import { parseShard, type Shard } from './shard.ts';

/** Options of every verb whose work several machines can share. */
export interface ShardValues {
  readonly shard?: Shard;
  readonly results?: string;
}

/** Declares them. */
export function declareShard(parser: Parser): void {
  parser
    .option('--shard <i/n>', 'only every N-th input, beginning with number I (from 1 on)', parseShard)
    .option('--results <file>', 'also writes what viommu merge joins');
}
