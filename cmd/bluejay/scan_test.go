package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"bluejay/bridge"
	"bluejay/wire"
)

const (
	scanNumber = "+447700900123"
	scanText   = "Shall we walk to the sea today?"
)

// fileOf writes bytes as a file in a folder of its own.
func fileOf(t testing.TB, b []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func scanned(t testing.TB, dir string, ns []needle) finding {
	t.Helper()
	f, err := scan(dir, ns)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// hidden are encodings as others write them, made here without the scanner's own code: one string
// between neighbours, at an alignment.
var hidden = map[string]func(s string, align int) []byte{
	"utf-8": func(s string, align int) []byte { return []byte(strings.Repeat("x", align) + s + "y") },
	"utf-16be": func(s string, align int) []byte {
		b := bytes.Repeat([]byte{1}, align)
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u>>8), byte(u))
		}
		return b
	},
	"utf-16le": func(s string, align int) []byte {
		b := bytes.Repeat([]byte{1}, align)
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return b
	},
	"hex": func(s string, align int) []byte {
		return []byte(hex.EncodeToString([]byte(strings.Repeat("k", align) + s + "z")))
	},
	"HEX":       func(s string, align int) []byte { return fmt.Appendf(nil, "%X", strings.Repeat("k", align)+s+"z") },
	"base64":    func(s string, align int) []byte { return base64std(strings.Repeat("k", align) + s + "?~") },
	"base64end": func(s string, align int) []byte { return base64std(strings.Repeat("k", align) + s) },
	"base64url": func(s string, align int) []byte {
		return []byte(base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xff", align) + s + "\xff\xfe")))
	},
	"gsm7": func(s string, align int) []byte {
		septets, _ := wire.GSMSeptets(strings.Repeat("k", align) + s + "@z")
		return bits(septets)
	},
}

func base64std(s string) []byte { return []byte(base64.StdEncoding.EncodeToString([]byte(s))) }

// bits packs septets bit by bit, the lowest first (GSM 03.38), in another way than package wire.
func bits(septets []byte) []byte {
	out := make([]byte, (len(septets)*7+7)/8)
	for i := range len(septets) * 7 {
		out[i/8] |= septets[i/7] >> (i % 7) & 1 << (i % 8)
	}
	return out
}

// TestScanFinds: every encoding is found at every alignment, of the number in its three spellings and
// of the text, and told apart.
func TestScanFinds(t *testing.T) {
	ns := needles([]string{scanNumber}, []string{scanText})
	for name, hide := range hidden {
		for align := range 9 {
			for _, s := range []string{scanNumber, "447700900123", "07700900123", scanText} {
				f := scanned(t, fileOf(t, hide(s, align)), ns)
				if s == scanText && (f.texts == 0 || f.numbers != 0) || s != scanText && (f.numbers == 0 || f.texts != 0) {
					t.Errorf("%s, %d before %q: %d numbers, %d texts", name, align, s, f.numbers, f.texts)
				}
			}
		}
	}
}

// TestScanFindsBCD: digits two to an octet, from either half of an octet, in both orders, and as the
// service itself packs a number. [P-4]
func TestScanFindsBCD(t *testing.T) {
	ns := needles([]string{scanNumber}, nil)
	for _, digits := range []string{"447700900123", "07700900123"} {
		for _, before := range []string{"", "9", "99", "123"} {
			for _, swapped := range []bool{false, true} {
				s := before + digits + "1"
				if len(s)%2 != 0 {
					s += "5"
				}
				b := make([]byte, len(s)/2)
				for i := range b {
					hi, lo := s[2*i]-'0', s[2*i+1]-'0'
					if swapped {
						hi, lo = lo, hi
					}
					b[i] = hi<<4 + lo
				}
				if f := scanned(t, fileOf(t, b), ns); f.numbers == 0 {
					t.Errorf("%q before %s, swapped %t: not found in %x", before, digits, swapped, b)
				}
			}
		}
	}
	n, err := wire.ParseNumber(scanNumber)
	if err != nil {
		t.Fatal(err)
	}
	packed := n.BCD()
	if f := scanned(t, fileOf(t, packed[:]), ns); f.numbers == 0 {
		t.Errorf("not found as the service packs it: %x [P-4]", packed)
	}
}

// TestScanFalseAlarm: nothing is found in a mebibyte of noise, nor in another's number and text.
func TestScanFalseAlarm(t *testing.T) {
	noise := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte("scan"))).Read(noise)
	noise = append(noise, "to +447700900124, 07700900124: Shall we walk to the pea today?"...)
	ns := needles([]string{scanNumber, "+447700900456"}, []string{scanText, "Bring the red umbrella, please"})
	f := scanned(t, fileOf(t, noise), ns)
	if f.numbers+f.texts != 0 {
		t.Errorf("found %v", f.where)
	}
	if f.files != 1 || f.size != int64(len(noise)) {
		t.Errorf("%d files, %d bytes", f.files, f.size)
	}
	for _, n := range ns {
		if len(n.bytes) < 5 {
			t.Errorf("%s: %d bytes would be found anywhere", n.name, len(n.bytes))
		}
	}
}

// TestScanNames: the name of a file or folder tells as much as what is in it.
func TestScanNames(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "inbox-447700900123", "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	if f := scanned(t, dir, needles([]string{scanNumber}, nil)); f.numbers == 0 {
		t.Error("a number in the name of a folder is not found")
	}
	if f := scanned(t, filepath.Join(dir, "inbox-447700900123"), needles([]string{scanNumber}, nil)); f.numbers != 0 {
		t.Error("the folder's own path is none of the node's doing")
	}
}

// TestFindingIsDiscreet: what is reported says where and how, and never what.
func TestFindingIsDiscreet(t *testing.T) {
	f := scanned(t, fileOf(t, []byte(scanNumber+scanText)), needles([]string{scanNumber}, []string{scanText}))
	if all := strings.Join(f.where, " "); strings.Contains(all, "7700900123") || strings.Contains(all, "walk") || !strings.Contains(all, "(utf-8)") {
		t.Errorf("%v", f.where)
	}
}

// TestScanErrors: a file that cannot be read is an error, not an empty file; so is no folder.
func TestScanErrors(t *testing.T) {
	if _, err := scan(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// planted is how many needles a number and a text without characters of two septets have: of each of
// three spellings 1 + 1 + 1 + 2 + 6 + 8 and two BCD orders from two halves; of the text the former.
const planted = 3*(19+4) + 19

// TestPlant: every spelling in every encoding and variant is planted once, and found.
func TestPlant(t *testing.T) {
	found, err := plant(t.TempDir(), scanNumber, scanText)
	if err != nil {
		t.Fatal(err)
	}
	labels := map[label]bool{}
	for _, n := range needles([]string{scanNumber}, []string{scanText}) {
		labels[n.label] = true
	}
	if found != planted || len(labels) != planted {
		t.Errorf("%d planted, %d labels, want %d", found, len(labels), planted)
	}
	for form := range 3 {
		for _, e := range slices.Concat(common, numberOnly) {
			if !labels[label{name: e.name, form: form}] {
				t.Errorf("spelling %d is not planted as %s", form, e.name)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := plant(filepath.Join(file, "below a file"), scanNumber, scanText); err == nil || found != 0 {
		t.Errorf("%d planted, %v", found, err)
	}
}

// TestScanFindsInNATS: a number that really was stored in JetStream is found in its files: neither
// compression nor encryption hides there what the node must not know. [F-8]
func TestScanFindsInNATS(t *testing.T) {
	t.Parallel()
	dir, open := natsServer(t)
	if err := open(bridge.RoleBroker).EnsureStreams(bounded(t), bridge.Limits{}); err != nil {
		t.Fatal(err)
	}
	ns := needles([]string{scanNumber}, []string{scanText})
	if f := scanned(t, dir, ns); f.numbers+f.texts != 0 || f.files == 0 {
		t.Fatalf("before: %d files, %v", f.files, f.where)
	}
	value := []byte(`{"to":"` + scanNumber + `","text":"` + strings.Repeat(scanText, 20) + `"}`)
	if err := open(bridge.RoleRegistrar).Counts().Save(bounded(t), wire.ID{1}, value, 0); err != nil {
		t.Fatal(err)
	}
	f := scanned(t, dir, ns)
	if f.numbers == 0 || f.texts == 0 || !f.found[label{name: "utf-8"}] {
		t.Errorf("stored in JetStream, but not found: %d numbers, %d texts in %d files", f.numbers, f.texts, f.files)
	}
}
