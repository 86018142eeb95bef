// Package bluejay holds no code: it is the root of the module, where the
// tests live that read the whole tree.
//
//  1. layout_test.go enforces who may import whom, and what may not appear
//     where: goroutines, plain phone numbers, panics.
//  2. ruler_test.go measures the code: documentation, lengths, proportions.
//  3. spec_test.go checks that each numbered sentence of spec/ is cited both by
//     the code that keeps it and by a test that would notice if it did not.
//
// They read sources, not behaviour: that a sentence is cited does not prove
// that it is kept.
package bluejay
