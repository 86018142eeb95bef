//go:build integration

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"
)

// TestBenchPeers measures the small table with every broker: none is left out of a row, every broker has every headline
// figure, and ours has its ratio to each. What the figures are is not judged here.
func TestBenchPeers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var out bytes.Buffer
	o := benchOptions{bench: "all", peers: peerNames, quick: true, json: true}
	if err := runBench(ctx, &o, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	rows := 0
	var summary struct{ Brokers, Ratio map[string]map[string]float64 }
	for lines := json.NewDecoder(&out); lines.More(); {
		var e struct {
			Event          string
			Row            benchRow
			Brokers, Ratio json.RawMessage
		}
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err)
		}
		switch e.Event {
		case "row":
			rows++
			var cells []benchCell
			if err := json.Unmarshal(e.Brokers, &cells); err != nil || len(cells) != 1+len(peerNames) {
				t.Errorf("%s: %d brokers, %v", e.Row, len(cells), err)
			}
		case "summary":
			if json.Unmarshal(e.Brokers, &summary.Brokers) != nil || json.Unmarshal(e.Ratio, &summary.Ratio) != nil {
				t.Fatalf("%s", e.Brokers)
			}
		}
	}
	if rows != len(quickTable()) {
		t.Errorf("%d rows of %d", rows, len(quickTable()))
	}
	for _, name := range append([]string{oursName}, peerNames...) {
		for _, h := range headline {
			if summary.Brokers[name][h.name] <= 0 || name != oursName && summary.Ratio[name][h.name] <= 0 {
				t.Errorf("%s: %s is %v, ours over it %v", name, h.name, summary.Brokers[name][h.name], summary.Ratio[name][h.name])
			}
		}
	}
	t.Logf("%v\n%v", summary.Brokers, summary.Ratio)
}
