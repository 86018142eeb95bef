package wire

import (
	"errors"
	"strings"
	"testing"
)

var (
	someTag = Tag{1, 2, 3, 4, 5, 6, 7, 8, 9}
	idText  = someID.String()
	tagText = someTag.String()
)

// topics are all forms of topic there are. [P-10]
var topics = map[string]Topic{
	"h/" + idText: {Kind: TopicHello, ID: someID}, "b/" + idText: {Kind: TopicBundle, ID: someID},
	"i/" + tagText: {Kind: TopicInbox, Tag: someTag}, "p/" + tagText: {Kind: TopicPresence, Tag: someTag},
	"f": {Kind: TopicFallback}, "k": {Kind: TopicKey}, "x": {Kind: TopicUnread}, "c": {Kind: TopicConsent},
	"r": {Kind: TopicReply}, "e": {Kind: TopicEnrol}, "q": {Kind: TopicQuery},
}

func TestTopics(t *testing.T) {
	for s, want := range topics {
		got, err := ParseTopic(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%q: %+v (%q), %v", s, got, got.String(), err)
		}
		if b := got.Append([]byte("x")); string(b) != "x"+s {
			t.Errorf("%q appended: %q", s, b)
		}
		if len(s) > MaxTopic {
			t.Errorf("%q is longer than MaxTopic", s)
		}
	}
	if (Topic{}).String() != "" {
		t.Error("no topic has a name")
	}
}

// TestTopicsRefuse: wildcards, system and shared topics, empty levels, other lengths, other letters.
// [P-10]
func TestTopicsRefuse(t *testing.T) {
	bad := []string{"", "#", "+", "/", "//", "h", "h/", "i/", "h//", "/h/" + idText, "h/" + idText + "/", "h/" + idText + "/x", "h/#", "h/+", "i/#",
		"+/" + idText, "#/" + idText, "$SYS", "$SYS/broker/clients", "$share/g/i/" + tagText, "$share/g/f", "h/" + tagText, "i/" + idText,
		"H/" + idText, "h\x00" + idText, "h/" + idText[:15] + "=", "h/" + idText[:15] + "+", "h/" + idText[:15] + "\x00", "f/", "f/x", "ff", "a", "a/" + idText,
		"\x00", "é", "h/" + strings.Repeat("é", 8), "i/" + strings.ToUpper(tagText) + "A", strings.Repeat("h/", 40000)}
	for c := range 256 { // every other letter, alone and before an ID
		s := string(rune(c))
		if _, ok := topics[s]; !ok {
			bad = append(bad, s)
		}
		if c != 'h' && c != 'b' {
			bad = append(bad, s+"/"+idText)
		}
		if c != 'i' && c != 'p' {
			bad = append(bad, s+"/"+tagText)
		}
	}
	for _, s := range bad {
		if got, err := ParseTopic(s); !errors.Is(err, ErrMalformed) || got != (Topic{}) {
			t.Errorf("%.40q is read as %+v, %v", s, got, err)
		}
	}
}

// TestTopicAllocs: the broker parses a topic for every publish, and writes one for every delivery. [P-10]
func TestTopicAllocs(t *testing.T) {
	room := make([]byte, 0, MaxTopic)
	for s, topic := range topics {
		if n := testing.AllocsPerRun(100, func() { _ = topic.Append(room) }); n != 0 {
			t.Errorf("%q: %v allocations to append", s, n)
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = ParseTopic(s) }); n != 0 {
			t.Errorf("%q: %v allocations", s, n)
		}
	}
}

func FuzzParseTopic(f *testing.F) {
	for s := range topics {
		f.Add(s)
	}
	f.Add("$share/g/#")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTopic(s)
		if err == nil && (got.String() != s || len(s) > MaxTopic || strings.ContainsAny(s, "+#$")) {
			t.Errorf("%q is read as %+v", s, got)
		}
	})
}

func BenchmarkParseTopic(b *testing.B) {
	s := "i/" + tagText
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTopic(s); err != nil {
			b.Fatal(err)
		}
	}
}
