export { BACKENDS, RELEASES, type Release } from './backend.ts';
export { IommufdServer, type IommufdServerOptions } from './server.ts';
