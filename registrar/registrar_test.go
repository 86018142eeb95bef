package registrar

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/blind"
	"bluejay/envelope"
	"bluejay/wire"
)

// lookUp asks for n numbers; only the code matters to most tests.
func (o *office) lookUp(t testing.TB, id wire.ID, kind wire.LookupKind, n int) wire.Code {
	t.Helper()
	return wire.Code(o.HandleLookup(t.Context(), lookUpRequest(t, o, id, kind, n))[0])
}

func lookUpRequest(t testing.TB, o *office, id wire.ID, kind wire.LookupKind, n int) []byte {
	t.Helper()
	client, err := blind.NewClient(o.cfg.VOPRF.Public())
	if err != nil {
		t.Fatal(err)
	}
	_, batch, err := client.Blind(numbers(t, n))
	if err != nil {
		t.Fatal(err)
	}
	return append(append(id[:], byte(kind)), batch...)
}

func numbers(t testing.TB, n int) []wire.Number {
	t.Helper()
	ns := make([]wire.Number, n)
	for i := range ns {
		ns[i] = newPhone(t, number1[:12]+string(rune('0'+i/10))+string(rune('0'+i%10))).number
	}
	return ns
}

// TestLookup: [P-1] [P-11] a blinded look-up gives the IDs that enrolment gives.
func TestLookup(t *testing.T) {
	o, ns := newOffice(t), numbers(t, 3)
	client, err := blind.NewClient(o.cfg.VOPRF.Public())
	if err != nil {
		t.Fatal(err)
	}
	pending, batch, err := client.Blind(ns)
	if err != nil {
		t.Fatal(err)
	}
	id := wire.ID{1}
	got := o.HandleLookup(t.Context(), append(append(id[:], byte(wire.LookupByUser)), batch...))
	if len(got) != 1+65+32*3 || got[0] != byte(wire.OK) {
		t.Fatalf("an answer of %d bytes, code %v", len(got), wire.Code(got[0]))
	}
	ids, err := pending.Finalize(got[1:])
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range ns {
		if want, err := o.cfg.VOPRF.FullEvaluate(n); err != nil || ids[i] != want {
			t.Errorf("ID %d differs from the enrolled one (%v)", i, err)
		}
	}
	if c := o.counts.counts[id]; c.Lookups != 3 {
		t.Errorf("%d look-ups counted, want 3", c.Lookups)
	}
}

// TestLookupQuota: [P-11] 500 once, then 50 a day; hellos 10 a day, apart.
func TestLookupQuota(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o, id := newOffice(t), wire.ID{1}
		total := 0
		for o.lookUp(t, id, wire.LookupByUser, 32) == wire.OK {
			total += 32
		}
		for o.lookUp(t, id, wire.LookupByUser, 1) == wire.OK {
			total++
		}
		if total != 550 {
			t.Errorf("%d look-ups on the first day, want 550", total)
		}
		if code := o.lookUp(t, wire.ID{2}, wire.LookupByUser, 1); code != wire.OK {
			t.Errorf("another ID: %v", code)
		}
		for i := range 11 {
			want := wire.OK
			if i == 10 {
				want = wire.OverQuota
			}
			if code := o.lookUp(t, id, wire.LookupByHello, 1); code != want {
				t.Errorf("hello %d: %v, want %v", i+1, code, want)
			}
		}
		<-time.After(day)
		total = 0
		for o.lookUp(t, id, wire.LookupByUser, 1) == wire.OK {
			total++
		}
		if total != 50 {
			t.Errorf("%d look-ups on the second day, want 50", total)
		}
		if code := o.lookUp(t, id, wire.LookupByHello, 10); code != wire.OK {
			t.Errorf("hellos on the second day: %v", code)
		}
	})
}

// TestLookupQuotaRace: [P-11] requests at once cannot use more than there is.
func TestLookupQuotaRace(t *testing.T) {
	o := newOffice(t, func(c *Config) { c.Quotas.Lookups, c.Quotas.DailyLookups = 4, 2 })
	id := wire.ID{1}
	var mu sync.Mutex
	got := map[wire.Code]int{}
	var wg sync.WaitGroup
	for range 12 {
		req := lookUpRequest(t, o, id, wire.LookupByUser, 1)
		wg.Go(func() {
			code := wire.Code(o.HandleLookup(context.Background(), req)[0])
			mu.Lock()
			defer mu.Unlock()
			got[code]++
		})
	}
	wg.Wait()
	c := o.counts.counts[id]
	if used := int(c.Lookups) + int(c.DayLookups); used > 6 || got[wire.OK] != used {
		t.Errorf("answered %d, counted %d, allowed 6 (%v)", got[wire.OK], used, got)
	}
}

// TestLookupRefuses: a refusal counts nothing.
func TestLookupRefuses(t *testing.T) {
	o, id := newOffice(t), wire.ID{1}
	good := lookUpRequest(t, o, id, wire.LookupByUser, 1)
	edit := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, tt := range map[string]struct {
		req  []byte
		want wire.Code
	}{
		"empty":                {nil, wire.BadRecord},
		"ID only":              {id[:], wire.BadRecord},
		"no batch":             {good[:13], wire.BadRecord},
		"unknown kind":         {edit(12, 2), wire.BadRecord},
		"empty batch":          {append(bytes.Clone(good[:13]), 0), wire.BadRecord},
		"33 elements":          {append(bytes.Clone(good[:13]), append([]byte{33}, make([]byte, 33*32)...)...), wire.BadRecord},
		"count does not match": {edit(13, 2), wire.BadRecord},
		"the identity element": {append(bytes.Clone(good[:14]), make([]byte, 32)...), wire.BadRecord},
		"not an element":       {append(bytes.Clone(good[:14]), bytes.Repeat([]byte{0xff}, 32)...), wire.BadRecord},
		"too long":             {append(bytes.Clone(good), 0), wire.BadRecord},
	} {
		if got := o.HandleLookup(t.Context(), tt.req); !bytes.Equal(got, []byte{byte(tt.want)}) {
			t.Errorf("%s: % x, want %v", name, got, tt.want)
		}
	}
	o.counts.down = true
	if got := o.HandleLookup(t.Context(), good); !bytes.Equal(got, []byte{byte(wire.Unavailable)}) {
		t.Errorf("without a store: % x", got)
	}
	o.counts.down, o.counts.conflicts = false, changeTries
	if got := o.HandleLookup(t.Context(), good); !bytes.Equal(got, []byte{byte(wire.Unavailable)}) {
		t.Errorf("with a store that others keep changing: % x", got)
	}
	if len(o.counts.counts) != 0 {
		t.Errorf("refusals were counted: %+v", o.counts.counts)
	}
}

// TestCheck: [F-6] yes only for that message, that sender and that number.
func TestCheck(t *testing.T) {
	o, p := newOffice(t), newPhone(t, number1)
	id, err := o.cfg.VOPRF.FullEvaluate(p.number)
	if err != nil {
		t.Fatal(err)
	}
	m := wire.MessageIDOf([]byte("job"))
	sealed, err := envelope.SealSender(o.cfg.Secret.Public(), id, m)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(sealed)
	bad[len(bad)-1]++
	mine, other := p.number.BCD(), newPhone(t, number2).number.BCD()
	join := func(m wire.MessageID, bcd [8]byte, sealed []byte) []byte {
		return append(append(m[:], bcd[:]...), sealed...)
	}
	for name, tt := range map[string]struct {
		req  []byte
		want wire.Code
	}{
		"the sender's own number": {join(m, mine, sealed), wire.OK},
		"another number":          {join(m, other, sealed), wire.NotAllowed},
		"another message":         {join(wire.MessageID{}, mine, sealed), wire.NotAllowed},
		"no number":               {join(m, [8]byte{}, sealed), wire.BadRecord},
		"spoilt seal":             {join(m, mine, bad), wire.BadRecord},
		"short seal":              {join(m, mine, sealed[:9]), wire.BadRecord},
		"no seal":                 {join(m, mine, nil), wire.BadRecord},
		"empty":                   {nil, wire.BadRecord},
	} {
		if got := o.HandleCheck(t.Context(), tt.req); !bytes.Equal(got, []byte{byte(tt.want)}) {
			t.Errorf("%s: % x, want %v", name, got, tt.want)
		}
	}
}

func unsignedKey(o *office) []byte {
	now := o.cfg.Now()
	k := wire.WorkerKey{KID: 2, NotBefore: wire.Unix32(now), NotAfter: wire.Unix32(now.Add(48 * time.Hour)), Public: o.key.Public}
	return k.Marshal()[:wire.WorkerKeyLen-64]
}

// TestSign: [F-2] a key for about a day, and no other.
func TestSign(t *testing.T) {
	o := newOffice(t)
	now := time.Now()
	key := func(from, until time.Duration) []byte {
		k := wire.WorkerKey{KID: 2, NotBefore: wire.Unix32(now.Add(from)), NotAfter: wire.Unix32(now.Add(until)), Public: o.key.Public}
		return k.Marshal()[:wire.WorkerKeyLen-64]
	}
	req := key(0, 48*time.Hour)
	room := append(req, 0xaa)
	got := o.HandleSign(t.Context(), room[:len(req)])
	signed, err := wire.ParseWorkerKey(got[1:])
	if err != nil || signed.Verify(o.root, now) != nil || !bytes.Equal(got[1:43], req) {
		t.Fatalf("signed key: %v", err)
	}
	if room[len(req)] != 0xaa {
		t.Error("the handler wrote behind its request")
	}
	noKey := bytes.Clone(req)
	copy(noKey[10:], make([]byte, 32))
	for name, tt := range map[string]struct {
		req  []byte
		want wire.Code
	}{
		"a week":           {key(0, 7*day), wire.OutOfTime},
		"over":             {key(-48*time.Hour, -time.Hour), wire.OutOfTime},
		"days ahead":       {key(48*time.Hour, 96*time.Hour), wire.OutOfTime},
		"ends before":      {key(time.Hour, 0), wire.BadRecord},
		"no key":           {noKey, wire.BadRecord},
		"another type":     {append([]byte{0x41}, req[1:]...), wire.BadRecord},
		"signed already":   {got[1:], wire.BadRecord},
		"empty":            {nil, wire.BadRecord},
		"one byte missing": {req[:len(req)-1], wire.BadRecord},
	} {
		if got := o.HandleSign(t.Context(), tt.req); !bytes.Equal(got, []byte{byte(tt.want)}) {
			t.Errorf("%s: % x, want %v", name, got, tt.want)
		}
	}
}

func TestConfig(t *testing.T) {
	good := newOffice(t).cfg
	for name, spoil := range map[string]func(*Config){
		"no certificate key": func(c *Config) { c.Cert = nil },
		"no root":            func(c *Config) { c.Root = nil },
		"no VOPRF key":       func(c *Config) { c.VOPRF = blind.ServerKey{} },
		"no sealing key":     func(c *Config) { c.Secret = envelope.RegistrarSecret{} },
		"no counts":          func(c *Config) { c.Counts = nil },
		"no jobs":            func(c *Config) { c.Jobs = nil },
		"no worker key":      func(c *Config) { c.WorkerKey = nil },
		"negative quota":     func(c *Config) { c.Quotas.DailyHellos = -1 },
		"huge quota":         func(c *Config) { c.Quotas.DailyLookups = 1 << 20 },
		"a minute":           func(c *Config) { c.CertLifetime = time.Minute },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v, want ErrConfig", name, err)
		}
	}
	good.CertLifetime, good.Log = 0, nil
	r, err := New(good)
	if err != nil || r.cfg.CertLifetime != reproof {
		t.Errorf("defaults: %v", err)
	}
}

// TestCountVector freezes the stored form. [P-11]
func TestCountVector(t *testing.T) {
	c := Count{
		Lookups: 500, Day: 20778, DayLookups: 49, DayHellos: 10, Enrolments: [3]Epoch{20778, 20760, 20001},
		Issued: 1795241969, Device: [16]byte{0xd0, 15: 0x0d},
	}
	text, err := os.ReadFile("testdata/count.txt")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hex.EncodeToString(want), hex.EncodeToString(c.Marshal())); diff != "" {
		t.Errorf("stored form (-want +got):\n%s", diff)
	}
	if got, err := ParseCount(want); err != nil || got != c {
		t.Errorf("parsed %+v, %v", got, err)
	}
	if got, err := ParseCount(nil); err != nil || got != (Count{}) {
		t.Errorf("absent: %+v, %v", got, err)
	}
}

func FuzzParseCount(f *testing.F) {
	f.Add(Count{}.Marshal())
	f.Add([]byte{})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCount(b)
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Errorf("an error of another kind: %v", err)
		case err == nil && len(b) > 0 && !bytes.Equal(c.Marshal(), b):
			t.Errorf("not canonical: % x", b)
		}
	})
}

func FuzzHandlers(f *testing.F) {
	o := newOffice(f)
	f.Add(lookUpRequest(f, o, wire.ID{1}, wire.LookupByUser, 1))
	f.Add(unsignedKey(o))
	f.Add(make([]byte, 24+1164))
	f.Add(append([]byte{byte(wire.CauseErasure)}, make([]byte, 1144)...))
	f.Fuzz(func(t *testing.T, req []byte) {
		before := bytes.Clone(req)
		for _, h := range []func(context.Context, []byte) []byte{o.HandleLookup, o.HandleCheck, o.HandleSign, o.HandleOff} {
			if got := h(t.Context(), req); len(got) == 0 || !wire.Code(got[0]).Known() {
				t.Errorf("not an answer: % x", got)
			}
		}
		if !bytes.Equal(before, req) {
			t.Error("a handler changed its request")
		}
	})
}
