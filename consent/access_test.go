package consent

import (
	"strings"
	"testing"
	"time"

	"bluejay/wire"
)

// matrix is the table of topics in spec/protocol.md as decisions: who may publish to, and subscribe
// to, which topic. ok, or why not: "enrol" first, "consent" first, or "never". [P-10] [P-17]
//
// The columns: a stranger without a certificate; enrolled only; consenting to messages, and listed;
// the same but unlisted; to the SMS gateway only; to presence only; to everything.
const matrix = `
	topic     way        stranger  enrolled  listed   unlisted  gateway  presence  all
	h/other   publish    enrol     consent   ok       ok        consent  consent   ok
	h/other   subscribe  never     never     never    never     never    never     never
	h/own     publish    enrol     consent   ok       ok        consent  consent   ok
	h/own     subscribe  enrol     consent   ok       ok        consent  consent   ok
	i/other   publish    enrol     consent   ok       ok        consent  consent   ok
	i/other   subscribe  never     never     never    never     never    never     never
	i/own     publish    enrol     consent   ok       ok        consent  consent   ok
	i/own     subscribe  enrol     consent   ok       ok        consent  consent   ok
	p/other   publish    never     never     never    never     never    never     never
	p/other   subscribe  enrol     consent   ok       ok        consent  consent   ok
	p/own     publish    never     never     never    never     never    never     never
	p/own     subscribe  enrol     consent   ok       ok        consent  consent   ok
	b/other   publish    never     never     never    never     never    never     never
	b/other   subscribe  enrol     consent   ok       ok        consent  consent   ok
	b/own     publish    enrol     consent   ok       consent   consent  consent   ok
	b/own     subscribe  enrol     consent   ok       ok        consent  consent   ok
	f         publish    enrol     consent   consent  consent   ok       consent   ok
	f         subscribe  never     never     never    never     never    never     never
	k         publish    never     never     never    never     never    never     never
	k         subscribe  enrol     ok        ok       ok        ok       ok        ok
	x         publish    enrol     consent   ok       ok        consent  consent   ok
	x         subscribe  never     never     never    never     never    never     never
	c         publish    enrol     ok        ok       ok        ok       ok        ok
	c         subscribe  never     never     never    never     never    never     never
	r         publish    never     never     never    never     never    never     never
	r         subscribe  ok        ok        ok       ok        ok       ok        ok
	e         publish    ok        ok        ok       ok        ok       ok        ok
	e         subscribe  never     never     never    never     never    never     never
	q         publish    enrol     consent   ok       ok        consent  consent   ok
	q         subscribe  never     never     never    never     never    never     never
	texts     receive    no        no        yes      yes       no       no        yes
	icon      shown      no        no        no       no        no       yes       yes`

var levels = map[string]Access{
	"stranger": {},
	"enrolled": {Enrolled: true},
	"listed":   {Enrolled: true, Scopes: messaging, Listed: true},
	"unlisted": {Enrolled: true, Scopes: messaging},
	"gateway":  {Enrolled: true, Scopes: gateway},
	"presence": {Enrolled: true, Scopes: wire.ScopePresence},
	"all":      {Enrolled: true, Scopes: messaging | gateway | wire.ScopePresence | wire.ScopeBackup | wire.ScopeIntegrations, Listed: true},
}

var matrixCodes = map[wire.Code]string{wire.OK: "ok", wire.NotEnrolled: "enrol", wire.NotConsented: "consent", wire.NotAllowed: "never"}

func TestAccessMatrix(t *testing.T) {
	rows := strings.Split(strings.TrimSpace(matrix), "\n")
	columns := strings.Fields(rows[0])
	kinds := map[string]bool{}
	for _, row := range rows[1:] {
		cells := strings.Fields(row)
		if len(cells) != len(columns) {
			t.Fatalf("row %q has %d cells, want %d", row, len(cells), len(columns))
		}
		kinds[cells[0]+" "+cells[1]] = true
		for i, want := range cells[2:] {
			level := columns[i+2]
			if got := decide(t, levels[level], cells[0], cells[1]); got != want {
				t.Errorf("%s %s by %s: %s, want %s", cells[0], cells[1], level, got, want)
			}
		}
	}
	if len(kinds) != 32 || len(columns) != 2+len(levels) {
		t.Errorf("%d rows and %d columns, want each of 11 topics in both directions and every level", len(kinds), len(columns))
	}
}

// decide asks an Access about a cell of the matrix.
func decide(t *testing.T, a Access, name, way string) string {
	self := Self{ID: alice, Tag: wire.Tag{1}}
	if unpacked := UnpackAccess(a.Pack()); unpacked != a {
		t.Errorf("%+v packed and unpacked is %+v", a, unpacked)
	}
	switch way {
	case "publish":
		return matrixCodes[a.Publish(self, topicNamed(t, self, name))]
	case "subscribe":
		return matrixCodes[a.Subscribe(self, topicNamed(t, self, name))]
	case "receive":
		return yesNo(a.Receive())
	}
	return yesNo(a.Visible())
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func topicNamed(t *testing.T, self Self, name string) wire.Topic {
	kind, whose, _ := strings.Cut(name, "/")
	topic := wire.Topic{Kind: wire.TopicKind(kind[0])}
	hasID := topic.Kind == wire.TopicHello || topic.Kind == wire.TopicBundle
	switch {
	case whose == "":
	case hasID && whose == "own":
		topic.ID = self.ID
	case hasID:
		topic.ID = mallory
	case whose == "own":
		topic.Tag = self.Tag
	default:
		topic.Tag = wire.Tag{2}
	}
	if parsed, err := wire.ParseTopic(topic.String()); err != nil || parsed != topic {
		t.Fatalf("%q is no topic: %v", name, err)
	}
	return topic
}

// TestNobodyOwnsTheZeroTopics shows that a connection without an ID or a tag owns no topic.
func TestNobodyOwnsTheZeroTopics(t *testing.T) {
	a := levels["all"]
	if got := a.Publish(Self{}, wire.Topic{Kind: wire.TopicBundle}); got != wire.NotAllowed {
		t.Errorf("publishing the zero ID's bundle: %v", got)
	}
	for _, kind := range []wire.TopicKind{wire.TopicHello, wire.TopicInbox} {
		if got := a.Subscribe(Self{}, wire.Topic{Kind: kind}); got != wire.NotAllowed {
			t.Errorf("subscribing to %c/ of nobody: %v", kind, got)
		}
	}
	if a.Publish(Self{}, wire.Topic{}) != wire.NotAllowed || a.Subscribe(Self{}, wire.Topic{}) != wire.NotAllowed {
		t.Error("the zero topic is allowed")
	}
}

// FuzzAccessOf shows that whatever is stored, no access exceeds the device's own word. [P-17]
func FuzzAccessOf(f *testing.F) {
	seedStates(f, func(b []byte) {
		f.Add(b, now.Unix())
		f.Add(b, now.AddDate(1, 0, 0).Unix())
	})
	f.Fuzz(func(t *testing.T, b []byte, at int64) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		a := AccessOf(s, time.Unix(at, 0))
		switch {
		case UnpackAccess(a.Pack()) != a:
			t.Errorf("%+v does not survive packing", a)
		case !a.Enrolled && a != Access{}:
			t.Errorf("access without a certificate: %+v", a)
		case a.Listed && !a.Receive():
			t.Errorf("listed without consent to messages: %+v", a)
		case a.Scopes != 0 && (s.Off != nil || s.Record == nil || a.Scopes != s.Record.Scopes):
			t.Errorf("scopes %b from record %+v, revocation %+v", a.Scopes, s.Record, s.Off)
		}
	})
}

// BenchmarkPublishCheck is what every PUBLISH costs before anything happens: its topic parsed and
// its sender's access asked.
func BenchmarkPublishCheck(b *testing.B) {
	self := Self{ID: alice, Tag: wire.Tag{1}}
	word := levels["all"].Pack()
	name := wire.Topic{Kind: wire.TopicInbox, Tag: wire.Tag{7, 8, 9}}.String()
	b.ReportAllocs()
	for b.Loop() {
		topic, err := wire.ParseTopic(name)
		if err != nil || UnpackAccess(word).Publish(self, topic) != wire.OK {
			b.Fatal("refused")
		}
	}
}
