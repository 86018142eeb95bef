package handset

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// datasync writes the file's data and length to the device.
func datasync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// flock takes the lock that ends with the process, however it ends.
func flock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// exposed reports whether the group or others have any right to it.
func exposed(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }

// inode identifies a file on this machine.
func inode(path string) (dev, ino uint64, err error) {
	var st syscall.Stat_t
	err = syscall.Stat(path, &st)
	return uint64(st.Dev), st.Ino, err
}
