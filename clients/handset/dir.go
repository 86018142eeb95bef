package handset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrLocked reports a state directory that another process (or another Handset) has open.
var ErrLocked = errors.New("handset: this state directory is in use by another process; stop that one first")

// ErrExposed reports a state directory that others on this machine can read. [U-7]
var ErrExposed = errors.New("handset: others can read this state directory, which holds private keys and texts; " +
	"if you trust them, chmod it to 0700 and its files to 0600, else enrol again in an empty one")

// ErrCopied reports a state directory that is not where it was made. Two copies in use would
// encrypt different texts under the same key. [U-7]
var ErrCopied = errors.New("handset: this state directory was copied or moved; use the original, " +
	"or open this one with Config.Moved if the original is gone: conversations then begin anew")

const lockName = "lock"

// place is where a state directory is: inode and device of the directory, inode of the lock file.
type place [24]byte

func makePlace(dirDev, dirIno, lockIno uint64) place {
	var p place
	binary.BigEndian.PutUint64(p[0:], dirDev)
	binary.BigEndian.PutUint64(p[8:], dirIno)
	binary.BigEndian.PutUint64(p[16:], lockIno)
	return p
}

// stateDir is a locked state directory of the operating system.
type stateDir struct {
	path string
	lock *os.File
}

// openDir creates the directory if it is not there, checks who may read it, and locks it. [U-7]
func openDir(path string) (*stateDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("handset: state directory: %w", err)
	}
	if err := checkModes(path); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("handset: lock file: %w", err)
	}
	if err := flock(lock); err != nil {
		return nil, errors.Join(ErrLocked, lock.Close())
	}
	return &stateDir{path, lock}, nil
}

// checkModes refuses what others can read; a directory that is still empty is made private.
func checkModes(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("handset: state directory: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("handset: state directory: %w", err)
	}
	if len(entries) == 0 && exposed(info) {
		return os.Chmod(path, 0o700)
	}
	if exposed(info) {
		return ErrExposed
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && exposed(info) {
			return ErrExposed
		}
	}
	return nil
}

// where identifies the directory, to tell a copy.
func (d *stateDir) where() (place, error) {
	dev, dir, err := inode(d.path)
	if err != nil {
		return place{}, err
	}
	_, lock, err := inode(filepath.Join(d.path, lockName))
	return makePlace(dev, dir, lock), err
}

func (d *stateDir) Read(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(d.path, name))
}

func (d *stateDir) Append(name string, create bool) (diskFile, error) {
	flags := os.O_WRONLY | os.O_APPEND
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(filepath.Join(d.path, name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d *stateDir) Rename(from, to string) error {
	return os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to))
}

func (d *stateDir) Remove(name string) error { return os.Remove(filepath.Join(d.path, name)) }

// Sync makes names durable, which a sync of the file alone does not.
func (d *stateDir) Sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// close releases the lock.
func (d *stateDir) close() error { return d.lock.Close() }

// osFile is a file whose Sync writes the data and its length, not its times.
type osFile struct{ *os.File }

func (f osFile) Sync() error { return datasync(f.File) }
