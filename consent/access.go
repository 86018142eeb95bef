package consent

import (
	"time"

	"bluejay/wire"
)

// Access is what one connection may do, small enough for an atomic word on the publish path.
// Zero value: a device not yet enrolled, which may only enrol.
type Access struct {
	Enrolled bool
	Listed   bool
	Scopes   wire.Scope
}

// AccessOf is [Policy.Access], whatever the notice.
func AccessOf(s State, now time.Time) Access { return Policy{}.Access(s, now) }

// Pack and Unpack turn an Access into a word and back.
func (a Access) Pack() uint32 {
	w := uint32(a.Scopes)
	if a.Enrolled {
		w |= 1 << 8
	}
	if a.Listed {
		w |= 1 << 9
	}
	return w
}

// UnpackAccess is the inverse of [Access.Pack].
func UnpackAccess(w uint32) Access {
	return Access{Scopes: wire.Scope(w), Enrolled: w&(1<<8) != 0, Listed: w&(1<<9) != 0}
}

// Self is who a connection is: what it owns.
type Self struct {
	ID  wire.ID
	Tag wire.Tag
}

// owns reports whether a topic is about this connection; the zero ID and tag are nobody's.
func (s Self) owns(t wire.Topic) bool {
	switch t.Kind {
	case wire.TopicHello, wire.TopicBundle:
		return t.ID == s.ID && !s.ID.IsZero()
	case wire.TopicInbox, wire.TopicPresence:
		return t.Tag == s.Tag && !s.Tag.IsZero()
	}
	return false
}

// Publish decides whether a connection may publish to a topic: [wire.OK] or the reason why not.
// An enrolled device without consent may use only c, e and r. [P-10] [P-17]
func (a Access) Publish(self Self, t wire.Topic) wire.Code {
	switch t.Kind {
	case wire.TopicEnrol:
		return wire.OK
	case wire.TopicConsent:
		return a.needEnrolled()
	case wire.TopicHello, wire.TopicInbox, wire.TopicUnread, wire.TopicQuery:
		return a.need(wire.ScopeMessaging)
	case wire.TopicFallback:
		return a.need(wire.ScopeGateway)
	case wire.TopicBundle:
		if !self.owns(t) {
			return wire.NotAllowed
		}
		if c := a.need(wire.ScopeMessaging); c != wire.OK || a.Listed {
			return c
		}
		return wire.NotConsented
	}
	return wire.NotAllowed // p, k and r are the broker's
}

// Subscribe decides whether a connection may subscribe to a topic. Its own h, i and r are always
// delivered; asking for them again is allowed and changes nothing. [P-10]
func (a Access) Subscribe(self Self, t wire.Topic) wire.Code {
	switch t.Kind {
	case wire.TopicReply:
		return wire.OK
	case wire.TopicKey:
		return a.needEnrolled()
	case wire.TopicHello, wire.TopicInbox:
		if !self.owns(t) {
			return wire.NotAllowed
		}
		return a.need(wire.ScopeMessaging)
	case wire.TopicPresence, wire.TopicBundle:
		return a.need(wire.ScopeMessaging)
	}
	return wire.NotAllowed
}

// Receive decides whether a text may be delivered to a connection now.
func (a Access) Receive() bool { return a.Enrolled && a.Scopes.Has(wire.ScopeMessaging) }

// Visible reports whether the connection's owner shows as reachable. [P-18]
func (a Access) Visible() bool { return a.Enrolled && a.Scopes.Has(wire.ScopePresence) }

func (a Access) needEnrolled() wire.Code {
	if !a.Enrolled {
		return wire.NotEnrolled
	}
	return wire.OK
}

func (a Access) need(scope wire.Scope) wire.Code {
	if !a.Enrolled {
		return wire.NotEnrolled
	}
	if !a.Scopes.Has(scope) {
		return wire.NotConsented
	}
	return wire.OK
}
