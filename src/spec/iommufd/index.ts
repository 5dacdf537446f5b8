/**
 * Linux's iommufd and VFIO user interfaces: constants, error numbers, and the structures with decoders and encoders. The
 * decoders are made by binary-parser, which compiles code at run time: a page with a content security policy keeps to
 * `viommu/host`.
 */

export * from './errno.ts';
export * from './ioctls.ts';
export * from './selftest.ts';
export * from './structs.ts';
export * from './uapi.ts';
export * from './vfio.ts';
