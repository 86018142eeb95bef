package envelope

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
	"time"

	"bluejay/wire"
)

// Identity is who this handset is, and whose certificates it trusts. It prints as "[sealed]".
type Identity struct {
	Cert      wire.Certificate
	Device    ed25519.PrivateKey // the key Cert names
	Number    wire.Number        // shown to those this user writes to first
	Registrar wire.PublicKey     // pinned
}

// How long a prekey is offered, and how long after that it still opens what was under way. Then the
// caller erases it: only from then on is the first text of a session forward secret. [S-3]
const (
	PrekeyLife  = 7 * 24 * time.Hour
	PrekeyGrace = 2 * 24 * time.Hour
)

const (
	prekeyVersion = 1
	prekeySeedLen = 32
	prekeyLen     = 1 + prekeySeedLen + wire.BundleLen
)

// Prekey is the secret half of a published bundle. It never prints.
type Prekey struct {
	hidden
	key    hpke.PrivateKey
	seed   [prekeySeedLen]byte
	bundle wire.Bundle
	hash   [32]byte // SHA-256 of the bundle as published
}

// NewPrekey makes a prekey and signs its bundle. id numbers it among this device's prekeys; notAfter
// is when others stop using it, [PrekeyLife] from now. [S-3]
func NewPrekey(self Identity, id uint16, notAfter time.Time) (*Prekey, error) {
	k, err := xwing().GenerateKey()
	if err != nil {
		return nil, err
	}
	seed, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	b := wire.Bundle{Cert: self.Cert, PrekeyID: id, NotAfter: wire.Unix32(notAfter),
		Prekey: [wire.XWingPublicLen]byte(k.PublicKey().Bytes())}
	b.Sign(self.Device)
	return assemblePrekey(k, [prekeySeedLen]byte(seed), b), nil
}

func assemblePrekey(k hpke.PrivateKey, seed [prekeySeedLen]byte, b wire.Bundle) *Prekey {
	return &Prekey{key: k, seed: seed, bundle: b, hash: sha256.Sum256(b.Marshal())}
}

// Bundle is what to publish: a copy.
func (p *Prekey) Bundle() *wire.Bundle {
	b := p.bundle
	return &b
}

// ID is the number the prekey was made with; an INIT names it, see [Peek].
func (p *Prekey) ID() uint16 { return p.bundle.PrekeyID }

// EraseAfter is when the caller must erase the prekey: its end plus [PrekeyGrace]. [S-3]
func (p *Prekey) EraseAfter() time.Time { return wire.Time32(p.bundle.NotAfter).Add(PrekeyGrace) }

// Marshal returns 1,436 secret bytes for the handset's store: version 1 | seed 32 | bundle 1403.
func (p *Prekey) Marshal() []byte {
	b := append(make([]byte, 0, prekeyLen), prekeyVersion)
	return append(append(b, p.seed[:]...), p.bundle.Marshal()...)
}

// ParsePrekey reads what [Prekey.Marshal] wrote and checks that seed and bundle belong together. It
// does not check the bundle's signature: it was this handset's own.
func ParsePrekey(b []byte) (*Prekey, error) {
	bad := fmt.Errorf("%w: not a prekey", wire.ErrMalformed)
	if len(b) != prekeyLen || b[0] != prekeyVersion {
		return nil, bad
	}
	seed := [prekeySeedLen]byte(b[1:])
	bundle, err := wire.ParseBundle(b[1+prekeySeedLen:])
	if err != nil {
		return nil, err
	}
	k, err := xwing().NewPrivateKey(seed[:])
	if err != nil || [wire.XWingPublicLen]byte(k.PublicKey().Bytes()) != bundle.Prekey {
		return nil, bad
	}
	return assemblePrekey(k, seed, *bundle), nil
}
