package wire

import "fmt"

// TopicKind is the first level of a topic.
type TopicKind byte

// The topics of the protocol. Any other is refused. [P-10]
const (
	TopicNone     TopicKind = 0
	TopicHello    TopicKind = 'h' // h/<ID>: hello lane
	TopicInbox    TopicKind = 'i' // i/<tag>: private inbox
	TopicPresence TopicKind = 'p' // p/<tag>: blue or grey
	TopicBundle   TopicKind = 'b' // b/<ID>: key bundle
	TopicFallback TopicKind = 'f' // f: sealed SMS jobs and their cancellation
	TopicKey      TopicKind = 'k' // k: the SMS worker's key record
	TopicUnread   TopicKind = 'x' // x: "cannot open this text"
	TopicConsent  TopicKind = 'c' // c: consent records, next tag
	TopicReply    TopicKind = 'r' // r: what the broker tells this connection
	TopicEnrol    TopicKind = 'e' // e: enrolment
	TopicQuery    TopicKind = 'q' // q: blinded look-ups
)

// MaxTopic is the length of the longest topic, in bytes.
const MaxTopic = 18

// Topic is a parsed topic. ID is set for h and b, Tag for i and p. Zero value: no topic.
type Topic struct {
	Kind TopicKind
	ID   ID
	Tag  Tag
}

// ParseTopic accepts exactly the topics of the protocol: no wildcard, no $share, no $SYS, no empty
// level, no other length. It does not allocate on success. [P-10]
func ParseTopic(s string) (Topic, error) {
	if len(s) == 1 {
		switch k := TopicKind(s[0]); k {
		case TopicFallback, TopicKey, TopicUnread, TopicConsent, TopicReply, TopicEnrol, TopicQuery:
			return Topic{Kind: k}, nil
		}
		return Topic{}, errTopic
	}
	if len(s) < 3 || s[1] != '/' {
		return Topic{}, errTopic
	}
	t := Topic{Kind: TopicKind(s[0])}
	var err error
	switch t.Kind {
	case TopicHello, TopicBundle:
		t.ID, err = ParseID(s[2:])
	case TopicInbox, TopicPresence:
		t.Tag, err = ParseTag(s[2:])
	default:
		err = errTopic
	}
	if err != nil {
		return Topic{}, errTopic
	}
	return t, nil
}

var errTopic = fmt.Errorf("%w: not a topic of this protocol", ErrMalformed)

// String is the topic as published; the zero Topic is "".
func (t Topic) String() string { return string(t.Append(nil)) }

// Append appends String to b, at most [MaxTopic] bytes. It allocates only to make room in b.
func (t Topic) Append(b []byte) []byte {
	if t.Kind == TopicNone {
		return b
	}
	b = append(b, byte(t.Kind))
	switch t.Kind {
	case TopicHello, TopicBundle:
		return b64.AppendEncode(append(b, '/'), t.ID[:])
	case TopicInbox, TopicPresence:
		return b64.AppendEncode(append(b, '/'), t.Tag[:])
	}
	return b
}
