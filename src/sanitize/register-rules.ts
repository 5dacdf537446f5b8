import type { Course } from './course.ts';
import type { RuleId } from './rules.ts';

/** So many register accesses after an event show that a driver that meant to answer it would have done so. */
const LATER = 16;

/** A control register and the one that says when it took effect. */
export class Handshake {
  readonly #course: Course;
  readonly #name: string;
  /** Event that wrote the register; -1: nothing is awaited. */
  event = -1;
  /** The bits whose change is awaited. */
  bits = 0;

  constructor(course: Course, name: string) {
    this.#course = course;
    this.#name = name;
  }

  /** @param bits those that the write changed. */
  begin(bits = -1): void {
    this.event = this.#course.event;
    this.bits = bits;
  }

  done(): void {
    this.event = -1;
  }

  /** The guest goes on with something that must wait. @param what a clause. */
  mustBeDone(what: string): void {
    if (this.event < 0) return;
    this.#course.findings.add('handshake-not-awaited', {
      kind: `${this.#name} ${what}`,
      events: [this.event, this.#course.event],
      message: `${what} before the IOMMU said that ${this.#name} took effect: poll for it first`,
    });
    this.event = -1;
  }
}

/** An interrupt that is enabled, and whether somebody services its cause: takes records off their queue, looks at a status. */
export class Serviced {
  readonly #course: Course;
  readonly #name: string;
  /** Those that nobody serviced yet, and the event of the first; -1: none. */
  #arrived = 0;
  #first = -1;

  constructor(course: Course, name: string) {
    this.#course = course;
    this.#name = name;
  }

  arrive(): void {
    if (this.#arrived++ === 0) this.#first = this.#course.event;
  }

  serve(): void {
    this.#arrived = 0;
  }

  finish(accesses: (since: number) => number): void {
    if (this.#arrived === 0 || accesses(this.#first) < LATER) return;
    this.#course.findings.add('interrupt-without-handler', {
      kind: this.#name,
      events: [this.#first],
      message: `the ${this.#name} interrupt is enabled and arrived ${this.#arrived} times, and the guest never serviced its cause: do so or leave it off`,
    });
  }
}

/** Something the IOMMU reports and the guest must acknowledge. */
export class Reported {
  readonly #course: Course;
  readonly #rule: RuleId;
  readonly #unanswered: RuleId;
  readonly #what: string;
  /** Event at which it was known first; -1: it is not active. */
  event = -1;

  /** @param rule said when it happens. @param unanswered said when it is never acknowledged. @param what a clause. */
  constructor(course: Course, rule: RuleId, unanswered: RuleId, what: string) {
    this.#course = course;
    this.#rule = rule;
    this.#unanswered = unanswered;
    this.#what = what;
  }

  /** It is active, as far as the guest is told. */
  seen(): void {
    if (this.event < 0) this.event = this.#course.event;
  }

  /** The guest says that it knows. @param detail more about it, a clause. */
  acknowledged(detail = ''): void {
    if (this.event < 0) return;
    this.#found([this.event, this.#course.event], `${detail}; the guest acknowledged it`);
    this.event = -1;
  }

  finish(accesses: (since: number) => number, detail = ''): void {
    if (this.event < 0) return;
    const never = accesses(this.event) >= LATER;
    this.#found([this.event], detail + (never ? '; the guest never acknowledged it' : ''));
    if (!never || this.#rule === this.#unanswered) return;
    this.#course.findings.add(this.#unanswered, {
      kind: this.#what,
      events: [this.event],
      message: `${this.#what}, and the guest never acknowledged it: nothing further of the kind is told until it does`,
    });
  }

  #found(events: readonly number[], detail: string): void {
    this.#course.findings.add(this.#rule, { kind: this.#what, events, message: `${this.#what}${detail}` });
  }
}

/** Register accesses so far, to tell what was answered later from what is never answered. */
export class Accesses {
  readonly #events: number[] = [];
  /** Somebody tells the guest's reads. */
  reads = false;

  add(event: number): void {
    this.#events.push(event);
    if (this.#events.length > 8 * LATER) this.#events.splice(0, 2 * LATER);
  }

  /** Accesses after an event, up to some. */
  readonly since = (event: number): number => this.#events.filter((e) => e > event).length;
}

/** Reserved bits that were set. */
export function reservedBits(course: Course, name: string, bits: number): void {
  if (bits === 0) return;
  course.findings.add('reserved-bits', {
    kind: name,
    events: [course.event],
    message: `${name}: reserved bits 0x${(bits >>> 0).toString(16)} were set: write them as zero`,
  });
}

/** A base whose low bits hardware drops. @param size bytes it is to be aligned to. */
export function misaligned(course: Course, name: string, base: number, size: number, stream?: number): void {
  if (base % size === 0) return;
  course.findings.add('table-not-aligned', {
    stream,
    kind: name,
    events: [course.event],
    message: `the ${name} at 0x${base.toString(16)} must be aligned to its size, 0x${size.toString(16)}: hardware takes it for 0x${(base - (base % size)).toString(16)}`,
  });
}

/** An address the IOMMU cannot send out: what leads there faults. @param bits of output addresses. @returns whether it is one. */
export function beyond(course: Course, name: string, address: number, bits: number, stream?: number): boolean {
  if (address < 2 ** bits) return false;
  course.findings.add('beyond-output-size', {
    stream,
    kind: name,
    events: [course.event],
    message: `${name} 0x${address.toString(16)} is beyond the ${bits} bits of an output address`,
  });
  return true;
}

/** A base register was written while what it points to is in use. */
export function changedWhileEnabled(course: Course, register: string, enable: string): void {
  course.findings.add('base-changed-while-enabled', {
    kind: register,
    events: [course.event],
    message: `${register} was written while ${enable} is set: clear it and wait for that first`,
  });
}
