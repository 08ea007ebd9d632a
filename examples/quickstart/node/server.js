// The app: it keeps notes in MongoDB, and knows nothing of Sidestream.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { MongoClient } from 'mongodb';

const mongodb = new MongoClient(process.env.MONGODB_URI ?? 'mongodb://127.0.0.1:27017/?replicaSet=rs0');
const notes = mongodb.db('quickstart').collection('notes');

createServer(async (request, response) => {
  if (request.method === 'POST') {
    let body = '';
    for await (const chunk of request) body += chunk;
    await notes.insertOne({ text: new URLSearchParams(body).get('text') });
    return response.writeHead(303, { Location: '/' }).end();
  }
  response.setHeader('Content-Type', 'text/html').end(readFileSync('index.html'));
}).listen(process.env.PORT ?? 3000);
