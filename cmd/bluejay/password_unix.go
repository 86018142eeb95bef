//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// hidePassword takes the SMSC's password out of a process that is to be the broker, for good: an
// environment can be read from /proc as long as its process lives, so the password goes into a pipe
// that only the worker will read, and this process starts itself anew without it. It returns at once
// if there is nothing to hide.
func hidePassword() error {
	password, given := os.LookupEnv(envPassword)
	if !given {
		return nil
	}
	if len(password) > maxSecret {
		return errors.New(envPassword + " is too long")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fd, err := pipeWith(password)
	if err != nil {
		return fmt.Errorf("handing the SMS password on: %w", err)
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, envPassword+"=") })
	return syscall.Exec(self, os.Args, append(env, envPasswordFD+"="+strconv.Itoa(fd)))
}

// pipeWith returns a descriptor that survives exec, and from which s can be read once.
func pipeWith(s string) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	_, err = w.WriteString(s) // within a pipe's buffer
	fd, err2 := syscall.Dup(int(r.Fd()))
	return fd, errors.Join(err, w.Close(), err2, r.Close())
}

// passwordFile is the pipe that hidePassword left, nil if there is none. No child but the one that
// it is given to inherits it.
func passwordFile() *os.File {
	fd, err := strconv.Atoi(os.Getenv(envPasswordFD))
	if err != nil {
		return nil
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "SMS password")
}
