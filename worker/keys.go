package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// Secrets keeps the workers' day keys. Workers that share a queue must share it, or each could open
// only its own jobs. What is erased must be gone: a job is secret only as long as no key for it is
// left. [F-2]
type Secrets interface {
	// Load returns all that is kept, in any order.
	Load(context.Context) ([][]byte, error)
	// Create keeps a secret under a key id unless there is one, and returns the one kept.
	Create(ctx context.Context, kid byte, secret []byte) ([]byte, error)
	// Erase forgets the secret of a key id; it is no error if there is none.
	Erase(ctx context.Context, kid byte) error
}

// Times of a day key: published from one midnight UTC to the next, and good for a day more, so that
// a job sealed at 23:59 can live for its 24 hours. [F-2] [F-4]
const (
	keyPublished = 24 * time.Hour
	keyLife      = 2 * keyPublished
)

// keyring holds the day keys that are still good.
type keyring struct {
	store Secrets

	mu      sync.Mutex // guards what follows
	secrets map[byte]envelope.WorkerSecret
	today   byte
}

// find returns the key of a job.
func (k *keyring) find(kid byte) (envelope.WorkerSecret, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.secrets[kid]
	return s, ok
}

// current returns the key to publish.
func (k *keyring) current() wire.WorkerKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.secrets[k.today].Key()
}

// rotate erases what is over and makes sure that today has a key, the same for all who share the
// store. The key id is the day's number, so that workers agree on it without talking. [F-2]
func (k *keyring) rotate(ctx context.Context, now time.Time) error {
	kept, err := k.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("worker: day keys: %w", err)
	}
	good := map[byte]envelope.WorkerSecret{}
	for _, b := range kept {
		s, err := envelope.ParseWorkerSecret(b)
		if err != nil {
			return fmt.Errorf("worker: a day key does not parse: %w", err)
		}
		if key := s.Key(); now.Before(wire.Time32(key.NotAfter)) {
			good[key.KID] = s
		} else if err := k.store.Erase(ctx, key.KID); err != nil {
			return fmt.Errorf("worker: erase a day key: %w", err)
		}
	}
	midnight := now.UTC().Truncate(keyPublished)
	kid := byte(midnight.Unix() / int64(keyPublished/time.Second))
	if _, ok := good[kid]; !ok {
		if good[kid], err = k.create(ctx, kid, midnight); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.secrets, k.today = good, kid
	return nil
}

func (k *keyring) create(ctx context.Context, kid byte, midnight time.Time) (envelope.WorkerSecret, error) {
	s, err := envelope.NewWorkerSecret(kid, midnight, midnight.Add(keyLife))
	if err != nil {
		return s, fmt.Errorf("worker: make a day key: %w", err)
	}
	kept, err := k.store.Create(ctx, kid, s.Marshal())
	if err != nil {
		return s, fmt.Errorf("worker: keep a day key: %w", err)
	}
	return envelope.ParseWorkerSecret(kept)
}

// errSigned is a registrar that signed another key than it was asked to.
var errSigned = errors.New("worker: the registrar returned another key")

// publishKeys publishes each day's key as the day begins, and tries again while it cannot. Jobs
// sealed to yesterday's key are worked on all the while. [F-2]
func (w *Worker) publishKeys(ctx context.Context) {
	published := wire.WorkerKey{}
	for pause := time.Second; ; {
		err := w.publishKey(ctx, &published)
		until := time.Until(time.Now().UTC().Truncate(keyPublished).Add(keyPublished))
		if err == nil {
			pause = time.Second
		} else {
			w.cfg.Log.Error("the day key is not published", "err", err, "again_in", pause)
			until, pause = min(until, pause), min(2*pause, time.Minute)
		}
		if !sleep(ctx, until) {
			return
		}
	}
}

func (w *Worker) publishKey(ctx context.Context, published *wire.WorkerKey) error {
	if err := w.keys.rotate(ctx, time.Now()); err != nil {
		return err
	}
	key := w.keys.current()
	if key == *published {
		return nil
	}
	return once(ctx, func(ctx context.Context) error {
		signed, err := w.cfg.Registrar.SignKey(ctx, key)
		if err != nil {
			return err
		}
		unsigned := signed
		unsigned.Sig = wire.Signature{}
		if unsigned != key {
			return errSigned
		}
		if err := w.cfg.Keys.PublishWorkerKey(ctx, signed); err != nil {
			return err
		}
		*published = key
		w.sawKey(key)
		return nil
	})
}

// memory keeps the day keys until the process ends.
type memory struct {
	mu   sync.Mutex
	kept map[byte][]byte
}

// Load returns all keys.
func (m *memory) Load(context.Context) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all [][]byte
	for _, b := range m.kept {
		all = append(all, b)
	}
	return all, nil
}

// Create keeps a key unless there is one.
func (m *memory) Create(_ context.Context, kid byte, secret []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.kept[kid]; ok {
		return b, nil
	}
	if m.kept == nil {
		m.kept = map[byte][]byte{}
	}
	m.kept[kid] = secret
	return secret, nil
}

// Erase forgets a key.
func (m *memory) Erase(_ context.Context, kid byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.kept[kid])
	delete(m.kept, kid)
	return nil
}

// Folder keeps the day keys as files of a folder, which must exist and be closed to others (0700).
// Several workers may share it. A file system that keeps snapshots keeps erased keys, too. [F-2]
type Folder string

// maxSecret bounds what is read of a file.
const maxSecret = 256

func (f Folder) path(kid byte) string {
	return filepath.Join(string(f), fmt.Sprintf("worker-%03d.key", kid))
}

// Load reads all keys.
func (f Folder) Load(context.Context) ([][]byte, error) {
	names, err := filepath.Glob(filepath.Join(string(f), "worker-[0-9][0-9][0-9].key"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(string(f)); err != nil {
		return nil, err
	}
	var all [][]byte
	for _, name := range names {
		b, err := readSecret(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // another worker has erased it
		case err != nil:
			return nil, err
		default:
			all = append(all, b)
		}
	}
	return all, nil
}

// readSecret reads a file, bounded.
func readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	return b, errors.Join(err, f.Close())
}

// Create writes the key aside and links it into place: of two workers, one succeeds, and nobody ever
// reads half a key.
func (f Folder) Create(_ context.Context, kid byte, secret []byte) ([]byte, error) {
	aside, err := os.CreateTemp(string(f), "new-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(aside.Name())
	_, err = aside.Write(secret)
	if err := errors.Join(err, aside.Sync(), aside.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(aside.Name(), f.path(kid)); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readSecret(f.path(kid))
}

// Erase removes the key.
func (f Folder) Erase(_ context.Context, kid byte) error {
	if err := os.Remove(f.path(kid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
