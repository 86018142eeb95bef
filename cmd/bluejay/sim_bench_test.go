package main

import (
	"context"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"bluejay/clients/simulator"
)

// BenchmarkSimIdle measures the memory of one idle handset in the simulator's process: resident set
// after the collector gave back what it could, with the handsets connected, consenting and visible,
// less without them. The node is in processes of its own. Kernel socket memory is not in it. The aim
// for a full handset is 60 KiB. It takes 82 of a hundred, and 70 of four hundred, who share more. Most of it are
// stacks, 41 KiB: ten goroutines of paho (three need 4 KiB, seven 2), one that waits on the connection, one that
// reads the events. State and keys are 12, goroutine descriptors and paho 6 each; the rest is shared, or pages half
// empty of what was thrown away while they enrolled.
//
// Nine of the ten start whatever the options, and the tenth sends the pings: 60 needs another MQTT client.
//
//	go test -run '^$' -bench SimIdle -benchtime 1x ./cmd/bluejay
func BenchmarkSimIdle(b *testing.B) {
	for _, bb := range []struct {
		name       string
		real, lean int
		most       float64 // KiB
	}{
		{"lean", 0, 2000, 6}, {"full", 100, 0, 95},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				each := idleMemory(b, bb.real, bb.lean)
				b.ReportMetric(each, "KiB/handset")
				if each > bb.most {
					b.Errorf("an idle handset takes %.1f KiB, at most %.0f are due", each, bb.most)
				}
			}
		})
	}
}

func idleMemory(b *testing.B, reals, leans int) float64 {
	o := &simOptions{
		lean: leans, real: reals, duration: time.Hour, profile: "idle", seed: 1, deadline: 8 * time.Second,
		greyMin: 20 * time.Second, greyMax: 40 * time.Second,
	}
	profile, err := loadProfile(o.profile)
	if err != nil {
		b.Fatal(err)
	}
	cfg := simulator.Config{Profile: profile, Seed: 1, For: o.duration, Real: reals, Dir: b.TempDir(), GreyMax: o.greyMax}
	running := make(chan struct{})
	save := thrift(reals)
	cfg.Tell = func(p simulator.Progress) {
		save(p.Phase)
		if p.Phase == "running" && p.Sample.At == 0 {
			close(running)
		}
	}
	w, err := o.world(b.Context(), b.TempDir(), &cfg, newSimTeller(io.Discard, o))
	if err != nil {
		b.Fatal(err)
	}
	defer w.close()
	fleet, err := simulator.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	w.feed(fleet)
	before := settledMemory()
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := fleet.Run(ctx)
		ended <- err
	}()
	select {
	case <-running:
	case err := <-ended:
		b.Fatal(err)
	}
	after := settledMemory()
	cancel()
	<-ended
	return float64(after-before) / 1024 / float64(reals+leans)
}

// settledMemory is this process's resident set; a stack shrinks by half at each collection.
func settledMemory() int64 {
	for range 6 {
		runtime.GC()
		debug.FreeOSMemory()
	}
	rss, _ := processUse(os.Getpid())
	return rss
}
