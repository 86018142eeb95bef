// Package envelope seals what one handset says to another, and the few things a handset says to the
// SMS worker and to the registrar. It holds no connection, no clock and no store: bytes in, bytes out.
//
// How two handsets talk:
//
//  1. Each publishes a prekey ([NewPrekey], [Prekey.Bundle]).
//  2. A opens a session with B's bundle: [Initiate] gives a [Session] and the INIT bytes, the first
//     text inside.
//  3. B reads them with [OpenInit]. That changes nothing: B may drop the [Offer] and stay silent. If B
//     wants to answer, [Offer.Respond] gives B's Session and the RESP bytes.
//  4. A completes its Session with [Session.OpenResp].
//  5. Texts travel as MSG: [Session.Seal] and [Session.Open]. The keys move on with every message, and
//     every 32 messages or 24 hours a new pair of keys heals a session whose state leaked.
//  6. When a session has grown too old to write in, Seal says [ErrRenew], and the sender begins at 2.
//
// What is promised, and what the caller must do for it [S-12]:
//
//   - Decrypt, then commit: a call that returns an error has changed nothing, so what [Session.Marshal]
//     gives is the same before and after.
//   - No key is used for two different plaintexts, if the caller stores Session.Marshal before it sends
//     what Seal, Initiate or Respond returned, and never loads an older state after a newer one.
//   - Opening is exactly once, if the caller stores the text and Session.Marshal in one step.
//   - Every decoder is total: any input gives a value or an error, bounded by the input, never a panic.
//   - Keys, texts and numbers do not print: String, every fmt verb and slog redact.
//
// Errors are a closed set: those below, and [wire.ErrMalformed], [wire.ErrSignature] and
// [wire.ErrExpired], which may be wrapped. None carries a text or a number.
//
// The sentences behind the code are in spec/sessions.md, the models in spec/models.
package envelope

import "errors"

// ErrUnreadable reports a message that does not open: forged, damaged, for another key, from an epoch
// that is gone, or older than this side still reads. The answer to it is "cannot open this text". [S-8]
var ErrUnreadable = errors.New("envelope: does not open")

// ErrDuplicate reports a message received before. The answer to it is an acknowledgement, and nothing
// is shown. It does not prove that the bytes are the same: its key is gone. [S-7]
var ErrDuplicate = errors.New("envelope: received before")

// ErrRenew reports a session too old to write in: put the text into a new INIT. [S-6]
var ErrRenew = errors.New("envelope: session must be renewed")

// ErrPending reports a session whose RESP has not been opened yet. [S-4]
var ErrPending = errors.New("envelope: session not established")

// ErrTooLong reports a text over its limit, or a frame too long for the hello lane. [S-1]
var ErrTooLong = errors.New("envelope: too long")
