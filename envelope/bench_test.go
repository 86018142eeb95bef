package envelope

import "testing"

func BenchmarkInitiate(b *testing.B) {
	self, bundle := alice(b), prekeyOf(b, bob(b), 1).Bundle()
	f := TextFrame(thirty)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Initiate(self, tagA, ridA, bundle, f, start); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenInit(b *testing.B) {
	self, pre := bob(b), prekeyOf(b, bob(b), 1)
	_, init, err := Initiate(alice(b), tagA, ridA, pre.Bundle(), TextFrame(thirty), start)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenInit(self, pre, init, start); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSeal and BenchmarkOpen work on a copy, so that the epoch does not wear out.
func BenchmarkSeal(b *testing.B) {
	s, _ := established(b)
	f := TextFrame(thirty)
	b.ReportAllocs()
	for b.Loop() {
		again := *s
		if _, _, err := again.Seal(f, start); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	from, to := established(b)
	msg, _ := mustSeal(b, from, thirty, start)
	b.ReportAllocs()
	for b.Loop() {
		again := *to
		if _, _, err := again.Open(msg, start); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshalSession(b *testing.B) {
	s, _ := established(b)
	b.ReportAllocs()
	for b.Loop() {
		if len(s.Marshal()) != MinSession {
			b.Fatal("another size")
		}
	}
}

func BenchmarkParseSession(b *testing.B) {
	s, _ := established(b)
	state := s.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseSession(state); err != nil {
			b.Fatal(err)
		}
	}
}
