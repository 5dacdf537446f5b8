/** A worker that the bundler puts into the page itself: a page opened from the disk may not load a second file. */
declare module '*?worker&inline' {
  const InlineWorker: new () => Worker;
  export default InlineWorker;
}
