package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"bluejay/bridge"
)

// TestPrivacyPage: the page lists every store that can have something about a person, with who answers for it, what
// it is and how long it stays, and no other. [H-1]
func TestPrivacyPage(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/privacy.md")
	if err != nil {
		t.Fatal(err)
	}
	page, stores := string(b), bridge.Holdings()
	for _, h := range stores {
		if row := fmt.Sprintf("| %s | `%s` | %s | %s |", h.From, h.Store, h.About, h.Until); strings.Count(page, row) != 1 {
			t.Errorf("no row %s", row)
		}
	}
	rows := regexp.MustCompile("(?m)^\\| (registrar|broker|worker) \\| `").FindAllString(page, -1)
	if len(rows) != len(stores) {
		t.Errorf("%d rows for %d stores", len(rows), len(stores))
	}
}
