//go:build integration

package main

import (
	"crypto/rand"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/broker"
	"bluejay/consent"
	"bluejay/wire"
)

// storedState is a consenting user's state as the store gets it; the signatures are noise of their size.
func storedState(id wire.ID, now time.Time) consent.State {
	c := wire.Certificate{ID: id, IssuedAt: wire.Unix32(now) - 90, LifetimeHours: 180 * 24, KID: 1}
	r := wire.Consent{ID: id, Scopes: wire.ScopeMessaging | wire.ScopePresence, Seq: 1, IssuedAt: wire.Unix32(now), Notice: consent.Notices()[0].Hash}
	r.ExpiresAt = r.IssuedAt + 180*86400
	receipt := wire.Receipt{ReceivedAt: r.IssuedAt + 1}
	logged := consent.Entry{Index: 100_000}
	for _, noise := range [][]byte{c.Device[:], c.Sig[:], r.Sig[:], receipt.Sig[:], logged.Salt[:]} {
		_, _ = rand.Read(noise) // never fails
	}
	return consent.State{Cert: &c, Record: &r, Receipt: receipt, Seq: 1}.WithEntry(consent.EventRecord, logged)
}

// fillConsents stores n users as they come: enrolled first, consenting after. Those in first are among them.
func fillConsents(t *testing.T, b *bridge.Bridge, n int, first ...wire.ID) {
	t.Helper()
	var wg sync.WaitGroup
	for lane := range 32 {
		wg.Go(func() {
			for i := lane; i < n; i += 32 {
				var id wire.ID
				_, _ = rand.Read(id[:])
				if i < len(first) {
					id = first[i]
				}
				st := storedState(id, time.Now())
				rev, err := b.Store().Save(t.Context(), id, consent.State{Cert: st.Cert})
				if st.Revision = rev; err == nil {
					_, err = b.Store().Save(t.Context(), id, st)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// diskOf is the size of all files of a stream, its index included.
func diskOf(t *testing.T, dir, stream string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, "/"+stream+"/") {
			info, err2 := d.Info()
			if err = err2; err == nil {
				size += info.Size()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// TestConsentRecords measures a node with many consenting users: what each takes of the disk, how long the broker
// starts, after an orderly end and after kill -9, what a hold takes, and a rewriting. CI runs 2,000.
//
//	BLUEJAY_CONSENTS=100000 go test -tags integration -run TestConsentRecords -v -timeout 20m ./cmd/bluejay
func TestConsentRecords(t *testing.T) {
	n := amount("BLUEJAY_CONSENTS", 2000)
	w := newWorld(t)
	node := made(t)
	w.dir = node
	dir := filepath.Join(node, "nats")
	nats, err := broker.StartNATS(broker.NATSConfig{Dir: dir, Trust: trustDir(node)})
	if err != nil {
		t.Fatal(err)
	}
	w.at.NATS = nats.URL()
	b := w.as(t, bridge.RoleBroker)
	if err := b.EnsureStreams(bounded(t), bridge.Limits{}); err != nil {
		t.Fatal(err)
	}
	p := w.who(t, aliceNumber)
	began := time.Now()
	fillConsents(t, b, n, p.id, wire.ID{1})
	t.Logf("%d users stored in %v", n, time.Since(began))
	stop := func() {
		t.Helper()
		if err := nats.Close(bounded(t)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	t.Logf("disk, written twice: %.0f B each", float64(diskOf(t, dir, "KV_bj_consent"))/float64(n))

	start := func(what string) (*proc, time.Duration) {
		t.Helper()
		began := time.Now()
		p := w.role(t, bridge.RoleBroker)
		took := time.Since(began)
		t.Logf("start, %s: %v", what, took)
		return p, took
	}
	node1, took := start("after an orderly end")
	if took > 2*time.Second {
		missed(t, "want a broker that starts in 2 s")
	}
	_ = node1.cmd.Process.Kill()
	<-node1.ended
	node2, took := start("after kill -9")
	if took > 2*time.Second {
		missed(t, "want a broker that starts in 2 s")
	}
	w.role(t, bridge.RoleRegistrar)
	w.role(t, bridge.RoleWorker, "--sms", "console")
	until(t, "all answer", func() bool { _, code := run(t, "number", "hold", aliceNumber, "--dir", w.dir); return code == 0 })
	holds := askTimes(t, w, 60, aliceNumber, "+447700900999")
	for number, all := range holds {
		slices.Sort(all)
		what := "a user"
		if number != aliceNumber {
			what = "a stranger"
		}
		t.Logf("hold of %s: p50 %v, p95 %v", what, all[len(all)/2], all[len(all)*95/100])
		if all[len(all)/2] > 50*time.Millisecond {
			missed(t, "want a hold in 50 ms")
		}
	}
	if d := w.asked(t, aliceNumber); d.items("KV_bj_consent") != 1 {
		t.Error("the user among them is not found")
	}
	broker := w.as(t, bridge.RoleBroker)
	st, err := broker.Store().Load(bounded(t), wire.ID{1})
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if err := broker.Store().Erase(bounded(t), wire.ID{1}, st.Revision); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Minute); ; {
		owed, err := broker.About(bounded(t), "KV_bj_consent", "$KV.bj_consent.wipe")
		if err == nil && len(owed) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not rewritten: %v", err)
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Logf("rewritten in %v", time.Since(began))
	_ = node2.in.Close()
	if code := node2.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	each := float64(diskOf(t, dir, "KV_bj_consent")) / float64(n-1)
	t.Logf("disk, after a rewriting: %.1f B each", each)
	// The aim is 400: it is missed by the place in the consent log, 20 bytes, so this only guards against growth.
	// What an erasure's filler leaves behind, some 40 KiB of markers, is shared by all: it shows when there are few.
	if fixed := float64(100<<10) / float64(n); each > max(425, 415+fixed) {
		t.Errorf("%.1f B of disk each", each)
	}
}
