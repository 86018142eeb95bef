// Package sms hands texts to the phone network and says exactly what is known afterwards.
//
// How a text becomes an SMS:
//
//  1. A [Message] names its recipient by [wire.Number], its sender by [Sender], and how long it is
//     worth delivering: an SMS that arrives tomorrow is worse than none.
//  2. It is cut into at most six parts (GSM 03.38 section 6.2, 3GPP TS 23.040 section 9.2.3.24.1),
//     never through an escape sequence or a surrogate pair.
//  3. A [Transport] submits the parts in order: [Console] prints them, [SMPP] speaks SMPP 3.4.
//  4. [Result] has one of three outcomes. Answered: the SMSC said yes or no. NotSent: the next part
//     certainly did not leave. Unknown: it was written and no answer came. SMPP has no idempotency
//     key, so nobody can turn the third into one of the others; the caller's policy decides. [F-11]
//  5. What the network says later comes as a [Receipt]. The SMSC is told "received" only after the
//     handler has stored it; otherwise it repeats the receipt. [F-14]
//
// Guarantees: a sequence number is registered before its PDU is written, so no answer finds nobody
// waiting; a lost link turns every open submit into Unknown at once; every wait has an end; no
// number, text or password is in an error or a log line. The PDU codec is gosmpp's, kept behind
// pdu.go: its input is bounded before it is read, and what it panics on is an error here.
package sms
