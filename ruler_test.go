package bluejay_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
)

// minDocumented is the share of exported declarations, in percent, that carry
// a doc comment.
const minDocumented = 95

// A declaration is one exported name and whether it is documented.
type declaration struct {
	name       string // file:line name
	documented bool
}

// exported lists s's exported functions, types, constants and variables, and
// the exported methods of exported types. A constant or variable is documented
// by its own comment, before it or behind it, or by that of its group.
func exported(s source) []declaration {
	var found []declaration
	add := func(id *ast.Ident, docs ...*ast.CommentGroup) {
		if id.IsExported() {
			found = append(found, declaration{s.at(id) + " " + id.Name, anyText(docs)})
		}
	}
	for _, decl := range s.file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if ast.IsExported(receiver(decl)) {
				add(decl.Name, decl.Doc)
			}
		case *ast.GenDecl:
			eachSpec(decl, add)
		}
	}
	return found
}

func eachSpec(decl *ast.GenDecl, add func(*ast.Ident, ...*ast.CommentGroup)) {
	for _, spec := range decl.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			add(spec.Name, spec.Doc, soleDoc(decl))
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				add(name, spec.Doc, spec.Comment, decl.Doc)
			}
		}
	}
}

// soleDoc is a declaration's comment if it is not in parentheses: a comment
// over a group of types documents none of them.
func soleDoc(decl *ast.GenDecl) *ast.CommentGroup {
	if decl.Lparen.IsValid() {
		return nil
	}
	return decl.Doc
}

// receiver is the name of a method's type; a plain function stands for itself.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.Name
	}
	for n := range ast.Preorder(f.Recv.List[0].Type) {
		if id, ok := n.(*ast.Ident); ok {
			return id.Name // the first: T of T, *T and T[K]
		}
	}
	return ""
}

func anyText(docs []*ast.CommentGroup) bool {
	return slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool {
		return strings.TrimSpace(d.Text()) != ""
	})
}

// code keeps what is not a test.
func code(sources []source) []source {
	return slices.DeleteFunc(slices.Clone(sources), func(s source) bool { return s.test })
}

// undocumented returns the share of documented exported declarations, in
// percent, and the names of the others. Commands export nothing.
func undocumented(sources []source) (share float64, names []string) {
	total := 0
	for _, s := range code(sources) {
		if s.file.Name.Name == "main" {
			continue
		}
		for _, d := range exported(s) {
			total++
			if !d.documented {
				names = append(names, d.name)
			}
		}
	}
	if total == 0 {
		return 100, nil
	}
	return 100 * float64(total-len(names)) / float64(total), names
}

func TestExportedDocumented(t *testing.T) {
	share, names := undocumented(loadTree(t))
	t.Logf("%.1f %% of exported declarations are documented, want at least %d %%", share, minDocumented)
	if share < minDocumented {
		t.Errorf("write doc comments for:\n  %s", strings.Join(names, "\n  "))
	}
}

// packagesWithoutComment lists the packages none of whose files tells what the
// package is. Commands need one too: it is their manual.
func packagesWithoutComment(sources []source) []string {
	told := map[string]bool{}
	for _, s := range code(sources) {
		told[s.pkg] = told[s.pkg] || strings.TrimSpace(s.file.Doc.Text()) != ""
	}
	maps.DeleteFunc(told, func(_ string, ok bool) bool { return ok })
	return slices.Sorted(maps.Keys(told))
}

func TestPackagesDocumented(t *testing.T) {
	for _, pkg := range packagesWithoutComment(loadTree(t)) {
		t.Errorf("package %s has no package comment: tell its story above a package clause", pkg)
	}
}

// functionLengths lists the lines of every function, sorted.
func functionLengths(sources []source) []int {
	var lengths []int
	for _, s := range sources {
		for _, decl := range s.file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				lengths = append(lengths, linesOf(s.fset, f))
			}
		}
	}
	slices.Sort(lengths)
	return lengths
}

func linesOf(fset *token.FileSet, f *ast.FuncDecl) int {
	return fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1
}

// percentile is the smallest value that p percent do not exceed, by nearest
// rank; 0 of nothing.
func percentile(sorted []int, p int) int {
	if len(sorted) == 0 {
		return 0
	}
	rank := (p*len(sorted) + 99) / 100
	return sorted[max(rank, 1)-1]
}

// TestFigures prints the measures that are read, not enforced.
func TestFigures(t *testing.T) {
	sources := loadTree(t)
	lengths := functionLengths(code(sources))
	t.Logf("functions: %d, p50 %d lines (aim 9), p90 %d (aim 35)", len(lengths), percentile(lengths, 50), percentile(lengths, 90))
	t.Logf("packages: %d", len(packagesOf(sources)))
	t.Log(proportions(sources))
}

// proportions compares the code with its tests and its goroutines. testkit
// counts as tests.
func proportions(sources []source) string {
	var inCode, inTests, starts int
	for _, s := range sources {
		if s.test || s.pkg == testkit {
			inTests += s.lines
			continue
		}
		inCode += s.lines
		starts += len(goStatements(s))
	}
	per := 1 / float64(max(inCode, 1))
	return fmt.Sprintf("code: %d lines; tests: %d, %.0f %% of it (aim 90 to 150); goroutine starts: %d, %.1f per 1,000 lines (aim 1.5)",
		inCode, inTests, 100*float64(inTests)*per, starts, 1000*float64(starts)*per)
}

func TestRulerBites(t *testing.T) {
	const text = `// Package a is documented.
package a

// F is documented.
func F() {}
func G() {}

type T struct{}

func (*T) M() {}
func (t) M() {}

type (
	U int // a comment behind a type is not its documentation
)

const (
	A = 1 // documented behind
	B = 2
)

// Both are documented.
var (
	C int
	D int
)
`
	s := parseText(t, "a/a.go", text)
	share, names := undocumented([]source{s})
	want := []string{"a/a.go:6 G", "a/a.go:8 T", "a/a.go:10 M", "a/a.go:14 U", "a/a.go:19 B"}
	if !slices.Equal(names, want) || share != 100*4.0/9 {
		t.Errorf("undocumented %q, %.1f %% documented; want %q, 44.4 %%", names, share, want)
	}
	bare := parseText(t, "b/b.go", "package b")
	if got := packagesWithoutComment([]source{s, bare}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("packages without comment %q, want b", got)
	}
}

func TestPercentile(t *testing.T) {
	tests := []struct {
		sorted  []int
		p, want int
	}{
		{nil, 50, 0},
		{[]int{7}, 90, 7},
		{[]int{1, 2, 3, 4}, 50, 2},
		{[]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 90, 9},
	}
	for _, tt := range tests {
		if got := percentile(tt.sorted, tt.p); got != tt.want {
			t.Errorf("percentile(%v, %d) = %d, want %d", tt.sorted, tt.p, got, tt.want)
		}
	}
}
