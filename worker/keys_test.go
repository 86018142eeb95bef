package worker

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// TestKeyDays: a key a day, each good for two, the oldest erased. [F-2]
func TestKeyDays(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		root := wire.PublicKey(w.root.Public().(ed25519.PublicKey))
		var late wire.MessageID
		for day := range 5 {
			w.wait(time.Hour)
			if len(w.published) != day+1 {
				t.Fatalf("day %d: %d keys published", day, len(w.published))
			}
			k := w.published[day]
			if err := k.Verify(root, time.Now()); err != nil {
				t.Errorf("day %d: %v", day, err)
			}
			if got := wire.Time32(k.NotAfter).Sub(wire.Time32(k.NotBefore)); got != 48*time.Hour {
				t.Errorf("day %d: good for %v", day, got)
			}
			if late != (wire.MessageID{}) && w.told(late) != "submitted" {
				t.Errorf("day %d: a job sealed before midnight: told %q", day, w.told(late))
			}
			kept, err := p.cfg.Secrets.Load(t.Context())
			if err != nil || len(kept) != min(day+1, 2) {
				t.Errorf("day %d: %d keys kept, %v", day, len(kept), err)
			}
			w.wait(22*time.Hour + 59*time.Minute + 58*time.Second)
			j := w.job(secret)
			j.ExpiresAt = time.Now().Add(24 * time.Hour)
			late = sealedBy(t, w, k, j)
		}
		p.stop()
	})
}

// sealedBy queues, just after midnight, a job sealed just before.
func sealedBy(t *testing.T, w *world, k wire.WorkerKey, j envelope.Job) wire.MessageID {
	t.Helper()
	payload, err := envelope.SealJob(k, j)
	if err != nil {
		t.Fatal(err)
	}
	w.wait(2 * time.Second)
	id := wire.MessageIDOf(payload)
	w.push(&delivery{id: id, sender: pseudonym, payload: payload, times: 1})
	return id
}

// TestKeyNotPublished: a registrar or a broker that is away is asked again, and jobs go on. [F-2]
func TestKeyNotPublished(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.keyFails = 5
		p := w.start()
		w.wait(time.Minute)
		if len(w.published) != 1 {
			t.Errorf("%d keys published", len(w.published))
		}
		p.stop()
	})
	bubble(t, "a registrar that signs another key", func(t *testing.T) {
		w := newWorld(t)
		p := w.start(func(c *Config, p *ports) { c.Registrar = wrongSigner{p} })
		w.wait(time.Hour)
		if len(w.published) != 0 {
			t.Errorf("%d keys published that nobody here can open", len(w.published))
		}
		p.stop()
	})
}

type wrongSigner struct{ *ports }

func (s wrongSigner) SignKey(ctx context.Context, k wire.WorkerKey) (wire.WorkerKey, error) {
	k.Public[0] ^= 1
	return s.ports.SignKey(ctx, k)
}

// TestKeyRestart: a restarted worker opens what was sealed before, from a folder. [F-2]
func TestKeyRestart(t *testing.T) {
	folder := Folder(t.TempDir())
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		first := w.start(func(c *Config, _ *ports) { c.Secrets = folder })
		w.key()
		first.stop()
		id := w.send(w.job(secret))
		second := w.start(func(c *Config, _ *ports) { c.Secrets = folder })
		w.wait(time.Second)
		if w.told(id) != "submitted" || len(w.published) != 2 || w.published[0].Public != w.published[1].Public {
			t.Errorf("told %q; %d keys published", w.told(id), len(w.published))
		}
		second.stop()
	})
}

// TestFolder: one winner of many, nothing left aside, nothing readable by others. [F-2]
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	f := Folder(dir)
	var wg sync.WaitGroup
	got := make([]string, 16)
	for i := range got {
		wg.Go(func() {
			b, err := f.Create(t.Context(), 7, []byte{byte(i), 1, 2, 3})
			if err != nil {
				t.Error(err)
			}
			got[i] = string(b)
		})
	}
	wg.Wait()
	for _, s := range got {
		if s != got[0] || len(s) != 4 {
			t.Errorf("two workers got two keys: %q and %q", s, got[0])
		}
	}
	all, err := f.Load(t.Context())
	if err != nil || len(all) != 1 || string(all[0]) != got[0] {
		t.Errorf("Load: %q, %v", all, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	info, err := files[0].Info()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for range 2 { // erasing twice is no error
		if err := f.Erase(t.Context(), 7); err != nil {
			t.Error(err)
		}
	}
	if all, err = f.Load(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("after erasing: %q, %v", all, err)
	}
}

func TestFolderBroken(t *testing.T) {
	missing := Folder(filepath.Join(t.TempDir(), "missing"))
	if _, err := missing.Load(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load: %v", err)
	}
	if _, err := missing.Create(t.Context(), 1, nil); err == nil {
		t.Error("Create in a folder that is not there")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "worker-001.key"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	ring := keyring{store: Folder(dir)}
	if err := ring.rotate(t.Context(), time.Now()); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a broken key file: %v", err)
	}
}
