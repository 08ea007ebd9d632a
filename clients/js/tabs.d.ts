import type { Live, Options } from './live.js';

/** As `live`; tabs of the same origin that share `name` (by default the URL) share one connection. */
export function shared<Document = Record<string, unknown>>(
  url: string | URL,
  options?: Options<Document> & { name?: string },
): Live<Document>;
