package envelope

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// TestNothingPrints: no verb, no logger and no JSON encoder shows a key, a text or a number of a value
// this package made. [S-12]
func TestNothingPrints(t *testing.T) {
	self := alice(t)
	sa, _ := established(t)
	pre, w, r := prekeyOf(t, bob(t), 1), workerSecret(t, 1), registrarSecret(t)
	_, init, err := Initiate(self, tagA, ridA, pre.Bundle(), TextFrame("secret text"), start)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := OpenInit(bob(t), pre, init, start)
	if err != nil {
		t.Fatal(err)
	}
	answer := AnswerKey{key: [32]byte{7, 7, 7}}
	values := []any{self, &self, sa, *sa, pre, *pre, w, &w, r, &r, offer, *offer, answer, &answer,
		TextFrame("secret text"), Job{Text: "secret text", To: self.Number}, Confirm{OTP: "012345"},
		EnrolRequest{Number: self.Number}, Question{Number: self.Number}, OffRequest{Number: self.Number}, OffConfirm{OTP: "012345"}}
	secrets := []string{"secret text", "012345", "7700900123", hex.EncodeToString(self.Device[:8]), hex.EncodeToString(sa.root[:8]),
		hex.EncodeToString(pre.seed[:8]), hex.EncodeToString(w.secret[:8]), hex.EncodeToString(r.seed[:8]),
		hex.EncodeToString(offer.root[:8]), hex.EncodeToString([]byte("secret")), fmt.Sprint(self.Device[:4])[1:12], "[7 7 7"}
	for _, v := range values {
		for _, out := range printed(v) {
			for _, s := range secrets {
				if strings.Contains(strings.ToLower(out), s) {
					t.Errorf("%T prints a secret: %s", v, out)
				}
			}
		}
	}
}

// printed is v under every verb and logger.
func printed(v any) []string {
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		out = append(out, fmt.Sprintf(verb, v))
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
	return append(out, log.String())
}

// TestSecretsInJSON: keys have no exported fields, so an encoder finds none.
func TestSecretsInJSON(t *testing.T) {
	sa, _ := established(t)
	for _, v := range []any{sa, prekeyOf(t, bob(t), 1), workerSecret(t, 1), registrarSecret(t), AnswerKey{}} {
		if b, err := json.Marshal(v); err != nil || string(b) != "{}" {
			t.Errorf("%T as JSON: %s, %v", v, b, err)
		}
	}
}

func TestKindNames(t *testing.T) {
	names := map[FrameKind]string{0: "none", KindTextUTF8: "text", KindTextGSM7: "text", KindTextAgain: "text again",
		KindTagUpdate: "tag update", KindHide: "hide", KindAck: "ack", 7: "unknown", 255: "unknown"}
	for k, want := range names {
		if k.String() != want {
			t.Errorf("kind %d is %q, want %q", byte(k), k, want)
		}
	}
}
