package fallback

import (
	"strings"
	"testing"
	"time"

	"bluejay/wire"
)

// TestMatch: an SMS copy folds into one IP text, or into none. [F-13]
func TestMatch(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	ip := func(after time.Duration, text string) Arrival {
		return Arrival{Conversation: "anna", Text: text, At: at.Add(after)}
	}
	sms := Arrival{Conversation: "anna", Text: "it's at 8...", At: at}
	taken := ip(0, "it's at 8...")
	taken.Folded = true
	other := ip(0, "it's at 8...")
	other.Conversation = "ben"
	tests := []struct {
		name string
		sms  Arrival
		ip   []Arrival
		want int
	}{
		{"nothing there", sms, nil, -1},
		{"the same text", sms, []Arrival{ip(0, "it's at 8...")}, 0},
		{"as typed", sms, []Arrival{ip(time.Minute, "it’s at 8…")}, 0},
		{"transliterated on the way", Arrival{Conversation: "anna", Text: "“ça va”", At: at}, []Arrival{ip(0, `"ca va"`)}, 0},
		{"white space", Arrival{Conversation: "anna", Text: " it's  at\u00a08... ", At: at}, []Arrival{ip(0, "it's at 8...")}, 0},
		{"the SMS came first", sms, []Arrival{ip(10*time.Minute, "it's at 8...")}, 0},
		{"too late", sms, []Arrival{ip(10*time.Minute+1, "it's at 8...")}, -1},
		{"too early", sms, []Arrival{ip(-10*time.Minute-1, "it's at 8...")}, -1},
		{"exactly ten minutes before", sms, []Arrival{ip(-10*time.Minute, "it's at 8...")}, 0},
		{"another text", sms, []Arrival{ip(0, "it's at 9...")}, -1},
		{"another peer", sms, []Arrival{other}, -1},
		{"taken", sms, []Arrival{taken}, -1},
		{"taken, and another", sms, []Arrival{taken, ip(time.Minute, "it's at 8...")}, 1},
		{"the nearest", sms, []Arrival{ip(-3*time.Minute, "it's at 8..."), ip(time.Minute, "it's at 8..."), ip(2*time.Minute, "it's at 8...")}, 1},
		{"upper case is another text", sms, []Arrival{ip(0, "It's at 8...")}, -1},
	}
	for _, tt := range tests {
		if got := Match(tt.sms, tt.ip); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestMatchOnce: two equal SMS fold into two equal texts, a third stays. [F-13]
func TestMatchOnce(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	ip := []Arrival{{"anna", "ok", at, false}, {"anna", "ok", at, false}}
	for i := range 3 {
		k := Match(Arrival{Conversation: "anna", Text: "ok", At: at}, ip)
		if (k >= 0) != (i < 2) {
			t.Fatalf("SMS %d folds into %d", i+1, k)
		}
		if k >= 0 {
			ip[k].Folded = true
		}
	}
}

// TestTransliterate: every replacement is GSM text, and GSM text is left alone. [F-13]
func TestTransliterate(t *testing.T) {
	tests := map[string]string{
		"‘a’ “b” «c»": `'a' "b" "c"`, "a–b—c…": "a-b-c...", "5\u00a0km": "5 km", "Dvořák, Łódź, garçon": "Dvorak, Lodz, garcon",
		"привет": "привет", "😀": "😀", "": "", "äöüßñ€": "äöüßñ€", "a\u200bb\tc": "ab c",
	}
	for in, want := range tests {
		if got := Transliterate(in); got != want {
			t.Errorf("Transliterate(%q) = %q, want %q", in, got, want)
		}
	}
	every := "‘’‚‛′´`‹›“”„‟″«»‐‑‒–—―−…•·×÷©®™\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u200b\u00ad\ufeff\t" +
		"ÀÁÂÃĀĂĄĆČĎÈÊËĒĘĚĞÌÍÎÏĪİŁŃŇÒÓÔÕŌŐŒŘŚŞŠŤÙÚÛŪŮŰÝŹŻŽáâãāăąçćčďêëēęěğíîïīıłńňóôõōőœřśşšťúûūůűýÿźżž"
	for _, r := range every {
		if _, ok := wire.GSMSeptets(string(r)); ok {
			t.Errorf("%q is GSM already", r)
		}
		if _, ok := wire.GSMSeptets(Transliterate(string(r))); !ok {
			t.Errorf("%q becomes %q, which is not GSM", r, Transliterate(string(r)))
		}
	}
}

// FuzzTransliterate: it is done after one pass, and never costs a part. [F-13]
func FuzzTransliterate(f *testing.F) {
	for _, s := range []string{"", "it’s", "привет “мир”", strings.Repeat("…", 70), "😀—é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once := Transliterate(text)
		if Transliterate(once) != once {
			t.Fatalf("%q needs two passes", text)
		}
		if _, ok := wire.GSMSeptets(text); ok && once != text {
			t.Fatalf("%q is GSM and became %q", text, once)
		}
	})
}
