export type {
  AccessSeen,
  AtsSeen,
  MessageSeen,
  PageRequestSeen,
  RefusalSeen,
  SeenEvent,
  SeenMachine,
} from './events.ts';
export { type Finding, Findings } from './findings.ts';
export { RULE, RULE_IDS, type Rule, type RuleGroup, type RuleId, SEVERITIES, type Severity } from './rules.ts';
export { Sanitizer } from './sanitizer.ts';
