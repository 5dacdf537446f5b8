export { BACKENDS, RELEASES, type Release } from './backend.ts';
export { DEFAULT_LIMITS, type ServerLimits, type ServerUsage } from './limits.ts';
export { IommufdServer, type IommufdServerOptions } from './server.ts';
