package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bluejay/consent"
	"bluejay/wire"
)

// saved is a phone's newest receipt as a file.
func (p *phone) saved() string {
	p.w.t.Helper()
	var b bytes.Buffer
	if err := p.WriteReceipt(&b); err != nil {
		p.w.t.Fatal(err)
	}
	return tempFile(p.w.t, b.Bytes())
}

// consentCommand runs a consent command by the node's pins.
func (w *world) consentCommand(args ...string) (string, error) {
	w.t.Helper()
	out, _, err := runCommand(w.t, nil, append(append([]string{"consent"}, args...), "--pins", filepath.Join(w.dir, filePins))...)
	return out, err
}

// wants fails the test unless a consent command succeeds with these words, or fails with them.
func (w *world) wants(ok bool, words string, args ...string) {
	w.t.Helper()
	out, err := w.consentCommand(args...)
	if (err == nil) != ok || ok && !strings.Contains(out, words) || !ok && !strings.Contains(err.Error(), words) {
		w.t.Errorf("%q: %v, %q; want success %v, %q", args, err, out, ok, words)
	}
}

// TestConsentLog is a user and an auditor against a running node: a receipt is verified and proved to
// be in the log, over HTTP and from the files, the log is checked against an older checkpoint, and
// whatever is changed on the disk is found, by the commands and by the node. [L-2] [L-3] [L-4] [L-6] [L-9]
func TestConsentLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	alice := w.enrol("alice", aliceNumber)
	dir, url, tmp := filepath.Join(w.dir, dirLog), "http://"+w.at.HTTP+"/log", t.TempDir()
	kept, proof := filepath.Join(tmp, "checkpoint"), filepath.Join(tmp, "proof")
	receipt := alice.saved()
	w.wants(true, "it says it is entry 0", "verify", receipt)
	w.wants(true, "has 1 entries", "log", "verify", "--url", url, "--save", kept)
	w.wants(true, "", "log", "prove", receipt, "--url", url, "--out", proof)
	w.wants(true, "The receipt is entry 0", "log", "verify", "--dir", dir, "--proof", proof, "--receipt", receipt)

	if err := errors.Join(alice.OptOut(bounded(t)), alice.OptIn(bounded(t), wire.ScopeMessaging, wire.Listed)); err != nil {
		t.Fatal(err)
	}
	bob := w.enrol("bob", bobNumber)
	w.wants(true, "begins with the 1 entries", "log", "verify", "--url", url, "--since", kept)
	w.wants(true, "The receipt is entry 0", "log", "verify", "--url", url, "--proof", proof, "--receipt", receipt)
	w.wants(false, "not in the log at this place", "log", "verify", "--url", url, "--proof", proof, "--receipt", bob.saved())
	out, err := w.consentCommand("log", "verify", "--dir", dir, "--since", kept, "--all", "--json")
	var found logFound
	if err := errors.Join(err, json.Unmarshal([]byte(out), &found)); err != nil || found.Size != 4 || !found.All || found.Since == nil || *found.Since != 1 {
		t.Errorf("%+v, %v", found, err)
	}
	w.noPseudonym(dir, alice, bob)
	w.stop()
	w.tampered(dir, kept)

	w.start() // with everything as it was
	if again := w.enrol("carol", "+447700900789"); again.Proofs()[0].Entry.Index != 4 {
		t.Errorf("after a restart the log goes on at %d, want 4", again.Proofs()[0].Entry.Index)
	}
	w.wants(true, "begins with the 1 entries", "log", "verify", "--dir", dir, "--since", kept)
}

// noPseudonym looks for IDs, keys and numbers in the log's files. [L-2]
func (w *world) noPseudonym(dir string, phones ...*phone) {
	w.t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		for _, p := range phones {
			cert := p.Proofs()[0].Cert
			bcd := p.number.BCD()
			for _, trace := range [][]byte{cert.ID[:], []byte(cert.ID.String()), cert.Device[:], []byte(p.number.E164()[1:]), bcd[:]} {
				if bytes.Contains(b, trace) {
					w.t.Errorf("%s: something of %s is in the log", name, p.name)
				}
			}
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// tampered changes one leaf, the length of a tile, one bit of the checkpoint, and puts an older
// checkpoint back: nobody is deceived, and the node does not start.
func (w *world) tampered(dir, kept string) {
	w.t.Helper()
	older, err := os.ReadFile(kept)
	if err != nil {
		w.t.Fatal(err)
	}
	tile, checkpoint := filepath.Join("tile", "0", "000"), "checkpoint"
	for i, tt := range []struct {
		what, file string
		change     func(b []byte) []byte
	}{
		{"a leaf rewritten", tile, func(b []byte) []byte { b[40] ^= 1; return b }},
		{"a leaf removed", tile, func(b []byte) []byte { return append(b[:32:32], b[64:]...) }},
		{"a checkpoint edited", checkpoint, func(b []byte) []byte { return bytes.Replace(b, []byte("\n4\n"), []byte("\n3\n"), 1) }},
		{"a signature edited", checkpoint, func(b []byte) []byte { b[len(b)-6] ^= 1; return b }},
	} {
		name := filepath.Join(dir, tt.file)
		whole, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(name, tt.change(bytes.Clone(whole)), 0o644); err != nil {
			w.t.Fatal(err)
		}
		w.wants(false, "", "log", "verify", "--dir", dir)
		w.wants(false, "", "log", "verify", "--dir", dir, "--since", kept)
		if i == 0 { // the others are TestLedgerRefuses
			node := bluejay(w.t, w.env, w.args...)
			if code := node.wait(w.t); code != 1 || !strings.Contains(node.stderr.String(), "backup") {
				w.t.Errorf("%s: the node starts: exit code %d, %s", tt.what, code, node.stderr)
			}
		}
		if err := os.WriteFile(name, whole, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	// An older checkpoint over newer tiles is a log that fits itself, and not what was seen since.
	newest := filepath.Join(w.t.TempDir(), "newest")
	w.wants(true, "has 4 entries", "log", "verify", "--dir", dir, "--save", newest)
	whole, err := os.ReadFile(filepath.Join(dir, checkpoint))
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, checkpoint), older, 0o644)); err != nil {
		w.t.Fatal(err)
	}
	w.wants(false, consent.ErrLog.Error(), "log", "verify", "--dir", dir, "--since", newest)
	if err := os.WriteFile(filepath.Join(dir, checkpoint), whole, 0o644); err != nil {
		w.t.Fatal(err)
	}
}
