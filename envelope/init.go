package envelope

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"bluejay/wire"
)

// Shape of an INIT: 0x01 | prekey id u16 | enc 1120 | HPKE(inner), where inner is
// cert 116 | number BCD 8 | ephemeral 32 | rid u16 | tag 9 | sig 64 | frame. [S-2]
const (
	typeInit    = 0x01
	initHead    = 3
	innerSigned = wire.CertificateLen + 8 + x25519Len + 2 + 9
	innerHead   = innerSigned + ed25519.SignatureSize

	// InitOverhead is an INIT's size less its frame, in bytes.
	InitOverhead = initHead + xwingEncLen + innerHead + tagLen
	// MaxInit is the most the hello lane carries, in bytes. [S-2]
	MaxInit = 2048
)

func initInfo(id wire.ID, bundleHash [32]byte, head []byte) []byte {
	return wire.LP("bj1 init", id[:], bundleHash[:], head)
}

// transcript is th: it names the session, and the opener signs it. [S-2]
func transcript(id wire.ID, bundleHash [32]byte, head, enc, signed []byte) [32]byte {
	return sha256.Sum256(wire.LP("bj1 th", id[:], bundleHash[:], head, enc, signed))
}

func initSigned(th [32]byte) []byte { return wire.LP("bj1 init sig", th[:]) }

// An exporter is an HPKE context of either side.
type exporter interface {
	Export(context string, length int) ([]byte, error)
}

// firstRoot is rk0 = HKDF-Extract(salt = th, ikm = Export("bj1 rk0", 32)). [S-2]
func firstRoot(e exporter, th [32]byte) ([32]byte, error) {
	secret, err := e.Export("bj1 rk0", 32)
	if err != nil {
		return [32]byte{}, err
	}
	return extract(th[:], secret)
}

func newEphemeral() (private, public [32]byte, err error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return private, public, err
	}
	return [32]byte(k.Bytes()), [32]byte(k.PublicKey().Bytes()), nil
}

// Initiate opens a session with the owner of a bundle, which it verifies, and puts f inside. rid is
// this handset's name for the session, tag its own inbox. Store the session's Marshal and the INIT
// bytes before sending them; repeat the same bytes, never a second frame under the same session: an
// INIT with another frame is another call. Errors: [ErrTooLong] when the INIT would exceed [MaxInit]
// (send the empty frame and the text after the RESP), and those of [wire.Bundle.Verify]. [S-2]
func Initiate(self Identity, tag wire.Tag, rid uint16, peer *wire.Bundle, f Frame, now time.Time) (*Session, []byte, error) {
	frame, err := f.Marshal()
	if err != nil {
		return nil, nil, err
	}
	if err := checkPeer(self, peer, now); err != nil {
		return nil, nil, err
	}
	if InitOverhead+len(frame) > MaxInit {
		return nil, nil, ErrTooLong
	}
	o := opening{self: self, tag: tag, peer: peer, hash: sha256.Sum256(peer.Marshal())}
	o.s = &Session{initiator: true, rid: rid, peer: peer.Cert.ID, device: peer.Cert.Device}
	init, err := o.seal(frame)
	if err != nil {
		return nil, nil, err
	}
	return o.s, init, nil
}

// checkPeer refuses a bundle that does not verify, and this user's own.
func checkPeer(self Identity, peer *wire.Bundle, now time.Time) error {
	if peer == nil || peer.Cert.ID == self.Cert.ID || len(self.Device) != ed25519.PrivateKeySize {
		return fmt.Errorf("%w: not a peer", wire.ErrMalformed)
	}
	return peer.Verify(self.Registrar, now)
}

// opening is an INIT being made.
type opening struct {
	self Identity
	tag  wire.Tag
	peer *wire.Bundle
	hash [32]byte // of the bundle
	s    *Session
}

func (o *opening) seal(frame []byte) ([]byte, error) {
	id := o.peer.Cert.ID
	head := binary.BigEndian.AppendUint16([]byte{typeInit}, o.peer.PrekeyID)
	enc, sender, err := newSender(xwing(), o.peer.Prekey[:], initInfo(id, o.hash, head))
	if err != nil {
		return nil, err
	}
	if o.s.own, o.s.ownPublic, err = newEphemeral(); err != nil {
		return nil, err
	}
	inner := o.signedPart(len(frame))
	th := transcript(id, o.hash, head, enc, inner)
	inner = append(inner, ed25519.Sign(o.self.Device, initSigned(th))...)
	ct, err := sender.Seal(head, append(inner, frame...))
	if err != nil {
		return nil, err
	}
	o.s.th = [4]byte(th[:])
	o.s.root, err = firstRoot(sender, th)
	return append(append(head, enc...), ct...), err
}

// signedPart is inner up to the signature.
func (o *opening) signedPart(frameLen int) []byte {
	bcd := o.self.Number.BCD()
	b := append(make([]byte, 0, innerHead+frameLen), o.self.Cert.Marshal()...)
	b = append(append(b, bcd[:]...), o.s.ownPublic[:]...)
	b = binary.BigEndian.AppendUint16(b, o.s.rid)
	return append(b, o.tag[:]...)
}

// Offer is an INIT that opened. It proves that the device named by Cert opened a session with this
// handset. It does not prove that Number belongs to Cert.ID (look it up), nor who wrote Frame: someone
// who stole this handset's prekey could have put another frame in. It never prints. [S-3]
type Offer struct {
	hidden
	Cert    wire.Certificate
	Number  wire.Number
	Tag     wire.Tag // where the RESP goes
	Frame   Frame
	EncHash [32]byte // SHA-256 of enc: a second INIT with it gets the stored RESP again [S-4]

	peerRID uint16
	theirs  [32]byte // ephemeral
	root    [32]byte
	th      [4]byte
}

// OpenInit reads an INIT sealed to pre. It changes nothing: to drop the Offer is to have been silent.
// Errors: [wire.ErrMalformed], [ErrUnreadable], [wire.ErrExpired] once the prekey must be erased or
// the sender's certificate has run out, [wire.ErrSignature]. All of them mean silence. [S-3]
func OpenInit(self Identity, pre *Prekey, msg []byte, now time.Time) (*Offer, error) {
	if len(msg) < InitOverhead+frameBlock || len(msg) > MaxInit || msg[0] != typeInit || pre == nil {
		return nil, fmt.Errorf("%w: not an INIT", wire.ErrMalformed)
	}
	head, enc, ct := msg[:initHead], msg[initHead:initHead+xwingEncLen], msg[initHead+xwingEncLen:]
	switch {
	case binary.BigEndian.Uint16(head[1:]) != pre.ID():
		return nil, ErrUnreadable
	case now.After(pre.EraseAfter()):
		return nil, wire.ErrExpired
	}
	id := pre.bundle.Cert.ID
	r, err := newRecipient(enc, pre.key, initInfo(id, pre.hash, head))
	if err != nil {
		return nil, err
	}
	inner, err := r.Open(head, ct)
	if err != nil {
		return nil, ErrUnreadable
	}
	return readOffer(self, r, id, transcript(id, pre.hash, head, enc, inner[:innerSigned]), inner, sha256.Sum256(enc), now)
}

// readOffer checks what an INIT says once it is open; inner is at least innerHead long.
func readOffer(self Identity, r *hpke.Recipient, id wire.ID, th [32]byte, inner []byte, encHash [32]byte, now time.Time) (*Offer, error) {
	o, err := parseInner(inner)
	if err != nil {
		return nil, err
	}
	if o.Cert.ID == id {
		return nil, fmt.Errorf("%w: an INIT from this user", wire.ErrMalformed)
	}
	if err := o.Cert.Verify(self.Registrar, now); err != nil {
		return nil, err
	}
	if !ed25519.Verify(o.Cert.Device[:], initSigned(th), inner[innerSigned:innerHead]) {
		return nil, wire.ErrSignature
	}
	o.EncHash, o.th = encHash, [4]byte(th[:])
	o.root, err = firstRoot(r, th)
	return o, err
}

func parseInner(inner []byte) (*Offer, error) {
	cert, err := wire.ParseCertificate(inner[:wire.CertificateLen])
	if err != nil {
		return nil, err
	}
	b := inner[wire.CertificateLen:]
	number, err := wire.NumberFromBCD([8]byte(b))
	if err != nil {
		return nil, err
	}
	frame, err := ParseFrame(inner[innerHead:])
	if err != nil {
		return nil, err
	}
	return &Offer{
		Cert: cert, Number: number, Frame: frame, theirs: [32]byte(b[8:]),
		peerRID: binary.BigEndian.Uint16(b[40:]), Tag: wire.Tag(b[42:51]),
	}, nil
}
