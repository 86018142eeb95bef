//go:build faults

package hooks

import "os"

// A build with the tag faults breaks one promise on purpose, the one that BJ_FAULT names, so that the
// simulator can be seen to find it. It is for `make faults`, and for nothing else.
var (
	faultEarlyPuback     = fault("early-puback")              // the PUBACK goes out before the recipient's has come [C-1]
	faultDoubleDelivery  = fault("double-delivery")           // every text is written twice [C-3]
	faultAfterRevocation = fault("delivery-after-revocation") // an opt-out is acknowledged and ends nothing [C-revoke]
	faultWrongTag        = fault("wrong-tag")                 // some texts go to somebody else's connection [P-10]
	faultStaleBlue       = fault("stale-blue")                // who leaves stays blue [P-18]
	faultLostReturn      = fault("lost-return")               // a sender is not told that a text is undeliverable [C-2]
)

func fault(name string) bool { return os.Getenv("BJ_FAULT") == name }
