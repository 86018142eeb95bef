// Package bridge is the only NATS client: what the other packages declare as interfaces, it keeps on
// NATS. No other package knows a stream, a bucket or an inbox.
//
// How a process uses it:
//
//  1. [Connect] opens one connection in one [Role]. A role's [Permissions] are all that the server
//     lets it do, so a worker cannot enrol and a broker cannot send one-time passwords.
//  2. [Bridge.EnsureStreams] (brokers only) makes the streams, buckets and consumers.
//  3. A broker queues sealed jobs ([Jobs]), stores consent ([Store]), passes frames on to the broker
//     that holds a tag ([Router]), asks the registrar ([Bridge.Call]), hears outcomes ([Outcomes]).
//  4. A worker takes jobs ([Queue]), journals them ([Journal]), reports outcomes
//     ([Bridge.Outcome]), and has its key signed and published ([Bridge.SignKey]).
//  5. The registrar serves ([Bridge.ServeRegistrar]) and counts ([Counts]).
//  6. [Bridge.Close] stops what the bridge started and drains, within the caller's deadline.
//
// Guarantees:
//
//   - A nil error from a write means that the stream has stored it: with the embedded server, synced
//     to disk. [C-4]
//   - Compare and set decides every race: a cancellation and a worker that begins the same job
//     cannot both win. [F-10] [F-11]
//   - Nothing waits without a bound. While NATS is away every call fails at once with
//     [wire.Unavailable], and one that is under way by its deadline; nothing is buffered to be sent
//     later.
//   - No subject, key, error or log entry carries an ID, a number, a text or a tag; keys of buckets
//     that are about an ID are the exception, and buckets are not logged. [F-8]
//
// What it does not promise: a frame handed to another broker is not stored anywhere; an error from
// a write does not prove that nothing was stored.
package bridge
