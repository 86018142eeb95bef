package handset

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// One process at a time; the next may have it once the first has closed. [U-7]
func TestLock(t *testing.T) {
	path := privateDir(t)
	d, err := openDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDir(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.close(); err != nil {
		t.Error(err)
	}
}

// What others can read is refused, except an empty directory, which is made private. [U-7]
func TestModes(t *testing.T) {
	tests := []struct {
		name      string
		dir, file os.FileMode // file 0: none
		want      error
	}{
		{"private", 0o700, 0o600, nil},
		{"empty and open", 0o755, 0, nil},
		{"others can list it", 0o755, 0o600, ErrExposed},
		{"others can read a file", 0o700, 0o644, ErrExposed},
		{"the group can read a file", 0o700, 0o640, ErrExposed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := privateDir(t)
			if tt.file != 0 {
				writeFile(t, filepath.Join(path, "log"), nil, tt.file)
			}
			if err := os.Chmod(path, tt.dir); err != nil {
				t.Fatal(err)
			}
			d, err := openDir(path)
			if !errors.Is(err, tt.want) {
				t.Fatalf("open: %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("mode %v, want 0700 (%v)", info.Mode().Perm(), err)
			}
			if err := d.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func writeFile(t *testing.T, path string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// The files of a handset are private from the moment they are made. [U-7]
func TestFilesArePrivate(t *testing.T) {
	path := privateDir(t)
	d, err := openDir(path)
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, d)
	if err := s.rewrite(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600 (%v)", e.Name(), info.Mode().Perm(), err)
		}
	}
	if err := errors.Join(s.close(), d.close()); err != nil {
		t.Error(err)
	}
}
