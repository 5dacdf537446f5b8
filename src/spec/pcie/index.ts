/** PCI Express: configuration space, capabilities and ATS messages. */

export * from './capabilities.ts';
export * from './header.ts';
export * from './messages.ts';
