package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/sms/smsc"
)

// made returns the directory of a node whose keys were made.
func made(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	if err := initKeys(dir, "bluejay"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestInitKeys: every key is there, closed to others, in the one folder of the role it is for.
func TestInitKeys(t *testing.T) {
	t.Parallel()
	dir := made(t)
	want := map[string]string{ // file or folder: mode
		"keys": "drwx------", "keys/broker": "drwx------", "keys/registrar": "drwx------", "keys/worker": "drwx------",
		"keys/operator": "drwx------", "keys/operator/nats.authority": "-rw-------", "keys/operator/nats.creds": "-rw-------",
		"keys/broker/nats.creds": "-rw-------", "keys/worker/stop.box": "-rw-------",
		"nats-accounts": "drwxr-xr-x", "nats-accounts/operator.jwt": "-rw-r--r--", "nats-accounts/accounts": "drwxr-xr-x",
		"keys/broker/receipt.key": "-rw-------", "keys/broker/tag.key": "-rw-------",
		"keys/registrar/nats.creds": "-rw-------", "keys/registrar/root.key": "-rw-------", "keys/registrar/cert.key": "-rw-------",
		"keys/registrar/voprf.key": "-rw-------", "keys/registrar/box.key": "-rw-------",
		"keys/worker/nats.creds": "-rw-------", "keys/worker/number.key": "-rw-------",
		"pins.json": "-rw-r--r--",
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err == nil {
			rel, _ := filepath.Rel(dir, path)
			got[rel] = info.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s: mode %q, want %q", name, got[name], mode)
		}
		delete(got, name)
	}
	for name := range got { // the accounts of the roles and of the server itself, by their public keys
		if ok, _ := filepath.Match("nats-accounts/accounts/A*.jwt", name); ok {
			delete(got, name)
		}
	}
	if len(got) != 0 {
		t.Errorf("unexpected: %v", got)
	}
	if _, err := handset.LoadPins(filepath.Join(dir, filePins)); err != nil {
		t.Errorf("pins: %v", err)
	}
}

// TestInitTwice: keys are never made over others; what was there stays as it was.
func TestInitTwice(t *testing.T) {
	t.Parallel()
	dir := made(t)
	before := contents(t, dir)
	p := bluejay(t, nil, "keys", "init", "--dir", dir)
	if code := p.wait(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if text := p.stderr.String(); !strings.Contains(text, "this directory has keys already") || !strings.Contains(text, dir) {
		t.Errorf("%q", text)
	}
	after := contents(t, dir)
	for name, b := range before {
		if !bytes.Equal(b, after[name]) {
			t.Errorf("%s has changed", name)
		}
	}
	if len(before) != len(after) {
		t.Errorf("%d files have become %d", len(before), len(after))
	}
}

func contents(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestInitInterrupted: a crash before the end leaves a directory that is not taken for a node.
func TestInitInterrupted(t *testing.T) {
	t.Parallel()
	dir := made(t)
	if err := os.Remove(filepath.Join(dir, filePins)); err != nil {
		t.Fatal(err)
	}
	if done, err := initialised(dir); done || err != nil {
		t.Errorf("initialised: %t, %v", done, err)
	}
	if err := initKeys(dir, "bluejay"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want %v", err, fs.ErrExist)
	}
}

// TestNATSKeys: no role's folder, and nothing public, has another's NATS key, or the operator's. [F-5]
func TestNATSKeys(t *testing.T) {
	t.Parallel()
	dir := made(t)
	authority, err := os.ReadFile(rolesDir(dir, roleOperator).path(fileNATS))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{"the operator": strings.TrimSpace(string(authority))}
	for _, r := range append(bridge.Roles(), roleOperator) {
		b, err := os.ReadFile(rolesDir(dir, r).path(fileCreds))
		if err != nil {
			t.Fatal(err)
		}
		_, key, ok := strings.Cut(string(b), "-----BEGIN USER NKEY SEED-----\n")
		if !ok {
			t.Fatalf("no key in the credentials of the %s", r)
		}
		keys[string(r)], _, _ = strings.Cut(key, "\n")
	}
	for owner, key := range keys {
		found := 0
		for _, where := range append([]bridge.Role{roleOperator}, bridge.Roles()...) {
			for name, b := range contents(t, filepath.Join(dir, "keys", string(where))) {
				if !bytes.Contains(b, []byte(key)) {
					continue
				}
				found++
				if string(where) != owner && where != roleOperator {
					t.Errorf("%s of the %s holds the key of %s", name, where, owner)
				}
			}
		}
		if found != 1 {
			t.Errorf("the key of %s is in %d files", owner, found)
		}
		for name, b := range contents(t, trustDir(dir)) {
			if bytes.Contains(b, []byte(key)) {
				t.Errorf("%s, which is public, holds the key of %s", name, owner)
			}
		}
	}
}

// TestBadKeyFiles: a key file that cannot be used is named, and nothing of it is repeated.
func TestBadKeyFiles(t *testing.T) {
	t.Parallel()
	const content = "aGVsbG8gd29ybGQ" // "hello world"
	configs := map[bridge.Role]func(c *nodeConfig) error{
		bridge.RoleBroker: func(c *nodeConfig) error {
			pins, err := handset.LoadPins(c.pinsPath())
			if err != nil {
				return err
			}
			_, err = brokerConfig(c, c.keyDir(bridge.RoleBroker), pins)
			return err
		},
		bridge.RoleRegistrar: func(c *nodeConfig) error {
			_, err := registrarConfig(c.keyDir(bridge.RoleRegistrar))
			return err
		},
		bridge.RoleWorker: func(c *nodeConfig) error {
			_, err := startWorker(t.Context(), c, "nats://127.0.0.1:1", c.logger())
			return err
		},
	}
	files := map[bridge.Role][]string{
		bridge.RoleBroker:    {fileReceipt, fileTag, fileCreds},
		bridge.RoleRegistrar: {fileRoot, fileCert, fileVOPRF, fileBox},
		bridge.RoleWorker:    {fileNumber, fileCreds, fileStopBox},
	}
	for role, names := range files {
		for _, name := range names {
			c := defaultConfig()
			c.Dir, c.Listen, c.HTTP = made(t), "127.0.0.1:0", ""
			path := c.keyDir(role).path(name)
			for what, text := range map[string]string{"wrong length": content + "\n", "not base64": "*secret*!" + content, "empty": "", "missing": ""} {
				err := os.WriteFile(path, []byte(text), 0o600)
				if what == "missing" {
					err = os.Remove(path)
				}
				if err != nil {
					t.Fatal(err)
				}
				err = configs[role](&c)
				switch {
				case err == nil:
					t.Errorf("%s %s: accepted", what, path)
				case !strings.Contains(err.Error(), path):
					t.Errorf("%s %s: %q does not name the file", what, path, err)
				case strings.Contains(err.Error(), content) || strings.Contains(err.Error(), "hello") || strings.Contains(err.Error(), "*secret*"):
					t.Errorf("%s %s: %q repeats what is in the file", what, path, err)
				}
			}
		}
	}
}

// TestOwnFolderOnly: registrar and worker start with their own key folder and nothing else of the
// node: no pins, no keys of others. [F-5]
func TestOwnFolderOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--roles", "broker").start()
	started := map[bridge.Role]*proc{}
	for _, role := range []bridge.Role{bridge.RoleRegistrar, bridge.RoleWorker} {
		own := filepath.Join(t.TempDir(), "secrets")
		if err := os.CopyFS(own, os.DirFS(string(rolesDir(w.dir, role)))); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(own, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(string(rolesDir(w.dir, role))); err != nil {
			t.Fatal(err)
		}
		p := bluejay(t, w.env, "serve", "--json", "--roles", string(role), "--nats", w.at.NATS, "--keys", own,
			"--dir", filepath.Join(own, "nothing", "here"), "--sms", "smpp://"+smsc.SystemID+"@"+w.smsc.Addr())
		if r := p.ready(t); r.Addr != "" || r.NATS != w.at.NATS {
			t.Errorf("%s: %+v", role, r)
		}
		started[role] = p
	}
	started[bridge.RoleRegistrar].event(t, "keyed")
	alice, bob := w.pair()
	alice.viaSMS(bob, "by a worker that has nothing but its own")
}

// TestOthersFolder: a role that is given another's folder does not start.
func TestOthersFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--roles", "broker").start()
	for role, other := range map[bridge.Role]bridge.Role{bridge.RoleRegistrar: bridge.RoleWorker, bridge.RoleWorker: bridge.RoleRegistrar} {
		p := bluejay(t, w.env, "serve", "--roles", string(role), "--nats", w.at.NATS, "--keys", string(rolesDir(w.dir, other)))
		if code := p.wait(t); code != 1 || !strings.Contains(p.stderr.String(), "key file: open "+string(rolesDir(w.dir, other))) {
			t.Errorf("%s with the folder of the %s: exit code %d, %s", role, other, code, p.stderr)
		}
	}
	p := bluejay(t, nil, "serve", "--roles", "worker")
	if code := p.wait(t); code != 1 || !strings.Contains(p.stderr.String(), "a registrar or worker without the broker needs --nats URL") {
		t.Errorf("exit code %d, %s", code, p.stderr)
	}
}
