package envelope

import (
	"crypto/hpke"
	"encoding/binary"
	"time"

	"bluejay/wire"
)

// Question is what an operator asks about a number, opened. It prints as "[sealed]". [S-17]
type Question struct {
	Number  wire.Number
	Purpose wire.Purpose
	At      time.Time // whole seconds
	Skip    uint32    // how many items the asker has already
}

// Shape: purpose 1 | worker kid 1, or 0 | at u32 | skip u32 | enc | HPKE(BCD 8).
const (
	questionHead = 1 + 1 + 4 + 4
	questionTail = 8 + tagLen
)

func (q Question) head(kid byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{byte(q.Purpose), kid}, wire.Unix32(q.At))
	return binary.BigEndian.AppendUint32(b, q.Skip)
}

// SealQuestion asks the registrar. The answer opens with key. [S-17]
func SealQuestion(registrar []byte, q Question) (b []byte, key AnswerKey, err error) {
	return q.seal(xwing(), registrar, 0)
}

// SealWorkerQuestion asks the SMS worker, whose key the caller has verified. [S-17]
func SealWorkerQuestion(worker wire.WorkerKey, q Question) (b []byte, key AnswerKey, err error) {
	return q.seal(dhkem(), worker.Public[:], worker.KID)
}

func (q Question) seal(kem hpke.KEM, to []byte, kid byte) (b []byte, key AnswerKey, err error) {
	if q.Number.IsZero() {
		return nil, key, badShape("a number")
	}
	bcd := q.Number.BCD()
	b, s, err := sealTo(kem, to, "bj1 question", q.head(kid), bcd[:])
	if err != nil {
		return nil, key, err
	}
	key, err = answerKey(s)
	return b, key, err
}

// OpenQuestion reads a question to the registrar and gives the key its answer is sealed with. It does not
// check the time, nor who asks. Errors: [wire.ErrMalformed], [ErrUnreadable]. [S-17]
func (r RegistrarSecret) OpenQuestion(b []byte) (Question, AnswerKey, error) {
	if len(b) != questionHead+xwingEncLen+questionTail || b[1] != 0 {
		return Question{}, AnswerKey{}, badShape("a question")
	}
	return openQuestion(r.key, xwingEncLen, b)
}

// QuestionKID is the id of the worker key that a question is sealed to; 0 also when it is none.
func QuestionKID(b []byte) byte {
	if len(b) != questionHead+x25519Len+questionTail {
		return 0
	}
	return b[1]
}

// OpenQuestion reads a question to the SMS worker, like [RegistrarSecret.OpenQuestion]. [S-17]
func (w WorkerSecret) OpenQuestion(b []byte) (Question, AnswerKey, error) {
	if len(b) != questionHead+x25519Len+questionTail {
		return Question{}, AnswerKey{}, badShape("a question")
	}
	return openQuestion(w.key, x25519Len, b)
}

func openQuestion(k hpke.PrivateKey, encLen int, b []byte) (Question, AnswerKey, error) {
	plain, recipient, err := openFrom(k, encLen, "bj1 question", questionHead, b)
	if err != nil {
		return Question{}, AnswerKey{}, err
	}
	n, err := wire.NumberFromBCD([8]byte(plain))
	if err != nil {
		return Question{}, AnswerKey{}, err
	}
	key, err := answerKey(recipient)
	return Question{
		Number: n, Purpose: wire.Purpose(b[0]), At: wire.Time32(binary.BigEndian.Uint32(b[2:])), Skip: binary.BigEndian.Uint32(b[6:]),
	}, key, err
}

// Fresh reports whether the question was asked for this purpose, and lately: an old one, heard by somebody,
// says nothing twice. [S-17]
func (q Question) Fresh(p wire.Purpose, now time.Time) bool {
	age := now.Sub(q.At)
	return q.Purpose == p && age <= wire.QuestionAge && age >= -wire.QuestionAge
}
