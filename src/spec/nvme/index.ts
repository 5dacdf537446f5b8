/** NVM Express: registers, commands and status codes of the controller in `viommu/endpoints`. */

export * from './registers.ts';
