package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/sms/smsc"
)

// newBenchDemo is the demo's stage up to the point where alice and bob are enrolled and blue, with
// the node in this process.
func newBenchDemo(b *testing.B) *demo {
	b.Helper()
	d := &demo{tell: newTeller(io.Discard, true), dir: b.TempDir(), people: map[string]*person{}}
	b.Cleanup(d.close)
	var err error
	if d.smsc, err = smsc.Start("127.0.0.1:0"); err != nil {
		b.Fatal(err)
	}
	b.Setenv("BLUEJAY_SMS_PASSWORD", smsc.Password)
	d.addr = benchNode(b, filepath.Join(d.dir, "node"), d.smsc.Addr())
	pins, err := handset.LoadPins(filepath.Join(d.dir, "node", filePins))
	if err != nil {
		b.Fatal(err)
	}
	for name := range demoNumbers {
		if d.people[name], err = d.newPerson(name, pins); err != nil {
			b.Fatal(err)
		}
	}
	for _, scene := range []func(context.Context) error{d.enrol, d.blue} {
		if err := scene(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	return d
}

// benchNode runs the three roles in this process and returns the MQTT address.
func benchNode(b *testing.B, dir, smscAddr string) (addr string) {
	b.Helper()
	if err := initKeys(dir, "bench"); err != nil {
		b.Fatal(err)
	}
	c := defaultConfig()
	c.Dir, c.Listen, c.HTTP, c.SMS = dir, "127.0.0.1:0", "", "smpp://"+smsc.SystemID+"@"+smscAddr
	c.GreyMin, c.GreyMax = duration(100*time.Millisecond), duration(200*time.Millisecond)
	var nats string
	for _, r := range bridge.Roles() {
		p, err := startRole(b.Context(), r, &c, nats, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), stopTime)
			defer cancel()
			_ = p.stop(ctx)
		})
		if r == bridge.RoleBroker {
			nats, addr = p.nats, p.addr
		}
		if p.keyed != nil {
			defer func() { <-p.keyed }()
		}
	}
	return addr
}

// BenchmarkTextOverIP is one text of 30 characters from Send on alice's handset to "delivered" on
// it: both handsets' fsyncs, the broker, and bob's acknowledgement in between, over TCP on loopback
// with a relay on either side. It reports the median, and the bytes of the MQTT PUBLISH as read
// from the socket; it fails when a text takes more than the protocol's size table. Bob answers each
// text, as in a conversation: a ratchet key (32 B) travels until an answer confirms it. [S-1]
//
//	go test -run '^$' -bench Text -benchtime 200x ./cmd/bluejay
func BenchmarkTextOverIP(b *testing.B) {
	d := newBenchDemo(b)
	alice, bob := d.people["alice"], d.people["bob"]
	for _, c := range []struct {
		name, text string
		most       int
	}{
		{"gsm7", strings.Repeat("ten chars ", 3), 73},
		{"utf8", strings.Repeat("`en chars ", 3), 89}, // a back quote is not in GSM 03.38
	} {
		b.Run(c.name, func(b *testing.B) {
			var times []time.Duration
			var sizes []int
			for b.Loop() {
				took, err := alice.send(b.Context(), c.text, handset.Delivered)
				if err != nil {
					b.Fatal(err)
				}
				times = append(times, took)
				sizes = append(sizes, alice.relay.newest('i'))
				if _, err := bob.send(b.Context(), "ok", handset.Delivered); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(ms(median(times)), "p50-ms")
			b.ReportMetric(float64(slices.Min(sizes)), "B/publish")
			s := slices.Sorted(slices.Values(sizes))
			if typical, most := s[len(s)/2], s[len(s)-1]; typical > c.most || most > c.most+32 {
				b.Errorf("a text of 30 characters takes %d B as a PUBLISH and at most %d; %d are due, and 32 more with a ratchet key",
					typical, most, c.most)
			}
		})
	}
}

// BenchmarkOfflineToSMSC is one text from Send on alice's handset, bob being grey, to the SMSC
// having it: sealed job, JetStream with fsync, worker, journal, submit_sm.
//
//	go test -run '^$' -bench Offline -benchtime 50x ./cmd/bluejay
func BenchmarkOfflineToSMSC(b *testing.B) {
	d := newBenchDemo(b)
	if err := d.grey(b.Context()); err != nil {
		b.Fatal(err)
	}
	alice := d.people["alice"]
	var times []time.Duration
	for b.Loop() {
		text := fmt.Sprintf("%s (bench %d)", demoViaSMS, len(times))
		start := time.Now()
		if _, err := alice.phone.Send(b.Context(), alice.contact, text); err != nil {
			b.Fatal(err)
		}
		m, err := d.smsc.Wait(b.Context(), func(m smsc.Message) bool { return isFallback(m, text) })
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, m.At.Sub(start))
	}
	b.ReportMetric(ms(median(times)), "p50-ms")
}
