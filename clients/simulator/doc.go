// Package simulator runs a fleet of handsets against a node and judges every text.
//
// It decides in pure code and acts at the edge:
//
//  1. A [Profile] says how people behave and over which links; a seed and it make a [Schedule], the
//     same one each time.
//  2. Real handsets are package handset on paho, each with a state directory. Lean handsets write
//     the same bytes with the same session crypto, keep their state in memory, and cost no goroutine.
//  3. Every packet that a handset writes or reads passes the [Ledger] on its way, which also hears
//     from handsets what they store and tell their users, and from the phone network what it took.
//  4. The ledger holds each of these against what the spec promises, and calls what does not fit a
//     [Violation], with the history of the text.
//  5. What is measured goes into [Figures]: latency counts from the time a text was to be written,
//     so that a stall of the node or of the simulator itself is not left out.
//
// What a run without a violation proves: in this run nothing happened that the spec forbids, as far
// as handsets, packets and the SMSC's record show it. It proves nothing about what a node stores.
package simulator
