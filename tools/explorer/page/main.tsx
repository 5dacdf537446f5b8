import { render } from 'preact';
import { App } from './app.tsx';

const root = document.getElementById('app')!;
const missing = ['DecompressionStream', 'ResizeObserver', 'Worker', 'BigInt'].filter((name) => !(name in globalThis));
if (!('toSorted' in Array.prototype)) missing.push('toSorted');
if (missing.length > 0)
  root.textContent = `This browser is too old for the explorer: it has no ${missing.join(', ')}. Chromium 110, Firefox 115 and Safari 16.4 have.`;
else render(<App />, root);
