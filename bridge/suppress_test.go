package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/fallback"
	"bluejay/wire"
)

// TestSuppressions: put on, found by any worker, taken off without a trace; others are not touched. [F-17]
func TestSuppressions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	a, b := w.dial(t, RoleWorker).Suppressions(), w.dial(t, RoleWorker).Suppressions()
	n, other := [16]byte{1, 2, 3}, [16]byte{0xff}
	said := fallback.Suppression{At: time.Now().UTC().Truncate(time.Second), Cause: fallback.CauseStop, Sealed: []byte("sealed")}
	if _, ok, err := a.Suppressed(t.Context(), n); ok || err != nil {
		t.Fatalf("before: %v, %v", ok, err)
	}
	if err := errors.Join(a.Suppress(t.Context(), n, said), a.Suppress(t.Context(), other, fallback.Suppression{Cause: fallback.CauseOperator})); err != nil {
		t.Fatal(err)
	}
	got, ok, err := b.Suppressed(t.Context(), n)
	if diff := cmp.Diff(said, got); !ok || err != nil || diff != "" {
		t.Errorf("%v, %v: %s", ok, err, diff)
	}
	w.restart(t, a.b, b.b)
	seen := map[[16]byte]string{}
	err = b.Each(t.Context(), func(n [16]byte, s fallback.Suppression) error {
		seen[n] = s.Cause
		_, _, err := b.Suppressed(t.Context(), n) // it may use the bucket
		return err
	})
	if err != nil || len(seen) != 2 || seen[n] != fallback.CauseStop {
		t.Errorf("each: %v, %v", seen, err)
	}
	if err := errors.Join(b.Lift(t.Context(), n), b.Lift(t.Context(), n)); err != nil {
		t.Error(err)
	}
	if _, ok, err := a.Suppressed(t.Context(), n); ok || err != nil {
		t.Errorf("lifted: %v, %v", ok, err)
	}
	stop := errors.New("enough")
	if err := b.Each(t.Context(), func([16]byte, fallback.Suppression) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the caller's: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Each(ended, func([16]byte, fallback.Suppression) error { return nil }); err == nil {
		t.Error("each after the end")
	}
	if err := a.Suppress(t.Context(), n, fallback.Suppression{Sealed: make([]byte, maxValue)}); !errors.Is(err, wire.TooLarge) {
		t.Errorf("too large: %v", err)
	}
}

// TestCaps: what several workers add at once is counted once each, and what is taken back is. [F-21]
func TestCaps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	key := "20261124.number.AbC_-9"
	var adding sync.WaitGroup
	for range 4 {
		c := w.dial(t, RoleWorker).Caps()
		adding.Go(func() {
			for range 50 {
				if _, err := c.Add(t.Context(), key, 3); err != nil {
					t.Error(err)
				}
			}
		})
	}
	adding.Wait()
	c := w.dial(t, RoleWorker).Caps()
	if total, err := c.Add(t.Context(), key, -100); total != 500 || err != nil {
		t.Errorf("%d, %v", total, err)
	}
	if total, err := c.Add(t.Context(), key, 0); total != 500 || err != nil {
		t.Errorf("asked only: %d, %v", total, err)
	}
	if total, err := c.Add(t.Context(), "20261125.number.AbC_-9", 1); total != 1 || err != nil {
		t.Errorf("another day: %d, %v", total, err)
	}
	for _, bad := range []string{"", "20261124.number", "20261124.number.*", "20261124.number.a.b", "2026.number.a", "20261124.Number.a", "20261124.number." + strings.Repeat("a", 65), ">"} {
		if _, err := c.Add(t.Context(), bad, 1); !errors.Is(err, wire.NotAllowed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestCapsRestart: what was spent is known after the server has ended and come back, and counting goes
// on without a broker that makes the stream again. [F-21]
func TestCapsRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	b := w.dial(t, RoleWorker)
	key := "20261124.all.x"
	if _, err := b.Caps().Add(t.Context(), key, 7); err != nil {
		t.Fatal(err)
	}
	w.restart(t, b)
	if total, err := b.Caps().Add(t.Context(), key, 1); total != 8 || err != nil {
		t.Errorf("after a restart: %d, %v; want 8", total, err)
	}
}

// TestJournalEach: every entry once, whatever there was before; more than is read ahead.
func TestJournalEach(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	j := w.dial(t, RoleWorker).Journal()
	if err := j.Each(t.Context(), func(wire.MessageID, fallback.Entry) error { t.Error("an entry"); return nil }); err != nil {
		t.Errorf("an empty journal: %v", err)
	}
	const n = 2*eachAhead + 7
	for i := range n {
		id := wire.MessageIDOf(fmt.Append(nil, i))
		if err := j.Put(t.Context(), id, fallback.Entry{State: wire.JobSubmitted, Attempt: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 { // the newer entry counts, and once
		if err := j.Put(t.Context(), wire.MessageIDOf(fmt.Append(nil, i)), fallback.Entry{State: wire.JobDelivered, Attempt: 1}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[wire.MessageID]wire.JobState{}
	err := j.Each(t.Context(), func(id wire.MessageID, e fallback.Entry) error {
		if _, twice := seen[id]; twice {
			t.Errorf("%v twice", id)
		}
		seen[id] = e.State
		return nil
	})
	if err != nil || len(seen) != n || seen[wire.MessageIDOf([]byte("3"))] != wire.JobDelivered {
		t.Errorf("%d of %d, %v", len(seen), n, err)
	}
}

// TestHeldSeesWhatMoves: a row that is saved again while the journal is read, as when its files are rewritten, moves to
// the end of the stream. Whoever asks what is held hears of it all the same, and an erasure finds it. [H-1] [H-6]
func TestHeldSeesWhatMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	j := w.dial(t, RoleWorker).Journal()
	const n = 2*eachAhead + 7
	entry := func(i int) fallback.Entry {
		return fallback.Entry{State: wire.JobSubmitted, Attempt: i, At: time.Now()}
	}
	id := func(i int) wire.MessageID { return wire.MessageIDOf(fmt.Append(nil, i)) }
	for i := range n {
		if err := j.Put(t.Context(), id(i), entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	seen, calls := map[string]int{}, 0
	err := j.EachHeld(t.Context(), func(h wire.Held, e fallback.Entry) error {
		if calls++; calls == 1 {
			for i := n - 20; i < n; i++ {
				if err := j.Put(t.Context(), id(i), entry(i)); err != nil {
					return err
				}
			}
		}
		seen[h.Key]++
		return nil
	})
	if err != nil || len(seen) != n {
		t.Errorf("%d of %d rows, %v", len(seen), n, err)
	}
}

// TestHeldRestIsRemoved: what is removed while the journal is read is not waited for. [H-1]
func TestHeldRestIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	j := w.dial(t, RoleWorker).Journal()
	const n = 2*eachAhead + 7
	for i := range n {
		if err := j.Put(t.Context(), wire.MessageIDOf(fmt.Append(nil, i)), fallback.Entry{State: wire.JobSubmitted, Attempt: 1, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := j.b.js.Stream(t.Context(), kvStream+wire.BucketJournal)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	calls := 0
	err = j.EachHeld(ctx, func(wire.Held, fallback.Entry) error {
		if calls++; calls > 1 {
			return nil
		}
		return s.Purge(ctx)
	})
	if err != nil || calls == 0 || calls == n {
		t.Errorf("%d calls, %v", calls, err)
	}
}
