//go:build !linux

package handset

import (
	"io/fs"
	"os"
)

// Elsewhere than on Linux the directory is neither locked nor recognised when copied: the
// platform's own application sandbox is relied on.

func datasync(f *os.File) error { return f.Sync() }

func flock(*os.File) error { return nil }

func exposed(fs.FileInfo) bool { return false }

func inode(string) (dev, ino uint64, err error) { return 0, 0, nil }
