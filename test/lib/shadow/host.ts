import { HostVerbs } from '../../../src/lib/uapi/host-verbs.ts';
import type { IoasMap, IoasUnmap, Iommufd } from '../../../src/ports/iommufd.ts';
import { E } from '../../../src/spec/iommufd/errno.ts';
import { IOAS_MAP_FLAG } from '../../../src/spec/iommufd/uapi.ts';

const PAGE = 4096;
/** Where guest RAM lies in this process. */
const VA = 0x7f00_0000_0000n;

interface Mapped {
  readonly first: number;
  readonly end: number;
  readonly gpa: number;
  readonly write: boolean;
}

/** One IOAS of a host, and guest RAM in regions of pages; all numbers are pages. */
export class OneIoas {
  maps: Mapped[] = [];
  /** Verbs so far, as text. */
  readonly log: string[] = [];
  /** The host keeps these pages for itself. */
  reserved = { first: -1, end: -1 };
  /** Guest-physical pages from here on cannot be written. */
  rom = Number.POSITIVE_INFINITY;
  /** Refuses the verb whose number, counted from 0, it names. */
  refuse = -1;
  readonly regions: readonly (readonly [first: number, end: number])[];
  readonly verbs: HostVerbs;
  #verb = 0;

  constructor(regions: readonly (readonly [number, number])[]) {
    this.regions = regions;
    const verb = (act: () => number): number => (this.#verb++ === this.refuse ? -E.NOMEM : act());
    this.verbs = new HostVerbs({
      ioasMap: (c: IoasMap) => verb(() => this.#map(c)),
      ioasUnmap: (c: IoasUnmap) => verb(() => this.#unmap(c)),
    } as unknown as Iommufd);
  }

  #map(c: IoasMap): number {
    const first = Number(c.iova / 4096n);
    const end = first + Number(c.length / 4096n);
    const gpa = Number((c.userVa - VA) / 4096n);
    const write = (c.flags & IOAS_MAP_FLAG.WRITEABLE) !== 0;
    if (first < this.reserved.end && end > this.reserved.first) return -E.INVAL;
    if (write && gpa + (end - first) > this.rom) return -E.FAULT;
    if (this.maps.some((m) => m.first < end && first < m.end)) return -E.EXIST;
    this.maps.push({ first, end, gpa, write });
    this.log.push(`map ${first}..${end}`);
    return 0;
  }

  #unmap(c: IoasUnmap): number {
    const first = Number(c.iova / 4096n);
    const end = c.length === 0xffff_ffff_ffff_ffffn ? Number.POSITIVE_INFINITY : first + Number(c.length / 4096n);
    const inside = this.maps.filter((m) => m.first >= first && m.end <= end);
    if (inside.length === 0 || this.maps.some((m) => m.first < end && first < m.end && !inside.includes(m))) {
      return -E.NOENT;
    }
    this.maps = this.maps.filter((m) => !inside.includes(m));
    this.log.push(`unmap ${first}..${end}`);
    return 0;
  }

  userVa(gpa: number): bigint {
    return this.roomAt(gpa) > 0 ? VA + BigInt(gpa) : -1n;
  }

  roomAt(gpa: number): number {
    const region = this.regions.find(([first, end]) => gpa / PAGE >= first && gpa / PAGE < end);
    return region === undefined ? 0 : region[1] * PAGE - gpa;
  }

  gapAt(gpa: number): number {
    const next = this.regions.find(([first]) => first > gpa / PAGE);
    return next === undefined ? 2 ** 52 - gpa : next[0] * PAGE - gpa;
  }

  /** The guest-physical page behind a page; -1: none. */
  at(page: number): number {
    const m = this.maps.find((x) => page >= x.first && page < x.end);
    return m === undefined ? -1 : m.gpa + (page - m.first);
  }

  took(): string[] {
    return this.log.splice(0);
  }
}
