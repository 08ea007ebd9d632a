// A React hook over `live` or `shared`.

import { useMemo, useRef, useSyncExternalStore } from 'react';
import { live } from './live.js';

const BEFORE = { documents: [], status: 'connecting', error: undefined };

/** The documents and the status of a stream; open while a component that uses it is mounted. */
export function useLive(url, options = {}) {
  const latest = useRef(options);
  latest.current = options;
  const store = useMemo(() => {
    let shown = { ...BEFORE, documents: latest.current.documents ?? [] };
    return {
      get: () => shown,
      subscribe(listener) {
        const { open = live, ...rest } = latest.current;
        const opened = open(url, rest);
        const stop = opened.subscribe(() => {
          shown = { documents: opened.documents, status: opened.status, error: opened.error };
          listener();
        });
        return () => {
          stop();
          opened.close();
        };
      },
    };
  }, [url]);
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}
