import type { MakeExporter } from './exporter.ts';

/** Lines of JSON: the recording's machine first, then each moment (`Moment` of `viommu/history`). */
export const json: MakeExporter = ({ file, header }, write) => {
  const { iommu, cmdline, guestKernel, scenario, mmio, ram, devices, lacks = [] } = header;
  write(
    `${JSON.stringify({ format: 'viommu-moments', version: 1, file, iommu, cmdline, guestKernel, scenario, mmio, ram, devices, lacks })}\n`,
  );
  return { moment: (m) => write(`${JSON.stringify(m)}\n`) };
};
