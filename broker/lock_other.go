//go:build !unix || aix || solaris

package broker

import "os"

// flock locks nothing here: that two brokers do not share a directory is the operator's to see to.
func flock(*os.File) error { return nil }
