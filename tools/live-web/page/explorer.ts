export type { Drive } from '../../explorer/model/live.ts';
export { Client } from '../../explorer/page/client.ts';
export { Explorer, type LiveView } from '../../explorer/page/explorer.tsx';
export type { LiveState, Run } from '../../explorer/page/protocol.ts';
export { useTheme } from '../../explorer/page/theme.ts';
