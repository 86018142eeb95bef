// Package handset is the device SDK: what a phone, a terminal or a simulated phone builds on.
//
// The life of a handset:
//
//  1. [Open] opens a state directory. Nothing is sent: before the user has accepted the
//     [Handset.Notice] there is no connection at all. [U-1]
//  2. [Handset.Enrol] and [Handset.Confirm] prove the number and store a certificate;
//     [Handset.OptIn] signs what the user agrees to and stores the broker's receipt.
//  3. [Handset.Connect] keeps the device connected. [Handset.AddContact] looks a number up once.
//  4. [Handset.Send] puts a text into the outbox, on disk, and returns. A hello opens the
//     conversation; from then on texts travel to the contact's own inbox. [Handset.Events] tells
//     what becomes of them: waiting, delivered, SMS sent, SMS delivered, failed. [U-3]
//  5. While a contact is grey the policy of package fallback decides between the phone's own SMS,
//     the gateway, a question, and waiting. [F-1]
//  6. [Handset.OptOut] ends it, and returns when nothing goes to or from the device any more.
//
// How it is built: the model decides everything, from events with their time to effects, and is
// pure but for the randomness of keys. The log makes a decision durable, and only then is it
// carried out: by the courier over MQTT 3.1.1, by the SIM, by events. [U-6]
//
// What is promised:
//
//   - A text that Send has accepted is on disk until it has a final state, whatever crashes.
//   - A text that came in is on disk before the broker is told that it was delivered.
//   - No key is used twice: session state is on disk before what it sealed is sent, and a state
//     directory that was copied, or that is older than the broker has seen, is refused. [U-7]
//   - Numbers, texts and keys neither print themselves nor appear in logs and errors.
//
// "Delivered" means that the recipient's handset has stored the text; it does not prove that a
// person has read it.
package handset
