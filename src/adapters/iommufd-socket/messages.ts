import type { MessagePort } from 'node:worker_threads';
import type { Release } from './backend.ts';

/** Socket thread → kernel thread. `connection` numbers are never reused. */
export type ToKernel =
  | { readonly what: 'request'; readonly connection: number; readonly type: number; readonly payload: Uint8Array }
  | { readonly what: 'hello'; readonly connection: number; readonly token: number }
  | { readonly what: 'closed'; readonly connection: number };

/** Kernel thread → socket thread. */
export type ToSocket =
  | { readonly what: 'send'; readonly connection: number; readonly bytes: Uint8Array }
  /** A connection that says HELLO with this token is welcome. */
  | { readonly what: 'expect'; readonly token: number }
  /** The client broke the rules or does not answer. */
  | { readonly what: 'drop'; readonly connection: number };

/** The client's REPLY to the kernel thread, which sleeps until it comes. null: the client is gone. */
export interface ReplyMessage {
  readonly connection: number;
  readonly payload: Uint8Array | null;
}

export interface KernelThreadData {
  readonly backend: string;
  readonly release: Release;
  /** Replies arrive here; word 0 of `signal` is bumped with each. */
  readonly replies: MessagePort;
  readonly signal: SharedArrayBuffer;
  /** Milliseconds a client may take to answer a copy. */
  readonly patience: number;
}
