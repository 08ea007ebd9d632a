// A shop that knows nothing of Sidestream: users in MongoDB, a JSON Web Token in a cookie.
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { MongoClient, ObjectId } from 'mongodb';

const secret = process.env.JWT_SECRET ?? 'a secret of 32 bytes, for trying';
const mongodb = await MongoClient.connect(process.env.MONGODB_URI ?? 'mongodb://127.0.0.1:27017/?replicaSet=rs0');
const shop = mongodb.db('shop');
// Once: so that deletes can be told to the customer.
await shop.createCollection('orders', { changeStreamPreAndPostImages: { enabled: true } }).catch(() => {});

const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
const sign = (text) => createHmac('sha256', secret).update(text).digest('base64url');

function token(user) {
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ sub: user._id.toString(), exp })}`;
  return `${text}.${sign(text)}`;
}

function customer(request) {
  const [, head, claims, signature] = /token=([\w-]+)\.([\w-]+)\.([\w-]+)/.exec(request.headers.cookie ?? '') ?? [];
  if (!signature || sign(`${head}.${claims}`) !== signature) return null;
  return new ObjectId(JSON.parse(Buffer.from(claims, 'base64url')).sub);
}

const routes = {
  'POST /login': async (request, body) => {
    const name = body.get('name');
    const user = await shop.collection('users').findOneAndUpdate(
      { name }, { $set: { name } }, { upsert: true, returnDocument: 'after' });
    return { cookie: `token=${token(user)}; HttpOnly; Path=/; SameSite=Lax` };
  },
  'POST /orders': async (request, body) =>
    shop.collection('orders').insertOne({ customer: customer(request), item: body.get('item'), status: 'new' }),
  'POST /cancel': async (request, body) =>
    shop.collection('orders').deleteOne({ _id: new ObjectId(body.get('id')), customer: customer(request) }),
};

createServer(async (request, response) => {
  const route = routes[`${request.method} ${request.url}`];
  if (!route) return response.setHeader('Content-Type', 'text/html').end(readFileSync('public/index.html'));
  if (request.url !== '/login' && !customer(request)) return response.writeHead(401).end();
  let text = '';
  for await (const chunk of request) text += chunk;
  const answer = await route(request, new URLSearchParams(text));
  if (answer.cookie) response.setHeader('Set-Cookie', answer.cookie);
  response.setHeader('Content-Type', 'application/json').end(JSON.stringify(answer));
}).listen(process.env.PORT ?? 3000);
