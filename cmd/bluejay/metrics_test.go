package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"bluejay/broker"
	"bluejay/custody"
	"bluejay/hooks"
)

// TestBrokerFigures: every figure is exported, from one snapshot, and the sums that must be equal are.
// [C-7] [C-revoke]
func TestBrokerFigures(t *testing.T) {
	snapshots := 0
	c := newFigures(func() hooks.Counts {
		snapshots++
		return hooks.Counts{
			Custody:  custody.Counts{Accepted: 10, Delivered: 4, Queued: 3, Returned: 2, InFlight: 1, Late: 5, Joined: 6},
			Sessions: 7, Blue: 8, Watches: 9, Refused: 11, PostRevocation: 0, Revocations: 12,
			RevocationLast: 1500 * time.Millisecond, Bundles: 13, HellosUndelivred: 14,
		}
	}, brokerFigures)
	want := `
# HELP bluejay_custody_accepted_total Texts taken into custody.
# TYPE bluejay_custody_accepted_total counter
bluejay_custody_accepted_total 10
# HELP bluejay_custody_difference Accepted less what became of it: anything but 0 is a bug.
# TYPE bluejay_custody_difference gauge
bluejay_custody_difference 0
# HELP bluejay_custody_ended_total Texts that left custody, by how.
# TYPE bluejay_custody_ended_total counter
bluejay_custody_ended_total{outcome="delivered"} 4
bluejay_custody_ended_total{outcome="queued"} 3
bluejay_custody_ended_total{outcome="returned"} 2
# HELP bluejay_custody_in_flight Texts whose recipient has not acknowledged yet.
# TYPE bluejay_custody_in_flight gauge
bluejay_custody_in_flight 1
# HELP bluejay_post_revocation_deliveries_total Deliveries stopped at the last check after a revocation: anything but 0 is a bug.
# TYPE bluejay_post_revocation_deliveries_total counter
bluejay_post_revocation_deliveries_total 0
# HELP bluejay_revocation_last_seconds From the last revocation's arrival to its acknowledgement.
# TYPE bluejay_revocation_last_seconds gauge
bluejay_revocation_last_seconds 1.5
`
	err := testutil.CollectAndCompare(c, strings.NewReader(want), "bluejay_custody_accepted_total", "bluejay_custody_difference",
		"bluejay_custody_ended_total", "bluejay_custody_in_flight", "bluejay_post_revocation_deliveries_total", "bluejay_revocation_last_seconds")
	if err != nil {
		t.Error(err)
	}
	if snapshots != 1 {
		t.Errorf("%d snapshots for one scrape", snapshots)
	}
	if n := testutil.CollectAndCount(c); n != len(brokerFigures) {
		t.Errorf("%d figures exported, %d defined", n, len(brokerFigures))
	}
	problems, err := testutil.CollectAndLint(c)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestLogFigures: how long the consent log is, and whether it can be written.
func TestLogFigures(t *testing.T) {
	c := newFigures(func() broker.LogCounts { return broker.LogCounts{Entries: 7, Failed: true} }, logFigures)
	want := `
# HELP bluejay_consent_log_entries Events in the consent log.
# TYPE bluejay_consent_log_entries gauge
bluejay_consent_log_entries 7
# HELP bluejay_consent_log_failed 1 while the consent log cannot be written: no consent begins, and no end of one is acknowledged.
# TYPE bluejay_consent_log_failed gauge
bluejay_consent_log_failed 1
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(bounded(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestStatusServer: alive always, ready as the role says with its reason, metrics of the process; and
// nothing else.
func TestStatusServer(t *testing.T) {
	var notReady error
	s, err := serveStatus("127.0.0.1:0", func(context.Context) error { return notReady }, metricsHandler(newMetrics()))
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + s.address()
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/metrics": 200, "/": 404, "/debug/pprof/": 404} {
		if code, body := get(t, base+path); code != want {
			t.Errorf("%s: %d %q, want %d", path, code, body, want)
		}
	}
	if _, body := get(t, base+"/metrics"); !strings.Contains(body, "go_goroutines") {
		t.Errorf("no metrics of the process: %.200s", body)
	}
	notReady = errors.New("no route is linked")
	if code, body := get(t, base+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no route is linked") {
		t.Errorf("/readyz: %d %q", code, body)
	}
	if code, _ := get(t, base+"/livez"); code != 200 {
		t.Errorf("not ready is not dead: %d", code)
	}
	if err := s.stop(bounded(t)); err != nil {
		t.Error(err)
	}
	none, err := serveStatus("", nil, metricsHandler(newMetrics()))
	if none != nil || err != nil || none.address() != "" || none.stop(t.Context()) != nil {
		t.Errorf("no address: %v, %v", none, err)
	}
}
