//go:build !faults

package simulator

// In the ordinary build a lean handset keeps every promise; see fault_on.go.

func (h *lean) faultKey(*leanSession) []byte  { return nil }
func (h *lean) reuseKey(*leanSession, []byte) {}
