// Package worker turns sealed jobs into SMS, a normal one at most once and a one-time password at
// least once, and tells the sender what became of it.
//
// How a job passes through:
//
//  1. The queue hands out a sealed job; the journal is asked first whether it is known. [F-11]
//  2. It is opened with the day's key. What does not open is dead-lettered with the reason, its
//     sender told "failed", and no other job feels it. [F-2] [F-16]
//  3. Expiry, route, quiet hours, the claimed sender, length and caps are checked, in this order. A
//     claimed number that the registrar confirms goes before the text; one that it does not confirm
//     refuses the job. [F-4] [F-6] [F-21] [F-22] [F-23]
//  4. It waits for its route: a link, a place in the window, the pace. Only then does the journal begin
//     the attempt, by create-if-absent: a cancellation or another worker may have been first. The
//     suppression list is asked last, and at once the parts are submitted. [F-10] [F-11] [F-17]
//  5. Every outcome is an event of fallback.Next, which decides. A job in doubt leaves its place in
//     the window to another and waits for a late answer or a receipt. [F-5] [F-7]
//  6. A new state goes to the journal, over the entry it was made from and no other, then to the sender and
//     to whoever follows transitions, and only then is the job acknowledged: a crash in between repeats the
//     report, never the SMS, and a worker that stood still finds that another moved the job on. [F-7] [F-11] [F-20]
//  7. Receipts find their job through the journal, whichever came first, the receipt or the SMSC's
//     answer, and whichever worker they reach. Where none comes, a sweep ends the job. [F-14] [F-24]
//  8. What people send back is read for STOP, START and HELP and dropped. A STOP is on the list before
//     the network is answered, and its consent is revoked by and by. [F-18] [F-19]
//
// Guarantees: nothing at rest or in a log names a number or a text, only an HMAC of the number under
// the worker's own key, and a number that said STOP, sealed to the registrar until that is carried out
// [F-9]; each day has a key of its own, erased a day after it was last published [F-2]; when Run
// returns, nothing it started runs, and every job it had not finished is in the queue. What a sender is
// told is the SMSC's word; it does not prove that anyone read the text.
//
// What it does not prevent: a STOP that comes while a long text waits for the turn of its next part is
// too late for that text. A STOP at one worker and a START at another within the same moment
// may end either way. With an SMSC that gives every text the same id, the receipt of a text that ended
// unknown may be taken for that of the next text to the same number; and with several workers on such a
// route, a receipt that reaches another worker before the answer is journalled, for that of an older text.
package worker
