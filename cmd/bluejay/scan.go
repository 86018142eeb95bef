package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"bluejay/wire"
)

// A needle is one number or text in one encoding.
type needle struct {
	label
	bytes []byte
}

// label tells the needles of one number and one text apart.
type label struct {
	name    string // of the encoding
	text    bool   // else a number
	form    int    // which of numberForms; 0 for a text
	variant int    // which of the encoder's results
}

// encoder is one way a number or a text could hide in a file.
type encoder struct {
	name   string
	encode func(string) [][]byte
}

func one(f func(string) []byte) func(string) [][]byte {
	return func(s string) [][]byte { return [][]byte{f(s)} }
}

// common are the encodings of numbers and texts alike.
var common = []encoder{
	{"utf-8", one(func(s string) []byte { return []byte(s) })},
	{"utf-16be", one(func(s string) []byte { return utf16Bytes(s, 0) })},
	{"utf-16le", one(func(s string) []byte { return utf16Bytes(s, 1) })},
	{"hex", func(s string) [][]byte {
		h := hex.EncodeToString([]byte(s))
		return [][]byte{[]byte(h), []byte(strings.ToUpper(h))}
	}},
	{"base64", base64Forms},
	{"gsm7-packed", packedForms},
}

// numberOnly are the encodings only numbers have.
var numberOnly = []encoder{
	{"bcd", func(s string) [][]byte { return bcd(s, false) }},
	{"bcd-swapped", func(s string) [][]byte { return bcd(s, true) }},
}

func utf16Bytes(s string, low int) []byte {
	u := utf16.Encode([]rune(s))
	b := make([]byte, 2*len(u))
	for i, c := range u {
		b[2*i+low], b[2*i+1-low] = byte(c>>8), byte(c)
	}
	return b
}

// base64Forms are what a string looks like inside base64 at each of the three alignments, without
// the characters that its neighbours decide.
func base64Forms(s string) [][]byte {
	var out [][]byte
	for shift := range 3 {
		e := base64.StdEncoding.EncodeToString([]byte("\x00\x00"[:shift] + s))
		head := []int{0, 2, 3}[shift]
		tail := len(strings.TrimRight(e, "="))
		if (shift+len(s))%3 != 0 {
			tail--
		}
		std := e[head:tail]
		out = append(out, []byte(std), []byte(strings.NewReplacer("+", "-", "/", "_").Replace(std)))
	}
	return out
}

// packedForms are what a string looks like packed in GSM 03.38 septets from each of the eight bit
// offsets, without the first and last octet, which neighbours share.
func packedForms(s string) [][]byte {
	septets, ok := wire.GSMSeptets(s)
	if !ok {
		return nil
	}
	var out [][]byte
	for lead := range 8 {
		p := wire.PackGSM(append(make([]byte, lead), septets...))
		first := (lead*7 + 7) / 8
		last := (lead + len(septets)) * 7 / 8
		if last-first >= 5 {
			out = append(out, p[first:last])
		}
	}
	return out
}

// bcd packs digits two to an octet, beginning in the first half of an octet and in the second,
// without what neighbours share; swapped is the order of SMS addresses (TS 23.040).
func bcd(s string, swapped bool) [][]byte {
	var out [][]byte
	for half := range 2 {
		digits := strings.TrimPrefix(s, "+")[half:]
		b := make([]byte, len(digits)/2)
		for i := range b {
			hi, lo := digits[2*i]-'0', digits[2*i+1]-'0'
			if swapped {
				hi, lo = lo, hi
			}
			b[i] = hi<<4 | lo
		}
		out = append(out, b)
	}
	return out
}

// numberForms are the spellings of a number: international, without plus, national.
func numberForms(e164 string) []string {
	digits := strings.TrimPrefix(e164, "+")
	return []string{e164, digits, "0" + digits[2:]} // the demo's numbers have two-digit country codes
}

// needles lists every number and text in every encoding.
func needles(numbers, texts []string) []needle {
	var out []needle
	add := func(es []encoder, s string, text bool, form int) {
		for _, e := range es {
			for i, b := range e.encode(s) {
				out = append(out, needle{label{e.name, text, form, i}, b})
			}
		}
	}
	for _, n := range numbers {
		for i, form := range numberForms(n) {
			add(common, form, false, i)
			add(numberOnly, form, false, i)
		}
	}
	for _, t := range texts {
		add(common, t, true, 0)
	}
	return out
}

// finding counts what a scan found.
type finding struct {
	files   int
	size    int64
	numbers int
	texts   int
	where   []string // file and encoding, never the needle
	found   map[label]bool
}

// scan searches every file below dir, and every name, for every needle.
func scan(dir string, ns []needle) (finding, error) {
	f := finding{found: map[label]bool{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != dir {
			f.search([]byte(d.Name()), ns, filepath.Dir(path)+": a name in it")
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f.files++
		f.size += int64(len(b))
		f.search(b, ns, path)
		return nil
	})
	return f, err
}

func (f *finding) search(b []byte, ns []needle, where string) {
	for _, n := range ns {
		if bytes.Contains(b, n.bytes) {
			f.add(n, where)
		}
	}
}

func (f *finding) add(n needle, where string) {
	if n.text {
		f.texts++
	} else {
		f.numbers++
	}
	f.found[n.label] = true
	f.where = append(f.where, fmt.Sprintf("%s (%s)", where, n.name))
}

// plant writes every spelling of a number and a text in every encoding below dir, one file each, and
// checks that scan finds that very needle in each: without that a clean scan would prove nothing, and
// another needle that fits the same file would hide one that finds nothing.
func plant(dir, number, text string) (found int, err error) {
	ns := needles([]string{number}, []string{text})
	for i, n := range ns {
		sub := filepath.Join(dir, fmt.Sprintf("planted-%d-%s", i, n.name))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return found, err
		}
		noise := append(append(random(100), n.bytes...), random(100)...)
		if err := os.WriteFile(filepath.Join(sub, "f"), noise, 0o600); err != nil {
			return found, err
		}
		switch f, err := scan(sub, ns); {
		case err != nil:
			return found, err
		case !f.found[n.label]:
			return found, fmt.Errorf("the scan misses a planted %s, spelling %d, variant %d", n.name, n.form, n.variant)
		}
		found++
	}
	return found, nil
}
