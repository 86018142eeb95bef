// Prints events as they are published. It misses what happens while it is away: where that matters,
// begin with durable.mjs.
//
//   node tail.mjs nats://127.0.0.1:4222 acme.creds
import { readFileSync } from 'node:fs'
import { connect, credsAuthenticator } from '@nats-io/transport-node'

const [servers, creds] = process.argv.slice(2)
if (!creds) throw new Error('usage: tail.mjs URL CREDENTIALS')
// A node whose certificate is of a CA of its own: add tls: { caFile: 'ca.pem' }.
const nc = await connect({ servers, authenticator: credsAuthenticator(readFileSync(creds)), maxReconnectAttempts: -1 })
const events = nc.subscribe('bluejay.events.>')
await nc.flush()
console.error('listening')
for await (const m of events) console.log(m.string())
