export { BACKENDS, RELEASES, type Release } from './backend.ts';
export type { ServerUsage } from './kernel-server.ts';
export { DEFAULT_LIMITS, type ServerLimits } from './limits.ts';
export { IommufdServer, type IommufdServerOptions } from './server.ts';
