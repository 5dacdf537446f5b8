/** How a package is installed, by the program that does it. */
export interface Packages {
  readonly apt: string;
  readonly dnf: string;
  readonly brew: string | null;
}

/** Something optional of this package, and what shows that it is there. */
export interface Optional {
  readonly name: string;
  /** What it is for, in a few words. */
  readonly for: string;
  /**
   * A program with arguments that make it tell about itself and end; a Node module; or a shared library.
   */
  readonly found: { readonly program: readonly string[] } | { readonly module: string } | { readonly library: string };
  /** How to get it: packages, or a command of its own. */
  readonly get: Packages | string;
}

const RECORD = 'viommu record qemu';

/** Everything that some command of this package or its checkout uses if it is there. */
export const OPTIONAL: readonly Optional[] = [
  {
    name: 'qemu-system-aarch64',
    for: `${RECORD}, live:arm64: an SMMUv3 guest`,
    found: { program: ['qemu-system-aarch64', '--version'] },
    get: { apt: 'qemu-system-arm', dnf: 'qemu-system-aarch64', brew: 'qemu' },
  },
  {
    name: 'qemu-system-x86_64',
    for: `${RECORD}, live:amd64, bench:guest: a VT-d guest`,
    found: { program: ['qemu-system-x86_64', '--version'] },
    get: { apt: 'qemu-system-x86', dnf: 'qemu-system-x86', brew: 'qemu' },
  },
  {
    name: 'C compiler',
    for: `${RECORD} (its plugin), the preload library`,
    found: { program: ['cc', '--version'] },
    get: { apt: 'gcc libc6-dev', dnf: 'gcc', brew: 'gcc' },
  },
  {
    name: 'make',
    for: 'the preload library of viommu iommufd',
    found: { program: ['make', '--version'] },
    get: { apt: 'make', dnf: 'make', brew: 'make' },
  },
  {
    name: 'addr2line',
    for: 'viommu sanitize --vmlinux',
    found: { program: ['addr2line', '--version'] },
    get: { apt: 'binutils', dnf: 'binutils', brew: 'binutils' },
  },
  {
    name: 'v86',
    for: 'live, live:web: guests in JavaScript',
    found: { module: 'v86' },
    get: 'npm install v86@0.5.462',
  },
  {
    name: 'koffi',
    for: 'live:arm: calls libunicorn',
    found: { module: 'koffi' },
    get: 'npm install koffi',
  },
  {
    name: 'libunicorn',
    for: 'live:arm',
    found: { library: 'libunicorn.so.2' },
    get: { apt: 'libunicorn2', dnf: 'unicorn', brew: 'unicorn' },
  },
  {
    name: 'chromium',
    for: 'test:live: the web page',
    found: { program: ['chromium', '--version'] },
    get: { apt: 'chromium', dnf: 'chromium', brew: null },
  },
  {
    name: 'protoc',
    for: 'conformance:export',
    found: { program: ['protoc', '--version'] },
    get: { apt: 'protobuf-compiler', dnf: 'protobuf-compiler', brew: 'protobuf' },
  },
  {
    name: 'vcd2fst',
    for: 'conformance:export',
    found: { program: ['vcd2fst', '--help'] },
    get: { apt: 'gtkwave', dnf: 'gtkwave', brew: 'gtkwave' },
  },
  {
    name: 'iasl',
    for: 'conformance:firmware, live:amd64',
    found: { program: ['iasl', '-v'] },
    get: { apt: 'acpica-tools', dnf: 'acpica-tools', brew: 'acpica' },
  },
  {
    name: 'dtc',
    for: 'conformance:firmware, live:arm64',
    found: { program: ['dtc', '--version'] },
    get: { apt: 'device-tree-compiler', dnf: 'dtc', brew: 'dtc' },
  },
];
