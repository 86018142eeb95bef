package simulator

import (
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"time"

	"bluejay/clients/handset"
	"bluejay/envelope"
	"bluejay/wire"
)

// Credential is what a lean handset is certified with.
type Credential struct {
	Cert   wire.Certificate
	Device [ed25519.SeedSize]byte
}

func (c *Credential) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(c.Device[:]) }

// prekeyID numbers the one prekey of a lean handset.
const prekeyID = 1

// shortPrekey is a prekey without what can be computed again: a lean handset must be small.
type shortPrekey struct {
	seed     [32]byte
	notAfter uint32
	sig      wire.Signature
}

// Layout of [envelope.Prekey.Marshal]: version 1 | seed 32 | bundle.
const seedAt = 1

func newShortPrekey(self envelope.Identity, notAfter time.Time) (p shortPrekey, bundle []byte, err error) {
	full, err := envelope.NewPrekey(self, prekeyID, notAfter)
	if err != nil {
		return p, nil, err
	}
	copy(p.seed[:], full.Marshal()[seedAt:])
	b := full.Bundle()
	p.notAfter, p.sig = b.NotAfter, b.Sig
	return p, b.Marshal(), nil
}

// open computes the whole prekey.
func (p *shortPrekey) open(cert wire.Certificate) (*envelope.Prekey, error) {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(p.seed[:])
	if err != nil {
		return nil, err
	}
	public := key.PublicKey().Bytes()
	if len(public) != wire.XWingPublicLen {
		return nil, errors.New("simulator: an X-Wing key of another length")
	}
	b := &wire.Bundle{Cert: cert, PrekeyID: prekeyID, NotAfter: p.notAfter, Sig: p.sig}
	copy(b.Prekey[:], public)
	raw := append([]byte{1}, p.seed[:]...)
	return envelope.ParsePrekey(append(raw, b.Marshal()...))
}

// nextStamp is the time of a CONNECT without TLS: none is used twice. [P-16]
func nextStamp(last uint32, now time.Time) uint32 { return max(last+1, wire.Unix32(now)) }

// proof is the password of a CONNECT. [P-15]
func (c *Credential) proof(gen, stamp uint32, exporter []byte, broker string, withCert bool) []byte {
	p := wire.Connect{ID: c.Cert.ID, Gen: gen, TLS: exporter != nil}
	if withCert {
		p.Cert = &c.Cert
	}
	if !p.TLS {
		p.TS = stamp
	}
	p.Sign(c.key(), exporter, broker)
	return p.Marshal()
}

// consentLife is how long a record of a lean handset is good for.
const consentLife = 30 * 24 * time.Hour

// record is a consent record; no scope withdraws.
func (c *Credential) record(scopes wire.Scope, seq uint32, now time.Time) []byte {
	r := wire.Consent{
		ID: c.Cert.ID, Scopes: scopes, Seq: seq, IssuedAt: wire.Unix32(now), ExpiresAt: wire.Unix32(now.Add(consentLife)),
		Notice: handset.NoticeHashes()[0], // nobody reads it, but a node accepts no other
	}
	r.Sign(c.key())
	return r.Marshal()
}

// seqOf reads the stored seq that answers a stale record.
func seqOf(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}
