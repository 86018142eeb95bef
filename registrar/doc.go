// Package registrar turns phone numbers into IDs and device keys into certificates. It is the only
// holder of the VOPRF key, and nothing else in the system can compute an ID from a number.
//
// An enrolment:
//
//  1. Request 1 brings a number and a device key, sealed. The registrar evaluates the ID, draws a
//     one-time password, and has it sent to the number as an urgent SMS. From here on it holds the
//     ID and keyed hashes of the device key, the nonce and the password, and not the number.
//  2. Request 2 brings the password back from the same device, sealed. The registrar counts the
//     enrolment, signs a certificate, seals it to whoever sealed request 2, and forgets.
//  3. Renewal is signed by the device that was enrolled last, until a number must be proved anew.
//
// A number is switched off in the same way: by a password sent to it, from a phone that needs no account,
// or on an operator's word. Either ends in a revocation that can only switch off.
//
// Look-ups are blinded: the registrar learns who asks, when and how often, never about whom. It
// counts them by ID, so that nobody can enumerate the numbers there are. For a worker it signs the
// day's key, and says whether a sealed sender owns a number.
//
// Guarantees:
//
//   - No number outlives the call that brought it; no number, password or ID is in a log entry or an
//     error. What is at rest is [Count], by ID. [P-14]
//   - A certificate is issued only to the device key that request 1 named and that knew the password
//     sent to that number; five wrong guesses or five minutes end it. [P-14]
//   - A look-up is answered only after it was counted durably. [P-11]
//   - Every handler takes any bytes and answers with a code; memory is bounded by [Quotas]. Expiry
//     happens on access: nothing runs in the background.
//
// What a certificate does not prove: who holds the SIM today.
package registrar
