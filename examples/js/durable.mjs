// Stores each event in a folder, once, whatever crashes: what happened while it was away it gets when it
// comes back (for seven days). When a user withdraws, it erases what it has about them.
//
//   node durable.mjs nats://127.0.0.1:4222 acme.creds events
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { AckPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream'
import { connect, credsAuthenticator } from '@nats-io/transport-node'

const [servers, creds, folder] = process.argv.slice(2)
if (!folder) throw new Error('usage: durable.mjs URL CREDENTIALS FOLDER')
const nc = await connect({ servers, authenticator: credsAuthenticator(readFileSync(creds)), maxReconnectAttempts: -1 })
const name = basename(folder) // the server remembers under this name how far the folder is
const manager = await jetstreamManager(nc)
await manager.consumers.add('BLUEJAY_EVENTS', { durable_name: name, ack_policy: AckPolicy.Explicit })
const consumer = await jetstream(nc).consumers.get('BLUEJAY_EVENTS', name)
for await (const m of await consumer.consume()) {
  keep(m.string()) // first stored, then acknowledged; if it throws, the event comes again
  m.ack()
}

function keep (raw) {
  const { id, type, subject } = JSON.parse(raw)
  if (!/^[\w-]{22}$/.test(subject) || !/^[\w.-]+$/.test(id)) throw new Error('not an event')
  const about = join(folder, subject)
  const file = join(about, id + '.json')
  if (existsSync(file)) return // at least once means: sometimes twice
  if (type === 'bluejay.consent.withdrawn') { // GDPR Art. 17: all about the user goes, here and wherever you copied it
    rmSync(about, { recursive: true, force: true })
  }
  mkdirSync(about, { recursive: true, mode: 0o700 })
  writeFileSync(file + '.new', raw, { mode: 0o600 })
  renameSync(file + '.new', file)
  console.log(raw)
}
