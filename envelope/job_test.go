package envelope

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

func workerSecret(t testing.TB, kid byte) WorkerSecret {
	t.Helper()
	w, err := NewWorkerSecret(kid, start, start.Add(day))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func job(t testing.TB) Job {
	t.Helper()
	return Job{To: number(t, "+4915112345678"), From: number(t, "+447700900123"), Text: thirty, ExpiresAt: start.Add(time.Hour)}
}

// numbersEqual lets cmp look at numbers without printing them.
var numbersEqual = cmp.Comparer(func(a, b wire.Number) bool { return a == b })

// TestJobRoundTrip seals jobs to the worker and reads them back, header and whole. [S-13]
func TestJobRoundTrip(t *testing.T) {
	w := workerSecret(t, 3)
	anonymous, urgent, long := job(t), job(t), job(t)
	anonymous.From = wire.Number{}
	urgent.Class = wire.ClassUrgent
	long.Text = strings.Repeat("ж", 6*67)
	last := job(t)
	last.ExpiresAt = start.Add(day)
	for name, j := range map[string]Job{"claimed": job(t), "anonymous": anonymous, "urgent": urgent, "six parts": long, "to the key's end": last} {
		b, err := SealJob(w.Key(), j)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		h, err := ParseJobHeader(b)
		if err != nil || h.KID != 3 || h.Class != j.Class || !h.ExpiresAt.Equal(j.ExpiresAt) {
			t.Errorf("%s: header %+v, %v", name, h, err)
		}
		got, err := w.OpenJob(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !cmp.Equal(j, got, numbersEqual, cmp.Comparer(time.Time.Equal)) {
			t.Errorf("%s: opened another job", name)
		}
	}
}

func TestSealJobRefuses(t *testing.T) {
	key := workerSecret(t, 3).Key()
	change := func(f func(*Job)) Job {
		j := job(t)
		f(&j)
		return j
	}
	cases := []struct {
		name string
		j    Job
		want error
	}{
		{"no number", change(func(j *Job) { j.To = wire.Number{} }), wire.ErrMalformed},
		{"no text", change(func(j *Job) { j.Text = "" }), wire.ErrMalformed},
		{"no class", change(func(j *Job) { j.Class = 2 }), wire.ErrMalformed},
		{"invalid UTF-8", change(func(j *Job) { j.Text = "\xff" }), wire.ErrMalformed},
		{"seven parts", change(func(j *Job) { j.Text = strings.Repeat("a", 6*153+1) }), ErrTooLong},
		{"outlives the key", change(func(j *Job) { j.ExpiresAt = start.Add(day + time.Second) }), wire.ErrExpired},
	}
	for _, c := range cases {
		if _, err := SealJob(key, c.j); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	key.Public = [32]byte{}
	if _, err := SealJob(key, job(t)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a key of low order: %v", err)
	}
}

// TestOpenJobRefuses: any changed bit, header included, and other keys. [S-13]
func TestOpenJobRefuses(t *testing.T) {
	w := workerSecret(t, 3)
	b, err := SealJob(w.Key(), job(t))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(b) * 8 {
		if _, err := w.OpenJob(flipped(b, bit)); err == nil {
			t.Fatalf("bit %d flipped: opens", bit)
		}
	}
	if _, err := workerSecret(t, 3).OpenJob(b); !errors.Is(err, ErrUnreadable) {
		t.Errorf("another key of the same number: %v", err)
	}
	if _, err := workerSecret(t, 4).OpenJob(b); !errors.Is(err, ErrUnreadable) {
		t.Errorf("another key: %v", err)
	}
	zero := WorkerSecret{record: wire.WorkerKey{KID: 3}}
	if _, err := zero.OpenJob(b); !errors.Is(err, ErrUnreadable) {
		t.Errorf("the zero secret: %v", err)
	}
	for n := range len(b) {
		if _, err := w.OpenJob(b[:n]); err == nil {
			t.Fatalf("%d of %d bytes open", n, len(b))
		}
	}
}

// TestJobInside: what a sender seals is checked again when it opens. [S-13]
func TestJobInside(t *testing.T) {
	to := number(t, "+4915112345678").BCD()
	at := func(rest ...byte) []byte { return append(bytes.Clone(to[:]), rest...) }
	cases := map[string][]byte{
		"no text":          at(0),
		"flag 2":           at(2, 'x'),
		"half a number":    at(1, 1, 2, 3),
		"no text, claimed": append(at(1), to[:]...),
		"a bad number":     append(make([]byte, 8), 0, 'x'),
		"a bad sender":     append(append(at(1), make([]byte, 8)...), 'x'),
		"invalid UTF-8":    at(0, 0xff),
		"seven parts":      at(append([]byte{0}, strings.Repeat("a", 6*153+1)...)...),
	}
	for name, plain := range cases {
		if err := new(Job).parse(plain); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

// TestWorkerSecretStored: the secret survives its store, and opens what was sealed before. [S-13]
func TestWorkerSecretStored(t *testing.T) {
	w := workerSecret(t, 9)
	b, err := SealJob(w.Key(), job(t))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := ParseWorkerSecret(w.Marshal())
	if err != nil || stored.Key() != w.Key() || !bytes.Equal(stored.Marshal(), w.Marshal()) {
		t.Fatalf("the stored secret differs: %v", err)
	}
	if _, err := stored.OpenJob(b); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]byte{nil, w.Marshal()[1:], append(w.Marshal(), 0), append([]byte{2}, w.Marshal()[1:]...)} {
		if _, err := ParseWorkerSecret(bad); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func FuzzOpenJob(f *testing.F) {
	w := workerSecret(f, 3)
	b, err := SealJob(w.Key(), job(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:jobHead])
	f.Fuzz(func(t *testing.T, msg []byte) {
		if _, err := w.OpenJob(msg); err == nil && !bytes.Equal(msg, b) {
			t.Error("a job nobody sealed opens")
		}
	})
}

// FuzzJobInside feeds what stands inside a job, which any device with the worker's key can write.
func FuzzJobInside(f *testing.F) {
	to := number(f, "+4915112345678").BCD()
	f.Add(append(append(append(to[:], 1), to[:]...), thirty...))
	f.Add(append(append(to[:], 0), thirty...))
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) < 9 { // ParseJobHeader makes sure
			return
		}
		var j Job
		if j.parse(plain) == nil && (j.To.IsZero() || j.Text == "") {
			t.Error("read a job without a number or a text")
		}
	})
}

func FuzzParseWorkerSecret(f *testing.F) {
	f.Add(workerSecret(f, 1).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := ParseWorkerSecret(b); err == nil && !bytes.Equal(w.Marshal(), b) {
			t.Error("a secret marshals differently from what it was read from")
		}
	})
}
