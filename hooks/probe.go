package hooks

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"math"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// probe is the identity of the node's own readiness check: a key pair made at start, in no store,
// accepted by this node alone and allowed nothing but messaging itself.
type probe struct {
	id     wire.ID
	device wire.PublicKey
}

// NewProbe makes the readiness identity. connect returns the password of a new CONNECT over the
// TLS exporter given (nil without TLS), one caller at a time; tag is the inbox of a connection
// made with it.
func (n *Node) NewProbe() (connect func(exporter []byte) []byte, tag wire.Tag, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, tag, err
	}
	p := &probe{device: wire.PublicKey(public)}
	if _, err := rand.Read(p.id[:]); err != nil {
		return nil, tag, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.probe != nil {
		return nil, tag, errors.New("hooks: a node has one probe")
	}
	n.probe = p
	var last uint32 // a time stamp used twice would be a replay
	connect = func(exporter []byte) []byte {
		last = max(last+1, wire.Unix32(time.Now()))
		c := wire.Connect{ID: p.id, TLS: exporter != nil, TS: last}
		c.Sign(private, exporter, n.cfg.Name)
		return c.Marshal()
	}
	return connect, wire.MakeTag(n.cfg.TagKey, p.id, 0), nil
}

func (n *Node) isProbe(c wire.Connect) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return c.Cert == nil && n.probed(c.ID)
}

// probed reports whether an ID is the probe's, which has no state. Callers hold n.mu.
func (n *Node) probed(id wire.ID) bool { return n.probe != nil && id == n.probe.id }

func (n *Node) verifyProbe(s *session, c wire.Connect, exporter []byte, now time.Time) wire.Code {
	if c.Gen != 0 {
		return wire.BadRecord
	}
	if code := n.check(c, n.probe.device, exporter, now, true); code != wire.OK {
		return code
	}
	s.self = consent.Self{ID: c.ID, Tag: wire.MakeTag(n.cfg.TagKey, c.ID, 0)}
	s.cert = math.MaxInt64
	s.access.Store(consent.Access{Enrolled: true, Scopes: wire.ScopeMessaging}.Pack())
	n.register(s, 0, false)
	return wire.OK
}
