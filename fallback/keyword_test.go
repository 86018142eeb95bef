package fallback

import (
	"os"
	"strings"
	"testing"
)

// lines returns the table of testdata/keywords.txt: what is asked for, and the text.
func lines(t testing.TB) [][2]string {
	t.Helper()
	b, err := os.ReadFile("testdata/keywords.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "\n\n")
	var all [][2]string
	for line := range strings.Lines(table) {
		want, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			t.Fatalf("%q: want keyword: text", line)
		}
		all = append(all, [2]string{want, strings.ReplaceAll(strings.TrimPrefix(text, " "), `\n`, "\n")})
	}
	return all
}

// TestReadKeyword: what people write, and what it asks for. [F-18]
func TestReadKeyword(t *testing.T) {
	count := map[string]int{}
	for _, l := range lines(t) {
		count[l[0]]++
		if got := ReadKeyword(l[1]); got.String() != l[0] {
			t.Errorf("%q is %v, want %s", l[1], got, l[0])
		}
	}
	if count["stop"] < 100 || count["none"] < 70 {
		t.Errorf("the table has shrunk: %v", count)
	}
}

// TestKeywordBounds: a long text is cut, not refused; names of keywords. [F-18]
func TestKeywordBounds(t *testing.T) {
	if got := ReadKeyword("stop\n" + strings.Repeat("a ", 1<<20)); got != KeywordStop {
		t.Errorf("a line STOP before a long text is %v", got)
	}
	if got := ReadKeyword(strings.Repeat("a ", 1<<20) + "\nplease stop texting me"); got != KeywordNone {
		t.Errorf("beyond the bound something was read: %v", got)
	}
	if got := ReadKeyword("\xff\xfe stop \x00"); got != KeywordStop {
		t.Errorf("invalid UTF-8 around STOP is %v", got)
	}
	if Keyword(99).String() != "invalid" || KeywordNone.String() != "none" {
		t.Error("names")
	}
}

// FuzzReadKeyword: case, width and white space around a text never change what it asks for.
func FuzzReadKeyword(f *testing.F) {
	for _, l := range lines(f) {
		f.Add(l[1])
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = text[:min(len(text), 500)]
		got := ReadKeyword(text)
		if got > KeywordHelp {
			t.Fatalf("%q is %d", text, got)
		}
		for _, same := range []string{" " + text + "  ", "\n" + text, text + "\n", text + " !!"} {
			if again := ReadKeyword(same); again != got {
				t.Errorf("%q is %v, and %q is %v", text, got, same, again)
			}
		}
	})
}
