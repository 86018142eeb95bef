package wire

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// NATS subjects of the question what is held on a number, and of its erasure. None carries the number:
// it is sealed inside the request. [H-3]
const (
	SubjectHold        = "bj.registrar.hold"  // operator → registrar: sealed question → Code ‖ sealed page
	SubjectErase       = "bj.registrar.erase" // operator → registrar: sealed question → Code
	SubjectWorkerHold  = "bj.worker.hold"     // operator → SMS worker: sealed question → Code ‖ sealed page
	SubjectWorkerErase = "bj.worker.erase"    // operator → SMS worker: sealed question → Code
	SubjectKept        = "bj.consent.kept"    // registrar → broker: ID 12 ‖ skip u32 → Code ‖ page
	SubjectForget      = "bj.consent.forget"  // registrar → broker: step 1 ‖ ID 12 → Code

	BucketVoid = "bj_void" // hash of ID and device key → before when its certificates were erased [H-7]
)

// Purpose is what a question about a number is for; a question sealed for one is good for no other.
type Purpose byte

// Purposes.
const (
	AskRegistrar Purpose = 1 // what the registrar itself stores
	AskBroker    Purpose = 2 // what the broker stores under the number's ID, asked by the registrar
	AskWorker    Purpose = 3 // what the SMS worker stores under the number's HMAC
	EraseUser    Purpose = 4 // end the consent; registrar and broker erase
	EraseNumber  Purpose = 5 // the SMS worker erases
)

// Steps of SubjectForget.
const (
	ForgetMark byte = 1 // before the revocation: certificates there are now are void from now on
	ForgetAll  byte = 2 // after it: erase
)

// QuestionAge is how old a question may be, and how far ahead of the answerer's clock.
const QuestionAge = 60 * time.Second

// Held is one message of a stream or bucket that is about a number: where it lies, and all that it says.
type Held struct {
	Store  string            `json:"store"` // stream on disk
	Key    string            `json:"key"`   // subject in it
	Seq    uint64            `json:"seq"`   // number in it
	Stored time.Time         `json:"stored_at"`
	Header map[string]string `json:"header,omitempty"`
	Value  json.RawMessage   `json:"value"` // Raw as its owner reads it; null: it is sealed to somebody else
	Raw    []byte            `json:"raw"`   // byte for byte
}

// Newest leaves of each row of a bucket the newest revision, and orders what is left by place. A row that
// moved while it was read is there twice otherwise.
func Newest(rows []Held) []Held {
	at := map[[2]string]uint64{}
	for _, h := range rows {
		at[[2]string{h.Store, h.Key}] = max(at[[2]string{h.Store, h.Key}], h.Seq)
	}
	rows = slices.DeleteFunc(rows, func(h Held) bool { return h.Seq < at[[2]string{h.Store, h.Key}] })
	slices.SortStableFunc(rows, func(a, b Held) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(rows, func(a, b Held) bool { return a.Seq == b.Seq && a.Store == b.Store })
}

// HeldPage is one answer: some items, and whether there are more.
type HeldPage struct {
	Items []Held `json:"items"`
	More  bool   `json:"more"`
}

// maxPage bounds a page, in bytes of its items, below what NATS carries in one message.
const maxPage = 40 << 10

// PageOf returns the JSON of the page that begins at item skip; it has at least one item, if there is one.
func PageOf(all []Held, skip uint32) ([]byte, error) {
	p := HeldPage{Items: []Held{}}
	size := 0
	for i := int(min(uint64(skip), uint64(len(all)))); i < len(all); i++ {
		b, err := json.Marshal(all[i])
		if err != nil {
			return nil, err
		}
		if size += len(b); size > maxPage && len(p.Items) > 0 {
			p.More = true
			break
		}
		p.Items = append(p.Items, all[i])
	}
	return json.Marshal(p)
}

// ParsePage reads a page.
func ParsePage(b []byte) (HeldPage, error) {
	var p HeldPage
	if err := json.Unmarshal(b, &p); err != nil || p.Items == nil || p.More && len(p.Items) == 0 {
		return HeldPage{}, fmt.Errorf("%w: not a page of what is held", ErrMalformed)
	}
	return p, nil
}

// KeptRequest is the body of [SubjectKept].
func KeptRequest(id ID, skip uint32) []byte { return binary.BigEndian.AppendUint32(id[:], skip) }

// ParseKept reads it.
func ParseKept(b []byte) (id ID, skip uint32, err error) {
	if len(b) != len(id)+4 {
		return id, 0, fmt.Errorf("%w: not a question for what is kept", ErrMalformed)
	}
	return ID(b), binary.BigEndian.Uint32(b[len(id):]), nil
}

// ForgetRequest is the body of [SubjectForget].
func ForgetRequest(step byte, id ID) []byte { return append([]byte{step}, id[:]...) }

// ParseForget reads it.
func ParseForget(b []byte) (step byte, id ID, err error) {
	if len(b) != 1+len(id) || b[0] != ForgetMark && b[0] != ForgetAll {
		return 0, id, fmt.Errorf("%w: not a request to forget", ErrMalformed)
	}
	return b[0], ID(b[1:]), nil
}
