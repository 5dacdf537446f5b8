/** How bad it is: hardware may now do the wrong thing; forbidden or discouraged, harmless here; legal but wasteful. */
export type Severity = 'error' | 'warning' | 'hint';
/** From the worst to the mildest. */
export const SEVERITIES: readonly Severity[] = ['error', 'warning', 'hint'];

/** What a rule is about; the order of `RULE` follows it. */
export type RuleGroup = 'translations' | 'configuration' | 'queues and registers' | 'ATS, PRI, PASID' | 'rights';

/** A rule: what it finds, how bad that is, and why it is wrong. */
export interface Rule {
  /** How bad what it finds is. */
  readonly severity: Severity;
  /** What it is about. */
  readonly group: RuleGroup;
  /** Sections of IHI 0070 (issue G.b) behind it; null: it does not apply to SMMUv3. */
  readonly smmuv3: string | null;
  /** Sections of the VT-d specification (revision 5.10) behind it; null: it does not apply to VT-d. */
  readonly vtd: string | null;
  /** What it finds. */
  readonly finds: string;
}

const T = 'translations';
const C = 'configuration';
const Q = 'queues and registers';
const P = 'ATS, PRI, PASID';
const R = 'rights';

/** Every rule, by its fixed id. */
// biome-ignore format: table
export const RULE = {
  'use-after-unmap': { severity: 'error', group: T, smmuv3: '§3.17, §3.21.1', vtd: '§6.2.4, §6.5.3.3', finds: 'an access through a mapping that the tables no longer have' },
  'missing-invalidation': { severity: 'error', group: T, smmuv3: '§3.17, §3.21.1', vtd: '§6.2.4, §6.2.5, §6.5.3.3', finds: 'an IOVA gets another output, or a table page another use, while the old entry may be cached' },
  'invalidation-too-small': { severity: 'error', group: T, smmuv3: '§4.4', vtd: '§6.5.2.3, §6.5.2.4', finds: 'the same, and an invalidation was issued that did not reach the entry: tag, range, level or last level only' },
  'invalidation-not-awaited': { severity: 'error', group: T, smmuv3: '§3.21.1, §4.7.3', vtd: '§6.5.2.9', finds: 'an IOVA is mapped anew, or an entry changed again, before the sync or wait behind its invalidation completed' },
  'break-before-make': { severity: 'error', group: T, smmuv3: '§3.21.1.1, §6.3.4 (BBML)', vtd: null, finds: 'a valid entry gets another size or output without being invalid in between' },
  'missing-notpresent-invalidation': { severity: 'error', group: T, smmuv3: null, vtd: '§6.1', finds: 'caching mode: an entry became present and that it was not may be cached' },
  'missing-atc-invalidation': { severity: 'error', group: T, smmuv3: '§3.9.1, §4.5.1', vtd: '§4.3, §6.5.2.5', finds: 'an IOVA gets another output while a function with ATS on may hold the old one' },
  'atc-before-iotlb': { severity: 'error', group: T, smmuv3: '§3.9.1, §4.5.1', vtd: '§6.5.2.5', finds: 'the function was told to forget before the IOMMU had forgotten: it can fetch the old translation again' },
  'permissions-raised-without-invalidation': { severity: 'warning', group: T, smmuv3: '§3.21.1', vtd: '§6.5.3.3', finds: 'an entry got more permissions and the old ones may be cached' },
  'config-change-not-invalidated': { severity: 'error', group: C, smmuv3: '§3.11, §3.21.3, §4.3', vtd: '§6.2.2, §6.2.3, §6.4, §6.5.3.3, §6.6, §6.7', finds: 'an STE, CD, root, context, PASID directory or table entry, IRTE or pointer to them (in a table or a register) was changed and the old one may be cached' },
  'torn-entry': { severity: 'error', group: C, smmuv3: '§3.21.3', vtd: '§6.5.3.3, §9.6', finds: 'an entry is valid while its words are changed one by one: a mixture is readable' },
  'valid-before-filled': { severity: 'error', group: C, smmuv3: '§3.21.3.1', vtd: '§6.5.3.3', finds: 'an entry was made valid before the words it needs, or the table it points to, were written' },
  'table-not-aligned': { severity: 'error', group: C, smmuv3: '§6.3.24, §6.3.26, §6.3.29, §5.2, §5.4', vtd: '§11.4.11.3', finds: 'a base has bits set that hardware drops because of the configured size' },
  'beyond-output-size': { severity: 'error', group: C, smmuv3: '§3.4, §5.2, §5.4', vtd: '§3.6, §3.7, §9', finds: 'a table or output address is beyond what the IOMMU can address' },
  'tag-shared': { severity: 'error', group: C, smmuv3: '§3.3.3, §3.17', vtd: '§6.2.2.1, §6.2.3.1', finds: 'one ASID or VMID, domain id or PASID stands for different tables at once' },
  'tag-reused': { severity: 'error', group: C, smmuv3: '§3.17, §4.4', vtd: '§6.2.3.1, §6.5.3.3', finds: 'an ASID, VMID, domain id or PASID got other tables before what was cached of the old ones was invalidated' },
  'pasid-not-drained': { severity: 'error', group: C, smmuv3: '§8, §4.5.2', vtd: '§7.10, §7.11, §6.5.2.9', finds: 'a PASID was given away while page requests of it may still be queued' },
  'queue-overrun': { severity: 'error', group: Q, smmuv3: '§3.5.1, §3.21.2', vtd: '§6.5.2', finds: 'the guest put more into a queue than it holds' },
  'command-overwritten': { severity: 'error', group: Q, smmuv3: '§3.21.2', vtd: '§6.5.2', finds: 'a command was stored over one that may not have been fetched' },
  'command-refused': { severity: 'error', group: Q, smmuv3: '§7.1, §6.3.28', vtd: '§6.5.2.11, §11.4.9', finds: 'a command stopped the queue (CERROR, IQE, ITE) or completed in error (ICE)' },
  'error-not-acknowledged': { severity: 'error', group: Q, smmuv3: '§6.3.19, §6.3.20', vtd: '§11.4.7.1, §7.3', finds: 'an error was raised and the guest never acknowledged it: nothing further of its kind is reported' },
  'overflow-not-acknowledged': { severity: 'warning', group: Q, smmuv3: '§7.4, §8.1', vtd: '§7.2, §7.4', finds: 'a queue of records overflowed and the guest never said that it knows' },
  'record-lost': { severity: 'warning', group: Q, smmuv3: '§7.4', vtd: '§7.2', finds: 'records were lost because their queue was full' },
  'base-changed-while-enabled': { severity: 'error', group: Q, smmuv3: '§6.3.24 to §6.3.29', vtd: '§11.4.5, §11.4.9.3, §6.5.2', finds: 'a base register was written while what it points to was in use' },
  'handshake-not-awaited': { severity: 'error', group: Q, smmuv3: '§6.3.9, §6.3.14.1, §6.3.18', vtd: '§11.4.4, §11.4.6', finds: 'the guest went on before the IOMMU said that a control register took effect' },
  'one-bit-at-a-time': { severity: 'error', group: Q, smmuv3: null, vtd: '§11.4.4.1', finds: 'several bits of GCMD were changed in one write' },
  'reserved-bits': { severity: 'warning', group: Q, smmuv3: '§4.1.5, §6.3', vtd: '§6.5.2.11, §11.2', finds: 'reserved bits were set in a register or a command' },
  'interrupt-without-handler': { severity: 'warning', group: Q, smmuv3: '§3.18', vtd: '§7.3, §11.4.7.2', finds: 'an interrupt is enabled and arrives, and nobody services its cause' },
  'command-without-sync': { severity: 'warning', group: Q, smmuv3: '§4.7.3, §3.21', vtd: '§6.5.2.9', finds: 'invalidations were issued and no sync or wait ever followed' },
  'ats-order': { severity: 'error', group: P, smmuv3: '§3.9.2, §5.2 (EATS)', vtd: '§4.5, §9.3', finds: 'ATS is switched off for a stream before the function was told to forget, or is used where it is off' },
  'response-missing': { severity: 'warning', group: P, smmuv3: '§4.5.2, §8', vtd: '§7.6.1', finds: 'a page request that asked for an answer never got one' },
  'response-twice': { severity: 'error', group: P, smmuv3: '§4.5.2, §8', vtd: '§7.6.1', finds: 'a page request group was answered twice' },
  'response-unknown': { severity: 'error', group: P, smmuv3: '§4.5.2, §8', vtd: '§7.6.1', finds: 'an answer names no page request there is' },
  'stall-never-resumed': { severity: 'error', group: P, smmuv3: '§3.12.2, §4.7.1', vtd: null, finds: 'a stalled access was neither resumed nor terminated' },
  'page-request-after-teardown': { severity: 'warning', group: P, smmuv3: '§8', vtd: '§7.10', finds: 'a function asked for a page of an address space that was taken away' },
  'never-used': { severity: 'hint', group: R, smmuv3: '§3.3', vtd: '§3.1', finds: 'a mapping was made and taken away again without an access' },
  'never-written': { severity: 'hint', group: R, smmuv3: '§3.3', vtd: '§3.1', finds: 'a writable mapping was only read' },
  'wider-than-used': { severity: 'hint', group: R, smmuv3: '§3.3', vtd: '§3.1', finds: 'far more is mapped at once than the function ever used of it' },
  'dma-before-protection': { severity: 'hint', group: R, smmuv3: '§6.3.14', vtd: '§3.1, §11.4.4', finds: 'a function accessed memory while the IOMMU let everything pass' },
  'identity-of-all-memory': { severity: 'hint', group: R, smmuv3: '§5.2 (Config)', vtd: '§9.3, §9.6', finds: 'a stream passes untranslated, or all memory is mapped for it' },
} as const satisfies Record<string, Rule>;

/** Id of a rule. */
export type RuleId = keyof typeof RULE;
/** Ids of all rules, in the order of `RULE`. */
export const RULE_IDS = Object.keys(RULE) as readonly RuleId[];

/** Rules of some groups. */
export function rulesOfGroups(...groups: readonly RuleGroup[]): RuleId[] {
  return RULE_IDS.filter((id) => groups.includes(RULE[id].group));
}

/** Rules that need to know the commands of the guest. */
export const COMMAND_RULES: readonly RuleId[] = [
  ...rulesOfGroups(T).filter((id) => id !== 'break-before-make'),
  'config-change-not-invalidated',
  'torn-entry',
  'valid-before-filled',
  'tag-reused',
  'pasid-not-drained',
  'command-overwritten',
  'command-without-sync',
  'response-missing',
  'response-twice',
  'response-unknown',
  'stall-never-resumed',
];
