//go:build !unix

package main

import "os"

// hidePassword does nothing here: the broker's process keeps the environment it was started with.
func hidePassword() error { return nil }

func passwordFile() *os.File { return nil }
