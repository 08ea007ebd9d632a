// Uses every export as a page would: `tsc` checks that the types allow that, and nothing else.

import { follow, live, type Live, type Message } from 'sidestream-client';
import { useLive } from 'sidestream-client/react';
import { shared } from 'sidestream-client/tabs';

interface Order {
  _id: { $oid: string };
  total: number;
}

const orders: Live<Order> = live<Order>('/_events/orders', {
  key: (order) => order._id.$oid,
  load: async () => (await fetch('/orders.json')).json() as Promise<Order[]>,
  transport: 'auto',
});
const stop: () => void = orders.subscribe((documents) => documents.map((order) => order.total.toFixed()));
stop();
const one: Order | undefined = orders.get('65f');
// @ts-expect-error: the array belongs to the collection
orders.documents.push(one!);
// @ts-expect-error: there is no such transport
live('/_events/orders', { transport: 'websocket' });
// @ts-expect-error: a stream nobody listens to
follow('/_events/orders', {});

const stream = follow<Order>('/_events/orders', {
  onEvent: ({ event, data }: Message<Order>) => event === 'insert' && data?.fullDocument?.total,
});
stream.close();
shared<Order>('/_events/orders', { name: 'orders' }).close();

export function Orders() {
  const { documents, status } = useLive<Order>('/_events/orders', { key: '_id', open: shared });
  return `${documents.length} ${status}`;
}
