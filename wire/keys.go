package wire

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// XWingPublicLen is the size of an X-Wing (MLKEM768-X25519) public key, in bytes.
const XWingPublicLen = 1216

// Bundle is a device's published prekey. Shape: 1,403 bytes. It shows that its owner opted in;
// it proves nothing about the owner being online. [P-9]
type Bundle struct {
	Cert     Certificate
	PrekeyID uint16
	NotAfter uint32 // Unix seconds
	Prekey   [XWingPublicLen]byte
	Sig      Signature
}

func (b *Bundle) body() []byte {
	o := append(append(make([]byte, 0, BundleLen), b.Cert.Marshal()...), Suite)
	o = binary.BigEndian.AppendUint16(o, b.PrekeyID)
	o = binary.BigEndian.AppendUint32(o, b.NotAfter)
	return append(o, b.Prekey[:]...)
}

// Sign sets Sig with the device's key.
func (b *Bundle) Sign(device ed25519.PrivateKey) { b.Sig = sign(device, "bj1 bundle", b.body()) }

// Marshal returns the 1,403 bytes.
func (b *Bundle) Marshal() []byte { return append(b.body(), b.Sig[:]...) }

// ParseBundle reads the shape; an unknown suite is malformed.
func ParseBundle(p []byte) (*Bundle, error) {
	if len(p) != BundleLen || p[CertificateLen] != Suite {
		return nil, fmt.Errorf("%w: not a key bundle", ErrMalformed)
	}
	cert, err := ParseCertificate(p[:CertificateLen])
	if err != nil {
		return nil, err
	}
	q := p[CertificateLen+1:]
	return &Bundle{
		Cert: cert, PrekeyID: binary.BigEndian.Uint16(q), NotAfter: binary.BigEndian.Uint32(q[2:]),
		Prekey: [XWingPublicLen]byte(q[6:]), Sig: Signature(q[6+XWingPublicLen:]),
	}, nil
}

// Verify checks the certificate, the device's signature and the time.
func (b *Bundle) Verify(registrar PublicKey, now time.Time) error {
	if err := b.Cert.Verify(registrar, now); err != nil {
		return err
	}
	if now.After(Time32(b.NotAfter)) {
		return ErrExpired
	}
	return verify(b.Cert.Device, b.Sig[:], "bj1 bundle", b.body())
}

// WorkerKey is the SMS worker's public key for about a day, signed by the pinned root.
// Shape: 106 bytes. [F-2]
type WorkerKey struct {
	KID       byte
	NotBefore uint32   // Unix seconds
	NotAfter  uint32   // Unix seconds
	Public    [32]byte // X25519
	Sig       Signature
}

func (k WorkerKey) body() []byte {
	b := append(make([]byte, 0, WorkerKeyLen), TypeWorkerKey, k.KID)
	b = binary.BigEndian.AppendUint32(b, k.NotBefore)
	b = binary.BigEndian.AppendUint32(b, k.NotAfter)
	return append(b, k.Public[:]...)
}

// Sign sets Sig with the root key.
func (k *WorkerKey) Sign(root ed25519.PrivateKey) { k.Sig = sign(root, "bj1 worker key", k.body()) }

// Marshal returns the 106 bytes.
func (k WorkerKey) Marshal() []byte { return append(k.body(), k.Sig[:]...) }

// ParseWorkerKey reads the shape only.
func ParseWorkerKey(b []byte) (WorkerKey, error) {
	if err := shape(b, WorkerKeyLen, TypeWorkerKey, "worker key record"); err != nil {
		return WorkerKey{}, err
	}
	return WorkerKey{
		KID: b[1], NotBefore: binary.BigEndian.Uint32(b[2:]), NotAfter: binary.BigEndian.Uint32(b[6:]),
		Public: [32]byte(b[10:42]), Sig: Signature(b[42:]),
	}, nil
}

// Verify checks the root's signature and the time.
func (k WorkerKey) Verify(root PublicKey, now time.Time) error {
	if err := verify(root, k.Sig[:], "bj1 worker key", k.body()); err != nil {
		return err
	}
	if now.Before(Time32(k.NotBefore).Add(-ClockSkew)) || now.After(Time32(k.NotAfter)) {
		return ErrExpired
	}
	return nil
}

// Protocol is the MQTT user name of a device made for Version. [P-15]
const Protocol = "bj2"

// Version is what this code is made for. A later version only adds: who is made for an earlier one may
// ignore what it does not know. 2 adds the reasons on r (0x57).
const Version = 2

// ParseProtocol reads the version in a user name, 1 to 255.
func ParseProtocol(user string) (version int, ok bool) {
	digits, ok := strings.CutPrefix(user, "bj")
	v, err := strconv.ParseUint(digits, 10, 8)
	if !ok || err != nil || v == 0 || digits[0] == '0' || digits[0] == '+' {
		return 0, false
	}
	return int(v), true
}

// ExporterLabel and ExporterLen bind a CONNECT to its TLS connection (RFC 8446 section 7.5). [P-15]
const (
	ExporterLabel = "EXPORTER-bluejay-connect"
	ExporterLen   = 32
)

// Connect is the password of a CONNECT. [P-15]
// With TLS the signature covers the connection's exporter; without it (loopback only) a time.
type Connect struct {
	Cert *Certificate // nil when the broker is asked to remember it
	ID   ID
	Gen  uint32
	TS   uint32 // Unix seconds; only without TLS
	TLS  bool
	Sig  Signature
}

func (c Connect) typ() byte {
	t := byte(TypeConnectCert)
	if c.Cert == nil {
		t = TypeConnectID
	}
	if !c.TLS {
		t += 2
	}
	return t
}

func (c Connect) signed(exporter []byte, broker string) (string, [][]byte) {
	gen := binary.BigEndian.AppendUint32(nil, c.Gen)
	if c.TLS {
		return "bj1 connect", [][]byte{exporter, gen, []byte(broker)}
	}
	return "bj1 connect ts", [][]byte{gen, []byte(broker), binary.BigEndian.AppendUint32(nil, c.TS)}
}

// Sign sets Sig. exporter is the 32-byte TLS exporter, nil without TLS.
func (c *Connect) Sign(device ed25519.PrivateKey, exporter []byte, broker string) {
	label, parts := c.signed(exporter, broker)
	c.Sig = sign(device, label, parts...)
}

// Verify checks Sig against a device key. It does not check the time or replays.
func (c Connect) Verify(device PublicKey, exporter []byte, broker string) error {
	label, parts := c.signed(exporter, broker)
	return verify(device, c.Sig[:], label, parts...)
}

// Marshal returns 185, 81, 189 or 85 bytes.
func (c Connect) Marshal() []byte {
	b := []byte{c.typ()}
	if c.Cert != nil {
		b = append(b, c.Cert.Marshal()...)
	} else {
		b = append(b, c.ID[:]...)
	}
	b = binary.BigEndian.AppendUint32(b, c.Gen)
	if !c.TLS {
		b = binary.BigEndian.AppendUint32(b, c.TS)
	}
	return append(b, c.Sig[:]...)
}

var errConnect = fmt.Errorf("%w: not a connect proof", ErrMalformed)

// ParseConnect reads the shape only. ID is set in either form.
func ParseConnect(b []byte) (Connect, error) {
	if len(b) == 0 || b[0] < TypeConnectCert || b[0] > TypeConnectIDTS {
		return Connect{}, errConnect
	}
	c := Connect{TLS: b[0] < TypeConnectCertTS}
	withCert := b[0] == TypeConnectCert || b[0] == TypeConnectCertTS
	head, tail := 12, 4+sigLen
	if withCert {
		head = CertificateLen
	}
	if !c.TLS {
		tail += 4
	}
	if len(b) != 1+head+tail {
		return Connect{}, errConnect
	}
	if withCert {
		cert, err := ParseCertificate(b[1 : 1+head])
		if err != nil {
			return Connect{}, err
		}
		c.Cert, c.ID = &cert, cert.ID
	} else {
		c.ID = ID(b[1:13])
	}
	b = b[1+head:]
	c.Gen, b = binary.BigEndian.Uint32(b), b[4:]
	if !c.TLS {
		c.TS, b = binary.BigEndian.Uint32(b), b[4:]
	}
	c.Sig = Signature(b)
	return c, nil
}
