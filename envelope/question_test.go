package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"bluejay/wire"
)

// askers are the two ways a question travels: a seal and its opener, and somebody else's opener.
func askers(t testing.TB) map[string]struct {
	seal          func(Question) ([]byte, AnswerKey, error)
	open, another func([]byte) (Question, AnswerKey, error)
	size          int
} {
	t.Helper()
	r, w := registrarSecret(t), workerSecret(t, 7)
	return map[string]struct {
		seal          func(Question) ([]byte, AnswerKey, error)
		open, another func([]byte) (Question, AnswerKey, error)
		size          int
	}{
		"registrar": {func(q Question) ([]byte, AnswerKey, error) { return SealQuestion(r.Public(), q) }, r.OpenQuestion, registrarSecret(t).OpenQuestion, 1154},
		"worker":    {func(q Question) ([]byte, AnswerKey, error) { return SealWorkerQuestion(w.Key(), q) }, w.OpenQuestion, workerSecret(t, 7).OpenQuestion, 66},
	}
}

// TestQuestion: only whom it is for reads a question, every bit of it counts, and the answer opens for the
// asker alone. [S-17]
func TestQuestion(t *testing.T) {
	q := Question{Number: number(t, "+447700900123"), Purpose: wire.AskBroker, At: time.Unix(1_800_000_000, 0), Skip: 41}
	for who, a := range askers(t) {
		b, key, err := a.seal(q)
		if err != nil || len(b) != a.size {
			t.Fatalf("%s: %d bytes, %v", who, len(b), err)
		}
		got, theirs, err := a.open(b)
		if err != nil || got != q {
			t.Errorf("%s: %+v, %v", who, got, err)
		}
		if plain, err := key.Open(theirs.Seal([]byte("nothing"))); err != nil || string(plain) != "nothing" {
			t.Errorf("%s: the answer: %q, %v", who, plain, err)
		}
		if _, other, err := a.seal(q); err != nil {
			t.Error(err)
		} else if _, err := other.Open(theirs.Seal(nil)); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: another question's key opens the answer: %v", who, err)
		}
		if bcd := q.Number.BCD(); bytes.Contains(b, bcd[:6]) {
			t.Errorf("%s: the number stands in it", who)
		}
		for bit := 0; bit < 8*len(b); bit++ {
			if who == "registrar" && bit > 80 && bit%97 != 0 {
				continue
			}
			if _, _, err := a.open(flipped(b, bit)); err == nil {
				t.Fatalf("%s: bit %d flipped: opens", who, bit)
			}
		}
		for what, bad := range map[string][]byte{"short": b[1:], "long": append(bytes.Clone(b), 0), "nothing": nil} {
			if _, _, err := a.open(bad); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s: %s: %v", who, what, err)
			}
		}
		if _, _, err := a.another(b); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: another: %v", who, err)
		}
		if _, _, err := a.seal(Question{}); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: no number: %v", who, err)
		}
	}
	if _, _, err := (RegistrarSecret{}).OpenQuestion(make([]byte, 1154)); !errors.Is(err, ErrUnreadable) {
		t.Errorf("no secret: %v", err)
	}
	if _, _, err := SealQuestion(nil, q); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no registrar: %v", err)
	}
}

// TestQuestionIsFresh: a question is good for one purpose, within a minute. [S-17]
func TestQuestionIsFresh(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	q := Question{Purpose: wire.AskWorker, At: at}
	for d, want := range map[time.Duration]bool{0: true, time.Minute: true, -time.Minute: true, 61 * time.Second: false, -61 * time.Second: false, 1e18: false} {
		if q.Fresh(wire.AskWorker, at.Add(d)) != want {
			t.Errorf("%s later: %t", d, !want)
		}
	}
	if q.Fresh(wire.EraseNumber, at) {
		t.Error("a question is taken for an erasure")
	}
}

// questionVector is a frozen question with all that opens it.
type questionVector struct {
	Who, Number, Says        string
	Secret, Question, Answer hexBytes
}

// TestQuestionVectors: what was sealed once opens for ever. [S-17]
func TestQuestionVectors(t *testing.T) {
	const file = "testdata/question.json"
	if *update {
		r, w := registrarSecret(t), workerSecret(t, 7)
		q := Question{Number: number(t, "+447700900123"), Purpose: wire.AskBroker, At: time.Unix(1_800_000_000, 0), Skip: 41}
		var vs []questionVector
		for who, secret := range map[string][]byte{"registrar": r.Marshal(), "worker": w.Marshal()} {
			b, key, err := SealQuestion(r.Public(), q)
			if who == "worker" {
				b, key, err = SealWorkerQuestion(w.Key(), q)
			}
			if err != nil {
				t.Fatal(err)
			}
			vs = append(vs, questionVector{who, q.Number.E164(), "nothing", secret, b, key.Seal([]byte("nothing"))})
		}
		b, err := json.MarshalIndent(vs, "", "  ")
		if err == nil {
			err = os.WriteFile(file, append(b, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	var vs []questionVector
	if err == nil {
		err = json.Unmarshal(b, &vs)
	}
	if err != nil || len(vs) != 2 {
		t.Fatalf("%d vectors, %v", len(vs), err)
	}
	for _, v := range vs {
		q, key, err := openVector(v)
		if err != nil || q.Number.E164() != v.Number || q.Purpose != wire.AskBroker || q.Skip != 41 || q.At.Unix() != 1_800_000_000 {
			t.Errorf("%s: %v", v.Who, err)
		}
		if says, err := key.Open(v.Answer); err != nil || string(says) != v.Says {
			t.Errorf("%s: %q, %v", v.Who, says, err)
		}
	}
}

func openVector(v questionVector) (Question, AnswerKey, error) {
	if v.Who == "worker" {
		w, err := ParseWorkerSecret(v.Secret)
		if err != nil || QuestionKID(v.Question) != w.Key().KID {
			return Question{}, AnswerKey{}, fmt.Errorf("kid %d, %w", QuestionKID(v.Question), err)
		}
		return w.OpenQuestion(v.Question)
	}
	r, err := ParseRegistrarSecret(v.Secret)
	if err != nil {
		return Question{}, AnswerKey{}, err
	}
	return r.OpenQuestion(v.Question)
}

// FuzzOpenQuestion: whatever comes, nothing opens that was not sealed, and nothing panics. [S-17]
func FuzzOpenQuestion(f *testing.F) {
	r, w := registrarSecret(f), workerSecret(f, 7)
	q := Question{Number: number(f, "+447700900123"), Purpose: wire.AskWorker, At: time.Unix(1_800_000_000, 0)}
	mine := map[string]bool{}
	for _, seal := range []func() ([]byte, AnswerKey, error){
		func() ([]byte, AnswerKey, error) { return SealQuestion(r.Public(), q) },
		func() ([]byte, AnswerKey, error) { return SealWorkerQuestion(w.Key(), q) },
	} {
		b, _, err := seal()
		if err != nil {
			f.Fatal(err)
		}
		mine[string(b)] = true
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, err1 := r.OpenQuestion(b)
		_, _, err2 := w.OpenQuestion(b)
		if (err1 == nil || err2 == nil) != mine[string(b)] {
			t.Errorf("%x: %v, %v", b, err1, err2)
		}
	})
}
