package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bluejay/blind"
	"bluejay/bridge"
	"bluejay/broker"
	"bluejay/clients/handset"
	"bluejay/envelope"
	"bluejay/wire"
)

// The key files of a node. Each process is given one folder and reads no other:
//
//	keys/broker     receipt.key, tag.key, nats.creds, and the integrators' keys
//	keys/registrar  root.key, cert.key, voprf.key, box.key, nats.creds
//	keys/worker     number.key, stop.box (public), nats.creds (and its day keys, which it makes itself)
//	keys/operator   nats.authority, nats.creds: for the operator's commands, no process reads it
//	keys/nats       tls.crt, tls.key, server.conf: for a NATS server outside (--nats-host)
//	keys/kannel     lines with secrets that Kannel's configuration includes (--kannel)
//	nats-accounts   public: who may connect to NATS, and what each may do
//	pins.json       public: what handsets pin
//
// A file is one line of base64url, nats.creds as NATS has it; mode 0600.
const (
	fileReceipt = "receipt.key"
	fileTag     = "tag.key"
	fileRoot    = "root.key"
	fileCert    = "cert.key"
	fileVOPRF   = "voprf.key"
	fileBox     = "box.key"
	fileNumber  = "number.key"
	fileStopBox = "stop.box" // the registrar's public key, to which a number that said STOP is sealed
	fileCreds   = "nats.creds"
	fileNATS    = "nats.authority" // signs NATS accounts and roles
	filePins    = "pins.json"
	fileURL     = "nats-url" // where the running node's NATS listens
)

// Sizes of keys that are just random, in bytes.
const (
	sizeTag    = 32
	sizeNumber = 32
	sizeBox    = 1216 // an X-Wing public key
)

var b64 = base64.RawURLEncoding

// keyDir is the folder of one role's keys.
type keyDir string

func (d keyDir) path(name string) string { return filepath.Join(string(d), name) }

func (d keyDir) read(name string) ([]byte, error) {
	b, err := os.ReadFile(d.path(name))
	if err != nil {
		return nil, fmt.Errorf("key file: %w (make the keys with `bluejay keys init`)", err)
	}
	v, err := b64.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("key file %s: not one line of base64url", d.path(name))
	}
	return v, nil
}

// exactly reads a key of a known size.
func (d keyDir) exactly(name string, size int) ([]byte, error) {
	b, err := d.read(name)
	if err == nil && len(b) != size {
		return nil, fmt.Errorf("key file %s: %d bytes where %d are due", d.path(name), len(b), size)
	}
	return b, err
}

func (d keyDir) seed(name string) (ed25519.PrivateKey, error) {
	b, err := d.exactly(name, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(b), nil
}

// parsed reads a key that has a form of its own. What parse says could repeat a part of the key.
func parsed[K any](d keyDir, name string, parse func([]byte) (K, error)) (K, error) {
	var k K
	b, err := d.read(name)
	if err != nil {
		return k, err
	}
	if k, err = parse(b); err != nil {
		return k, fmt.Errorf("key file %s: not a key of this kind", d.path(name))
	}
	return k, nil
}

func (d keyDir) write(name string, value []byte) error {
	return d.writeAll(name, []byte(b64.EncodeToString(value)+"\n"))
}

// writeAll makes a file that was not there.
func (d keyDir) writeAll(name string, content []byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// rolesDir returns the folder of a role below a node's directory.
func rolesDir(dir string, r bridge.Role) keyDir {
	return keyDir(filepath.Join(dir, "keys", string(r)))
}

// initialised reports whether a node's keys were made; pins.json is written last.
func initialised(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, filePins))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// initKeys makes every key of a new node. It runs in a process of its own, so that no process that
// serves ever held a key of another role. It refuses a directory that has keys already.
func initKeys(dir, broker string) error { return initNode(dir, broker, beside{}) }

// initNode is initKeys for a node with other parts beside it.
func initNode(dir, broker string, with beside) error {
	if err := with.check(); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Join(dir, "keys")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	pins := handset.Pins{Broker: broker}
	steps := []func(string, *handset.Pins) error{initNATS, initBroker, initRegistrar, initWorker}
	for _, step := range append(steps, with.steps()...) {
		switch err := step(dir, &pins); {
		case errors.Is(err, fs.ErrExist):
			return fmt.Errorf("this directory has keys already, and nothing is made over them: %w", err)
		case err != nil:
			return fmt.Errorf("making keys: %w", err)
		}
	}
	return savePins(filepath.Join(dir, filePins), pins)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: Go 1.24
	return b
}

// roleOperator is the folder of the operator's commands.
const roleOperator = bridge.RoleOperator

// trustDir is what a NATS server of the node needs to know of accounts.
func trustDir(dir string) string { return filepath.Join(dir, "nats-accounts") }

// initNATS makes the operator of the node's NATS and gives each role its credentials. The server is
// given nothing that is secret: it checks signatures. [F-5]
func initNATS(dir string, _ *handset.Pins) error {
	a, err := broker.NewAuthority()
	if err != nil {
		return err
	}
	secret, err := a.Marshal()
	if err != nil {
		return err
	}
	if err := rolesDir(dir, roleOperator).write(fileNATS, secret); err != nil {
		return err
	}
	for _, r := range append(bridge.Roles(), roleOperator) {
		creds, err := a.RoleCreds(r)
		if err != nil {
			return err
		}
		if err := rolesDir(dir, r).writeAll(fileCreds, creds); err != nil {
			return err
		}
	}
	return a.WriteTrust(trustDir(dir))
}

func savePins(path string, p handset.Pins) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// makeSeed makes an Ed25519 key file and returns its public key.
func makeSeed(d keyDir, name string) (wire.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return wire.PublicKey{}, err
	}
	return wire.PublicKey(public), d.write(name, private.Seed())
}

func initBroker(dir string, pins *handset.Pins) error {
	d := rolesDir(dir, bridge.RoleBroker)
	receipt, err := makeSeed(d, fileReceipt)
	if err != nil {
		return err
	}
	pins.Receipt = []wire.PublicKey{receipt}
	return d.write(fileTag, random(sizeTag))
}

func initRegistrar(dir string, pins *handset.Pins) (err error) {
	d := rolesDir(dir, bridge.RoleRegistrar)
	if pins.Root, err = makeSeed(d, fileRoot); err != nil {
		return err
	}
	if pins.Registrar, err = makeSeed(d, fileCert); err != nil {
		return err
	}
	voprf, err := blind.GenerateServerKey()
	if err != nil {
		return err
	}
	box, err := envelope.GenerateRegistrarSecret()
	if err != nil {
		return err
	}
	pins.VOPRF, pins.RegistrarBox = voprf.Public(), box.Public()
	return errors.Join(d.write(fileVOPRF, voprf.Marshal()), d.write(fileBox, box.Marshal()))
}

func initWorker(dir string, pins *handset.Pins) error {
	d := rolesDir(dir, bridge.RoleWorker)
	return errors.Join(d.write(fileNumber, random(sizeNumber)), d.write(fileStopBox, pins.RegistrarBox))
}
