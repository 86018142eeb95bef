package bluejay_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the module's path in go.mod; TestModulePath keeps the two equal, so
// that a rename cannot turn every import into a third-party one unnoticed.
const module = "bluejay"

// anything in the import table stands for every package but testkit.
const anything = "*"

// testkit may import whatever it needs to build a whole world, and only
// _test.go files may import it.
const testkit = "internal/testkit"

// smsc is a phone network in miniature: tests talk to it, and the demo.
const smsc = "sms/smsc"

// imports is the layout: which package of ours may import which others of ours.
// Tests are held to it too, except that they may import testkit. Arrows point
// only downwards: a package stands below everything it imports. Change it in
// the commit that needs the change, and say there why.
var imports = map[string][]string{
	"wire":              {},
	"blind":             {"wire"},
	"envelope":          {"wire"},
	"consent":           {"wire"},
	"presence":          {"wire"},
	"custody":           {"wire"},
	"fallback":          {"wire"},
	smsc:                {},
	"sms":               {"wire"}, // wire holds the GSM 03.38 alphabet
	"registrar":         {"wire", "blind", "envelope"},
	"worker":            {"wire", "envelope", "fallback", "sms"},
	"hooks":             {"wire", "consent", "presence", "custody"},
	"bridge":            {"wire", "consent", "presence", "custody", "fallback"},
	"broker":            {"wire", "consent", "presence", "custody", "fallback", "hooks", "bridge"}, // fallback has the transition that becomes an event
	"clients/handset":   {"wire", "blind", "envelope", "consent", "fallback"},
	"clients/simulator": {"wire", "envelope", "fallback", "clients/handset"}, // lean handsets seal, and decide, as real ones do
	"cmd/bluejay":       {anything},
	testkit:             {anything},
	".":                 {}, // the tests that read the tree
}

// maxPackages is the size at which a new package needs an old one to go.
const maxPackages = 18

// library says who may use a third-party library. testkit always may.
type library struct {
	path  string   // the import path, or the folders above it
	code  []string // packages that may import it
	tests []string // packages whose _test.go files may, too
}

// libraries confines what is costly, or what would tie policy to a transport.
var libraries = []library{
	{path: "github.com/mochi-mqtt", code: []string{"hooks", "broker"}},
	{path: "github.com/nats-io/nats.go", code: []string{"bridge"}, tests: []string{"broker", "worker", "registrar"}},
	{path: "github.com/nats-io/nats-server", code: []string{"broker"}, tests: []string{"bridge"}},
	{path: "github.com/nats-io/jwt", code: []string{"broker"}},                                  // accounts and users of NATS
	{path: "github.com/nats-io/nkeys", code: []string{"broker"}},                                // their keys
	{path: "github.com/cloudflare/circl", code: []string{"blind"}, tests: []string{"envelope"}}, // tests: HPKE interop
	{path: "github.com/eclipse", code: []string{"clients/handset"}},
	{path: "golang.org/x/mod", code: []string{"consent"}},                  // tree hashes, tiles and signed notes of the log
	{path: "github.com/nyaruka/phonenumbers", code: []string{"sms"}},       // 10 MB: only the worker's process touches it
	{path: "github.com/prometheus", code: []string{"cmd/bluejay"}},         // a package says what it counts, the command exports it
	{path: "github.com/go-analyze/charts", code: []string{"cmd/bluejay"}},  // plots of the simulator's report
	{path: "github.com/invopop/jsonschema", code: []string{"cmd/bluejay"}}, // schemas are made by a command, never served
	{path: "github.com/santhosh-tekuri/jsonschema", tests: []string{"cmd/bluejay"}},
	{path: "github.com/goccy/go-yaml", tests: []string{"cmd/bluejay"}}, // docker-compose.yml
}

// sealedOff names the standard packages, with all below them, that a package's
// code does without: it decides, and others act. Its tests may read files.
var sealedOff = map[string][]string{
	"wire":     {"net", "os"},
	"blind":    {"net", "os"},
	"envelope": {"net", "os"},
	"consent":  {"net"},
	"presence": {"net"},
	"custody":  {"net"},
	"fallback": {"net"},
}

// goroutineFree packages start no goroutine: they take events and return effects.
var goroutineFree = []string{"wire", "blind", "envelope", "consent", "presence", "custody", "fallback"}

// plainNumbers may turn a wire.Number into a phone number as text, by E164. So
// may all tests, and testkit.
var plainNumbers = []string{"wire", "blind", "registrar", "worker", "sms", "clients/handset", "cmd/bluejay"}

// vagueNames say nothing about what a package is for.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "type", "types"}

// panics lists the library functions that may panic, as "file.go:Func", each
// with its reason. An entry that is no longer needed fails the test.
var panics = map[string]string{}

const maxFileLines = 700

// A source is one parsed .go file.
type source struct {
	path  string // from the module root, with slashes
	pkg   string // the folder, "." at the root
	test  bool   // _test.go
	lines int
	file  *ast.File
	fset  *token.FileSet
}

// parseSource parses one file; name decides what package it belongs to.
func parseSource(name string, text []byte) (source, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	return source{
		path:  name,
		pkg:   path.Dir(name),
		test:  strings.HasSuffix(name, "_test.go"),
		lines: strings.Count(string(text), "\n"),
		file:  file,
		fset:  fset,
	}, err
}

// at says where a node is, as file:line.
func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

// library reports whether s is code that others import, not a command or a test.
func (s source) library() bool {
	return !s.test && s.pkg != testkit && !strings.HasPrefix(s.pkg, "cmd/")
}

// importPaths lists what s imports.
func (s source) importPaths() []string {
	var paths []string
	for _, spec := range s.file.Imports {
		p, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
		paths = append(paths, p)
	}
	return paths
}

// tree is every .go file of the module, parsed once for all tests.
var tree = sync.OnceValues(func() ([]source, error) {
	var sources []source
	err := walkFiles(".go", func(name string, text []byte) error {
		s, err := parseSource(name, text)
		sources = append(sources, s)
		return err
	})
	return sources, err
})

// walkFiles reads each file of the module with an extension, skipping the
// folders the go command skips.
func walkFiles(ext string, read func(name string, text []byte) error) error {
	return filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (skipFolder(entry.Name()) || otherModule(name)):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(name) != ext:
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return read(filepath.ToSlash(name), text)
	})
}

func skipFolder(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules"
}

// otherModule reports a module of its own, such as the examples for integrators.
func otherModule(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "go.mod"))
	return err == nil
}

// loadTree returns the module's sources, or fails the test.
func loadTree(t *testing.T) []source {
	t.Helper()
	sources, err := tree()
	if err != nil {
		t.Fatalf("reading the module's sources: %v", err)
	}
	return sources
}

// layoutChecks are the rules a file can break by itself. Each returns what is
// wrong, and TestLayoutChecksBite shows each one a file that breaks it.
var layoutChecks = map[string]func(source) []string{
	"imports":       importViolations,
	"libraries":     libraryViolations,
	"sealed off":    sealedViolations,
	"goroutines":    goroutineViolations,
	"plain numbers": plainNumberViolations,
	"file length":   lengthViolations,
	"init":          initViolations,
	"panic":         func(s source) []string { return panicViolations(s, panics) },
	"names":         nameViolations,
}

func TestLayout(t *testing.T) {
	sources := loadTree(t)
	for _, name := range slices.Sorted(maps.Keys(layoutChecks)) {
		t.Run(name, func(t *testing.T) {
			for _, s := range sources {
				for _, v := range layoutChecks[name](s) {
					t.Error(v)
				}
			}
		})
	}
}

// importViolations holds s to the import table.
func importViolations(s source) []string {
	allowed, ok := imports[s.pkg]
	if !ok {
		return []string{fmt.Sprintf("%s: package %s is not in the import table: add it to imports in layout_test.go, with what it may import", s.path, s.pkg)}
	}
	var bad []string
	for _, p := range s.importPaths() {
		ours, ok := strings.CutPrefix(p, module+"/")
		if ok && ours != s.pkg && !mayImport(s, allowed, ours) {
			bad = append(bad, fmt.Sprintf("%s imports %s: package %s may import only %v; declare the interface it needs, or change the table with your reason", s.path, ours, s.pkg, allowed))
		}
	}
	return bad
}

func mayImport(s source, allowed []string, ours string) bool {
	switch ours {
	case testkit:
		return s.test
	case smsc:
		return s.test || s.pkg == "cmd/bluejay"
	}
	return slices.Contains(allowed, ours) || slices.Contains(allowed, anything)
}

// libraryViolations confines third-party libraries.
func libraryViolations(s source) []string {
	var bad []string
	for _, p := range s.importPaths() {
		for _, lib := range libraries {
			if under(p, lib.path) && !lib.allows(s) {
				bad = append(bad, fmt.Sprintf("%s imports %s: only %v may (and tests of %v)", s.path, p, lib.code, lib.tests))
			}
		}
	}
	return bad
}

func (l library) allows(s source) bool {
	return s.pkg == testkit || slices.Contains(l.code, s.pkg) || s.test && slices.Contains(l.tests, s.pkg)
}

// under reports whether an import path is root or below it.
func under(importPath, root string) bool {
	return importPath == root || strings.HasPrefix(importPath, root+"/")
}

// sealedViolations keeps the network and files out of the packages that decide.
func sealedViolations(s source) []string {
	var bad []string
	for _, p := range s.importPaths() {
		for _, root := range sealedOff[s.pkg] {
			if !s.test && under(p, root) {
				bad = append(bad, fmt.Sprintf("%s imports %s: package %s only decides; let its caller act", s.path, p, s.pkg))
			}
		}
	}
	return bad
}

// goroutineViolations looks for go statements, and for the methods called Go
// (of sync.WaitGroup and errgroup.Group) that hide one.
func goroutineViolations(s source) []string {
	if s.test || !slices.Contains(goroutineFree, s.pkg) {
		return nil
	}
	var bad []string
	for _, n := range goStatements(s) {
		bad = append(bad, fmt.Sprintf("%s starts a goroutine: package %s returns what is to be done and its caller does it", s.at(n), s.pkg))
	}
	return bad
}

// goStatements lists where s starts goroutines.
func goStatements(s source) []ast.Node {
	var found []ast.Node
	for n := range ast.Preorder(s.file) {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, n)
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Go" {
				found = append(found, n)
			}
		}
	}
	return found
}

// plainNumberViolations finds uses of E164 where numbers must stay unreadable.
func plainNumberViolations(s source) []string {
	if s.test || s.pkg == testkit || slices.Contains(plainNumbers, s.pkg) {
		return nil
	}
	var bad []string
	for n := range ast.Preorder(s.file) {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "E164" {
			bad = append(bad, fmt.Sprintf("%s reads a plain phone number: package %s must do with wire.Number or an ID", s.at(sel), s.pkg))
		}
	}
	return bad
}

func lengthViolations(s source) []string {
	if s.test || s.lines <= maxFileLines {
		return nil
	}
	return []string{fmt.Sprintf("%s has %d lines, more than %d: split it by what it is about", s.path, s.lines, maxFileLines)}
}

func initViolations(s source) []string {
	if !s.library() {
		return nil
	}
	var bad []string
	for _, decl := range s.file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			bad = append(bad, fmt.Sprintf("%s: func init in a library: let the caller construct what it needs", s.at(f)))
		}
	}
	return bad
}

// panicViolations finds calls of panic outside the functions allowed to.
func panicViolations(s source, allowed map[string]string) []string {
	if !s.library() {
		return nil
	}
	var bad []string
	for _, decl := range s.file.Decls {
		key := s.path + ":" + declName(decl)
		for _, call := range panicCalls(decl) {
			if allowed[key] == "" {
				bad = append(bad, fmt.Sprintf("%s panics: return an error, or add %q to panics in layout_test.go with the reason", s.at(call), key))
			}
		}
	}
	return bad
}

func panicCalls(decl ast.Decl) []ast.Node {
	var found []ast.Node
	for n := range ast.Preorder(decl) {
		if call, ok := n.(*ast.CallExpr); ok {
			if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "panic" {
				found = append(found, call)
			}
		}
	}
	return found
}

// declName is a function's name, without its receiver, or "var" for the rest.
func declName(decl ast.Decl) string {
	if f, ok := decl.(*ast.FuncDecl); ok {
		return f.Name.Name
	}
	return "var"
}

func nameViolations(s source) []string {
	name := strings.TrimSuffix(s.file.Name.Name, "_test")
	if !slices.Contains(vagueNames, name) && !slices.Contains(vagueNames, path.Base(s.pkg)) {
		return nil
	}
	return []string{fmt.Sprintf("%s: a package called %s says nothing: name it after what it provides", s.path, name)}
}

// stalePanics lists the entries of the allow-list that allow nothing.
func stalePanics(sources []source, allowed map[string]string) []string {
	needed := map[string]bool{}
	for _, s := range sources {
		for _, decl := range s.file.Decls {
			if len(panicCalls(decl)) > 0 {
				needed[s.path+":"+declName(decl)] = true
			}
		}
	}
	var stale []string
	for key := range allowed {
		if !needed[key] {
			stale = append(stale, fmt.Sprintf("panics allows %s, which does not panic: remove the entry", key))
		}
	}
	return stale
}

func TestPanicAllowListIsNeeded(t *testing.T) {
	for _, v := range stalePanics(loadTree(t), panics) {
		t.Error(v)
	}
}

// packagesOf lists the folders that hold Go files.
func packagesOf(sources []source) []string {
	var pkgs []string
	for _, s := range sources {
		pkgs = append(pkgs, s.pkg)
	}
	slices.Sort(pkgs)
	return slices.Compact(pkgs)
}

func TestPackageCount(t *testing.T) {
	pkgs := packagesOf(loadTree(t))
	if len(pkgs) > maxPackages {
		t.Errorf("%d packages, more than %d: join two of %v", len(pkgs), maxPackages, pkgs)
	}
}

// TestImportTableHasNoCycle shows that the table itself points only downwards,
// and names only packages it has.
func TestImportTableHasNoCycle(t *testing.T) {
	for _, v := range tableViolations(imports) {
		t.Error(v)
	}
}

// tableViolations finds packages that reach themselves through the table.
func tableViolations(table map[string][]string) []string {
	var bad []string
	for pkg := range table {
		seen := map[string]bool{}
		for queue := slices.Clone(table[pkg]); len(queue) > 0; queue = queue[1:] {
			next := queue[0]
			if _, ok := table[next]; !ok && next != anything {
				bad = append(bad, fmt.Sprintf("%s may import %s, which is not in the table", pkg, next))
			}
			if !seen[next] {
				seen[next] = true
				queue = append(queue, table[next]...)
			}
		}
		if seen[pkg] {
			bad = append(bad, fmt.Sprintf("%s may import itself by a detour", pkg))
		}
	}
	return bad
}

var moduleLine = regexp.MustCompile(`(?m)^module (\S+)$`)

func TestModulePath(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if m := moduleLine.FindSubmatch(text); m == nil || string(m[1]) != module {
		t.Errorf("go.mod does not say %q: set module in layout_test.go to its path", "module "+module)
	}
}

// A layoutCase is a file shown to one check: a positive control if bad, or a
// near miss that must pass.
type layoutCase struct {
	check, path, text string
	bad               bool
}

// long has one line more than a file may have.
var long = "package wire" + strings.Repeat("\n", maxFileLines+1)

var layoutCases = []layoutCase{
	{"imports", "wire/a.go", `package wire; import "bluejay/blind"`, true},
	{"imports", "wire/a_test.go", `package wire_test; import "bluejay/blind"`, true},
	{"imports", "wire/a_test.go", `package wire_test; import "bluejay/wire"`, false},
	{"imports", "hooks/a.go", `package hooks; import "bluejay/bridge"`, true},
	{"imports", "hooks/a.go", `package hooks; import "bluejay/custody"`, false},
	{"imports", "broker/a.go", `package broker; import "bluejay/internal/testkit"`, true},
	{"imports", "broker/a_test.go", `package broker; import "bluejay/internal/testkit"`, false},
	{"imports", "worker/a_test.go", `package worker; import "bluejay/sms/smsc"`, false},
	{"imports", "worker/a.go", `package worker; import "bluejay/sms/smsc"`, true},
	{"imports", "cmd/bluejay/a.go", `package main; import "bluejay/broker"`, false},
	{"imports", "cmd/bluejay/a.go", `package main; import "bluejay/internal/testkit"`, true},
	{"imports", "internal/testkit/a.go", `package testkit; import "bluejay/broker"`, false},
	{"imports", "metrics/a.go", `package metrics`, true},
	{"libraries", "custody/a.go", `package custody; import mqtt "github.com/mochi-mqtt/server/v2"`, true},
	{"libraries", "custody/a_test.go", `package custody; import "github.com/mochi-mqtt/server/v2/packets"`, true},
	{"libraries", "hooks/a.go", `package hooks; import "github.com/mochi-mqtt/server/v2/packets"`, false},
	{"libraries", "broker/a.go", `package broker; import "github.com/nats-io/nats.go/jetstream"`, true},
	{"libraries", "broker/a_test.go", `package broker; import "github.com/nats-io/nats.go"`, false},
	{"libraries", "bridge/a.go", `package bridge; import "github.com/nats-io/nats-server/v2/server"`, true},
	{"libraries", "bridge/a_test.go", `package bridge; import "github.com/nats-io/nats-server/v2/server"`, false},
	{"libraries", "envelope/a.go", `package envelope; import "github.com/cloudflare/circl/hpke"`, true},
	{"libraries", "envelope/a_test.go", `package envelope; import "github.com/cloudflare/circl/hpke"`, false},
	{"libraries", "clients/simulator/a.go", `package simulator; import mqtt "github.com/eclipse/paho.mqtt.golang"`, true},
	{"libraries", "clients/handset/a.go", `package handset; import mqtt "github.com/eclipse/paho.mqtt.golang"`, false},
	{"libraries", "internal/testkit/a.go", `package testkit; import "github.com/nats-io/nats-server/v2/server"`, false},
	{"sealed off", "fallback/a.go", `package fallback; import "net/http"`, true},
	{"sealed off", "fallback/a.go", `package fallback; import "os"`, false},
	{"sealed off", "wire/a.go", `package wire; import "os"`, true},
	{"sealed off", "wire/a_test.go", `package wire; import "os"`, false},
	{"sealed off", "broker/a.go", `package broker; import "net"`, false},
	{"goroutines", "presence/a.go", `package presence; func f() { go f() }`, true},
	{"goroutines", "presence/a.go", `package presence; import "sync"; func f() { var w sync.WaitGroup; w.Go(f) }`, true},
	{"goroutines", "presence/a_test.go", `package presence; func f() { go f() }`, false},
	{"goroutines", "broker/a.go", `package broker; func f() { go f() }`, false},
	{"plain numbers", "hooks/a.go", `package hooks; func f(n interface{ E164() string }) { _ = n.E164() }`, true},
	{"plain numbers", "hooks/a.go", `package hooks; import "bluejay/wire"; var f = wire.Number.E164`, true},
	{"plain numbers", "worker/a.go", `package worker; func f(n interface{ E164() string }) { _ = n.E164() }`, false},
	{"plain numbers", "hooks/a_test.go", `package hooks; func f(n interface{ E164() string }) { _ = n.E164() }`, false},
	{"file length", "wire/a.go", long, true},
	{"file length", "wire/a_test.go", long, false},
	{"file length", "wire/a.go", strings.TrimSuffix(long, "\n"), false},
	{"init", "sms/a.go", `package sms; func init() {}`, true},
	{"init", "sms/a.go", `package sms; type s struct{}; func (s) init() {}`, false},
	{"init", "cmd/bluejay/a.go", `package main; func init() {}`, false},
	{"panic", "sms/a.go", `package sms; func f() { panic("no") }`, true},
	{"panic", "sms/a.go", `package sms; var f = func() { panic("no") }`, true},
	{"panic", "sms/a_test.go", `package sms; func f() { panic("no") }`, false},
	{"panic", "cmd/bluejay/a.go", `package main; func f() { panic("no") }`, false},
	{"names", "sms/types/a.go", `package types`, true},
	{"names", "sms/util/a.go", `package segments`, true},
	{"names", "sms/a_test.go", `package sms_test`, false},
}

// TestLayoutChecksBite shows each check a file that breaks its rule, so that
// none passes because it looks at nothing.
func TestLayoutChecksBite(t *testing.T) {
	bitten := map[string]bool{}
	for _, c := range layoutCases {
		got := layoutChecks[c.check](parseText(t, c.path, c.text))
		if (len(got) > 0) != c.bad {
			t.Errorf("%s: %s %q: violations %q, want any: %v", c.check, c.path, c.text, got, c.bad)
		}
		bitten[c.check] = bitten[c.check] || c.bad
	}
	for name := range layoutChecks {
		if !bitten[name] {
			t.Errorf("no positive control for the check %q: add a bad file to layoutCases", name)
		}
	}
}

func TestTreeChecksBite(t *testing.T) {
	s := parseText(t, "sms/a.go", `package sms; func f() { panic("no") }`)
	allowed := map[string]string{"sms/a.go:f": "shown here", "sms/a.go:g": "gone"}
	if got := panicViolations(s, allowed); len(got) != 0 {
		t.Errorf("an allowed panic was reported: %q", got)
	}
	if got := stalePanics([]source{s}, allowed); len(got) != 1 || !strings.Contains(got[0], "sms/a.go:g") {
		t.Errorf("stale entries %q, want only sms/a.go:g", got)
	}
	if got := tableViolations(map[string][]string{"a": {"b"}, "b": {"a"}}); len(got) != 2 {
		t.Errorf("a cycle of two gave %q, want two violations", got)
	}
	if got := tableViolations(map[string][]string{"a": {"gone"}}); len(got) != 1 {
		t.Errorf("an unknown package gave %q, want one violation", got)
	}
}

// parseText parses a file written in a test.
func parseText(t *testing.T, name, text string) source {
	t.Helper()
	s, err := parseSource(name, []byte(text))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}
