import { IommufdServer } from '../../src/adapters/iommufd-socket/server.ts';

/** Serves a path until its parent goes; tells the parent what is left whenever it is asked. */
if (import.meta.filename === process.argv[1]) {
  const server = new IommufdServer({ path: process.argv[2]!, backend: 'mock', patience: 5000 });
  let broken = 0;
  server.onFailure = () => void broken++;
  process.on('disconnect', () => process.exit(0));
  process.on('message', () => {
    const { clients, pendingBytes } = server;
    process.send?.({ clients, pendingBytes, broken, ...server.usage });
  });
  await server.listen();
  process.send?.('ready');
}
