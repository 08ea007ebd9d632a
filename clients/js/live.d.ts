/** A MongoDB change event, as far as the stream's filter shows it. */
export interface Change<Document> {
  operationType?: string;
  ns?: { db: string; coll: string };
  documentKey?: Record<string, unknown>;
  fullDocument?: Document | null;
  fullDocumentBeforeChange?: Document | null;
  updateDescription?: Record<string, unknown>;
  /** How the change moves the client's view, where the filter asks for before-images. */
  view?: 'enter' | 'stay' | 'leave';
  stream?: string;
  as?: string;
  /** Of `reset`, `snapshot` and `end`. */
  reason?: string;
  /** Of `open`: whether the stream goes on from a position. */
  resumed?: boolean;
}

/** `open`, `insert`, `update`, `replace`, `delete`, `snapshot`, `document`, `ready`, `reset`, `end`; or a position alone. */
export interface Message<Document = Record<string, unknown>> {
  event?: string;
  data?: Change<Document>;
  id?: string;
}

export type Status = 'connecting' | 'live' | 'reconnecting' | 'ended' | 'closed';

/** Why a stream is not live. */
export interface Failure extends Error {
  /** Of an answer: its status. */
  status?: number;
  /** Of an answer: its problem details (RFC 9457), as far as it has any. */
  problem?: { type?: string; title?: string; detail?: string; [member: string]: unknown };
  /** Milliseconds that the answer asks to wait for. */
  after?: number;
}

export interface Connection {
  /** Goes on from this position; only together with the documents that belong to it. */
  lastEventId?: string;
  /** `auto` takes long polls where server-sent events do not get through. */
  transport?: 'auto' | 'sse' | 'poll';
  headers?: Record<string, string>;
  credentials?: RequestCredentials;
  fetch?: typeof globalThis.fetch;
  /** Milliseconds until the first attempt to come back; the server's `retry` takes its place. */
  retry?: number;
  /** Milliseconds; attempts get no rarer than this, unless the server asks for it. */
  maxRetry?: number;
  /** Milliseconds within which a stream must say something, or long polls are tried. */
  openTimeout?: number;
  /** Milliseconds without a sign of life after which a connection is given up: twice `clients.heartbeat` or more. */
  silence?: number;
  /** Milliseconds of long polls until server-sent events are tried again. */
  pollFor?: number;
}

export interface FollowOptions<Document> extends Connection {
  onEvent: (message: Message<Document>) => void;
  onStatus?: (status: Status, error?: Failure) => void;
}

export interface Options<Document> extends Connection {
  /** The name of the field that tells documents apart, or a function that returns its value. */
  key?: string | ((document: Document) => unknown);
  /** What is known at the start. */
  documents?: Document[];
  /** Loads all documents: when the stream is ready, and after a reset. Not needed with a snapshot. */
  load?: () => Promise<Document[]>;
  /** When subscribers are called, once for all changes since: by default, with the next frame. */
  schedule?: (run: () => void) => void;
  /** Called for each event, at once. */
  onEvent?: (message: Message<Document>) => void;
}

export interface Live<Document> {
  /** The documents, in the order in which they came. The same array until subscribers are called. */
  readonly documents: readonly Document[];
  readonly status: Status;
  readonly error: Failure | undefined;
  /** The latest state of one document. */
  get(key: unknown): Document | undefined;
  /** Called after changes of documents or status. Returns what ends it. */
  subscribe(listener: (documents: readonly Document[]) => void): () => void;
  close(): void;
}

/** Opens `url` and keeps a collection of its documents. */
export function live<Document = Record<string, unknown>>(url: string | URL, options?: Options<Document>): Live<Document>;

/** Follows `url`: reconnects and resumes until it is closed. */
export function follow<Document = Record<string, unknown>>(
  url: string | URL,
  options: FollowOptions<Document>,
): { close(): void; readonly lastEventId: string };

/** What events make of documents, without a connection: for a transport of one's own, and for tests. */
export interface Collection<Document> {
  /** Takes the stream's next message. */
  apply(message: Message<Document>): void;
  setStatus(status: Status, error?: Failure): void;
  /** What a page holds; `close` is called when it closes it. */
  handle(close?: () => void): Live<Document>;
}

/** Documents by key, and what a stream's events make of them. */
export function collection<Document = Record<string, unknown>>(
  options?: Omit<Options<Document>, keyof Connection>,
): Collection<Document>;
