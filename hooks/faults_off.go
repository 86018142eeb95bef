//go:build !faults

package hooks

// In the ordinary build no promise is broken on purpose: these are constants, and what they guard is
// not compiled. The build tag faults makes them settings; see faults_on.go.
const (
	faultEarlyPuback     = false
	faultDoubleDelivery  = false
	faultAfterRevocation = false
	faultWrongTag        = false
	faultStaleBlue       = false
	faultLostReturn      = false
)
