package bridge

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/consent"
	"bluejay/fallback"
	"bluejay/wire"
)

// TestConsentStore: [C-revoke] a saved state is on disk, and of two brokers that change the same one
// exactly one succeeds.
func TestConsentStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	a, b, id := w.dial(t, RoleBroker), w.dial(t, RoleBroker), wire.ID{1}
	st, err := a.Store().Load(t.Context(), id)
	if diff := cmp.Diff(consent.State{}, st); diff != "" || err != nil {
		t.Fatalf("an unknown ID: %v, %s", err, diff)
	}
	st.Gen, st.Cert = 5, &wire.Certificate{ID: id}
	if st.Revision, err = a.Store().Save(t.Context(), id, st); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Store().Save(t.Context(), id, consent.State{Gen: 9}); !errors.Is(err, ErrConflict) {
		t.Errorf("create over a stored state: %v, want ErrConflict", err)
	}
	stale := st
	st.Gen = 6
	if st.Revision, err = a.Store().Save(t.Context(), id, st); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Store().Save(t.Context(), id, stale); !errors.Is(err, consent.ErrConflict) {
		t.Errorf("save over a newer state: %v, want ErrConflict", err)
	}
	w.restart(t, b)
	got, err := b.Store().Load(t.Context(), id)
	if diff := cmp.Diff(st, got); diff != "" || err != nil {
		t.Errorf("after a restart (-want +got): %v\n%s", err, diff)
	}
}

func TestStoreRefusesGarbage(t *testing.T) {
	w := newWorld(t, Limits{})
	b, id := w.dial(t, RoleBroker), wire.ID{1}
	if err := b.consent.put(t.Context(), id.String(), []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Store().Load(t.Context(), id); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("consent: %v", err)
	}
	m := wire.MessageIDOf(nil)
	if err := b.journal.put(t.Context(), m.String(), []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Journal().Get(t.Context(), m); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("journal: %v", err)
	}
	if _, err := b.Jobs().Cancel(t.Context(), m); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("cancel of a spoilt entry: %v", err)
	}
}

// TestCounts: [P-11] compare and set under contention loses nothing.
func TestCounts(t *testing.T) {
	w := newWorld(t, Limits{})
	c, id := w.dial(t, RoleRegistrar).Counts(), wire.ID{1}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for added := 0; added < 5; {
				v, rev, err := c.Load(t.Context(), id)
				if err != nil {
					t.Error(err)
					return
				}
				switch err := c.Save(t.Context(), id, append(v, 1), rev); {
				case err == nil:
					added++
				case !errors.Is(err, ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if v, _, err := c.Load(t.Context(), id); err != nil || len(v) != 20 {
		t.Errorf("%d additions, %v; want 20", len(v), err)
	}
	if err := c.Save(t.Context(), id, make([]byte, maxValue+1), 0); !errors.Is(err, wire.TooLarge) {
		t.Errorf("a huge value: %v", err)
	}
}

// TestJournal: [F-11] begin once, replace what was read and nothing newer, put at will; all of it survives a
// restart.
func TestJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	j, id := w.dial(t, RoleWorker).Journal(), wire.MessageIDOf([]byte("job"))
	if e, ok, err := j.Get(t.Context(), id); ok || err != nil {
		t.Fatalf("nothing yet: %+v, %v", e, err)
	}
	want := fallback.Entry{
		Owner: "w1", Attempt: 1, At: time.Unix(1795241969, 0).UTC(), ExpiresAt: time.Unix(1795251969, 0).UTC(),
		NumberHash: [16]byte{1, 2}, Sender: alice, Parts: 2, SMSCIDs: []string{"a", ""}, Urgent: true,
	}
	want = must(j.Begin(t.Context(), id, want))(t)
	got, err := j.Begin(t.Context(), id, fallback.Entry{Owner: "w2"})
	if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, fallback.ErrExists) {
		t.Errorf("begin again: %v (-want +got):\n%s", err, diff)
	}
	late := want
	want.State = wire.JobSubmitted
	want = must(j.Replace(t.Context(), id, want))(t)
	got, err = j.Replace(t.Context(), id, late)
	if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, fallback.ErrExists) {
		t.Errorf("replace what is not there any more: %v (-want +got):\n%s", err, diff)
	}
	if err := j.Put(t.Context(), id, late); err != nil {
		t.Fatal(err)
	}
	if got, err = j.Replace(t.Context(), id, want); !errors.Is(err, fallback.ErrExists) || got.Revision <= want.Revision {
		t.Errorf("replace what was put over: %+v, %v", got, err)
	}
	want.Revision = got.Revision
	want = must(j.Replace(t.Context(), id, want))(t)
	w.restart(t, j.b)
	got, ok, err := j.Get(t.Context(), id)
	if diff := cmp.Diff(want, got); diff != "" || !ok || err != nil {
		t.Errorf("after a restart: %v, %v (-want +got):\n%s", ok, err, diff)
	}
	many := fallback.Entry{SMSCIDs: make([]string, maxValue)}
	if err := j.Put(t.Context(), id, many); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a huge entry: %v", err)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte(`{"state":11,"at":"2026-11-21T06:00:00Z","expires_at":"2026-11-22T06:00:00Z"}`))
	f.Add([]byte(`{"state":250}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		again, err := encodeEntry(e)
		if err != nil {
			return // a time that JSON cannot write, or too large
		}
		if back, err := decodeEntry(again); err != nil || fmt.Sprint(back) != fmt.Sprint(e) {
			t.Errorf("%+v became %+v, %v", e, back, err)
		}
	})
}
