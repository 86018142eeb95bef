// Package wire holds what crosses a process boundary, and nothing else: identifiers, topics,
// signed records, control messages, NATS subjects, result codes and the GSM 03.38 alphabet.
//
// How a value travels:
//
//  1. A [Number] becomes an [ID] (package blind) and never leaves the handset in the clear again.
//  2. An ID is bound to a device key by a [Certificate], to its user's will by a [Consent] record,
//     and to a prekey by a [Bundle].
//  3. A connected device owns three topics derived from its ID and its [Tag] (see [ParseTopic]).
//  4. What the broker tells a device travels on topic r as a [ControlKind]-tagged message.
//  5. Undeliverable texts travel on the NATS subjects of subject.go.
//
// Every decoder here is total: any input yields a value or an error, bounded by the input's own
// length, never a panic. Every encoding is big endian and frozen by vectors in testdata.
// A decoded record is not a verified record: Parse* checks shape, Verify* checks the signature.
package wire

import "errors"

// ErrMalformed reports bytes that are not an encoding of the value asked for.
var ErrMalformed = errors.New("wire: malformed")

// ErrSignature reports a well-formed record whose signature does not verify.
var ErrSignature = errors.New("wire: bad signature")

// ErrExpired reports a record used outside the time for which it was issued.
var ErrExpired = errors.New("wire: not valid at this time")
