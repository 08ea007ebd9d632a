import type { Failure, Live, Options, Status } from './live.js';

/** The documents and the status of a stream; open while a component that uses it is mounted. */
export function useLive<Document = Record<string, unknown>>(
  url: string,
  options?: Options<Document> & {
    /** `shared` of `sidestream-client/tabs`, for one connection for all tabs. */
    open?: (url: string, options: Options<Document>) => Live<Document>;
  },
): { readonly documents: readonly Document[]; readonly status: Status; readonly error: Failure | undefined };
