// Package worker turns sealed jobs into SMS, a normal one at most once and a one-time password at
// least once, and tells the sender what became of it.
//
// How a job passes through:
//
//  1. The queue hands out a sealed job; the journal is asked first whether it is known. [F-11]
//  2. It is opened with the day's key. What does not open is dead-lettered with the reason, its
//     sender told "failed", and no other job feels it. [F-2] [F-16]
//  3. Class, expiry and the claimed sender are checked. A claimed number that the registrar confirms
//     goes before the text; one that it does not confirm refuses the job. [F-4] [F-5] [F-6]
//  4. The journal begins the attempt, by create-if-absent: a cancellation or another worker may have
//     been first. Only then are the parts submitted. [F-10] [F-11]
//  5. Every outcome is an event of fallback.Next, which decides. A job in doubt leaves its place in
//     the window to another and waits for a late answer or a receipt. [F-5] [F-7]
//  6. A new state goes to the journal, then to the sender, and only then is the job acknowledged: a
//     crash in between repeats the report, never the SMS. [F-11]
//  7. Receipts find their job through the journal, whichever came first, the receipt or the SMSC's
//     answer, and whichever worker they reach. [F-14]
//
// Guarantees: nothing at rest or in a log names a number or a text, only an HMAC of the number under
// the worker's own key [F-9]; each day has a key of its own, erased a day after it was last published
// [F-2]; when Run returns, nothing it started runs, and every job it had not finished is in the queue.
// What a sender is told is the SMSC's word; it does not prove that anyone read the text.
package worker
