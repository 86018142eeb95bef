package bluejay_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A sentence of spec/ begins with its number in bold: a prefix of capital
// letters, a dash, and a number or a word. A citation is the same without the
// bold. MQTT's own numbers ([MQTT- and a section) are not ours.
var (
	sentenceForm = regexp.MustCompile(`\*\*\[([A-Z]+-(?:[0-9]+|[a-z][a-z0-9-]*))\]\*\*`)
	citationForm = regexp.MustCompile(`\[([A-Z]+-(?:[0-9]+|[a-z][a-z0-9-]*))\]`)
)

const mqttPrefix = "MQTT"

// A mention is a sentence's number standing somewhere.
type mention struct {
	id    string // C-1
	where string // file:line
}

// find lists where a form stands in a text; line is the text's first line.
func find(form *regexp.Regexp, name string, line int, text []byte) []mention {
	var found []mention
	for _, m := range form.FindAllSubmatchIndex(text, -1) {
		id := string(text[m[2]:m[3]])
		if prefix(id) != mqttPrefix {
			at := line + bytes.Count(text[:m[0]], []byte("\n"))
			found = append(found, mention{id, fmt.Sprintf("%s:%d", name, at)})
		}
	}
	return found
}

// prefix is what stands before the dash: the chapter a sentence belongs to.
func prefix(id string) string {
	p, _, _ := strings.Cut(id, "-")
	return p
}

// citations lists what a Go file cites in its comments and string literals;
// an index expression such as a[C-1] is neither.
func citations(s source) []mention {
	var found []mention
	cite := func(n ast.Node, text string) {
		line := s.fset.Position(n.Pos()).Line
		found = append(found, find(citationForm, s.path, line, []byte(text))...)
	}
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			cite(c, c.Text)
		}
	}
	for n := range ast.Preorder(s.file) {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			cite(lit, lit.Value)
		}
	}
	return found
}

// A specification is the numbered sentences and everything that cites one.
type specification struct {
	sentences []mention
	cross     []mention // in spec/ itself, definitions included
	code      []mention // in non-test .go files
	tests     []mention // in _test.go files, testkit, and testdata/*.txt
}

// violations lists what is defined twice, cited nowhere, or cited but not there.
func (sp specification) violations() []string {
	defined := map[string]string{}
	chapters := map[string]bool{}
	var bad []string
	for _, s := range sp.sentences {
		if first, ok := defined[s.id]; ok {
			bad = append(bad, fmt.Sprintf("%s: [%s] is already the number of %s: give this sentence the next free one", s.where, s.id, first))
			continue
		}
		defined[s.id], chapters[prefix(s.id)] = s.where, true
	}
	bad = append(bad, uncited(defined, sp.code, "no code", "the doc comment of what keeps it")...)
	bad = append(bad, uncited(defined, sp.tests, "no test", "the test that fails when it is broken")...)
	for _, c := range slices.Concat(sp.cross, sp.code, sp.tests) {
		if chapters[prefix(c.id)] && defined[c.id] == "" {
			bad = append(bad, fmt.Sprintf("%s cites [%s], which spec/ does not have: correct the number, or write the sentence", c.where, c.id))
		}
	}
	return bad
}

// uncited lists the sentences that none of the citations names.
func uncited(defined map[string]string, by []mention, what, where string) []string {
	missing := maps.Clone(defined)
	for _, c := range by {
		delete(missing, c.id)
	}
	var bad []string
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		bad = append(bad, fmt.Sprintf("%s: %s cites [%s]: cite it in %s", defined[id], what, id, where))
	}
	return bad
}

// addCode files a Go source's citations under code or tests. This file, whose
// citations are examples, and the other readers of the tree cite nothing.
func (sp *specification) addCode(s source) {
	switch {
	case s.pkg == ".":
	case s.test || s.pkg == testkit:
		sp.tests = append(sp.tests, citations(s)...)
	default:
		sp.code = append(sp.code, citations(s)...)
	}
}

// addSpec reads one file of spec/.
func (sp *specification) addSpec(name string, text []byte) {
	sp.sentences = append(sp.sentences, find(sentenceForm, name, 1, text)...)
	sp.cross = append(sp.cross, find(citationForm, name, 1, text)...)
}

func TestSpecIsCited(t *testing.T) {
	var sp specification
	readSpec(t, &sp)
	readScripts(t, &sp)
	for _, s := range loadTree(t) {
		sp.addCode(s)
	}
	for _, v := range sp.violations() {
		t.Error(v)
	}
	t.Logf("%d sentences; cited %d times in code, %d times in tests", len(sp.sentences), len(sp.code), len(sp.tests))
}

// readSpec reads spec/*.md; a missing or empty spec fails the test.
func readSpec(t *testing.T, sp *specification) {
	t.Helper()
	files, err := filepath.Glob("spec/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		sp.addSpec(filepath.ToSlash(name), readFile(t, name))
	}
	if len(sp.sentences) == 0 {
		t.Fatalf("no numbered sentence in the %d files of spec/*.md: the protocol belongs there, each promise beginning with its number, as **[C-1]**", len(files))
	}
}

// readScripts reads the test scripts of all packages: testdata/*.txt and below.
func readScripts(t *testing.T, sp *specification) {
	t.Helper()
	for _, pkg := range packagesOf(loadTree(t)) {
		for _, pattern := range []string{"testdata/*.txt", "testdata/*/*.txt"} {
			scripts, err := filepath.Glob(filepath.Join(pkg, filepath.FromSlash(pattern)))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range scripts {
				sp.tests = append(sp.tests, find(citationForm, filepath.ToSlash(name), 1, readFile(t, name))...)
			}
		}
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A specCase is a small world of one spec, one code file and one test file, and
// a part of each violation expected, in order.
type specCase struct {
	name, spec, code, test string
	want                   []string
}

var specCases = []specCase{
	{name: "cited by both", spec: "**[C-1]** x", code: "// f keeps [C-1].", test: "// [C-1]"},
	{name: "words and several letters", spec: "**[CR-revoke]** x", code: "// [CR-revoke]", test: `var s = "[CR-revoke] order"`},
	{name: "cited by no code", spec: "**[C-1]** x", test: "// [C-1]", want: []string{"spec/a.md:1: no code cites [C-1]"}},
	{name: "cited by no test", spec: "\n**[C-1]** x", code: "// [C-1]", want: []string{"spec/a.md:2: no test cites [C-1]"}},
	{name: "an index is no citation", spec: "**[C-1]** x", code: "// [C-1]", test: "var x = a[C-1]", want: []string{"no test cites"}},
	{name: "a longer number is no citation", spec: "**[C-1]** x", code: "// [C-1]", test: "// [C-11]", want: []string{"no test cites", "pkg/a_test.go:2 cites [C-11]"}},
	{name: "cited but not there", spec: "**[C-1]** x", code: "// [C-1]\n//\n// [C-2]", test: "// [C-1]", want: []string{"pkg/a.go:4 cites [C-2]"}},
	{name: "a raw string of several lines", spec: "**[C-1]** x", code: "// [C-1]", test: "var s = `\n[C-1]\n[C-3]`", want: []string{"pkg/a_test.go:4 cites [C-3]"}},
	{name: "spec cites what it lacks", spec: "**[C-1]** after [C-9]", code: "// [C-1]", test: "// [C-1]", want: []string{"spec/a.md:1 cites [C-9]"}},
	{name: "defined twice", spec: "**[C-1]** x\n**[C-1]** y", code: "// [C-1]", test: "// [C-1]", want: []string{"spec/a.md:2: [C-1] is already the number of spec/a.md:1"}},
	{name: "other chapters are not ours", spec: "**[C-1]** x", code: "// [C-1] [X-7] [A-Z]", test: "// [C-1] [MQTT-4.3.2-5] [MQTT-4]"},
}

func TestSpecCheckBites(t *testing.T) {
	for _, c := range specCases {
		t.Run(c.name, func(t *testing.T) {
			var sp specification
			sp.addSpec("spec/a.md", []byte(c.spec))
			sp.addCode(parseText(t, "pkg/a.go", "package pkg\n"+c.code+"\n"))
			sp.addCode(parseText(t, "pkg/a_test.go", "package pkg\n"+c.test+"\n"))
			got := sp.violations()
			if len(got) != len(c.want) {
				t.Fatalf("violations %q, want %q", got, c.want)
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("violation %q, want one with %q", got[i], want)
				}
			}
		})
	}
}

// TestReadersCiteNothing shows that the examples in this file count nowhere.
func TestReadersCiteNothing(t *testing.T) {
	var sp specification
	sp.addCode(parseText(t, "spec_test.go", "package bluejay_test\n// [C-1]\n"))
	if len(sp.code)+len(sp.tests) != 0 {
		t.Errorf("the root's own files count as citations: %+v", sp)
	}
}
