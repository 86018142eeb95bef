// Package hooks joins MQTT packets to policy and holds no policy of its own: consent decides who
// may do what, custody decides when a sender is told, presence decides who shows as reachable.
//
// The life of a connection:
//
//  1. [Listener] accepts it, with a cap, a back-off and a deadline until CONNECT.
//  2. Every packet is read with a bound, checked byte by byte, and only then decoded by mochi.
//  3. CONNECT is verified against the stored consent state; without a certificate only enrolment
//     is possible, without consent only consent is. [P-15] [P-17]
//  4. mochi's hooks carry every publish to [Node]; nothing is left to mochi's own tables: wills,
//     sessions, retained messages and subscriptions are never used.
//  5. Writes only queue; a peer that does not read is closed and nobody else notices. [C-5]
//
// One lock (Node.mu) covers custody, presence, the sessions and the queueing of bytes, never a
// system call. That makes revocation exact: what is queued after the lock was held by a revocation
// is neither from nor to the revoked ID. [C-revoke]
package hooks
