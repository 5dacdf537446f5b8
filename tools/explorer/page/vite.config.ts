import { defineConfig, type Plugin } from 'vite';

/**
 * A page that is opened from the disk may not load modules: browsers treat each file as a site of its own. The bundle is one
 * classic script without imports, so the tag can say so.
 */
const classicScript: Plugin = {
  name: 'classic-script',
  transformIndexHtml: {
    order: 'post',
    handler: (html) => html.replace(/<script type="module" crossorigin src=/g, '<script defer src='),
  },
};

export default defineConfig({
  root: import.meta.dirname,
  base: './',
  // The style sheet is served as it is: a bundle of one script would put it into the script, which its policy forbids.
  publicDir: 'public',
  logLevel: 'warn',
  plugins: [classicScript],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: '../../../dist/explorer',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: false,
    chunkSizeWarningLimit: 2000,
    rolldownOptions: { output: { format: 'iife', entryFileNames: 'explorer.js', assetFileNames: 'explorer[extname]' } },
  },
  worker: { format: 'iife' },
});
