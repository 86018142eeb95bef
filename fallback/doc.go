// Package fallback decides whether, when and how a text goes another way than over IP. It decides
// only: it opens no connection, starts no goroutine and reads no clock.
//
// How a text becomes an SMS:
//
//  1. The sender's handset knows the icon, the SIM and the user's wish: [Decide] picks the path and
//     says how many parts it will take, before anything is sent. [F-1]
//  2. Short codes and emergency numbers never come this far: [OwnSMSOnly]. [F-12]
//  3. A sealed job reaches a worker, whose every step is a row of one table: [Next]. [F-7]
//  4. What the journal remembers of a job is an [Entry]; it is written before the SMSC is. [F-11]
//  5. The recipient's handset folds an SMS copy into the text it already shows: [Match]. [F-13]
//
// Guarantees: a job of class normal is never submitted again once it may have been written; a final
// state is never left; no decision costs the user an SMS that the user was not shown.
package fallback
