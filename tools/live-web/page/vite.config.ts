import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig, type Plugin } from 'vite';

const OUT = '../../../dist/live-web';

/** The page looks like the explorer it is. */
const explorerStyle: Plugin = {
  name: 'explorer-style',
  closeBundle() {
    const from = join(import.meta.dirname, '../../explorer/page/public/style.css');
    copyFileSync(from, join(import.meta.dirname, OUT, 'style.css'));
  },
};

export default defineConfig({
  root: import.meta.dirname,
  base: './',
  publicDir: 'public',
  logLevel: 'warn',
  plugins: [explorerStyle],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: false,
    chunkSizeWarningLimit: 2000,
    rolldownOptions: { output: { entryFileNames: 'live.js', assetFileNames: 'live[extname]' } },
  },
  worker: { format: 'iife' },
});
