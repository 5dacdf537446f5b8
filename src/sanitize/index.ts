export type {
  AccessSeen,
  AtsSeen,
  MessageSeen,
  PageRequestSeen,
  RefusalSeen,
  SeenEvent,
  SeenMachine,
  SeenValue,
} from './events.ts';
export { type Finding, Findings, type Found } from './findings.ts';
export { RULE, RULE_IDS, type Rule, type RuleGroup, type RuleId, SEVERITIES, type Severity } from './rules.ts';
export { Sanitizer } from './sanitizer.ts';
