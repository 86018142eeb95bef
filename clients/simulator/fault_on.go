//go:build faults

package simulator

import (
	"os"

	"bluejay/envelope"
)

// A build with the tag faults can break a promise on purpose; see hooks/faults_on.go. The handset's
// fault is to load an older state of a session after a newer one was used: the next message is then
// sealed with a key that was used before. [S-12]

// faultKey is the state of a session before it seals; nil: no fault.
func (h *lean) faultKey(s *leanSession) []byte {
	if os.Getenv("BJ_FAULT") != "reused-key" {
		return nil
	}
	return s.Marshal()
}

// reuseKey goes back to that state.
func (h *lean) reuseKey(s *leanSession, before []byte) {
	if before == nil {
		return
	}
	if old, err := envelope.ParseSession(before); err == nil {
		s.Session = old
	}
}
