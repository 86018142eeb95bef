package envelope

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"bluejay/wire"
)

// FrameKind says what a frame carries. Zero value: none, never valid. [S-1]
type FrameKind byte

// Kinds of frame. A text is written in GSM-7 whenever its characters allow.
const (
	KindTextUTF8  FrameKind = 1
	KindTextGSM7  FrameKind = 2
	KindTextAgain FrameKind = 3 // a text sealed again after its session was lost
	KindTagUpdate FrameKind = 4 // the sender's inbox has moved
	KindHide      FrameKind = 5 // the sender takes a text back
	KindAck       FrameKind = 6 // nothing but Acked
)

var frameKinds = [...]string{"none", "text", "text", "text again", "tag update", "hide", "ack"}

// String is the kind in a few plain words.
func (k FrameKind) String() string {
	if int(k) < len(frameKinds) {
		return frameKinds[k]
	}
	return "unknown"
}

// MaxText is the longest text, in characters (Unicode code points). [S-1]
const MaxText = 1600

// NoAck is the Acked of a frame that acknowledges nothing. [S-10]
const NoAck uint16 = 0xffff

const (
	frameBlock = 16
	frameHead  = 3 // kind, acked
	againHead  = 7 // th, epoch, n
	maxFrame   = (frameHead + againHead + MaxText*utf8.UTFMax + 1 + frameBlock - 1) / frameBlock * frameBlock
)

// AgainRef names where a text was sealed first, so that the recipient drops what it has. [S-11]
type AgainRef struct {
	TH    [4]byte // of the first session, see [Session.TH]
	Epoch byte    // the low 8 bits of the epoch; 0 for the text of an INIT
	N     uint16  // 0 for the text of an INIT
}

// Frame is what travels inside INIT, RESP and MSG. Only the fields of its Kind are set; the rest are
// zero. It prints as its kind. [S-1]
type Frame struct {
	Kind    FrameKind
	Acked   uint16         // what the sender has stored, see [Session.Acked]; NoAck for none
	Text    string         // text kinds: 1 to MaxText characters
	Again   AgainRef       // KindTextAgain
	Tag     wire.Tag       // KindTagUpdate
	Message wire.MessageID // KindHide
}

// TextFrame is a text that acknowledges nothing yet: set Acked to [Session.Acked].
func TextFrame(text string) Frame {
	kind := KindTextUTF8
	if _, ok := packText(text); ok {
		kind = KindTextGSM7
	}
	return Frame{Kind: kind, Acked: NoAck, Text: text}
}

// AgainFrame is a text sealed again; ref says where it was sealed first. [S-11]
func AgainFrame(ref AgainRef, text string) Frame {
	return Frame{Kind: KindTextAgain, Acked: NoAck, Again: ref, Text: text}
}

// TagFrame tells a contact where the sender's inbox is now.
func TagFrame(t wire.Tag) Frame { return Frame{Kind: KindTagUpdate, Acked: NoAck, Tag: t} }

// HideFrame takes back the text that travelled as the message given.
func HideFrame(m wire.MessageID) Frame { return Frame{Kind: KindHide, Acked: NoAck, Message: m} }

// AckFrame carries nothing but an acknowledgement. AckFrame(NoAck) is the empty frame: an INIT whose
// text has gone by SMS carries it, as does a RESP with nothing to say. [S-2]
func AckFrame(acked uint16) Frame { return Frame{Kind: KindAck, Acked: acked} }

// IsText reports whether f carries a text to show.
func (f Frame) IsText() bool {
	return f.Kind == KindTextUTF8 || f.Kind == KindTextGSM7 || f.Kind == KindTextAgain
}

// Marshal returns kind 1 | acked u16 | body | 0x80 00*, padded to a multiple of 16 bytes. The two
// plain text kinds are one to it: it writes GSM-7 whenever the text allows. Errors: [ErrTooLong], and
// [wire.ErrMalformed] for an empty text, invalid UTF-8 or an unknown kind. [S-1]
func (f Frame) Marshal() ([]byte, error) {
	kind, body, err := f.body()
	if err != nil {
		return nil, err
	}
	n := frameHead + len(body) + 1
	b := make([]byte, 0, (n+frameBlock-1)/frameBlock*frameBlock)
	b = binary.BigEndian.AppendUint16(append(b, byte(kind)), f.Acked)
	b = append(append(b, body...), 0x80)
	return b[:cap(b)], nil
}

func (f Frame) body() (FrameKind, []byte, error) {
	if f.IsText() {
		if err := checkText(f.Text); err != nil {
			return 0, nil, err
		}
	}
	switch f.Kind {
	case KindTextUTF8, KindTextGSM7:
		if packed, ok := packText(f.Text); ok {
			return KindTextGSM7, packed, nil
		}
		return KindTextUTF8, []byte(f.Text), nil
	case KindTextAgain:
		b := append(f.Again.TH[:], f.Again.Epoch)
		return f.Kind, append(binary.BigEndian.AppendUint16(b, f.Again.N), f.Text...), nil
	case KindTagUpdate:
		return f.Kind, f.Tag[:], nil
	case KindHide:
		return f.Kind, f.Message[:], nil
	case KindAck:
		return f.Kind, nil, nil
	}
	return 0, nil, errFrame
}

var errFrame = fmt.Errorf("%w: not a frame", wire.ErrMalformed)

func checkText(text string) error {
	switch {
	case text == "" || !utf8.ValidString(text):
		return fmt.Errorf("%w: a text is not empty and valid UTF-8", wire.ErrMalformed)
	case utf8.RuneCountInString(text) > MaxText:
		return ErrTooLong
	}
	return nil
}

// ParseFrame reads a padded frame; it refuses every padding but the shortest. Its only error is
// [wire.ErrMalformed]. [S-1]
func ParseFrame(b []byte) (Frame, error) {
	b, ok := unpad(b)
	if !ok || len(b) < frameHead {
		return Frame{}, errFrame
	}
	f := Frame{Kind: FrameKind(b[0]), Acked: binary.BigEndian.Uint16(b[1:])}
	if !f.parseBody(b[frameHead:]) || f.IsText() && checkText(f.Text) != nil {
		return Frame{}, errFrame
	}
	return f, nil
}

func (f *Frame) parseBody(b []byte) (ok bool) {
	switch f.Kind {
	case KindTextUTF8:
		f.Text, ok = string(b), true
	case KindTextGSM7:
		f.Text, ok = unpackText(b)
	case KindTextAgain:
		if ok = len(b) > againHead; ok {
			f.Again = AgainRef{TH: [4]byte(b), Epoch: b[4], N: binary.BigEndian.Uint16(b[5:])}
			f.Text = string(b[againHead:])
		}
	case KindTagUpdate:
		if ok = len(b) == len(f.Tag); ok {
			f.Tag = wire.Tag(b)
		}
	case KindHide:
		if ok = len(b) == len(f.Message); ok {
			f.Message = wire.MessageID(b)
		}
	case KindAck:
		ok = len(b) == 0
	}
	return ok
}

// unpad strips 0x80 00*; ok is false unless it is the shortest padding to a multiple of 16 bytes.
func unpad(b []byte) ([]byte, bool) {
	if len(b) == 0 || len(b) > maxFrame || len(b)%frameBlock != 0 {
		return nil, false
	}
	for i := len(b) - 1; i >= len(b)-frameBlock; i-- {
		if b[i] == 0x80 {
			return b[:i], true
		}
		if b[i] != 0 {
			break
		}
	}
	return nil, false
}
