package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/fallback"
	"bluejay/wire"
)

// files lists the files below the server's directory in which a string stands.
func (w *world) files(t testing.TB, s string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(s)) {
			found = append(found, path[len(w.dir):])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// rewritten waits until a bucket owes no rewriting.
func rewritten(t testing.TB, k *bucket) {
	t.Helper()
	eventually(t, k.name+" is rewritten", func() bool { owed, err := k.owed(t.Context()); return err == nil && !owed })
}

// TestEraseLeavesNoByte: an ID that has been through many revisions stands in the files of both buckets;
// after an erasure in no file of the server, and what belongs to others is as it was. [H-6] [H-8]
func TestEraseLeavesNoByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	b, r := w.dial(t, RoleBroker), w.dial(t, RoleRegistrar)
	for _, who := range []*Bridge{b, r} {
		if err := who.ServeQuestions(Questions{}); err != nil {
			t.Fatal(err)
		}
	}
	gone := wire.ID{0xde, 0xad, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	device := wire.PublicKey([]byte("a device key of thirty-two bytes"))
	others := make([]wire.ID, 40)
	revisions := map[wire.ID]uint64{}
	for i := range others {
		others[i] = wire.ID{byte(i + 1)}
	}
	for gen := range uint32(5) {
		for _, id := range append(others, gone) {
			st := consent.State{Gen: gen, Revision: revisions[id], Cert: &wire.Certificate{ID: id, Device: device}}
			rev, err := b.Store().Save(t.Context(), id, st)
			if err != nil {
				t.Fatal(err)
			}
			revisions[id] = rev
			v, had, err := r.Counts().Load(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Counts().Save(t.Context(), id, append(v, id[:]...), had); err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, needle := range map[string]string{"as a key": gone.String(), "in a value": string(gone[:])} {
		if found := w.files(t, needle); len(found) == 0 {
			t.Fatalf("the scan does not find the ID %s before", what)
		}
	}
	if err := b.Store().Erase(t.Context(), gone, revisions[gone]-1); !errors.Is(err, ErrConflict) {
		t.Errorf("a state that has changed since: %v", err)
	}
	if err := errors.Join(b.Store().Erase(t.Context(), gone, revisions[gone]), r.Counts().Erase(t.Context(), gone)); err != nil {
		t.Fatal(err)
	}
	rewritten(t, &b.consent)
	rewritten(t, &r.counts)
	for _, id := range others {
		st, err := b.Store().Load(t.Context(), id)
		if err != nil || st.Gen != 4 || st.Cert == nil {
			t.Errorf("another's state: %+v, %v", st, err)
		}
		if v, _, err := r.Counts().Load(t.Context(), id); err != nil || len(v) != 60 {
			t.Errorf("another's counts: %d bytes, %v", len(v), err)
		}
	}
	if st, err := b.Store().Load(t.Context(), gone); err != nil || st.Cert != nil || st.Revision != 0 {
		t.Errorf("the erased state: %+v, %v", st, err)
	}
	w.stop() // which writes the index anew
	defer w.serve(t)
	for what, needle := range map[string]string{"as a key": gone.String(), "in a value": string(gone[:])} {
		if found := w.files(t, needle); len(found) != 0 {
			t.Errorf("%s it still stands in %v [H-8]", what, found)
		}
	}
}

// TestRewriteIsResumed: filler without a rewriting is what a crash leaves; whoever serves next ends it. [H-8]
func TestRewriteIsResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	b, id := w.dial(t, RoleBroker), wire.ID{7, 7, 7}
	rev, err := b.Store().Save(t.Context(), id, consent.State{Gen: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.consent.owe(t.Context()), b.consent.forget(t.Context(), id.String(), rev)); err != nil {
		t.Fatal(err)
	}
	w.restart(t, b)
	if err := b.ServeQuestions(Questions{}); err != nil {
		t.Fatal(err)
	}
	rewritten(t, &b.consent)
	w.stop()
	defer w.serve(t)
	if found := w.files(t, id.String()); len(found) != 0 {
		t.Errorf("it still stands in %v", found)
	}
}

// TestRewriteMeetsWrites: who saves while a bucket is rewritten loses nothing, by compare and set. [H-8]
func TestRewriteMeetsWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	r := w.dial(t, RoleRegistrar)
	c, id := r.Counts(), wire.ID{1}
	for range 3 {
		if err := c.Erase(t.Context(), wire.ID{2}); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			for {
				v, rev, err := c.Load(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				if err = c.Save(t.Context(), id, append(v, 1), rev); err == nil {
					break
				} else if !errors.Is(err, ErrConflict) {
					t.Fatal(err)
				}
			}
		}
	}
	rewritten(t, &r.counts)
	if v, _, err := c.Load(t.Context(), id); err != nil || len(v) != 180 {
		t.Errorf("%d of 180 writes, %v", len(v), err)
	}
}

// TestForgetLeavesNewer: what is stored under a key after the removal began stays. [H-6]
func TestForgetLeavesNewer(t *testing.T) {
	w := newWorld(t, Limits{})
	b, id := w.dial(t, RoleBroker), wire.ID{1}
	if err := b.Store().Erase(t.Context(), id, 0); err != nil {
		t.Errorf("an ID that was never there: %v", err)
	}
	rev, err := b.Store().Save(t.Context(), id, consent.State{Gen: 9})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Store().Erase(t.Context(), id, rev+1); !errors.Is(err, ErrConflict) {
		t.Errorf("another revision: %v", err)
	}
	if st, err := b.Store().Load(t.Context(), id); err != nil || st.Gen != 9 {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestVoid: an erased device's certificate makes no state anew; a newer one does, and so does another
// device's. What is stored names neither. [H-7]
func TestVoid(t *testing.T) {
	w := newWorld(t, Limits{})
	b, id := w.dial(t, RoleBroker), wire.ID{0xde, 0xad, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	at := time.Unix(1_800_000_000, 0)
	c := wire.Certificate{ID: id, Device: wire.PublicKey([]byte("a device key of thirty-two bytes")), IssuedAt: wire.Unix32(at)}
	if err := b.Store().Void(t.Context(), c, at); err != nil {
		t.Fatal(err)
	}
	for _, old := range []uint32{0, 1} {
		c := c
		c.IssuedAt -= old
		if _, err := b.Store().Save(t.Context(), id, consent.State{Cert: &c}); !errors.Is(err, wire.NotEnrolled) {
			t.Errorf("a certificate %d s older: %v", old, err)
		}
	}
	for _, needle := range []string{id.String(), string(id[:]), string(c.Device[:])} {
		if found := w.files(t, needle); len(found) != 0 {
			t.Errorf("%x stands in %v", needle, found)
		}
	}
	other, newer := c, c
	other.Device[0]++
	newer.IssuedAt++
	for what, c := range map[string]wire.Certificate{"another device": other, "a newer one": newer} {
		rev, err := b.Store().Save(t.Context(), id, consent.State{Cert: &c})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := b.Store().Erase(t.Context(), id, rev); err != nil {
			t.Error(err)
		}
	}
}

// TestHeldAsStored: what is returned is what lies there, byte for byte, where it lies. [H-1]
func TestHeldAsStored(t *testing.T) {
	w := newWorld(t, Limits{})
	b, k, id := w.dial(t, RoleBroker), w.dial(t, RoleWorker), wire.ID{1}
	if held, err := b.Store().Held(t.Context(), id); len(held) != 0 || err != nil {
		t.Errorf("nothing: %v, %v", held, err)
	}
	st := consent.State{Gen: 5}
	rev, err := b.Store().Save(t.Context(), id, st)
	if err != nil {
		t.Fatal(err)
	}
	held, err := b.Store().Held(t.Context(), id)
	if err != nil || len(held) != 1 || held[0].Seq != rev || !bytes.Equal(held[0].Raw, st.Pack(id)) ||
		held[0].Key != "$KV.bj_consent."+id.String() || held[0].Store != "KV_bj_consent" || time.Since(held[0].Stored) > patience {
		t.Errorf("%+v, %v", held, err)
	}
	for i := range 3 {
		enqueue(t, b, alice, fmt.Sprint("job ", i))
	}
	enqueue(t, b, wire.Pseudonym{8}, "another's")
	jobs, err := b.About(t.Context(), wire.StreamJobs, wire.JobSubject(wire.ClassNormal, alice))
	if err != nil || len(jobs) != 3 || string(jobs[2].Raw) != "job 2" {
		t.Fatalf("%+v, %v", jobs, err)
	}
	for range 2 { // again is no error
		if err := b.EraseHeld(t.Context(), jobs); err != nil {
			t.Error(err)
		}
	}
	if found := w.files(t, "job 1"); len(found) != 0 {
		t.Errorf("an erased job stands in %v", found)
	}
	if found := w.files(t, "another's"); len(found) == 0 {
		t.Error("another's job is gone, or the scan finds nothing")
	}
	row := wire.MessageIDOf([]byte("row"))
	e := fallback.Entry{State: wire.JobSubmitted, NumberHash: [16]byte{1, 2, 3}, At: time.Now()}
	if _, err := k.Journal().Begin(t.Context(), row, e); err != nil {
		t.Fatal(err)
	}
	rows := 0
	err = k.Journal().EachHeld(t.Context(), func(h wire.Held, got fallback.Entry) error {
		if rows++; rows == 2 && got.NumberHash == [16]byte{} {
			return nil // at its new place
		}
		if got.NumberHash != e.NumberHash {
			t.Errorf("%+v", got)
		}
		got.NumberHash = [16]byte{}
		if err := k.Journal().Rewrite(t.Context(), h, got); err != nil {
			return err
		}
		if err := k.Journal().Erase(t.Context(), h); !errors.Is(err, ErrConflict) {
			t.Errorf("a row that has changed: %v", err)
		}
		return nil
	})
	if err != nil || rows < 1 || rows > 2 {
		t.Errorf("%d rows, %v", rows, err)
	}
	if got, ok, err := k.Journal().Get(t.Context(), row); !ok || err != nil || got.NumberHash != [16]byte{} {
		t.Errorf("%+v, %v", got, err)
	}
	total, err := k.Caps().Add(t.Context(), "20261124.number.AQID", 3)
	if err != nil || total != 3 {
		t.Fatal(total, err)
	}
	if held, err := k.Caps().Held(t.Context(), "20261124.number.AQID"); err != nil || len(held) != 1 {
		t.Errorf("a counter: %+v, %v", held, err)
	}
	if _, err := k.Caps().Held(t.Context(), "*"); !errors.Is(err, wire.NotAllowed) {
		t.Errorf("all counters: %v", err)
	}
}

// TestRewriteDropsOldRows: a row that is over is not made young by a rewriting, one that is not stays. [H-8]
func TestRewriteDropsOldRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	k := w.dial(t, RoleWorker)
	ids := map[wire.MessageID]bool{wire.MessageIDOf([]byte("old")): false, wire.MessageIDOf([]byte("young")): true}
	for id, young := range ids {
		e := fallback.Entry{State: wire.JobDelivered, At: time.Now()}
		if !young {
			e.At = e.At.Add(-journalAge - time.Minute)
		}
		if err := k.Journal().Put(t.Context(), id, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Journal().Wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	rewritten(t, &k.journal)
	for id, young := range ids {
		if _, ok, err := k.Journal().Get(t.Context(), id); ok != young || err != nil {
			t.Errorf("young %t: %t, %v", young, ok, err)
		}
	}
}
