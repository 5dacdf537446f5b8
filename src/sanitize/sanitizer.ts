import { Course } from './course.ts';
import type { SeenEvent, SeenMachine } from './events.ts';
import { type Finding, Findings } from './findings.ts';
import { TrackedMemory } from './memory.ts';
import { ProgramCounters } from './program-counters.ts';
import { type RuleId, rulesOfGroups } from './rules.ts';
import { Smmuv3Watch } from './smmuv3/watch.ts';
import { VtdWatch } from './vtd/watch.ts';
import type { IommuWatch } from './watch.ts';

/** Rules that need to know when a store happened. */
const IN_TIME: readonly RuleId[] = [
  'use-after-unmap',
  'break-before-make',
  'torn-entry',
  'valid-before-filled',
  'tag-shared',
  'tag-reused',
  'command-overwritten',
];
/** Rules that need the order of stores that follow each other. */
const IN_ORDER: readonly RuleId[] = ['torn-entry', 'valid-before-filled'];
/** Rules that need to know the tables. */
const TABLE_RULES = rulesOfGroups('translations', 'configuration');
const UNTOLD = 'what is in a table or queue that is in use was not recorded';
const GATHERED =
  'stores between two events were recorded without their order: only what stood there at an event was judged';
const LATE = 'stores to tables were recorded when the IOMMU looked, not when they happened';
const TOO_SMALL = `${LATE}: what is too small there may be said to be missing`;

/** Follows one machine, event by event, and says what its driver did wrong. */
export class Sanitizer {
  /** What was found so far, and which rules could not be judged. */
  readonly findings = new Findings();
  readonly #course = new Course(this.findings);
  readonly #memory = new TrackedMemory();
  readonly #counters = new ProgramCounters();
  readonly #watch: IommuWatch;
  readonly #ram: SeenMachine['ram'];
  #finished = false;

  constructor(machine: SeenMachine) {
    this.#ram = machine.ram;
    const names = new Map(machine.devices.map((d) => [d.sid, d.name]));
    this.findings.device = (sid) => names.get(sid) ?? null;
    this.findings.pc = (event) => this.#counters.get(event);
    const Watch = machine.iommu === 'smmuv3' ? Smmuv3Watch : VtdWatch;
    this.#watch = new Watch(
      this.#course,
      this.#memory,
      machine.ram.reduce((sum, r) => sum + r.size / 4096, 0),
    );
  }

  /** The next event of the machine; events come in the order of their numbers. */
  event(e: SeenEvent): void {
    const course = this.#course;
    switch (e.t) {
      case 'st':
        course.beforeStore(e.gpa);
        course.event = e.i;
        if (e.pc !== undefined) this.#counters.add(e.i, e.pc[0], e.pc[1]);
        this.#memory.store(e.gpa, e.size, e.lo, e.hi, e.i);
        return;
      case 'page':
        course.event = e.i;
        this.#memory.snapshot(e.gpa, e.data, e.kind, e.i);
        return;
      case 'drop':
        this.#memory.drop(e.gpa, e.i);
        return;
      case 'cmd':
      case 'note':
        return;
    }
    this.#settle();
    course.event = e.i;
    this.#memory.settle(e.i);
    this.#watch.event(e);
  }

  #settle(): void {
    this.#memory.flush();
    this.#course.settle();
  }

  /**
   * Numbers of the pages that came into use for tables and queues since it was asked, once everything that was stored
   * before was told: a recorder follows them from then on.
   */
  wanted(): readonly number[] {
    this.#settle();
    return this.#memory.begun();
  }

  /** Whether a table or queue in use is in the page of this number. */
  reaches(pfn: number): boolean {
    return this.#memory.inUse(pfn);
  }

  /** What was found; what can only be said at the end is said with the first call. */
  finish(): Finding[] {
    if (this.#finished) return this.findings.list();
    this.#finished = true;
    this.#settle();
    this.#watch.finish();
    const inRam = (pfn: number) => this.#ram.some((r) => pfn * 4096 >= r.gpa && pfn * 4096 < r.gpa + r.size);
    if (this.#memory.untold(inRam)) for (const rule of TABLE_RULES) this.findings.cannotJudge(rule, UNTOLD);
    if (this.#memory.anyGathered) for (const rule of IN_ORDER) this.findings.cannotJudge(rule, GATHERED);
    if (this.#memory.anyLate) {
      for (const rule of IN_TIME) this.findings.cannotJudge(rule, LATE);
      this.findings.cannotJudge('invalidation-too-small', TOO_SMALL);
    }
    return this.findings.list();
  }
}
