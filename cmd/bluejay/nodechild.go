package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// nodeChild is `bluejay serve` as anybody would run it, in processes of its own, its log in the node's
// directory. It ends with its input. Zero value: not started.
type nodeChild struct {
	cmd *exec.Cmd
	in  io.Closer
	out io.Reader
}

// startNodeChild starts it; env is added to the environment.
func startNodeChild(dir string, args []string, env ...string) (c nodeChild, err error) {
	self, err := os.Executable()
	if err != nil {
		return c, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return c, err
	}
	defer func() { _ = log.Close() }()
	c.cmd = exec.Command(self, append([]string{"serve", "--json", "--dir", dir}, args...)...)
	c.cmd.Env, c.cmd.Stderr = append(append(plainEnv(), childEnv+"=1"), env...), log
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nodeChild{}, err
	}
	if c.out, err = c.cmd.StdoutPipe(); err != nil {
		return nodeChild{}, err
	}
	if err := c.cmd.Start(); err != nil {
		return nodeChild{}, err
	}
	return c, nil
}

// stop ends the node by ending its input, and waits for it; again, it does nothing.
func (c *nodeChild) stop() error {
	if c.in == nil {
		return nil
	}
	_ = c.in.Close()
	c.in = nil
	kill := time.AfterFunc(stopTime, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	return c.cmd.Wait()
}

// errNodeEnded reports a node that was not ready when it ended.
var errNodeEnded = errors.New("the node ended before it was ready: see its log (run this with --keep DIR)")
